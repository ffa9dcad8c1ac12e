"Results on disk: whole or absent, recomputable, and merged from many writers without a loss."
from concurrent.futures import ThreadPoolExecutor
import numpy as np, pandas as pd, pytest
from ser_fastai import results as R
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
    return R.save_run(facts(recipe, seed=seed, **kw), test, valid, None, df, results).stem

def test_round_trip(corpus, tmp_path):
    run = save(corpus, tmp_path)
    got = R.read_run(run, tmp_path)
    assert list(got) == R.FACTS and got['status'] == 'done' and (got['n_test'], got['n_valid']) == (20, 20)
    for part, prefix in dict(test='', valid='valid_').items():
        pred = R.load_predictions(run, part, tmp_path)
        assert list(pred) == ['run', 'clip', 'truth', *EMOTIONS]
        assert metrics(pred) == pytest.approx({m: got[prefix + m] for m in ('accuracy', 'uar', 'macro_f1')}, abs=1e-6)
    assert len(R.load_clips(tmp_path)) == 40
    assert not list(tmp_path.rglob('.*csv.*.tmp'))

def test_a_run_exists_when_its_json_does(corpus, tmp_path, monkeypatch):
    def killed(*args): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(R, 'merge_clips', killed)
        with pytest.raises(KeyboardInterrupt): save(corpus, tmp_path)
    run = facts()['run']
    assert (tmp_path/'predictions'/f'{run}.csv').exists() and not R.done(run, tmp_path) and not len(R.load_runs(tmp_path))
    assert R.done(save(corpus, tmp_path), tmp_path)

def test_same_bytes_when_repeated(corpus, tmp_path):
    for d in 'ab':
        save(corpus, tmp_path/d)
        R.index_runs(tmp_path/d)
    files = sorted(f.relative_to(tmp_path/'a') for f in (tmp_path/'a').rglob('*') if f.is_file())
    assert len(files) >= 5
    for f in files: assert (tmp_path/'a'/f).read_bytes() == (tmp_path/'b'/f).read_bytes()

def test_many_writers_lose_no_clip(corpus, tmp_path):
    with ThreadPoolExecutor(16) as ex: list(ex.map(lambda i: R.merge_clips(corpus[i::16], tmp_path), range(16)))
    assert list(R.load_clips(tmp_path)['clip']) == sorted(corpus['clip'])

def test_whoever_lists_last_lists_every_run(corpus, tmp_path):
    save(corpus, tmp_path)
    def list_one(seed):
        save(corpus, tmp_path, seed=seed)
        return len(pd.read_csv(R.index_runs(tmp_path)))
    with ThreadPoolExecutor(8) as ex: found = list(ex.map(list_one, range(1, 9)))
    assert max(found) == 9 == len(pd.read_csv(tmp_path/'runs.csv'))

def test_missing_and_unknown_facts(corpus, tmp_path):
    with pytest.raises(ValueError, match='colour'): save(corpus, tmp_path, colour='red')
    with pytest.raises(ValueError, match='seconds'): R.save_run({k: v for k, v in facts().items() if k != 'seconds'}, results=tmp_path)
    with pytest.raises(ValueError, match='predictions'): R.save_run(facts(status='done'), results=tmp_path)
    with pytest.raises(ValueError, match='no facts of the clips'):
        R.save_run(facts(), predictions(corpus), None, None, corpus[:5], tmp_path)
    assert not len(R.load_runs(tmp_path))

def test_bad_predictions_are_never_stored(corpus, tmp_path):
    pred = predictions(corpus)
    for bad in (pred.assign(calm=np.nan), pred.assign(calm=.5), pd.concat([pred, pred])):
        with pytest.raises(SerError, match='line'): R.save_run(facts(), bad, None, None, corpus, tmp_path)
    assert not list(tmp_path.rglob('*.csv'))

def test_failed_runs_are_recorded_and_tried_again(corpus, tmp_path):
    R.save_run(facts(status='failed', error='out of memory'), results=tmp_path)
    run = facts()['run']
    assert R.load_runs(tmp_path).status.tolist() == ['failed'] and not R.done(run, tmp_path)
    assert R.table1(tmp_path).note.tolist()[0] == 'out of memory'
    save(corpus[:64], tmp_path)
    assert R.done(run, tmp_path) and R.table1(tmp_path).note.isna().all()

def test_odd_names_survive(tmp_path):
    "Clips that look like numbers, a label that pandas would take for missing, a comma, a quote."
    names = zip(['007', '1e5', 'a,"b"', 'NA'], ['null', 'NA', 'null', 'joy'])
    df = pd.DataFrame([(c, 'mine', 'mine/1', '', e, '', '', '', 1.) for c, e in names], columns=R.CLIPS)
    run = R.save_run(facts(corpora='mine'), predictions(df, labels=('NA', 'joy', 'null')), None, None, df, tmp_path).stem
    pred = R.load_predictions(run, results=tmp_path)
    assert sorted(pred['clip']) == sorted(df['clip']) and set(pred.truth) == {'NA', 'joy', 'null'}
    assert R.read_run(run, tmp_path)['n_valid'] == 0
    assert R.summarise(results=tmp_path, n_boot=50).part.tolist() == ['test', 'both']

def test_damage_is_named(corpus, tmp_path):
    run = save(corpus, tmp_path)
    f = tmp_path/'runs'/f'{run}.json'
    text = f.read_text()
    for bad in text[:100], '{}', '[]', 'null':
        f.write_text(bad)
        with pytest.raises(SerError, match=f'{run}.json is damaged'): R.load_runs(tmp_path)
        with pytest.raises(SerError, match=f'{run}.json is damaged'): R.done(run, tmp_path)
    f.write_text(text)
    (tmp_path/'valid'/f'{run}.csv').unlink()
    with pytest.raises(SerError, match='is missing'): R.load_predictions(run, 'valid', tmp_path)
    save(corpus, tmp_path)
    (tmp_path/'clips.csv').write_text(','.join(R.CLIPS) + '\n')
    with pytest.raises(SerError, match='clips.csv lacks'): R.summarise(results=tmp_path, parts=['test'])

@pytest.mark.parametrize('harm, said', {
    'twice': (lambda L: [*L, L[5]], 'line 42: a clip that stood above already'), 'conflict': (lambda L: [*L[:3], '<<<<<<< HEAD', *L[3:]], 'line 4: fields are missing'),
    'blank': (lambda L: [*L[:3], '', *L[3:]], 'line 4: fields are missing'), 'more fields': (lambda L: [*L, ','*20], 'line 42'), 'head': (lambda L: ['id' + L[0][4:], *L[1:]], 'line 1: expected the columns clip'),
    'duration': (lambda L: [L[0], L[1].replace('3.21', '3;21'), *L[2:]], 'line 2: the duration is no number'), 'empty': (lambda L: [], 'cannot be read')}.values())
def test_damaged_facts_of_clips_are_named(corpus, tmp_path, harm, said):
    save(corpus, tmp_path)
    f = tmp_path/'clips.csv'
    f.write_text('\n'.join(harm(f.read_text().splitlines())) + '\n')
    with pytest.raises(SerError, match=f'clips.csv.*{said}'): R.table1(tmp_path, n_boot=0)

def test_a_clip_is_tested_in_one_fold(corpus, tmp_path):
    who = corpus.speaker.str[-1].astype(int)
    runs = [R.save_run(facts(protocol='emobox', fold=f), predictions(corpus[who % 2 == f]), None, None, corpus, tmp_path).stem for f in (0, 1)]
    f, g = (tmp_path/'predictions'/f'{r}.csv' for r in runs)
    assert len(R.load_predictions(runs, results=tmp_path)) == len(corpus)
    (head, first, *rest), stranger = f.read_text().splitlines(), g.read_text().splitlines()[1]
    assert first.split(',')[1] == stranger.split(',')[1]                          # the same emotion
    f.write_text('\n'.join([head, stranger, *rest]) + '\n')
    with pytest.raises(SerError, match=f'{runs[1]}.csv line 2: {stranger.split(",")[0]} is tested in {runs[0]} already'): R.table1(tmp_path, n_boot=0)

def test_a_run_that_lost_its_answers_may_be_repeated(corpus, tmp_path):
    run = save(corpus, tmp_path)
    for part in R.PARTS.values():
        (tmp_path/part/f'{run}.csv').unlink()
        assert not R.done(run, tmp_path)
        save(corpus, tmp_path)
        assert R.done(run, tmp_path)
    R.save_run(facts(seed=1), predictions(corpus), None, None, corpus, tmp_path)          # no validation clips, no file of them
    assert R.done(facts(seed=1)['run'], tmp_path)

@pytest.mark.parametrize('part', R.PARTS)
def test_an_edited_truth_never_moves_a_score(corpus, tmp_path, part):
    run = save(corpus, tmp_path)
    f = tmp_path/R.PARTS[part]/f'{run}.csv'
    head, first, *rest = f.read_text().splitlines()
    clip, truth, *p = first.split(',')
    other = next(c for c, e in zip(corpus['clip'], corpus.emotion) if e != truth and f'{c},' not in f.read_text())
    wrong = [clip, 'sad' if truth != 'sad' else 'calm'], [other, truth], ['nobody', truth]
    for row in wrong:
        f.write_text('\n'.join([head, ','.join([*row, *p]), *rest]) + '\n')
        with pytest.raises(SerError, match=f'{run}.csv line 2: {row[0]} is'): R.table1(tmp_path, n_boot=0)

def test_runs_with_other_labels_do_not_mix(corpus, tmp_path):
    a = save(corpus, tmp_path)
    few = corpus[corpus.emotion.isin(EMOTIONS[:2])]
    b = R.save_run(facts(corpora='few'), predictions(few, labels=EMOTIONS[:2]), None, None, few, tmp_path).stem
    with pytest.raises(SerError, match='labels'): R.load_predictions([a, b], results=tmp_path)
    assert set(R.summarise(results=tmp_path, n_boot=0).corpora) == {'ravdess', 'few'}

def test_a_joint_run_splits_by_corpus(corpus, tmp_path):
    for seed in range(3): save(corpus, tmp_path, seed=seed, corpora='emodb,ravdess')
    whole = R.summarise(results=tmp_path, parts=['both'], n_boot=0).iloc[0]
    split = R.summarise(results=tmp_path, by=['recipe', 'corpus'], parts=['both']).set_index('corpus')
    assert set(split.index) == {'emodb', 'ravdess'} and split.n_answers.sum() == whole.n_answers == 120
    assert (split.accuracy*split.n_answers).sum() == pytest.approx(whole.accuracy*120)
    r = split.loc['emodb']
    assert (r.accuracy_lo, r.accuracy_hi) == pytest.approx(wilson(r.accuracy*r.n_clips, r.n_clips))

def test_recipes_that_differ_are_not_pooled(corpus, tmp_path):
    for C in (1., 10.): save(corpus, tmp_path, recipe=Recipe('svm', model='svm', C=C))
    assert len(R.summarise(results=tmp_path, parts=['test'], n_boot=0)) == 2
    assert (R.table1(tmp_path).recipe == 'svm').sum() == 2

def test_table1_compares_on_shared_splits(corpus, tmp_path):
    df = corpus[corpus.corpus == 'ravdess']
    cnn = Recipe('cnn_transfer', weights='imagenet')
    for seed in range(3): save(df, tmp_path, seed=seed)
    save(df, tmp_path, seed=1, recipe=cnn, right=.9)
    for fold in range(4): save(df[df.speaker == f'ravdess/{fold}'], tmp_path, n=8, fold=fold, protocol='emobox')
    t = R.table1(tmp_path).set_index('recipe')
    assert t.index.tolist() == list(R.PAPER)
    assert (t.loc['svm', 'paper_seeds'], t.loc['cnn_transfer', 'paper_seeds'], t.loc['svm', 'emobox_folds']) == ('0-2', '1', '0-3')
    assert t.loc['cnn_transfer', 'paper_shared_accuracy'] == t.loc['cnn_transfer', 'paper_accuracy']
    assert t.loc['svm', 'paper_shared_accuracy'] != t.loc['svm', 'paper_accuracy']
    text = R.show_table1(t.reset_index()).set_index('model')
    assert text.loc['CNN, ImageNet weights', '`emobox` UAR'] == 'not run'
    assert text.loc['SVM, mean MFCC', 'published accuracy / F1'] == '51.7 / 50.9'
    md = R.to_markdown(text.reset_index())
    assert len(md.splitlines()) == 8 and len({line.count('|') for line in md.splitlines()}) == 1

def test_a_variant_that_the_first_protocol_never_saw(corpus, tmp_path):
    "It is another row only where its recipe would have none."
    df = corpus[corpus.corpus == 'ravdess']
    small = Recipe('cnn_transfer', weights='imagenet', sizes=(96,))
    for fold in range(4): save(df[df.speaker == f'ravdess/{fold}'], tmp_path, n=8, fold=fold, protocol='emobox', recipe=small)
    rows = lambda: R.table1(tmp_path, n_boot=0).set_index('recipe').loc[['cnn_transfer'], 'size'].tolist()
    assert rows() == ['96']
    save(df, tmp_path, recipe=Recipe('cnn_transfer', weights='imagenet'))
    assert rows() == ['128']

def test_a_half_finished_seed_is_not_mixed_with_whole_ones(corpus, tmp_path):
    df = corpus[corpus.corpus == 'ravdess']
    def fold(f, seed, **kw): save(df[df.speaker == f'ravdess/{f}'], tmp_path, n=8, fold=f, seed=seed, protocol='emobox', **kw)
    for f in range(4): fold(f, 0)
    row = lambda: R.table1(tmp_path).set_index('recipe').loc['svm']
    before = row()
    for f in range(2): fold(f, 1, right=1.)
    assert (before.emobox_seeds, before.emobox_folds) == ('0', '0-3') and row().equals(before)
    for f in (2, 3): fold(f, 1, right=1.)
    assert row().emobox_seeds == '0-1' and row().emobox_uar > before.emobox_uar
    fold(1, 0, recipe=Recipe('lstm', model='lstm'))
    assert R.table1(tmp_path).set_index('recipe').loc['lstm', 'emobox_folds'] == '1'       # all that there is, and its folds

def test_folds_of_clips_that_no_run_has_named_are_missing(corpus, tmp_path):
    df = corpus[corpus.corpus == 'ravdess']
    def fold(f, n_train):
        test = predictions(df[df.speaker == f'ravdess/{f}'])
        R.save_run(facts(fold=f, protocol='emobox', n_train=n_train), test, None, None, df, tmp_path)
    for f in range(3): fold(f, len(df) - 16)                                                # of four speakers, three are named
    assert not len(R.complete_runs(R.load_runs(tmp_path), tmp_path))
    fold(3, len(df) - 16)
    assert len(R.complete_runs(R.load_runs(tmp_path), tmp_path)) == 4

def test_no_interval_over_a_few_speakers(corpus, tmp_path):
    df = corpus[corpus.corpus == 'ravdess']
    save(df, tmp_path)
    for fold in range(4): save(df[df.speaker == f'ravdess/{fold}'], tmp_path, n=8, fold=fold, protocol='emobox')
    t = R.table1(tmp_path)
    t = t[t.recipe == 'svm']
    assert t.emobox_n_speakers.iloc[0] == 4 < R.FEW and t.emobox_uar_lo.notna().all()    # the numbers keep it
    few, many = (R.show_table1(x).iloc[0] for x in (t, t.assign(emobox_n_speakers=R.FEW)))
    for col in ('`emobox` UAR', '`emobox` macro F1'): assert '(' not in few[col] and '(' in many[col] and many[col].startswith(few[col])
    assert '(' in few['`paper` accuracy']                                               # clips are drawn there, not speakers

def test_nothing_run_yet(tmp_path):
    t = R.table1(tmp_path)
    assert t.recipe.tolist() == list(R.PAPER) and set(R.show_table1(t)['`paper` accuracy']) == {'not run'}
    assert len(R.load_curves([], tmp_path)) == 0 and len(R.summarise(results=tmp_path)) == 0
    assert R.index_runs(tmp_path).read_text().strip() == ','.join(R.FACTS)

def test_curves(corpus, tmp_path):
    c = pd.DataFrame(dict(epoch=[0, 1], train_loss=[2., 1.], train_clean_loss=[1.9, .9], valid_loss=[2., 1.5], valid_accuracy=[.1, .3]))
    run = R.save_run(facts(), predictions(corpus), None, c.assign(lr=0.), corpus, tmp_path).stem
    pd.testing.assert_frame_equal(R.load_curves([run, 'svm-without'], tmp_path)[R.CURVES], c)
    for bad in '', 'a,b\n1,2\n':
        (tmp_path/'curves'/f'{run}.csv').write_text(bad)
        with pytest.raises(SerError, match=f'{run}.csv'): R.load_curves([run], tmp_path)

def test_random_protocols_are_those_with_known_speakers():
    assert not [p for p in R.RANDOM if PROTOCOLS[p].unseen]
