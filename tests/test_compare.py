"Comparisons of systems: complete folds only, shared clips and seeds, checked peers, and the card of a run."
import shutil
import numpy as np, pandas as pd, pytest
from dataclasses import replace
from itertools import combinations
from ser_fastai import compare as C, results as R
from ser_fastai.cards import in_short, run_card
from ser_fastai.core import EMOTIONS, SerError
from ser_fastai.recipes import Recipe
from ser_fastai.metrics import accuracy, uar
from ser_fastai.splits import FOLDS, n_folds, split

ACTORS = [1, 11, 4, 10, 8, 9, 3, 5, 2, 15, 6, 13]   # two of each fold of EmoBox
SVM, LSTM = Recipe('svm', model='svm'), Recipe('lstm', model='lstm')
BASE = Recipe('ablation', arch='squeezenet1_1')
SHARED_EMOTIONS = [e for e in EMOTIONS if e not in ('calm', 'surprised')]   # of RAVDESS and EMO-DB

@pytest.fixture(scope='module')
def corpus():
    "RAVDESS in small: twelve actors, 30 clips each."
    rows = [(f'ravdess/{a:02}/{e}-{s}-{i}', 'ravdess', f'ravdess_{a:02}', 'female' if a % 2 == 0 else 'male',
             e, i, s, '1', 3.2)
            for a in ACTORS for e in EMOTIONS for s in ('dogs', 'kids') for i in ('normal', 'strong')
            if (e, i) != ('neutral', 'strong')]
    return pd.DataFrame(rows, columns=R.CLIPS)

@pytest.fixture(scope='module')
def both(corpus):
    "The same with EMO-DB in small: ten speakers, 24 clips each."
    german = [(f'emodb/{s:02}/{e}-{i}', 'emodb', f'emodb_{s:02}', 'female' if s % 2 else 'male',
               e, '', 'a01', str(i), 2.) for s in range(10) for e in SHARED_EMOTIONS for i in range(4)]
    return pd.concat([corpus, pd.DataFrame(german, columns=R.CLIPS)], ignore_index=True)

def predict(df, right, seed):
    "Made-up predictions: correct with a probability, otherwise random."
    rng = np.random.default_rng(seed)
    guess = np.where(rng.random(len(df)) < right, df.emotion, rng.choice(EMOTIONS, len(df)))
    p = pd.DataFrame(.6*(guess[:, None] == np.array(EMOTIONS)) + .4/8, columns=EMOTIONS)
    return pd.concat([df[['clip']].assign(truth=df.emotion).reset_index(drop=True), p], axis=1)

def facts_of(recipe, protocol, fold, seed, corpora='ravdess', test_corpora=None, n_train=9):
    "Facts of a made-up run."
    other = [test_corpora] if test_corpora else []
    return dict(run=R.run_id(recipe, corpora, protocol, fold, seed, *other), **R.recipe_facts(recipe),
                corpora=corpora, test_corpora=test_corpora or corpora, protocol=protocol, fold=fold,
                seed=seed, n_params=1, n_train=n_train, seconds=1., device='cpu', versions={}, commit='')

def save(results, df, recipe, right, folds=range(6), seeds=(0,)):
    "Save made-up runs under emobox."
    def actors_of(fold): return df[df.speaker.isin([f'ravdess_{a:02}' for a in FOLDS['emobox'][fold % 6]])]
    for f in folds:
        for s in seeds:
            test = predict(actors_of(f), right, 10*f + s)
            valid = predict(actors_of(f + 1), right, 10*f + s + 5)
            R.save_run(facts_of(recipe, 'emobox', f, s), test, valid, None, df, results)

def save_cross(results, both, recipe, right, seed=0, trained='ravdess', labels=SHARED_EMOTIONS):
    "Save a made-up run from RAVDESS to EMO-DB, on the emotions that both have."
    part = split(both, 'cross', 0)
    def predicted(rows, seed):
        p = predict(both.iloc[rows], right, seed)
        return p[['clip', 'truth']].join(p[labels].div(p[labels].sum(axis=1), axis=0))
    facts = facts_of(recipe, 'cross', 0, seed, trained, 'emodb', len(part.train))
    R.save_run(facts, predicted(part.test, seed), predicted(part.valid, seed + 5), None, both, results)

def close_figures(comparisons):
    for c in comparisons.values(): C.plt.close(c.figure) if c.figure else None

@pytest.fixture(scope='module')
def made(corpus, tmp_path_factory):
    d = tmp_path_factory.mktemp('results')
    save(d, corpus, SVM, .5)
    save(d, corpus, LSTM, .9, folds=range(5))      # a fold is missing
    save(d, corpus, BASE, .4, seeds=(0, 1))
    save(d, corpus, replace(BASE, name='ablation+noise', bs=32), .8, seeds=(0, 1))
    save(d, corpus, replace(BASE, name='ablation-mixup', bs=16), .4, seeds=(0, 1))
    (d/'peers').mkdir()
    peer = corpus[['clip']].assign(truth=corpus.emotion, opensmile_egemaps_svm=np.roll(corpus.emotion, 1),
                                   emocatcher=corpus.emotion)
    peer.to_csv(d/'peers'/'emobox.csv', index=False)
    return d

def test_a_model_counts_when_every_fold_is_scored(made):
    s = C.systems(R.Results(made), 'emobox')
    assert list(s.recipe) == ['svm', 'opensmile_egemaps_svm', 'emocatcher']
    assert list(s.ours) == [True, False, False]
    assert uar(s.pred[2]) == 1 and s.pred[0].pair.nunique() == 6

def test_the_score_by_protocol_is_that_of_the_pooled_predictions(made, corpus):
    results = R.Results(made)
    t = C.protocol_table(results, n_boot=50)
    svm = t.set_index('recipe').loc['svm']
    assert svm.uar == pytest.approx(uar(results.predictions(results.runs.query('recipe == "svm"'))))
    assert (svm.n_clips, svm.n_speakers, svm.classes) == (len(corpus), 12, 8)
    assert list(C.show_protocols(t).system)[0] == 'SVM, mean MFCC'

def test_plot_of_protocols_has_a_panel_for_ours_and_one_for_peers(made):
    axs = C.plot_protocols(C.protocol_table(R.Results(made), n_boot=50))
    assert [ax.get_title() for ax in axs] == ['Our systems', 'Published systems']
    assert axs[0].get_ylim() == (0, 100)
    labels = [t.get_text().replace('\n', ' ') for t in axs[1].texts]
    assert labels == ['chance', 'eGeMAPS (88) + SVM', 'EmoCatcher, mel CNN-BiGRU']
    C.plt.close(axs[0].figure)

def test_plot_of_protocols_shows_only_what_was_measured(made):
    t = C.protocol_table(R.Results(made), n_boot=50)
    svm = t[t.ours]
    ours = [svm.assign(protocol=p, uar=u, n_speakers=n)
            for p, u, n in (('random10', .7, 4), ('sentence', .6, 12), ('cross', .3, 4))]
    lstm = [svm.assign(protocol=p, recipe='lstm', system='BiLSTM') for p in ('sentence', 'emobox')]
    once = svm.assign(protocol='emobox', recipe='crnn', system='CRNN')
    t = pd.concat([*ours, *lstm, once], ignore_index=True)
    ax, = C.plot_protocols(t.assign(uar_lo=t.uar - .1, uar_hi=t.uar + .1))
    assert 'CRNN' not in {text.get_text() for text in ax.texts}           # one point is no line
    near, far = [line for line in ax.lines if len(line.get_xdata()) == 2][:2]   # of the SVM
    assert far.get_linewidth() < near.get_linewidth() and far.get_linestyle() == ':'  # it skips emobox
    bars = [np.ptp(b[:, 1]) if len(b) else 0 for b in ax.collections[1].get_segments()]
    assert bars == pytest.approx([20, 20, 0])    # four speakers have no interval, unless it is over clips
    C.plt.close(ax.figure)

@pytest.mark.parametrize('y, distance', [([30, 10, 31], 5), ([1, 1, 1], 7), ([50], 7), ([90, 10], 5)])
def test_labels_keep_their_order_and_distance(y, distance):
    spread = C._spread(y, distance)
    assert (np.diff(np.sort(spread)) >= distance - 1e-9).all() and spread.min() > 0
    assert (np.argsort(spread, kind='stable') == np.argsort(y, kind='stable')).all()
    if len(y) == 1 or np.diff(np.sort(y)).min() >= distance: assert list(spread) == y

def test_pairs_have_the_same_clips_and_the_same_seeds(made):
    results = R.Results(made)
    runs = results.runs.groupby('recipe')
    a, b = (C.answers(results, runs.get_group(r)) for r in ('ablation', 'ablation+noise'))
    x, y = C.shared_predictions(a, b)
    assert len(x) == len(y) == len(a) and (x['clip'] == y['clip']).all() and (x.pair == y.pair).all()
    x, y = C.shared_predictions(a[a.pair.str.endswith('-0')], b)         # only the seed that both have
    assert set(y.pair) == {f'{f}-0' for f in range(6)}
    peer = results.peers('emobox')['emocatcher']
    x, y = C.shared_predictions(a, peer)                           # one prediction of the peer for both seeds
    assert len(x) == len(y) == len(a) and accuracy(y) == 1 and accuracy(x) == pytest.approx(accuracy(a))
    x, y = C.shared_predictions(peer, a)
    assert accuracy(x) == 1 and len(x) == len(a)
    with pytest.raises(SerError, match='no clip, fold and seed in common'):
        C.shared_predictions(a.assign(pair='9-9'), b)

def test_pairs_table_finds_the_difference(made):
    t = C.pairs_table(R.Results(made), 'emobox', n_perm=500).set_index('system_b')
    emocatcher = t.loc['EmoCatcher, mel CNN-BiGRU']
    assert len(t) == 2 and (t.p_holm >= t.p).all() and emocatcher.p < .01
    assert emocatcher.difference == pytest.approx(t.a.iloc[0] - 1)
    shown = C.show_differences(t.reset_index())
    assert list(shown)[:5] == ['system A', 'system B', 'UAR A', 'UAR B', 'difference']
    assert '−' in shown.difference.iloc[-1]

def test_calibration_and_fairness(made, corpus):
    results = R.Results(made)
    t = C.calibration_table(results, 'emobox')
    assert list(t.recipe) == ['svm'] and t.confidence[0] == pytest.approx(.65, abs=1e-3)
    groups, gaps = C.fairness_table(results, C.systems(results, 'emobox').pred[0], n_boot=50)
    assert set(gaps.attribute) == {'gender', 'intensity', 'speaker'}
    assert len(groups[groups.attribute == 'speaker']) == 12
    n_not_neutral = (corpus.emotion != 'neutral').sum()                  # neutral is never strong
    assert groups[groups.attribute == 'intensity'].n.sum() == n_not_neutral

def test_gap_that_is_expected_by_chance(corpus, tmp_path):
    "Women are recognised and men are not; the two intensities are alike."
    women, men = (corpus[corpus.gender == g] for g in ('female', 'male'))
    pred = pd.concat([predict(women, .9, 0), predict(men, .2, 0)], ignore_index=True)
    save(tmp_path, corpus, SVM, .5)                                      # writes clips.csv
    gaps = C.fairness_table(R.Results(tmp_path), pred, n_boot=50)[1].set_index('attribute')
    assert gaps.p['gender'] < .02 < .1 < gaps.p['intensity']
    assert gaps.difference['gender'] - gaps.shuffled['gender'] > .2
    assert gaps.n_speakers.to_dict() == dict(gender=5, intensity=12, speaker=12)
    shown = C.show_fairness(gaps.reset_index()).set_index('by')
    assert shown.p['gender'] == f'{gaps.p["gender"]:.3f}'
    assert shown['expected by chance']['gender'] == f'{100*gaps.shuffled["gender"]:.1f}'
    assert shown['95 %']['gender'] == '5 speakers' and shown['95 %']['intensity'].count(' to ') == 1

def test_few_speakers_have_no_interval(corpus, tmp_path):
    save(tmp_path, corpus, SVM, .5, folds=[0])                           # two actors
    results = R.Results(tmp_path)
    groups, gaps = C.fairness_table(results, C.answers(results, results.runs), n_boot=50)
    assert gaps[['lower', 'upper']].isna().all(axis=None) and gaps.difference.notna().all()
    assert groups.lo.notna().eq(groups.attribute == 'speaker').all()  # a speaker's interval is over clips
    page = run_card(results, results.runs.run[0])
    assert '| 2 speakers |' in page and 'nan' not in page
    assert 'An interval needs 10 speakers in each group' in page
    scores = dict(accuracy=.5, accuracy_lo=.4, accuracy_hi=.6, unseen_speakers=True)
    def summary(n): return in_short(dict(data={}, labels='ab', scores=dict(emobox=scores | dict(speakers=n))))
    few, enough = summary(9), summary(10)
    assert '50 % right (9 speakers, too few for an interval)' in few and '(95 % interval 40 to 60)' in enough

def test_a_missing_clip_of_a_peer_is_named(made, corpus, tmp_path):
    shutil.copytree(made, tmp_path/'r')
    f = tmp_path/'r'/'peers'/'emobox.csv'
    f.write_text('\n'.join(f.read_text().splitlines()[:-1]))
    with pytest.raises(SerError, match=f'emobox.csv lacks the clip {corpus["clip"].iloc[-1]}'):
        C.systems(R.Results(tmp_path/'r'), 'emobox')

@pytest.mark.parametrize('text, message', [
    ('clip,truth,emocatcher\nx,sad,sad\ny,happy,glad\n', 'line 3: emocatcher answers "glad"'),
    ('id,truth,emocatcher\nx,sad,sad\n', 'line 1: expected the columns'),
    ('clip,truth,emocatcher\nx,sad,sad\nx,happy,sad\n', 'duplicate clip'),
    ('clip,truth,emocatcher\nx,sad,\ny,happy,sad\n', 'line 2: emocatcher answers "nan"'),
    ('', 'cannot read'),
    ('clip,truth,strange\nx,sad,sad\n', 'line 1: unknown system "strange"')])
def test_bad_peers_are_refused(text, message, tmp_path):
    (tmp_path/'peers').mkdir()
    (tmp_path/'peers'/'luna.csv').write_text(text)
    with pytest.raises(SerError, match=message): R.Results(tmp_path).peers('luna')

def test_an_incomplete_seed_is_left_out(corpus, tmp_path):
    lstm = replace(LSTM, epochs=40)
    save(tmp_path, corpus, SVM, .5)
    save(tmp_path, corpus, lstm, .6)
    save(tmp_path, corpus, lstm, .6, folds=[0], seeds=[1])
    results = R.Results(tmp_path)
    t = C.protocol_table(results, n_boot=20).set_index('recipe')
    assert list(t.index) == ['svm', 'lstm'] and t.seeds['lstm'] == 1 and t.n_answers['lstm'] == len(corpus)
    assert len(C.pairs_table(results, 'emobox', n_perm=50)) == 1
    made = C.comparisons(results)
    assert {'protocols', 'pairs_emobox', 'calibration'} <= set(made)
    close_figures(made)
    runs = results.runs
    halves = runs[(runs.recipe == 'lstm') & ~((runs.seed == 0) & (runs.fold > 0)) | (runs.recipe == 'svm')]
    assert set(C.complete_runs(results, halves).recipe) == {'svm'}  # neither seed of the LSTM is complete

def test_speakers_without_groups_have_no_empty_figure(corpus, tmp_path, recwarn):
    "Matplotlib warns of identical limits if a figure has no rows."
    save(tmp_path, corpus.assign(gender=None, intensity=None, sentence=None), SVM, .5)
    made = C.comparisons(R.Results(tmp_path))
    assert set(made['fairness'].table.attribute) == {'speaker'} and made['fairness'].figure is None
    assert not [w for w in recwarn if 'identical' in str(w.message)]
    close_figures(made)

def test_two_variants_have_two_names_and_two_rows(corpus, tmp_path):
    for epochs, right in ((40, .4), (50, .9)): save(tmp_path, corpus, replace(LSTM, epochs=epochs), right)
    for w in ('a@1', 'b@2'): save(tmp_path, corpus, Recipe('cnn_transfer', weights=w, epochs=30), .5)
    for c in (1e-3, 2e-3): save(tmp_path, corpus, replace(SVM, C=c), .3)
    results = R.Results(tmp_path)
    t = C.protocol_table(results, n_boot=20)
    shown = C.show_protocols(t)
    assert len(t) == len(shown) == 6 and shown.system.is_unique and t.system.is_unique
    names = set(shown.system)
    assert {'BiLSTM, log-mel, 40 epochs', 'BiLSTM, log-mel, 50 epochs'} < names
    assert sum('from a@1' in n or 'from b@2' in n for n in names) == 2
    assert sum(n.startswith('SVM, mean MFCC, recipe ') for n in names) == 2
    by = t.set_index('system').uar
    assert by['BiLSTM, log-mel, 50 epochs'] > by['BiLSTM, log-mel, 40 epochs'] + .3    # nothing is pooled
    pairs = C.pairs_table(results, 'emobox', n_perm=20)
    assert len(pairs) == 15 and not pairs.duplicated(['system_a', 'system_b']).any()
    assert C.calibration_table(results, 'emobox').system.is_unique
    ax, = C.plot_protocols(t)
    assert len(ax.texts) == 7                                            # six systems and chance
    C.plt.close(ax.figure)

def test_pairs_on_shared_folds(made):
    t = C.pairs_table(R.Results(made), 'emobox', n_perm=64, complete=False).set_index('system_b')
    assert list(t.index) == ['BiLSTM, log-mel']
    assert t.system_a.iloc[0] == 'SVM, mean MFCC' and t.folds.iloc[0] == '0,1,2,3,4'
    assert t.n_clips.iloc[0] == 10*30 and t.n_speakers.iloc[0] == 10     # two actors per fold
    shown = C.show_differences(t.reset_index().assign(n_speakers=4), ('system_a', 'system_b', 'folds'))
    assert shown['95 %'].tolist() == ['4 speakers']                      # too few for an interval

def test_a_peer_is_compared_with_its_own_random_split(corpus, tmp_path):
    def save_random(recipe, seeds):
        for s in seeds:
            for f in range(10):
                test = corpus.iloc[split(corpus, 'random10', f, s).test]
                pred = predict(test, 1 if s else .2, f)                  # seed 1 is perfect
                R.save_run(facts_of(recipe, 'random10', f, s), pred, None, None, corpus, tmp_path)
    save_random(SVM, (0, 1))
    save_random(replace(LSTM, epochs=9), (1,))               # no seed 0, so nothing to compare with a peer
    (tmp_path/'peers').mkdir()
    emocatcher = np.where(np.arange(len(corpus)) % 2, corpus.emotion, 'calm')
    peer = corpus[['clip']].assign(truth=corpus.emotion, emocatcher=emocatcher)
    peer.to_csv(tmp_path/'peers'/'random10.csv', index=False)
    t = C.pairs_table(R.Results(tmp_path), 'random10', n_perm=50)
    with_peer = t[~t.b_ours]
    assert list(with_peer.system_a) == ['SVM, mean MFCC'] and with_peer.a.iloc[0] < .5
    assert with_peer.n_clips.iloc[0] == len(corpus) and with_peer.p_mcnemar_holm.iloc[0] < .05
    assert t[t.b_ours].a.iloc[0] == 1 and (t.p_mcnemar_holm >= t.p_mcnemar).all()
    assert 'McNemar, Holm' in C.show_differences(t)

def test_a_wrong_truth_is_named_by_file_and_line(made, tmp_path):
    shutil.copytree(made, tmp_path/'r')
    f = tmp_path/'r'/'peers'/'emobox.csv'
    lines = f.read_text().splitlines()
    clip, truth, *rest = lines[4].split(',')
    wrong = 'sad' if truth == 'calm' else 'calm'
    f.write_text('\n'.join([*lines[:4], ','.join([clip, wrong, *rest]), *lines[5:]]))
    message = f'emobox.csv line 5: {clip} is "{wrong}" here, but "{truth}" in clips.csv'
    with pytest.raises(SerError, match=message): C.systems(R.Results(tmp_path/'r'), 'emobox')
    shutil.copy(made/'peers'/'emobox.csv', f)
    run = R.Results(made).runs.query('recipe == "svm"').run.iloc[0]
    g = tmp_path/'r'/run/'predictions.csv'
    lines = g.read_text().splitlines()
    part, clip, truth, *rest = lines[2].split(',')
    wrong = 'calm' if truth != 'calm' else 'sad'
    g.write_text('\n'.join([*lines[:2], ','.join([part, clip, wrong, *rest]), *lines[3:]]) + '\n')
    with pytest.raises(SerError, match=f'predictions.csv line 3: {clip}'):
        C.protocol_table(R.Results(tmp_path/'r'), n_boot=9)

def test_a_card_counts_the_clips_of_its_training_corpus(both, corpus, tmp_path):
    six = corpus[corpus.emotion.isin(SHARED_EMOTIONS)]
    save_cross(tmp_path, both, SVM, .4)
    run = R.Results(tmp_path).runs.iloc[0]
    page = run_card(R.Results(tmp_path), run.run)                   # clips.csv has only validation clips
    assert f'only these of {len(six)} clips with its labels' in page
    save(tmp_path, corpus, SVM, .5)                                      # adds all clips
    page = run_card(R.Results(tmp_path), run.run)
    assert f'RAVDESS: {len(six)} clips of 12 speakers' in page and 'calm' not in page
    assert f'Each run was trained on {run.n_train} clips' in page
    assert run.n_train + run.n_valid == len(six) and 'share no corpus and no speaker' in page

def test_pairs_under_every_protocol(both, corpus, tmp_path):
    for recipe, right in ((SVM, .3), (LSTM, .9)):
        for f in range(2):
            test = corpus.iloc[split(corpus, 'sentence', f).test]
            pred = predict(test, right, f)
            R.save_run(facts_of(recipe, 'sentence', f, 0), pred, None, None, corpus, tmp_path)
        save_cross(tmp_path, both, recipe, right)
    save_cross(tmp_path, both, SVM, .5, trained='savee')              # the same classes, from another corpus
    seven = [*SHARED_EMOTIONS, 'surprised']                              # other classes, so no pair
    save_cross(tmp_path, both, LSTM, .5, trained='tess', labels=seven)
    made = C.comparisons(R.Results(tmp_path))
    sentence = made['pairs_sentence'].table
    assert len(sentence) == 1 and sentence.difference[0] < -.3 and 'pairs_cross' not in made
    t = C.pairs_table(R.Results(tmp_path), 'cross', corpora='emodb', n_perm=1024)
    names = 'SVM, mean MFCC from ravdess', 'SVM, mean MFCC from savee', 'BiLSTM, log-mel from ravdess'
    assert set(map(frozenset, zip(t.system_a, t.system_b))) == set(map(frozenset, combinations(names, 2)))
    assert (t.n_speakers == 10).all() and (t.p >= 2/2**10).all() and (t.p_holm >= t.p).all()
    assert 'speakers' not in ''.join(C.show_differences(t)['95 %'])
    close_figures(made)

def test_fairness_between_the_corpora_of_a_joint_model(both, tmp_path):
    for f in range(n_folds(both, 'emobox')):
        test = both.iloc[split(both, 'emobox', f).test]
        english, german = (test[test.corpus == c] for c in ('ravdess', 'emodb'))
        pred = pd.concat([predict(english, .7, f), predict(german, .3, f)])
        R.save_run(facts_of(SVM, 'emobox', f, 0, 'emodb,ravdess'), pred, None, None, both, tmp_path)
    results = R.Results(tmp_path)
    pred = C.answers(results, results.runs)
    groups, gaps = C.fairness_table(results, pred)
    score = groups[groups.attribute == 'corpus'].set_index('group').score
    gap = gaps.set_index('attribute').loc['corpus']
    counted = pred[pred.truth.isin(SHARED_EMOTIONS)]
    for c in score.index: assert score[c] == pytest.approx(uar(counted[counted['clip'].str.startswith(c)]))
    assert (gap.best, gap.worst) == ('ravdess', 'emodb')
    assert gap.difference == pytest.approx(score.ravdess - score.emodb)
    assert 0 < gap.lower < gap.difference < gap.upper < 1 and gap.shuffled < gap.difference/2
    assert '| corpus | ravdess | emodb |' in run_card(results, results.runs.run[0])

def test_card_of_a_run(made):
    runs = R.Results(made).runs
    svm = runs.run[runs.recipe == 'svm']
    page = run_card(R.Results(made), svm.iloc[0])
    assert page == run_card(R.Results(made), svm.iloc[-1])               # every fold has the same card
    for word in ('0-5', 'share no speaker', 'gender', 'calibration error', 'CC BY-NC-SA'): assert word in page
    facts = facts_of(SVM, 'emobox', 9, 9, n_train=0) | dict(run='bad', error='no memory')
    failed = R.save_run(facts, folder=made)
    with pytest.raises(SerError, match='bad failed .no memory'): run_card(R.Results(made), 'bad')
    shutil.rmtree(failed)
