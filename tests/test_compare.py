"Systems side by side: whole folds only, pairs that are pairs, peers that are what they say, and the card of a run."
import numpy as np, pandas as pd, pytest
from dataclasses import replace
from ser_fastai import compare as C, results as R
from ser_fastai.cards import run_card
from ser_fastai.core import EMOTIONS, Recipe, SerError
from ser_fastai.evaluate import accuracy, counts, uar

ACTORS = [1, 11, 4, 10, 8, 9, 3, 5, 2, 15, 6, 13]   # two of each fold of EmoBox
SVM, BASE = Recipe('svm', model='svm'), Recipe('ablation', arch='squeezenet1_1')

@pytest.fixture(scope='module')
def corpus():
    rows = [(f'ravdess/{a:02}/{e}-{s}-{i}', 'ravdess', f'ravdess_{a:02}', 'female' if a % 2 == 0 else 'male', e, i, s, '1', 3.2)
            for a in ACTORS for e in EMOTIONS for s in ('dogs', 'kids') for i in ('normal', 'strong') if (e, i) != ('neutral', 'strong')]
    return pd.DataFrame(rows, columns=R.CLIPS)

def predict(df, right, seed):
    rng = np.random.default_rng(seed)
    guess = np.where(rng.random(len(df)) < right, df.emotion, rng.choice(EMOTIONS, len(df)))
    p = pd.DataFrame(.6*(guess[:, None] == np.array(EMOTIONS)) + .4/8, columns=EMOTIONS)
    return pd.concat([df[['clip']].assign(truth=df.emotion).reset_index(drop=True), p], axis=1)

def save(results, df, recipe, right, folds=range(6), seeds=(0,), protocol='emobox'):
    from ser_fastai.splits import FOLDS
    for f in folds:
        for s in seeds:
            test = df[df.speaker.isin([f'ravdess_{a:02}' for a in FOLDS['emobox'][f]])]
            valid = df[df.speaker.isin([f'ravdess_{a:02}' for a in FOLDS['emobox'][(f + 1) % 6]])]
            facts = dict(run=R.run_id(recipe, 'ravdess', protocol, f, s), **R.recipe_facts(recipe), corpora='ravdess', test_corpora='ravdess', protocol=protocol,
                         fold=f, seed=s, n_params=1, n_train=9, seconds=1., device='cpu', versions={}, commit='')
            R.save_run(facts, predict(test, right, 10*f + s), predict(valid, right, 10*f + s + 5), None, df, results)

@pytest.fixture(scope='module')
def made(corpus, tmp_path_factory):
    d = tmp_path_factory.mktemp('results')
    save(d, corpus, SVM, .5)
    save(d, corpus, Recipe('lstm', model='lstm'), .9, folds=range(5))      # a fold is missing
    save(d, corpus, BASE, .4, seeds=(0, 1))
    save(d, corpus, replace(BASE, name='ablation+noise', bs=32), .8, seeds=(0, 1))
    save(d, corpus, replace(BASE, name='ablation-mixup', bs=16), .4, seeds=(0, 1))
    (d/'peers').mkdir()
    peer = corpus[['clip']].assign(truth=corpus.emotion, opensmile_egemaps_svm=np.roll(corpus.emotion, 1), emocatcher=corpus.emotion)
    peer.to_csv(d/'peers'/'emobox.csv', index=False)
    return d

def test_a_model_counts_when_every_fold_is_scored(made):
    s = C.systems('emobox', made)
    assert list(s.recipe) == ['svm', 'opensmile_egemaps_svm', 'emocatcher'] and list(s.ours) == [True, False, False]
    assert uar(s.pred[2]) == 1 and s.pred[0].pair.nunique() == 6

def test_gap_is_the_score_of_the_pooled_answers(made, corpus):
    t = C.gap_table(made, n_boot=50).set_index('recipe')
    pred = R.load_predictions(R.load_runs(made).query('recipe == "svm"').run, results=made)
    assert t.uar['svm'] == pytest.approx(uar(pred)) and t.n_clips['svm'] == len(corpus) and t.n_speakers['svm'] == 12 and t.classes['svm'] == 8
    assert list(C.show_gap(t.reset_index()).system)[0] == 'SVM, mean MFCC'
    assert C.plot_gap(t.reset_index()).get_ylim() == (0, 100)

def test_pairs_are_the_same_clips_and_the_same_seeds(made):
    runs = R.load_runs(made)
    a, b = (C.answers(runs[runs.recipe == r], made) for r in ('ablation', 'ablation+noise'))
    x, y = C.together(a, b)
    assert len(x) == len(y) == len(a) and (x['clip'] == y['clip']).all() and (x.pair == y.pair).all()
    x, y = C.together(a[a.pair.str.endswith('-0')], b)                   # only the seed they share
    assert set(y.pair) == {f'{f}-0' for f in range(6)}
    peer = C.load_peers('emobox', made)['emocatcher']
    x, y = C.together(a, peer)                                           # a peer's one answer stands beside both seeds
    assert len(x) == len(y) == len(a) and accuracy(y) == 1 and accuracy(x) == pytest.approx(accuracy(a))
    x, y = C.together(peer, a)
    assert accuracy(x) == 1 and len(x) == len(a)
    with pytest.raises(SerError, match='no clip under the same fold and seed'): C.together(a.assign(pair='9-9'), b)

def test_pairs_table_finds_what_differs(made):
    t = C.pairs_table('emobox', made, n_perm=500).set_index('system_b')
    assert len(t) == 2 and (t.p_holm >= t.p).all() and t.p['EmoCatcher, mel CNN-BiGRU'] < .01
    assert t.difference['EmoCatcher, mel CNN-BiGRU'] == pytest.approx(t.a.iloc[0] - 1)
    assert '−' in C.show_differences(t.reset_index()).difference.iloc[-1]

def test_ablation_finds_the_change_that_matters(made, tmp_path):
    t = C.ablation_table(made, n_perm=500).set_index('change')
    assert list(t.index) == ['+noise', '-mixup'] and t.runs.eq(12).all()
    assert t.difference['+noise'] > .2 and t.p_holm['+noise'] < .05 and t.p_holm['-mixup'] > .05
    assert C.plot_ablation(t.reset_index()).get_xlabel() == 'change of UAR, points'
    with pytest.raises(SerError, match='ser_run --recipes ablation'): C.ablation_table(tmp_path)

def test_calibration_and_fairness(made, corpus):
    t = C.calibration_table('emobox', made)
    assert list(t.recipe) == ['svm'] and t.confidence[0] == pytest.approx(.65, abs=1e-3)
    groups, gaps = C.fairness_table(C.systems('emobox', made).pred[0], made, n_boot=50)
    assert set(gaps.attribute) == {'gender', 'intensity', 'speaker'} and len(groups[groups.attribute == 'speaker']) == 12
    neutral = corpus.emotion == 'neutral'
    assert groups[groups.attribute == 'intensity'].n.sum() == (~neutral).sum()      # neutral is never strong

def test_a_clip_that_nobody_answered_is_missed(made, corpus, tmp_path):
    import shutil
    shutil.copytree(made, tmp_path/'r')
    f = tmp_path/'r'/'peers'/'emobox.csv'
    f.write_text('\n'.join(f.read_text().splitlines()[:-1]))
    with pytest.raises(SerError, match=f'emobox.csv lacks the clip {corpus["clip"].iloc[-1]}'): C.systems('emobox', tmp_path/'r')

@pytest.mark.parametrize('text, said', [
    ('clip,truth,a\nx,sad,sad\ny,happy,glad\n', 'line 3: a answers "glad"'), ('id,truth,a\nx,sad,sad\n', 'line 1: expected the columns'),
    ('clip,truth,a\nx,sad,sad\nx,happy,sad\n', 'stood above already'), ('clip,truth,a\nx,sad,\ny,happy,sad\n', 'line 2: a answers "nan"')])
def test_bad_peers_are_refused(text, said, tmp_path):
    (tmp_path/'peers').mkdir()
    (tmp_path/'peers'/'luna.csv').write_text(text)
    with pytest.raises(SerError, match=said): C.load_peers('luna', tmp_path)

def test_card_of_a_run(made):
    runs = R.load_runs(made)
    page = run_card(runs.run[runs.recipe == 'svm'].iloc[0], made)
    assert page == run_card(runs.run[runs.recipe == 'svm'].iloc[-1], made)            # every fold has the same card
    for word in ('0-5', 'share no speaker', 'gender', 'calibration error', 'CC BY-NC-SA'): assert word in page
    failed = R.save_run(dict(run='bad', **R.recipe_facts(SVM), corpora='ravdess', test_corpora='ravdess', protocol='emobox', fold=9, seed=9, n_params=0,
                             n_train=0, seconds=0., device='cpu', versions={}, commit='', error='no memory'), results=made)
    with pytest.raises(SerError, match='bad failed .no memory'): run_card('bad', made)
    failed.unlink()
