"The report is one page that loads nothing, has reproducible bytes, and marks what is synthetic or missing."
import re
import numpy as np, pandas as pd, pytest
from ser_fastai import report as P, results as R
from ser_fastai.core import EMOTIONS, SerError
from ser_fastai.recipes import Recipe

RECIPES = dict(svm=Recipe('svm', model='svm'), lstm=Recipe('lstm', model='lstm', epochs=5),
               plain=Recipe('cnn_transfer', weights='imagenet', epochs=5),
               aug=Recipe('cnn_transfer_aug', weights='imagenet', epochs=5, mixup=.4),
               scratch=Recipe('cnn_scratch', epochs=5))

def corpus(name='ravdess', labels=EMOTIONS):
    rows = [(f'{name}/{s}/{e}-{i}', name, f'{name}_{s:02}', gender, e, 'normal', 'kids', str(i), 3.21)
            for s, gender in enumerate(('male', 'female')*2) for e in labels for i in range(4)]
    return pd.DataFrame(rows, columns=R.CLIPS)

def curves(train, valid, epochs=5):
    fall = lambda end: np.linspace(2.1, end, epochs)
    return pd.DataFrame(dict(epoch=range(epochs), train_loss=fall(train) + .3, train_clean_loss=fall(train),
                             valid_loss=fall(valid), valid_accuracy=.5))

def save(results, recipe, df, right=.6, valid_right=None, protocol='paper', seed=0, losses=None, **facts):
    rng, labels = np.random.default_rng(seed), list(dict.fromkeys(df.emotion))
    def pred(rows, right):
        d = df.iloc[rows]
        guess = np.where(rng.random(len(d)) < right, d.emotion, rng.choice(labels, len(d)))
        p = pd.DataFrame(.9*(guess[:, None] == np.array(labels)) + .1/len(labels), columns=labels)
        return pd.concat([d[['clip']].assign(truth=d.emotion).reset_index(drop=True), p], axis=1)
    i, c = rng.permutation(len(df)), ','.join(sorted(df.corpus.unique()))
    f = dict(run=R.run_id(recipe, c, protocol, 0, seed), **R.recipe_facts(recipe), corpora=c, test_corpora=c,
             protocol=protocol, fold=0, seed=seed, n_params=1, n_train=9, seconds=60., device='cpu',
             versions=dict(torch='2'), commit='0'*7) | facts
    return R.save_run(f, pred(i[:64], right), pred(i[64:], valid_right or right), losses, df, results).stem

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    results, df = tmp_path_factory.mktemp('results'), corpus()
    for seed in range(2):
        for protocol in ('paper', 'emobox'):
            save(results, RECIPES['svm'], df, .5, protocol=protocol, seed=seed)
            save(results, RECIPES['lstm'], df, .4, protocol=protocol, seed=seed, losses=curves(.3, 2.))
            save(results, RECIPES['plain'], df, .6, protocol=protocol, seed=seed, losses=curves(.1, 1.6))
            save(results, RECIPES['aug'], df, .7, protocol=protocol, seed=seed, losses=curves(1., 1.2))
    return results

def verdicts(results, corpora='ravdess', protocol='paper'):
    seen = P.observations(R.Results(results), corpora)
    return seen[seen.protocol == protocol].set_index('observation').verdict

@pytest.fixture(scope='module')
def page(made, tmp_path_factory):
    out = tmp_path_factory.mktemp('out')
    for old in 'figure1.png', 'pairs_emobox.csv', 'protocols.png', 'mine.csv':  # the last is not from a report
        (out/old).write_bytes(b'old')
    return P.write_report(R.Results(made), out)

def test_whole_page(page):
    out, text = page.parent, page.read_text()
    found = {f.name for f in out.iterdir() if f.name.startswith(('index', 'table', 'figure'))}
    assert found == {'index.html', 'table1.csv', 'table1.md', 'figure3.png', 'figure4.png'}
    assert (out/'mine.csv').exists()
    assert not [*out.glob('protocols.*'), *out.glob('pairs_*[!e].csv')]  # no model was scored on every fold
    assert '51.7 / 50.9' in text and '51.7 / 50.9' in (out/'table1.md').read_text()
    assert '0.517' in (out/'table1.csv').read_text()
    assert text.count('data:image/png;base64,') == 2 and 'Figure 1: it needs the recordings' in text
    assert 'near 2.9' in text and 'CNN from scratch' in text and 'not run' in text

def test_page_loads_nothing_and_shows_no_local_path(page, made):
    text = page.read_text()
    assert not re.search(r'<script|@import|url\(', text)
    assert all(m.startswith('data:') for m in re.findall(r'(?:src|href)=["\']([^"\']*)', text))
    assert '<meta name="viewport"' in text and 'prefers-color-scheme: dark' in text and 'alt="' in text
    assert str(page.parent) not in text and str(made) not in text

def test_no_interval_for_four_speakers(page):
    tiles = page.read_text().split('class="tiles"')[1].split('</section>')[0]
    assert tiles.count('95 % interval') == 1 and '4 speakers, too few for an interval' in tiles

def test_cost_of_unseen_speakers_is_stated_separately_for_few_speakers():
    t = pd.DataFrame(dict(paper_uar=[.7, .8, .6, .9], emobox_uar=[.4, .6, .55, np.nan],
                          emobox_n_speakers=[24, 24, 4, np.nan]))
    text = P.unseen_cost(t)
    assert 'between 20 and 30 points of UAR (2 models, tested on at least 10' in text
    assert 'costs 5 points of UAR (1 model, on fewer than 10' in text
    assert P.unseen_cost(t[3:]) == ''

def test_same_bytes_twice(page, made, tmp_path):
    P.write_report(R.Results(made), tmp_path)
    first, second = ({f.name: f.read_bytes() for f in d.iterdir() if f.name != 'mine.csv'}
                     for d in (page.parent, tmp_path))
    assert first == second

def test_synthetic_results_are_kept_apart_from_published_ones(made, tmp_path):
    df = corpus('synth')
    for r, c in dict(svm=None, plain=curves(.1, 1.6), aug=curves(1., 1.2)).items():
        save(tmp_path/'r', RECIPES[r], df, losses=c)
    def published(committed):
        out = tmp_path/f'out{bool(committed)}'
        real = R.Results(committed or tmp_path/'nowhere')
        notes = ['Epochs: 2 instead of 30']
        text = P.write_report(R.Results(tmp_path/'r'), out, notes=notes, committed=real).read_text()
        assert 'say nothing about people' in text and 'Epochs: 2 instead of 30' in text
        for f in 'table1.md', 'table1.csv':
            assert not re.search(r'published|51\.7|0\.517', (out/f).read_text())
        return '51.7 / 50.9' in text, 'near 2.9' in text
    assert published(None) == (False, False)
    assert published(made) == (True, True)

def test_text_is_escaped(tmp_path):
    evil = '<script>alert("1")</script>'
    df = corpus(evil.replace('/', ''), labels=('<i>neutral', '"calm&', 'sad'))
    save(tmp_path/'r', RECIPES['scratch'], df, losses=curves(.1, 1.6), device=evil, arch=evil)
    lstm = RECIPES['lstm']
    failed = dict(run='x', **R.recipe_facts(lstm), corpora=df.corpus[0], test_corpora=df.corpus[0],
                  protocol='paper', fold=0, seed=0, n_params=0, n_train=0, seconds=1.,
                  device=evil, versions={evil: evil}, commit='', error=evil)
    R.save_run(failed, folder=tmp_path/'r')
    text = P.write_report(R.Results(tmp_path/'r'), tmp_path/'out', title=evil, notes=[evil]).read_text()
    assert '<script' not in text and text.count('&lt;script&gt;') >= 6 and '<i>' not in text

def test_nothing_run(tmp_path):
    text = P.write_report(R.Results(tmp_path/'nowhere'), tmp_path/'out').read_text()
    assert 'Nothing has been run yet' in text and text.count('<img') == 0
    assert set(P.observations(R.Results(tmp_path/'nowhere')).verdict) == {'not run'}

def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(SerError, match='cannot write the report'):
        P.write_report(R.Results(tmp_path/'nowhere'), tmp_path/'file')

def test_best_is_chosen_on_validation(tmp_path):
    df = corpus()
    good = save(tmp_path, RECIPES['plain'], df, right=.3, valid_right=.9)
    save(tmp_path, RECIPES['aug'], df, right=.95, valid_right=.4)
    assert list(P.best_by_validation(P.paper_runs(R.Results(tmp_path)), P.CNNS).run) == [good]

def test_pairs_share_their_splits(tmp_path):
    df = corpus()
    for seed in range(3): save(tmp_path, RECIPES['plain'], df, seed=seed, losses=curves(.1, 1.6))
    save(tmp_path, RECIPES['aug'], df, seed=2, losses=curves(1., 1.2))
    both, c = P.loss_pair(R.Results(tmp_path), P.paper_runs(R.Results(tmp_path)))
    assert sorted(both.seed) == [2, 2] and [len(x) for x in c.values()] == [5, 5]

def test_verdicts_follow_the_numbers(made, tmp_path):
    v = verdicts(made)
    assert v['The LSTM overfits'] == v['Augmentation closes the gap between the losses'] == 'holds'
    df = corpus()
    save(tmp_path, RECIPES['lstm'], df, losses=curves(1.5, 1.6))
    save(tmp_path, RECIPES['plain'], df, right=1., losses=curves(1., 1.2))
    save(tmp_path, RECIPES['aug'], df, right=.9, losses=curves(1., 1.2))
    v = verdicts(tmp_path)
    assert v['The LSTM overfits'] == v['Augmentation closes the gap between the losses'] == 'does not hold'
    assert v['Neutral and calm are confused'] in ('holds', 'undecided', 'does not hold')
    assert v['A CNN on raw waveforms is less stable'] == 'not run'
    assert set(verdicts(tmp_path, protocol='emobox')) == {'not run'}

def test_rule_that_holds_in_some_runs_is_undecided(tmp_path):
    df = corpus()
    for seed, valid in enumerate((1.6, .9)):
        save(tmp_path, RECIPES['lstm'], df, seed=seed, losses=curves(.5, valid))
    seen = P.observations(R.Results(tmp_path), 'ravdess').set_index(['observation', 'protocol'])
    seen = seen.loc[('The LSTM overfits', 'paper')]
    assert (seen.verdict, seen.holds_in) == ('undecided', '1 of 2 runs')

def test_corpora_that_lack_an_emotion(tmp_path):
    labels = 'neutral', 'happy', 'sad', 'angry', 'disgust'
    save(tmp_path, RECIPES['plain'], corpus('emodb', labels), losses=curves(.1, 1.6))
    seen = P.observations(R.Results(tmp_path), 'emodb').set_index(['observation', 'protocol'])
    assert 'no clips of calm' in seen.measured['Neutral and calm are confused', 'paper']
    assert seen.verdict['Disgust and angry are the weak classes', 'paper'] != 'not run'

def test_pair_confusion_of_a_stack_equals_that_of_each_matrix():
    cm = np.random.default_rng(0).integers(1, 9, (5, 4, 4))
    each = zip(*(P.pair_confusion(c, 1, 2) for c in cm))
    for stacked, single in zip(P.pair_confusion(cm, 1, 2), each): assert np.allclose(stacked, single)
