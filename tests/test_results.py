"Stores of runs: complete or absent, checked when read, published without a loss."
import gzip, json, shutil
from concurrent.futures import ThreadPoolExecutor
import numpy as np, pandas as pd, pytest
from ser_fastai import results as R, tables as T
from ser_fastai.core import EMOTIONS, SerError
from ser_fastai.recipes import Recipe
from ser_fastai.metrics import metrics, wilson
from ser_fastai.splits import PROTOCOLS

@pytest.fixture
def corpus():
    "Two corpora of four speakers, sixteen clips a speaker; the first stands in for RAVDESS, the second lacks calm and surprised."
    rows = [(f'{c}/{s}/{e}-{i}', c, f'{c}/{s}', 'female' if s % 2 else 'male', e, 'normal', 'kids', str(i), 3.21)
            for c, es in dict(ravdess=EMOTIONS, emodb=EMOTIONS[:1] + EMOTIONS[2:7]).items() for s in range(4) for e in es for i in range(2)]
    return pd.DataFrame(rows, columns=R.CLIPS)

def predictions(df, right=.6, seed=0, labels=EMOTIONS):
    rng = np.random.default_rng(seed)
    guess = np.where(rng.random(len(df)) < right, df.emotion, rng.choice(list(labels), len(df)))
    p = pd.DataFrame(.9*(guess[:, None] == np.array(labels)) + .1*rng.dirichlet(np.ones(len(labels)), len(df)), columns=labels)
    return pd.concat([df[['clip']].rename(columns=str).assign(truth=df.emotion).reset_index(drop=True), p], axis=1)

def facts(recipe=Recipe('svm', model='svm'), corpora='ravdess', protocol='paper', fold=0, seed=0, **kw):
    return dict(run=R.run_id(recipe, corpora, protocol, fold, seed), **R.recipe_facts(recipe), corpora=corpora, test_corpora=corpora,
                protocol=protocol, fold=fold, seed=seed, n_params=10, n_train=9, seconds=.1, device='cpu', versions=dict(torch='2'),
                commit='0'*7) | kw

def save(df, results, n=20, recipe=Recipe('svm', model='svm'), right=.6, seed=0, **kw):
    "A run that tests on n clips drawn at random, and validates on n others."
    i = np.random.default_rng(seed).permutation(len(df))
    test, valid = (predictions(df.iloc[j], right, seed) for j in (i[:n], i[n:2*n]))
    return R.save_run(facts(recipe, seed=seed, **kw), test, valid, None, df, results).name

def test_round_trip(corpus, tmp_path):
    run, r = save(corpus, tmp_path), R.Results(tmp_path)
    got = r.find(run)
    assert list(got) == R.FACTS and got['status'] == 'done' and (got['n_test'], got['n_valid']) == (20, 20)
    for part, prefix in dict(test='', valid='valid_').items():
        pred = r.predictions(run, part)
        assert list(pred) == ['run', 'clip', 'truth', *EMOTIONS]
        assert metrics(pred) == pytest.approx({m: got[prefix + m] for m in ('accuracy', 'uar', 'macro_f1')}, abs=1e-6)
    assert r.valid(run).equals(r.predictions(r.runs, 'valid')) and len(r.clips) == 40
    assert [f.name for f in tmp_path.iterdir()] == [run]

def test_an_interrupted_run_does_not_exist(corpus, tmp_path, monkeypatch):
    def killed(*args): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(R.os, 'replace', killed)
        with pytest.raises(KeyboardInterrupt): save(corpus, tmp_path)
    r = R.Results(tmp_path)
    assert not r.done(facts()['run']) and not len(r.runs) and not len(r.clips)
    assert R.Results(tmp_path).done(save(corpus, tmp_path))

def test_same_bytes_when_repeated(corpus, tmp_path):
    for d in 'ab':
        save(corpus, tmp_path/d)
        R.publish(tmp_path/d, tmp_path/f'published-{d}')
    for kind, n in ('', 3), ('published-', 3):
        a, b = tmp_path/f'{kind}a', tmp_path/f'{kind}b'
        files = sorted(f.relative_to(a) for f in a.rglob('*') if f.is_file())
        assert len(files) >= n
        for f in files: assert (a/f).read_bytes() == (b/f).read_bytes()

def test_many_writers_lose_no_run(corpus, tmp_path):
    with ThreadPoolExecutor(8) as ex: runs = list(ex.map(lambda seed: save(corpus, tmp_path, seed=seed), range(16)))
    r = R.Results(tmp_path)
    assert list(r.runs.run) == sorted(runs) and r.predictions(r.runs).run.nunique() == 16

def test_publishing_keeps_everything(corpus, tmp_path):
    a, b, p = (tmp_path/d for d in 'abp')
    for seed in range(2): save(corpus, a, seed=seed)
    save(corpus, b, seed=2, corpora='emodb', protocol='loso')
    few = corpus[corpus.emotion.isin(EMOTIONS[:2])]
    R.save_run(facts(Recipe('lstm', model='lstm')), predictions(few, labels=EMOTIONS[:2]), None, None, few, b)   # fewer labels, the same table
    first = R.publish(a, p)
    before = first.predictions(first.runs)
    both = R.publish(b, p)
    assert len(both.runs) == 4 and both.predictions(first.runs).equals(before)
    assert R.labels_of(both.predictions(both.runs.run[both.runs.recipe == 'lstm'])) == list(EMOTIONS[:2])
    files = {f: f.read_bytes() for f in p.rglob('*') if f.is_file()}
    R.publish(a, p), R.publish(b, p)
    assert files == {f: f.read_bytes() for f in p.rglob('*') if f.is_file()}
    with pytest.raises(SerError, match='published store'): save(corpus, p, seed=9)

def test_what_is_not_published(corpus, tmp_path):
    "Runs on synthetic speech, and failures of runs that have succeeded before."
    run = save(corpus, tmp_path/'a')
    R.publish(tmp_path/'a', tmp_path/'p')
    save(corpus.assign(corpus='synth'), tmp_path/'b', corpora='emodb,synth', seed=1)
    R.save_run(facts(status='failed', error='out of memory'), folder=tmp_path/'b')
    R.save_run(facts(seed=2, status='failed', error='out of memory'), folder=tmp_path/'b')
    r = R.publish(tmp_path/'b', tmp_path/'p')
    assert r.done(run) and len(r.runs) == 2 and sorted(r.runs.status) == ['done', 'failed'] and set(r.clips.corpus) <= {'ravdess', 'emodb'}


def test_missing_and_unknown_facts(corpus, tmp_path):
    with pytest.raises(ValueError, match='colour'): save(corpus, tmp_path, colour='red')
    with pytest.raises(ValueError, match='seconds'): R.save_run({k: v for k, v in facts().items() if k != 'seconds'}, folder=tmp_path)
    with pytest.raises(ValueError, match='predictions'): R.save_run(facts(status='done'), folder=tmp_path)
    with pytest.raises(ValueError, match='lacks the clips'):
        R.save_run(facts(), predictions(corpus), None, None, corpus[:5], tmp_path)
    assert not len(R.Results(tmp_path).runs)

def test_bad_predictions_are_never_stored(corpus, tmp_path):
    pred = predictions(corpus)
    for bad in (pred.assign(calm=np.nan), pred.assign(calm=.5), pd.concat([pred, pred])):
        with pytest.raises(SerError, match='line'): R.save_run(facts(), bad, None, None, corpus, tmp_path)
    assert not list(tmp_path.rglob('*.csv'))

def test_failed_runs_are_recorded_and_tried_again(corpus, tmp_path):
    R.save_run(facts(status='failed', error='out of memory'), folder=tmp_path)
    run = facts()['run']
    assert R.Results(tmp_path).runs.status.tolist() == ['failed'] and not R.Results(tmp_path).done(run)
    assert T.table1(R.Results(tmp_path)).note.tolist()[0] == 'out of memory'
    save(corpus[:64], tmp_path)
    assert R.Results(tmp_path).done(run) and T.table1(R.Results(tmp_path)).note.isna().all()

def test_odd_names_survive(tmp_path):
    "Clips that look like numbers, a label that pandas would take for missing, a comma, a quote."
    names = zip(['007', '1e5', 'a,"b"', 'NA'], ['null', 'NA', 'null', 'joy'])
    df = pd.DataFrame([(c, 'mine', 'mine/1', '', e, '', '', '', 1.) for c, e in names], columns=R.CLIPS)
    run = R.save_run(facts(corpora='mine'), predictions(df, labels=('NA', 'joy', 'null')), None, None, df, tmp_path).name
    pred = R.Results(tmp_path).predictions(run)
    assert sorted(pred['clip']) == sorted(df['clip']) and set(pred.truth) == {'NA', 'joy', 'null'}
    assert R.Results(tmp_path).find(run)['n_valid'] == 0
    assert T.summarise(R.Results(tmp_path), n_boot=50).part.tolist() == ['test', 'both']

def test_damage_is_named(corpus, tmp_path):
    run = save(corpus, tmp_path)
    f = tmp_path/run/'facts.json'
    text = f.read_text()
    for bad in text[:100], '{}', '[]', 'null':
        f.write_text(bad)
        with pytest.raises(SerError, match=f'{run}/facts.json is damaged'): R.Results(tmp_path).runs
        with pytest.raises(SerError, match=f'{run}/facts.json is damaged'): R.Results(tmp_path).done(run)
    f.write_text(text)
    (tmp_path/run/'clips.csv').write_text(','.join(R.CLIPS) + '\n')
    with pytest.raises(SerError, match='clips.csv does not list it'): T.summarise(R.Results(tmp_path), parts=['test'])
    (tmp_path/run/'predictions.csv').unlink()
    with pytest.raises(SerError, match='is missing'): R.Results(tmp_path).valid(run)

@pytest.mark.parametrize('harm, message', [
    (lambda L: [L[0], L[1].replace(',9,', ',nine,')], 'line 2: n_train is not a number'), (lambda L: [*L, L[1]], 'line 3: duplicate run'),
    (lambda L: [*L[:1], '<<<<<<< HEAD', *L[1:]], 'line 2: status is neither'), (lambda L: ['x' + L[0], L[1]], 'line 1: expected the columns')])
def test_a_damaged_list_of_runs_is_named(corpus, tmp_path, harm, message):
    save(corpus, tmp_path/'a')
    f = R.publish(tmp_path/'a', tmp_path/'p').folder/'runs.csv'
    f.write_text('\n'.join(harm(f.read_text().splitlines())))
    with pytest.raises(SerError, match=f'runs.csv {message}'): R.Results(tmp_path/'p').runs

@pytest.mark.parametrize('harm, said', {
    'twice': (lambda L: [*L, L[5]], 'line 42: duplicate clip'), 'conflict': (lambda L: [*L[:3], '<<<<<<< HEAD', *L[3:]], 'line 4: corpus is missing'),
    'blank': (lambda L: [*L[:3], '', *L[3:]], 'line 4: corpus is missing'), 'more fields': (lambda L: [*L, ','*20], 'line 42'), 'head': (lambda L: ['id' + L[0][4:], *L[1:]], 'line 1: expected the columns clip'),
    'duration': (lambda L: [L[0], L[1].replace('3.21', '3;21'), *L[2:]], 'line 2: duration is not a number'), 'empty': (lambda L: [], 'cannot read')}.values())
def test_damaged_facts_of_clips_are_named(corpus, tmp_path, harm, said):
    save(corpus, tmp_path/'a')
    f = R.publish(tmp_path/'a', tmp_path/'p').folder/'clips.csv'
    f.write_text('\n'.join(harm(f.read_text().splitlines())) + '\n')
    with pytest.raises(SerError, match=f'{said}.*|clips.csv.*{said}'): T.table1(R.Results(tmp_path/'p'), n_boot=0)

def test_a_clip_is_tested_in_one_fold(corpus, tmp_path):
    who = corpus.speaker.str[-1].astype(int)
    runs = [R.save_run(facts(protocol='emobox', fold=f), predictions(corpus[who % 2 == f]), None, None, corpus, tmp_path).name for f in (0, 1)]
    f, g = (tmp_path/r/'predictions.csv' for r in runs)
    assert len(R.Results(tmp_path).predictions(runs)) == len(corpus)
    (head, first, *rest), stranger = f.read_text().splitlines(), g.read_text().splitlines()[1]
    assert first.split(',')[2] == stranger.split(',')[2]                          # the same emotion
    for run, d in zip(runs, (f, g)):                                               # with checksums that fit
        if d is f: d.write_text('\n'.join([head, stranger, *rest]) + '\n')
        x = json.loads((d.parent/'facts.json').read_text())
        (d.parent/'facts.json').write_text(json.dumps(x | dict(sha256=R._checksum(R._read_text(d)))))
    clip = stranger.split(',')[1]
    with pytest.raises(SerError, match=f'predictions.csv line 2: {clip} is tested in {runs[0]} already'): R.Results(tmp_path).predictions(runs)

def test_a_run_without_its_predictions_may_be_repeated(corpus, tmp_path):
    run = save(corpus, tmp_path)
    (tmp_path/run/'predictions.csv').unlink()
    assert not R.Results(tmp_path).done(run)
    save(corpus, tmp_path)
    assert R.Results(tmp_path).done(run)

@pytest.mark.parametrize('part', R.PARTS)
def test_an_edited_truth_never_moves_a_score(corpus, tmp_path, part):
    run = save(corpus, tmp_path)
    f = tmp_path/run/'predictions.csv'
    lines = f.read_text().splitlines()
    i = next(i for i, line in enumerate(lines) if line.startswith(part + ','))
    _, clip, truth, *p = lines[i].split(',')
    other = next(c for c, e in zip(corpus['clip'], corpus.emotion) if e == truth and f'{c},' not in f.read_text())
    for row in [clip, 'sad' if truth != 'sad' else 'calm'], [other, truth], ['nobody', truth]:
        f.write_text('\n'.join([*lines[:i], ','.join([part, *row, *p]), *lines[i + 1:]]) + '\n')
        with pytest.raises(SerError, match=f'predictions.csv line {i + 1}: {row[0]} is'): T.table1(R.Results(tmp_path), n_boot=0)

def test_runs_with_other_labels_do_not_mix(corpus, tmp_path):
    a = save(corpus, tmp_path)
    few = corpus[corpus.emotion.isin(EMOTIONS[:2])]
    b = R.save_run(facts(corpora='few'), predictions(few, labels=EMOTIONS[:2]), None, None, few, tmp_path).name
    with pytest.raises(SerError, match='labels'): R.Results(tmp_path).predictions([a, b])
    assert set(T.summarise(R.Results(tmp_path), n_boot=0).corpora) == {'ravdess', 'few'}

def test_a_joint_run_splits_by_corpus(corpus, tmp_path):
    for seed in range(3): save(corpus, tmp_path, seed=seed, corpora='emodb,ravdess')
    whole = T.summarise(R.Results(tmp_path), parts=['both'], n_boot=0).iloc[0]
    split = T.summarise(R.Results(tmp_path), by=['recipe', 'corpus'], parts=['both']).set_index('corpus')
    assert set(split.index) == {'emodb', 'ravdess'} and split.n_answers.sum() == whole.n_answers == 120
    assert (split.accuracy*split.n_answers).sum() == pytest.approx(whole.accuracy*120)
    r = split.loc['emodb']
    assert (r.accuracy_lo, r.accuracy_hi) == pytest.approx(wilson(r.accuracy*r.n_clips, r.n_clips))

def test_recipes_that_differ_are_not_pooled(corpus, tmp_path):
    for C in (1., 10.): save(corpus, tmp_path, recipe=Recipe('svm', model='svm', C=C))
    assert len(T.summarise(R.Results(tmp_path), parts=['test'], n_boot=0)) == 2
    assert (T.table1(R.Results(tmp_path)).recipe == 'svm').sum() == 2

def test_table1_compares_on_shared_splits(corpus, tmp_path):
    df = corpus[corpus.corpus == 'ravdess']
    cnn = Recipe('cnn_transfer', weights='imagenet')
    for seed in range(3): save(df, tmp_path, seed=seed)
    save(df, tmp_path, seed=1, recipe=cnn, right=.9)
    for fold in range(4): save(df[df.speaker == f'ravdess/{fold}'], tmp_path, n=8, fold=fold, protocol='emobox')
    t = T.table1(R.Results(tmp_path)).set_index('recipe')
    assert t.index.tolist() == list(T.PAPER)
    assert (t.loc['svm', 'paper_seeds'], t.loc['cnn_transfer', 'paper_seeds'], t.loc['svm', 'emobox_folds']) == ('0-2', '1', '0-3')
    assert t.loc['cnn_transfer', 'paper_shared_accuracy'] == t.loc['cnn_transfer', 'paper_accuracy']
    assert t.loc['svm', 'paper_shared_accuracy'] != t.loc['svm', 'paper_accuracy']
    text = T.show_table1(t.reset_index()).set_index('model')
    assert text.loc['CNN, ImageNet weights', '`emobox` UAR'] == 'not run'
    assert text.loc['SVM, mean MFCC', 'published accuracy / F1'] == '51.7 / 50.9'
    md = T.to_markdown(text.reset_index())
    assert len(md.splitlines()) == 8 and len({line.count('|') for line in md.splitlines()}) == 1

def test_a_variant_that_the_first_protocol_never_saw(corpus, tmp_path):
    "It is another row only where its recipe would have none."
    df = corpus[corpus.corpus == 'ravdess']
    small = Recipe('cnn_transfer', weights='imagenet', sizes=(96,))
    for fold in range(4): save(df[df.speaker == f'ravdess/{fold}'], tmp_path, n=8, fold=fold, protocol='emobox', recipe=small)
    rows = lambda: T.table1(R.Results(tmp_path), n_boot=0).set_index('recipe').loc[['cnn_transfer'], 'size'].tolist()
    assert rows() == ['96']
    save(df, tmp_path, recipe=Recipe('cnn_transfer', weights='imagenet'))
    assert rows() == ['128']

def test_a_half_finished_seed_is_not_mixed_with_whole_ones(corpus, tmp_path):
    df = corpus[corpus.corpus == 'ravdess']
    def fold(f, seed, **kw): save(df[df.speaker == f'ravdess/{f}'], tmp_path, n=8, fold=f, seed=seed, protocol='emobox', **kw)
    for f in range(4): fold(f, 0)
    row = lambda: T.table1(R.Results(tmp_path)).set_index('recipe').loc['svm']
    before = row()
    for f in range(2): fold(f, 1, right=1.)
    assert (before.emobox_seeds, before.emobox_folds) == ('0', '0-3') and row().equals(before)
    for f in (2, 3): fold(f, 1, right=1.)
    assert row().emobox_seeds == '0-1' and row().emobox_uar > before.emobox_uar
    fold(1, 0, recipe=Recipe('lstm', model='lstm'))
    assert T.table1(R.Results(tmp_path)).set_index('recipe').loc['lstm', 'emobox_folds'] == '1'       # all that there is, and its folds

def test_folds_of_clips_that_no_run_has_named_are_missing(corpus, tmp_path):
    df = corpus[corpus.corpus == 'ravdess']
    def fold(f, n_train):
        test = predictions(df[df.speaker == f'ravdess/{f}'])
        R.save_run(facts(fold=f, protocol='emobox', n_train=n_train), test, None, None, df, tmp_path)
    for f in range(3): fold(f, len(df) - 16)                                                # of four speakers, three are named
    assert not len(T.complete_runs(R.Results(tmp_path), R.Results(tmp_path).runs))
    fold(3, len(df) - 16)
    assert len(T.complete_runs(R.Results(tmp_path), R.Results(tmp_path).runs)) == 4

def test_no_interval_over_a_few_speakers(corpus, tmp_path):
    df = corpus[corpus.corpus == 'ravdess']
    save(df, tmp_path)
    for fold in range(4): save(df[df.speaker == f'ravdess/{fold}'], tmp_path, n=8, fold=fold, protocol='emobox')
    t = T.table1(R.Results(tmp_path))
    t = t[t.recipe == 'svm']
    assert t.emobox_n_speakers.iloc[0] == 4 < T.MIN_SPEAKERS_FOR_CI and t.emobox_uar_lo.notna().all()    # the numbers keep it
    few, many = (T.show_table1(x).iloc[0] for x in (t, t.assign(emobox_n_speakers=T.MIN_SPEAKERS_FOR_CI)))
    for col in ('`emobox` UAR', '`emobox` macro F1'): assert '(' not in few[col] and '(' in many[col] and many[col].startswith(few[col])
    assert '(' in few['`paper` accuracy']                                               # clips are drawn there, not speakers

def test_nothing_run_yet(tmp_path):
    r = R.Results(tmp_path)
    t = T.table1(r)
    assert t.recipe.tolist() == list(T.PAPER) and set(T.show_table1(t)['`paper` accuracy']) == {'not run'}
    assert len(r.curves([])) == 0 and len(T.summarise(r)) == 0 and len(r.clips) == 0 and r.peers('emobox') == {}

def test_curves(corpus, tmp_path):
    c = pd.DataFrame(dict(epoch=[0, 1], train_loss=[2., 1.], train_clean_loss=[1.9, .9], valid_loss=[2., 1.5], valid_accuracy=[.1, .3]))
    run = R.save_run(facts(), predictions(corpus), None, c.assign(lr=0.), corpus, tmp_path).name
    pd.testing.assert_frame_equal(R.Results(tmp_path).curves([run, 'svm-without'])[R.CURVES], c)
    for bad in '', 'a,b\n1,2\n':
        (tmp_path/run/'curves.csv').write_text(bad)
        with pytest.raises(SerError, match=f'{run}/curves.csv'): R.Results(tmp_path).curves([run])

def test_random_protocols_are_those_with_known_speakers():
    assert not [p for p in T.RANDOM if PROTOCOLS[p].unseen]
