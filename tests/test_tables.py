"Tables of results: runs that are pooled, runs that are compared, and Table 1."
import numpy as np, pandas as pd, pytest
from ser_fastai import results as R, tables as T
from ser_fastai.core import SerError
from ser_fastai.metrics import wilson
from ser_fastai.recipes import Recipe
from ser_fastai.splits import PROTOCOLS
from test_results import corpus, facts, predictions, save

def test_scores_of_a_joint_run_by_corpus(corpus, tmp_path):
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
    for fold in range(4):
        save(df[df.speaker == f'ravdess/{fold}'], tmp_path, n=8, fold=fold, protocol='emobox')
    t = T.table1(R.Results(tmp_path)).set_index('recipe')
    assert t.index.tolist() == list(T.PAPER)
    assert t.loc[['svm', 'cnn_transfer'], 'paper_seeds'].to_list() == ['0-2', '1']
    assert t.loc['svm', 'emobox_folds'] == '0-3'
    assert t.loc['cnn_transfer', 'paper_shared_accuracy'] == t.loc['cnn_transfer', 'paper_accuracy']
    assert t.loc['svm', 'paper_shared_accuracy'] != t.loc['svm', 'paper_accuracy']
    text = T.show_table1(t.reset_index()).set_index('model')
    assert text.loc['CNN, ImageNet weights', '`emobox` UAR'] == 'not run'
    assert text.loc['SVM, mean MFCC', 'published accuracy / F1'] == '51.7 / 50.9'
    md = T.to_markdown(text.reset_index())
    assert len(md.splitlines()) == 8 and len({line.count('|') for line in md.splitlines()}) == 1

def test_a_variant_without_the_first_protocol(corpus, tmp_path):
    "It has a row only if its recipe has no other."
    df = corpus[corpus.corpus == 'ravdess']
    small = Recipe('cnn_transfer', weights='imagenet', sizes=(96,))
    for fold in range(4):
        save(df[df.speaker == f'ravdess/{fold}'], tmp_path, n=8, fold=fold, protocol='emobox', recipe=small)
    def sizes():
        t = T.table1(R.Results(tmp_path), n_boot=0)
        return t[t.recipe == 'cnn_transfer']['size'].tolist()
    assert sizes() == ['96']
    save(df, tmp_path, recipe=Recipe('cnn_transfer', weights='imagenet'))
    assert sizes() == ['128']

def test_an_incomplete_seed_is_not_pooled_with_complete_ones(corpus, tmp_path):
    df = corpus[corpus.corpus == 'ravdess']
    def fold(f, seed, **kw):
        save(df[df.speaker == f'ravdess/{f}'], tmp_path, n=8, fold=f, seed=seed, protocol='emobox', **kw)
    for f in range(4): fold(f, 0)
    def row(): return T.table1(R.Results(tmp_path)).set_index('recipe').loc['svm']
    before = row()
    for f in range(2): fold(f, 1, right=1.)
    assert (before.emobox_seeds, before.emobox_folds) == ('0', '0-3') and row().equals(before)
    for f in (2, 3): fold(f, 1, right=1.)
    assert row().emobox_seeds == '0-1' and row().emobox_uar > before.emobox_uar
    fold(1, 0, recipe=Recipe('lstm', model='lstm'))
    lstm = T.table1(R.Results(tmp_path)).set_index('recipe').loc['lstm']
    assert lstm.emobox_folds == '1'                                       # it has no complete seed

def test_runs_are_incomplete_if_clips_were_never_tested(corpus, tmp_path):
    df = corpus[corpus.corpus == 'ravdess']
    def fold(f, n_train):
        test = predictions(df[df.speaker == f'ravdess/{f}'])
        R.save_run(facts(fold=f, protocol='emobox', n_train=n_train), test, None, None, df, tmp_path)
    for f in range(3): fold(f, len(df) - 16)                              # three of four speakers are tested
    assert not len(T.complete_runs(R.Results(tmp_path), R.Results(tmp_path).runs))
    fold(3, len(df) - 16)
    assert len(T.complete_runs(R.Results(tmp_path), R.Results(tmp_path).runs)) == 4

def test_no_interval_over_few_speakers(corpus, tmp_path):
    df = corpus[corpus.corpus == 'ravdess']
    save(df, tmp_path)
    for fold in range(4):
        save(df[df.speaker == f'ravdess/{fold}'], tmp_path, n=8, fold=fold, protocol='emobox')
    t = T.table1(R.Results(tmp_path))
    t = t[t.recipe == 'svm']
    assert t.emobox_n_speakers.iloc[0] == 4 < T.MIN_SPEAKERS_FOR_CI
    assert t.emobox_uar_lo.notna().all()                                  # computed, but not shown
    few, many = (T.show_table1(x).iloc[0] for x in (t, t.assign(emobox_n_speakers=T.MIN_SPEAKERS_FOR_CI)))
    for column in ('`emobox` UAR', '`emobox` macro F1'):
        assert '(' not in few[column] and '(' in many[column] and many[column].startswith(few[column])
    assert '(' in few['`paper` accuracy']                                 # over clips, not speakers

def test_nothing_run_yet(tmp_path):
    r = R.Results(tmp_path)
    t = T.table1(r)
    assert t.recipe.tolist() == list(T.PAPER) and set(T.show_table1(t)['`paper` accuracy']) == {'not run'}
    assert len(T.summarise(r)) == len(r.curves([])) == len(r.clips) == 0 and r.peers('emobox') == {}

def test_random_protocols_have_no_unseen_speakers():
    assert not [p for p in T.RANDOM if PROTOCOLS[p].unseen]

def test_top_losses_by_hand():
    pred = pd.DataFrame(dict(clip=list('abc'), truth=['sad', 'calm', 'sad'], sad=[.9, .75, 0.], calm=[.1, .25, 1.]))
    df = pd.DataFrame(dict(clip=list('cab'), path=['c.wav', 'a.wav', 'b.wav']))
    got = T.top_losses(pred, df, 2)
    assert list(got['clip']) == ['c', 'b'] and list(got.guess) == ['calm', 'sad'] and list(got['path']) == ['c.wav', 'b.wav']
    assert np.isclose(got.loss[1], np.log(4)) and np.isfinite(got.loss[0])
    with pytest.raises(SerError, match='b is not in the corpus frame'): T.top_losses(pred, df.iloc[:2])
