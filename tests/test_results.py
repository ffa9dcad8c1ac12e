"Stores of runs: runs are complete or absent, checked when read, and published unchanged."
import gzip, json, shutil
from concurrent.futures import ThreadPoolExecutor
import numpy as np, pandas as pd, pytest
from ser_fastai import results as R, tables as T
from ser_fastai.core import EMOTIONS, SerError
from ser_fastai.metrics import metrics
from ser_fastai.recipes import Recipe

@pytest.fixture
def corpus():
    "Two corpora of four speakers with two clips per emotion. The second lacks calm and surprised."
    emotions = dict(ravdess=EMOTIONS, emodb=EMOTIONS[:1] + EMOTIONS[2:7])
    gender = 'male', 'female'
    rows = [(f'{c}/{s}/{e}-{i}', c, f'{c}/{s}', gender[s % 2], e, 'normal', 'kids', str(i), 3.21)
            for c in emotions for s in range(4) for e in emotions[c] for i in range(2)]
    return pd.DataFrame(rows, columns=R.CLIPS)

def predictions(df, right=.6, seed=0, labels=EMOTIONS):
    rng = np.random.default_rng(seed)
    guess = np.where(rng.random(len(df)) < right, df.emotion, rng.choice(list(labels), len(df)))
    noise = rng.dirichlet(np.ones(len(labels)), len(df))
    p = pd.DataFrame(.9*(guess[:, None] == np.array(labels)) + .1*noise, columns=labels)
    truth = df[['clip']].assign(truth=df.emotion).reset_index(drop=True)
    return pd.concat([truth, p], axis=1)

def facts(recipe=Recipe('svm', model='svm'), corpora='ravdess', protocol='paper', fold=0, seed=0, **kw):
    run = R.run_id(recipe, corpora, protocol, fold, seed)
    return dict(run=run, **R.recipe_facts(recipe), corpora=corpora, test_corpora=corpora, protocol=protocol,
                fold=fold, seed=seed, n_params=10, n_train=9, seconds=.1, device='cpu',
                versions=dict(torch='2'), commit='0'*7) | kw

def save(df, results, n=20, recipe=Recipe('svm', model='svm'), right=.6, seed=0, **kw):
    "Store a run with n random test clips and n other validation clips."
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
        stored = {m: got[prefix + m] for m in ('accuracy', 'uar', 'macro_f1')}
        assert metrics(pred) == pytest.approx(stored, abs=1e-6)
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
    with ThreadPoolExecutor(8) as ex:
        runs = list(ex.map(lambda seed: save(corpus, tmp_path, seed=seed), range(16)))
    r = R.Results(tmp_path)
    assert list(r.runs.run) == sorted(runs) and r.predictions(r.runs).run.nunique() == 16

def test_publishing_keeps_everything(corpus, tmp_path):
    a, b, p = (tmp_path/d for d in 'abp')
    for seed in range(2): save(corpus, a, seed=seed)
    save(corpus, b, seed=2, corpora='emodb', protocol='loso')
    few = corpus[corpus.emotion.isin(EMOTIONS[:2])]
    lstm = facts(Recipe('lstm', model='lstm'))
    R.save_run(lstm, predictions(few, labels=EMOTIONS[:2]), None, None, few, b)     # fewer labels
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
    "Synthetic speech is not published, and a failure does not replace a successful run."
    run = save(corpus, tmp_path/'a')
    R.publish(tmp_path/'a', tmp_path/'p')
    save(corpus.assign(corpus='synth'), tmp_path/'b', corpora='emodb,synth', seed=1)
    R.save_run(facts(status='failed', error='out of memory'), folder=tmp_path/'b')
    R.save_run(facts(seed=2, status='failed', error='out of memory'), folder=tmp_path/'b')
    r = R.publish(tmp_path/'b', tmp_path/'p')
    assert r.done(run) and sorted(r.runs.status) == ['done', 'failed']
    assert set(r.clips.corpus) <= {'ravdess', 'emodb'}

def test_missing_and_unknown_facts(corpus, tmp_path):
    with pytest.raises(ValueError, match='colour'): save(corpus, tmp_path, colour='red')
    incomplete = {k: v for k, v in facts().items() if k != 'seconds'}
    with pytest.raises(ValueError, match='seconds'): R.save_run(incomplete, folder=tmp_path)
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
    "Clips that look like numbers, labels that pandas reads as missing, commas and quotes."
    names = zip(['007', '1e5', 'a,"b"', 'NA'], ['null', 'NA', 'null', 'joy'])
    df = pd.DataFrame([(c, 'mine', 'mine/1', '', e, '', '', '', 1.) for c, e in names], columns=R.CLIPS)
    run = R.save_run(facts(corpora='mine'), predictions(df, labels=('NA', 'joy', 'null')), clips=df,
                     folder=tmp_path).name
    pred = R.Results(tmp_path).predictions(run)
    assert sorted(pred['clip']) == sorted(df['clip']) and set(pred.truth) == {'NA', 'joy', 'null'}
    assert R.Results(tmp_path).find(run)['n_valid'] == 0
    assert T.summarise(R.Results(tmp_path), n_boot=50).part.tolist() == ['test', 'both']

def test_errors_name_the_damaged_file(corpus, tmp_path):
    run = save(corpus, tmp_path)
    f = tmp_path/run/'facts.json'
    text = f.read_text()
    for bad in text[:100], '{}', '[]', 'null':
        f.write_text(bad)
        with pytest.raises(SerError, match=f'{run}/facts.json is damaged'): R.Results(tmp_path).runs
        with pytest.raises(SerError, match=f'{run}/facts.json is damaged'): R.Results(tmp_path).done(run)
    f.write_text(text)
    (tmp_path/run/'clips.csv').write_text(','.join(R.CLIPS) + '\n')
    with pytest.raises(SerError, match='clips.csv does not list it'):
        T.summarise(R.Results(tmp_path), parts=['test'])
    (tmp_path/run/'predictions.csv').unlink()
    with pytest.raises(SerError, match='is missing'): R.Results(tmp_path).valid(run)

@pytest.mark.parametrize('harm, message', [
    (lambda L: [L[0], L[1].replace(',9,', ',nine,')], 'line 2: n_train is not a number'),
    (lambda L: [*L, L[1]], 'line 3: duplicate run'),
    (lambda L: [*L[:1], '<<<<<<< HEAD', *L[1:]], 'line 2: status is neither'),
    (lambda L: ['x' + L[0], L[1]], 'line 1: expected the columns')])
def test_errors_name_the_line_of_a_damaged_list_of_runs(corpus, tmp_path, harm, message):
    save(corpus, tmp_path/'a')
    f = R.publish(tmp_path/'a', tmp_path/'p').folder/'runs.csv'
    f.write_text('\n'.join(harm(f.read_text().splitlines())))
    with pytest.raises(SerError, match=f'runs.csv {message}'): R.Results(tmp_path/'p').runs

@pytest.mark.parametrize('harm, message', [
    (lambda L: [*L, L[5]], 'line 42: duplicate clip'),
    (lambda L: [*L[:3], '<<<<<<< HEAD', *L[3:]], 'line 4: corpus is missing'),
    (lambda L: [*L[:3], '', *L[3:]], 'line 4: corpus is missing'),
    (lambda L: [*L, ','*20], 'line 42'),
    (lambda L: ['id' + L[0][4:], *L[1:]], 'line 1: expected the columns clip'),
    (lambda L: [L[0], L[1].replace('3.21', '3;21'), *L[2:]], 'line 2: duration is not a number'),
    (lambda L: [], 'cannot read')])
def test_errors_name_the_line_of_a_damaged_list_of_clips(corpus, tmp_path, harm, message):
    save(corpus, tmp_path/'a')
    f = R.publish(tmp_path/'a', tmp_path/'p').folder/'clips.csv'
    f.write_text('\n'.join(harm(f.read_text().splitlines())) + '\n')
    with pytest.raises(SerError, match=f'{message}.*|clips.csv.*{message}'):
        T.table1(R.Results(tmp_path/'p'), n_boot=0)

def test_a_clip_is_tested_in_one_fold(corpus, tmp_path):
    who = corpus.speaker.str[-1].astype(int)
    runs = [R.save_run(facts(protocol='emobox', fold=f), predictions(corpus[who % 2 == f]), clips=corpus,
                       folder=tmp_path).name for f in (0, 1)]
    f, g = (tmp_path/r/'predictions.csv' for r in runs)
    assert len(R.Results(tmp_path).predictions(runs)) == len(corpus)
    (head, first, *rest), other = f.read_text().splitlines(), g.read_text().splitlines()[1]
    assert first.split(',')[2] == other.split(',')[2]                             # the same emotion
    f.write_text('\n'.join([head, other, *rest]) + '\n')
    for d in (f, g):                                                               # with matching checksums
        x = json.loads((d.parent/'facts.json').read_text())
        (d.parent/'facts.json').write_text(json.dumps(x | dict(sha256=R._checksum(R._read_text(d)))))
    clip = other.split(',')[1]
    with pytest.raises(SerError, match=f'predictions.csv line 2: {clip} was already tested in {runs[0]}'):
        R.Results(tmp_path).predictions(runs)

def test_a_run_without_its_predictions_may_be_repeated(corpus, tmp_path):
    run = save(corpus, tmp_path)
    (tmp_path/run/'predictions.csv').unlink()
    assert not R.Results(tmp_path).done(run)
    save(corpus, tmp_path)
    assert R.Results(tmp_path).done(run)

@pytest.mark.parametrize('part', R.PARTS)
def test_an_edited_truth_is_an_error(corpus, tmp_path, part):
    run = save(corpus, tmp_path)
    f = tmp_path/run/'predictions.csv'
    lines = f.read_text().splitlines()
    i = next(i for i, line in enumerate(lines) if line.startswith(part + ','))
    _, clip, truth, *p = lines[i].split(',')
    alike = corpus['clip'][corpus.emotion == truth]
    other = next(c for c in alike if f'{c},' not in f.read_text())
    for row in [clip, 'sad' if truth != 'sad' else 'calm'], [other, truth], ['nobody', truth]:
        f.write_text('\n'.join([*lines[:i], ','.join([part, *row, *p]), *lines[i + 1:]]) + '\n')
        with pytest.raises(SerError, match=f'predictions.csv line {i + 1}: {row[0]} is'):
            T.table1(R.Results(tmp_path), n_boot=0)

def test_runs_with_other_labels_do_not_mix(corpus, tmp_path):
    a = save(corpus, tmp_path)
    few = corpus[corpus.emotion.isin(EMOTIONS[:2])]
    pred = predictions(few, labels=EMOTIONS[:2])
    b = R.save_run(facts(corpora='few'), pred, clips=few, folder=tmp_path).name
    with pytest.raises(SerError, match='labels'): R.Results(tmp_path).predictions([a, b])
    assert set(T.summarise(R.Results(tmp_path), n_boot=0).corpora) == {'ravdess', 'few'}

def test_curves(corpus, tmp_path):
    c = pd.DataFrame(dict(epoch=[0, 1], train_loss=[2., 1.], train_clean_loss=[1.9, .9], valid_loss=[2., 1.5],
                          valid_accuracy=[.1, .3]))
    run = R.save_run(facts(), predictions(corpus), None, c.assign(lr=0.), corpus, tmp_path).name
    pd.testing.assert_frame_equal(R.Results(tmp_path).curves([run, 'svm-without'])[R.CURVES], c)
    for bad in '', 'a,b\n1,2\n':
        (tmp_path/run/'curves.csv').write_text(bad)
        with pytest.raises(SerError, match=f'{run}/curves.csv'): R.Results(tmp_path).curves([run])
