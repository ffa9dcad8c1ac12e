"Scores, intervals and tests against scikit-learn, SciPy, statsmodels, hand-worked cases and what intervals promise."
import matplotlib
matplotlib.use('Agg')
import numpy as np, pandas as pd, pytest
from scipy import stats
from sklearn import metrics as sk
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.frozen import FrozenEstimator
from statsmodels.stats import contingency_tables, multitest
from ser_fastai.core import EMOTIONS, SerError
from ser_fastai.evaluate import (FLOOR, METRICS, accuracy, bootstrap, check_predictions, complete, confusion, counts, ece, gap, group_scores,
                                 guesses, holm, labels_of, macro_f1, mcnemar, metrics, paired, paired_bootstrap, permutation_test, plot_confusion,
                                 plot_curves, plot_groups, plot_reliability, recall_by_class, reliability, rescaled, resampled, spread,
                                 temperature, uar, wilson)

pytestmark = pytest.mark.filterwarnings('error::RuntimeWarning')  # those of NumPy

@pytest.fixture
def rng(): return np.random.default_rng(0)

def predictions(rng, n=200, truths=EMOTIONS, answers=EMOTIONS, right=.5):
    "Made-up answers: right with a probability, else any of `answers`."
    truth = rng.choice(list(truths), n)
    guess = np.where(rng.random(n) < right, truth, rng.choice(list(answers), n))
    p = rng.dirichlet(np.ones(8), n)*.3 + .7*(guess[:, None] == np.array(EMOTIONS))
    return pd.concat([pd.DataFrame(dict(clip=[f'c/{i:04}' for i in range(n)], truth=truth)), pd.DataFrame(p, columns=EMOTIONS)], axis=1)

@pytest.mark.parametrize('truths', [EMOTIONS, EMOTIONS[:3], EMOTIONS[2:7]])
@pytest.mark.parametrize('answers', [EMOTIONS, EMOTIONS[1:2], EMOTIONS[5:]])
@pytest.mark.filterwarnings('ignore:y_pred contains classes')
def test_scores_equal_sklearn(rng, truths, answers):
    pred = predictions(rng, truths=truths, answers=answers)
    y, g = pred.truth, guesses(pred)
    assert accuracy(pred) == pytest.approx(sk.accuracy_score(y, g))
    assert uar(pred) == pytest.approx(sk.balanced_accuracy_score(y, g))
    assert macro_f1(pred) == pytest.approx(sk.f1_score(y, g, average='macro'))
    assert (counts(pred) == sk.confusion_matrix(y, g, labels=EMOTIONS)).all()
    recall = sk.recall_score(y, g, labels=sorted(set(y)), average=None)
    np.testing.assert_allclose(recall_by_class(pred).dropna().sort_index(), recall)

def test_scores_do_not_depend_on_the_order_of_rows_or_columns(rng):
    pred = predictions(rng)
    other = pred.sample(frac=1, random_state=1)[['clip', 'truth', *EMOTIONS[::-1]]]
    assert metrics(other) == pytest.approx(metrics(pred))
    groups = pred['clip'].str[-1]
    assert bootstrap(other, groups[other.index]) == pytest.approx(bootstrap(pred, groups))

def test_scores_of_stacked_counts(rng):
    pred = predictions(rng)
    cm = counts(pred, pred['clip'].str[-1])
    assert cm.shape == (10, 8, 8)
    for f in METRICS.values(): np.testing.assert_allclose(f(cm), [f(m) for m in cm])

def test_a_pooled_table_keeps_its_labels(rng):
    pred = predictions(rng)
    pooled = pd.concat([pred.assign(run='a'), pred.assign(run='b')])
    assert labels_of(pooled) == list(EMOTIONS)
    assert metrics(pooled) == pytest.approx(metrics(pred))

@pytest.mark.parametrize('k,n', [(0, 1), (1, 1), (5, 9), (64, 96), (1000, 1439)])
@pytest.mark.parametrize('level', [.9, .95, .99])
def test_wilson_equals_scipy(k, n, level):
    ci = stats.binomtest(k, n).proportion_ci(level, method='wilson')
    assert wilson(k, n, level) == pytest.approx((ci.low, ci.high))

def test_bootstrap_of_clips_equals_scipy(rng):
    pred = predictions(rng, 400)
    right = (guesses(pred) == pred.truth).to_numpy(float)
    ci = stats.bootstrap((right,), np.mean, method='percentile', n_resamples=4000, rng=1).confidence_interval
    assert bootstrap(pred, metric=accuracy, n_boot=4000) == pytest.approx((ci.low, ci.high), abs=.01)

def test_bootstrap_of_speakers_by_hand(rng):
    "Every resample is the sum of the counts of the speakers drawn."
    pred = predictions(rng, 60)
    who = pred['clip'].str[-1].astype(int) % 3
    one = counts(pred, who)
    sums = {tuple(np.add.reduce([one[i] for i in (a, b, c)]).ravel()) for a in range(3) for b in range(3) for c in range(3)}
    assert {tuple(cm.ravel()) for cm in resampled(pred, who).astype(int)} == sums

def test_speaker_interval_covers_what_clip_interval_misses(rng):
    "Where voices differ in how well they are read, only drawing voices keeps the promise of 95 %."
    hits = dict(speakers=0, clips=0)
    for _ in range(200):
        skill = rng.beta(3, 2, 24)
        truth = np.tile(EMOTIONS[:2], 24*10)
        right = rng.random(480) < np.repeat(skill, 20)
        p = np.where((truth == 'neutral') == right, .9, .1)
        pred = pd.DataFrame(dict(clip=[f'{i:03}' for i in range(480)], truth=truth, neutral=p, calm=1 - p))
        for k, groups in dict(speakers=np.repeat(np.arange(24), 20), clips=None).items():
            lo, hi = bootstrap(pred, groups, accuracy, n_boot=400)
            hits[k] += lo <= .6 <= hi
    assert hits['speakers'] >= .88*200 and hits['clips'] <= .75*200

def test_one_speaker_has_no_interval(rng):
    pred = predictions(rng)
    assert np.isnan(bootstrap(pred, np.zeros(len(pred)))).all()

@pytest.mark.parametrize('spoil,line,said', [
    (lambda d: d.assign(calm=np.where(d.index == 4, np.nan, d.calm)), 6, 'missing'),
    (lambda d: d.assign(calm=np.where(d.index == 0, .99, d.calm)), 2, 'sum to one'),
    (lambda d: d.assign(calm=d.calm.where(d.index != 1, d.calm - 2), sad=d.sad.where(d.index != 1, d.sad + 2)), 3, 'outside'),
    (lambda d: d.assign(truth=d.truth.where(d.index != 7, 'bored')), 9, 'none of the labels'),
    (lambda d: pd.concat([d, d[3:4]]), 202, 'above already'),
    (lambda d: d.drop(columns='truth'), 1, 'columns'),
    (lambda d: d[['clip', 'truth']], 1, 'columns')])
def test_damaged_predictions_are_refused(rng, spoil, line, said):
    with pytest.raises(SerError, match=f'x.csv line {line}: .*{said}'): check_predictions(spoil(predictions(rng)), 'x.csv')

def test_predictions_for_other_clips_are_refused(rng):
    pred = predictions(rng, 5)
    assert complete(pred, reversed(list(pred['clip'])), 'x.csv') is pred
    with pytest.raises(SerError, match='x.csv lacks the clip c/0003;'): complete(pred.drop(index=[3, 4]), pred['clip'], 'x.csv')
    with pytest.raises(SerError, match='x.csv answers a clip that was not asked for, c/0002;'): complete(pred, pred['clip'].drop([2, 4]), 'x.csv')

def system(right):
    "Two-label answers, right where the flag says."
    p = np.where(right, .8, .2)
    return pd.DataFrame(dict(clip=[f'{i:04}' for i in range(len(p))],
                             truth=np.where(np.arange(len(p)) % 2, 'calm', 'sad'))).assign(
        calm=lambda d: np.where(d.truth == 'calm', p, 1 - p), sad=lambda d: 1 - d.calm)

def test_paired_brings_runs_into_one_order(rng):
    a = pd.concat([predictions(rng, 20).assign(pair=f'fold 0 seed {s}', run='a') for s in range(3)])
    b = a.sample(frac=1, random_state=0)[['clip', *EMOTIONS[::-1], 'pair', 'truth']]
    x, y = paired(a, b)
    assert labels_of(x) == labels_of(y) == list(EMOTIONS)
    pd.testing.assert_frame_equal(x.drop(columns='run')[y.columns], y)

@pytest.mark.parametrize('spoil,said', [
    (lambda d: d[2:], 'only the first system answers c/0000 of 0;'),
    (lambda d: d.assign(pair=1), 'only the first system answers c/0000 of 0;'),
    (lambda d: pd.concat([d, d[4:5]]), 'the second system answers c/0004 twice'),
    (lambda d: d.drop(columns='pair'), 'only one of the systems has a column pair'),
    (lambda d: d.assign(truth=d.truth.where(d.index != 7, 'bored')), 'differ in the truth of c/0007'),
    (lambda d: d.rename(columns=dict(calm='bored')), 'different labels')])
def test_paired_refuses_what_does_not_fit(rng, spoil, said):
    a = predictions(rng, 20).assign(pair=0)
    with pytest.raises(SerError, match=said): paired(a, spoil(a))
    with pytest.raises(SerError): paired(spoil(a), a)

@pytest.mark.parametrize('test', [mcnemar, permutation_test, paired_bootstrap])
@pytest.mark.parametrize('spoil', [lambda d: d[::-1], lambda d: d[1:], lambda d: d[['clip', 'truth', *EMOTIONS[::-1]]]])
def test_rows_that_do_not_belong_together_are_refused(rng, test, spoil):
    a = predictions(rng, 20)
    with pytest.raises(SerError, match='do not belong together'): test(a, spoil(a))

@pytest.mark.parametrize('table', [[[5, 3], [1, 4]], [[0, 10], [0, 0]], [[7, 0], [0, 2]], [[30, 19], [9, 14]], [[2, 6], [6, 2]]])
def test_mcnemar_equals_statsmodels(table):
    (both, only_a), (only_b, none) = table
    a = system(np.repeat([1, 1, 0, 0], [both, only_a, only_b, none]))
    b = system(np.repeat([1, 0, 1, 0], [both, only_a, only_b, none]))
    assert mcnemar(a, b) == (only_a, only_b, pytest.approx(contingency_tables.mcnemar(table, exact=True).pvalue if only_a + only_b else 1))

def test_mcnemar_refuses_seeds(rng):
    a = predictions(rng, 20)
    two = pd.concat([a, a])
    with pytest.raises(SerError, match='one answer a clip.*permutation_test'): mcnemar(two, two)

def test_permutation_of_three_speakers_by_hand():
    "UAR by hand: class by class the share found, under each of the eight exchanges."
    who = np.repeat([0, 1, 2], 4)  # each speaker two clips of each label
    a, b = (np.array(x) for x in ([1, 1, 1, 1, 1, 0, 1, 1, 0, 0, 1, 0], [0, 1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 0]))
    differences = []
    for swap in np.ndindex(2, 2, 2):
        s = np.array(swap)[who].astype(bool)
        x, y = np.where(s, b, a), np.where(s, a, b)
        differences.append(np.mean([x[i::2].mean() - y[i::2].mean() for i in (0, 1)]))
    k = sum(abs(d) >= abs(differences[0]) - 1e-12 for d in differences)
    assert 2 <= k < 8
    assert permutation_test(system(a), system(b), who) == pytest.approx((differences[0], k/8))

def test_permutation_of_clips_equals_scipy(rng):
    a, b = rng.random(11) < .8, rng.random(11) < .4
    want = stats.permutation_test((a.astype(float), b.astype(float)), lambda x, y, axis: (x - y).mean(axis), permutation_type='samples', vectorized=True)
    assert permutation_test(system(a), system(b), metric=accuracy) == pytest.approx((want.statistic, want.pvalue))

@pytest.mark.parametrize('metric', METRICS.values())
def test_random_exchanges_come_near_all(rng, metric):
    a, b, who = predictions(rng, 200, right=.6), predictions(rng, 200, right=.5), np.arange(200) % 12
    b = b.assign(truth=a.truth)
    every, some = (permutation_test(a, b, who, metric, n) for n in (4096, 4095))
    assert every.difference == some.difference and every.p == pytest.approx(some.p, abs=.03) and every.p != some.p

def test_sure_differences():
    a, b = system(np.ones(30)), system(np.zeros(30))
    assert permutation_test(a, b, n_perm=999) == (1, 1/1000)                       # the observed one among a thousand
    assert permutation_test(a, b, np.arange(30) % 5) == (1, 2/32)                  # it and its mirror image
    assert permutation_test(a, b, np.zeros(30)) == (1, 1)                          # one speaker proves nothing
    assert paired_bootstrap(a, b) == (1, 1) and np.isnan(paired_bootstrap(a, b, np.zeros(30))).all()

def test_a_second_seed_with_the_same_answers_is_no_evidence(rng):
    a, b = predictions(rng, 120, right=.6), predictions(rng, 120, right=.5)
    b = b.assign(truth=a.truth)
    a2, b2 = paired(*(pd.concat([x.assign(pair=s) for s in range(4)]) for x in (a, b)))
    assert permutation_test(a2, b2, n_perm=500) == pytest.approx(permutation_test(a, b, n_perm=500))
    assert paired_bootstrap(a2, b2) == pytest.approx(paired_bootstrap(a, b))

def test_paired_bootstrap_equals_scipy(rng):
    a, b = rng.random(300) < .6, rng.random(300) < .5
    ci = stats.bootstrap((a.astype(float), b.astype(float)), lambda x, y, axis: (x - y).mean(axis), paired=True, method='percentile',
                         n_resamples=4000, rng=1).confidence_interval
    assert paired_bootstrap(system(a), system(b), metric=accuracy, n_boot=4000) == pytest.approx((ci.low, ci.high), abs=.01)

def test_promises_over_speakers(rng):
    "Under the null p is spread evenly; the interval of a true difference of .1 holds it; both in few speakers whose skills differ."
    who, p, held = np.repeat(np.arange(14), 12), [], 0
    for _ in range(150):
        skill = rng.beta(3, 2, (2, 14))
        a, b, better = (system(rng.random(len(who)) < s[who]) for s in (skill[0], skill[1], skill[1] + .1*(1 - skill[1])/.4))
        p.append(permutation_test(a, b, who, accuracy, n_perm=199).p)
        lo, hi = paired_bootstrap(better, b, who, accuracy, n_boot=200)
        held += lo <= .1 <= hi
    for level in (.05, .1, .25, .5): assert stats.binomtest(int((np.array(p) <= level).sum()), len(p), level).pvalue > .005
    assert .85*len(p) <= held <= .99*len(p)

@pytest.mark.parametrize('p', [[.01, .04, .03, .005], [.9, .8, .7], [.02, .02, .02], [0, 1, .5], [.2]])
def test_holm_equals_statsmodels(p):
    want = multitest.multipletests(p, method='holm')[1]
    np.testing.assert_allclose(holm(p), want)
    gaps = np.insert(np.array(p), 1, np.nan)
    np.testing.assert_allclose(holm(gaps), np.insert(want, 1, np.nan))
    square = pd.Series(p, [f'test {i}' for i in p])
    np.testing.assert_allclose(holm(square), want)
    assert (square == p).all(), 'the argument is left alone'

@pytest.mark.filterwarnings('ignore:y_pred contains classes')
def test_spread(rng):
    pred = predictions(rng, 90)
    by = pred['clip'].str[-1]
    each = [sk.balanced_accuracy_score(pred.truth[by == k], guesses(pred[by == k])) for k in sorted(set(by))]
    assert spread(pred, by).to_dict() == pytest.approx(dict(mean=np.mean(each), sd=np.std(each, ddof=1), min=min(each), max=max(each), n=10))
    assert np.isnan(spread(pred, np.zeros(90))['sd'])

def confident(top, right):
    "Two-label answers of a given confidence."
    top = np.array(top, float)
    return pd.DataFrame(dict(clip=[str(i) for i in range(len(top))], truth=np.where(right, 'calm', 'sad'), calm=top, sad=1 - top))

def test_calibration_error_by_hand():
    pred = confident([.55, .6, .65, .9, .95, 1, 1], [1, 0, 1, 1, 1, 1, 0])  # .6 and .9 belong to the lower bins
    want = pd.DataFrame(dict(bin=[5, 6, 8, 9], confidence=[.575, .65, .9, 2.95/3], accuracy=[.5, 1, 1, 2/3], n=[2, 1, 1, 3]))
    pd.testing.assert_frame_equal(reliability(pred), want, check_dtype=False)
    assert ece(pred) == pytest.approx((2*.075 + .35 + .1 + 3*(2.95/3 - 2/3))/7)
    assert ece(confident([1]*4, [1]*4)) == 0 and ece(confident([1]*4, [0]*4)) == 1

@pytest.mark.parametrize('n_bins', [3, 7, 10, 15, 20])
def test_edges_belong_to_the_bin_below(n_bins):
    edges = np.arange(1, n_bins + 1)/n_bins
    edges = edges[edges >= .5]
    assert (reliability(confident(edges, edges > 0), n_bins).bin == np.round(edges*n_bins) - 1).all()

def test_reliability_equals_sklearn(rng):
    pred = confident(rng.uniform(.5, 1, 500), rng.random(500) < .7)
    accuracies, confidences = calibration_curve(pred.truth == 'calm', pred.calm, n_bins=10)
    np.testing.assert_allclose(reliability(pred)[['accuracy', 'confidence']].T, [accuracies, confidences])

class Stored(ClassifierMixin, BaseEstimator):
    "A model whose logits are its input."
    def fit(self, x, y): return self
    def __sklearn_is_fitted__(self): return True
    @property
    def classes_(self): return np.array(sorted(EMOTIONS))
    def decision_function(self, x): return x
    def predict(self, x): return self.classes_[x.argmax(1)]

@pytest.mark.parametrize('sharp', [.3, 1, 6])
def test_temperature_equals_sklearn(rng, sharp):
    pred = predictions(rng, 400)
    z = np.log(pred[sorted(EMOTIONS)].to_numpy())*sharp
    pred = pred[['clip', 'truth']].join(pd.DataFrame(np.exp(z)/np.exp(z).sum(1, keepdims=True), columns=sorted(EMOTIONS)))
    want = CalibratedClassifierCV(FrozenEstimator(Stored()), method='temperature', ensemble=False).fit(
        np.log(np.maximum(pred[sorted(EMOTIONS)].to_numpy(), FLOOR)), pred.truth)
    T = temperature(pred)
    assert T == pytest.approx(1/want.calibrated_classifiers_[0].calibrators[0].beta_, rel=.01)
    nll = lambda t: sk.log_loss(pred.truth, rescaled(pred, t)[sorted(EMOTIONS)], labels=sorted(EMOTIONS))
    assert nll(T) <= min(map(nll, np.geomspace(.06, 18, 30))) + 1e-6

def test_temperature_of_rounded_probabilities():
    "A wrong answer that was stored as impossible costs much, not everything."
    pred = confident([1.]*20, [1]*15 + [0]*5)
    T = temperature(pred)
    assert rescaled(pred, T).calm.iloc[0] == pytest.approx(.75, abs=1e-3) and T == pytest.approx(-np.log(FLOOR)/np.log(3), rel=1e-3)
    check_predictions(rescaled(pred, T))
    assert metrics(rescaled(pred, T)) == metrics(pred)

def test_group_intervals_equal_the_bootstrap_of_each_group(rng):
    pred = predictions(rng, 600)
    who = rng.integers(20, size=600)
    table = group_scores(pred, np.where(who < 12, 'x', 'y'), who, n_boot=4000)
    assert list(table.group) == ['x', 'y'] and table.n.sum() == 600
    for _, row in table.iterrows():
        mine = (who < 12) == (row.group == 'x')
        assert row.score == pytest.approx(uar(pred[mine]))
        assert (row.lo, row.hi) == pytest.approx(bootstrap(pred[mine], who[mine], n_boot=4000), abs=.015)

@pytest.mark.parametrize('metric', METRICS.values())
def test_groups_are_asked_the_same(rng, metric):
    pred = predictions(rng, 400)
    strong = (rng.random(400) < .5) & ~pred.truth.isin(['neutral', 'sad'])
    table = group_scores(pred, strong, pred['clip'], metric, n_boot=50)
    fair = ~pred.truth.isin(['neutral', 'sad'])
    assert table.score.to_list() == pytest.approx([metric(pred[fair & (strong == s)]) for s in (False, True)])
    with pytest.raises(SerError, match='no emotion in common'): group_scores(pred, pred.truth, pred['clip'])

def test_a_group_of_one_speaker_has_no_interval(rng):
    pred, who = predictions(rng, 300), np.arange(300) % 6
    table = group_scores(pred, who == 0, who)
    assert table.lo.isna().to_list() == [False, True] and np.isnan(gap(pred, who == 0, who)[3:]).all()
    assert group_scores(pred, who, who)[['lo', 'hi']].isna().all(axis=None)
    assert group_scores(pred, who, pred['clip'])[['lo', 'hi']].notna().all(axis=None)
    few = group_scores(pred, who < 2, who)  # some resamples have neither of the two
    assert few.notna().all(axis=None) and (few.lo <= few.score).all() and (few.score <= few.hi).all()

def test_gap_uses_one_draw_for_all_groups(rng):
    "Speakers differ more than their two sentences: the gap is known better than either score."
    who = np.repeat(np.arange(24), 40)
    sentence = np.where(np.arange(960) // 2 % 2, 'dogs', 'kids')
    pred = system(rng.random(960) < rng.uniform(0, .9, 24)[who] + .1*(sentence == 'dogs'))
    found, table = gap(pred, sentence, who, accuracy), group_scores(pred, sentence, who, accuracy)
    assert (found.best, found.worst) == ('dogs', 'kids') and found.lower < found.difference < found.upper
    assert found.difference == pytest.approx(table.score.max() - table.score.min())
    assert found.upper - found.lower < (table.hi - table.lo).min()
    a, b = (pred[sentence == s].reset_index(drop=True) for s in ('dogs', 'kids'))
    b = b.assign(clip=a['clip'])  # two sentences are two systems on the same occasions
    assert found[3:] == pytest.approx(paired_bootstrap(a, b, who[::2], accuracy))

def test_reliability_intervals_count_clips(rng):
    pred = predictions(rng)
    def ends(p):
        ax = plot_reliability({'made up': p})
        found = [y for (_, a), (_, b) in ax.collections[0].get_segments() for y in (a, b)]
        matplotlib.pyplot.close('all')
        return found
    assert ends(pd.concat([pred]*5, ignore_index=True)) == pytest.approx(ends(pred))
    once = pred.drop_duplicates('clip')
    want = [y for r in reliability(once).itertuples() for y in wilson(r.accuracy*r.n, r.n)]
    assert ends(once) == pytest.approx(want)

def test_as_many_colours_as_models():
    from ser_fastai.evaluate import COLORS, MARKERS
    assert len(set(COLORS)) == len(COLORS) == len(set(MARKERS)) >= 8

def test_shuffled_gap_is_what_chance_gives(rng):
    from ser_fastai.evaluate import shuffled_gap
    pred = predictions(rng).drop_duplicates('clip').reset_index(drop=True)
    lots = [gap(pred, pred.groupby('truth').cumcount().to_numpy() % 2, pred['clip'], n_boot=2).difference]
    by = pred.groupby('truth').cumcount().to_numpy() % 2
    for seed in range(200):
        r, dealt = np.random.default_rng([seed, 7]), by.copy()
        for t in pred.truth.unique():
            i = np.flatnonzero(pred.truth == t)
            dealt[i] = dealt[r.permutation(i)]
        lots.append(gap(pred, dealt, pred['clip'], n_boot=2).difference)
    assert shuffled_gap(pred, by, pred['clip']) == pytest.approx(np.mean(lots), rel=.25)
    five = pd.concat([pred]*5, ignore_index=True)                                  # more answers to the same clips are no more clips
    assert shuffled_gap(five, np.tile(by, 5), five['clip']) == pytest.approx(shuffled_gap(pred, by, pred['clip']))
    sure = pred.assign(**{e: (pred.truth == e).astype(float) for e in pred if e not in ('clip', 'truth')})
    assert shuffled_gap(sure, by, sure['clip']) == 0

def test_plots(rng):
    pred = predictions(rng)
    assert 'neutral' in plot_confusion(pred).get_yticklabels()[0].get_text()
    assert plot_confusion(confusion(pred), normalize=False).get_xlabel() == 'answer'
    c = pd.DataFrame(dict(epoch=[0, 1]*2, train_loss=[2., 1]*2, train_clean_loss=np.nan, valid_loss=[2., 1.5, 2, 2.5], valid_accuracy=.5))
    assert 'gap at the end 1.00' in plot_curves({'two seeds': c})[0].get_title()
    tall = c.assign(valid_loss=9.)
    for axs in (plot_curves({'low': c, 'tall': tall}), plot_curves({'tall': tall, 'low': c})):
        assert all(ax.get_ylim()[0] == 0 and ax.get_ylim()[1] > 9 for ax in axs)
    ax = plot_reliability({'made up': pred})
    assert f'{ece(pred):.3f}' in ax.get_legend().get_texts()[0].get_text()
    table = group_scores(pred, pred.index % 3, pred['clip'])
    ax = plot_groups(table.assign(lo=table.lo.where(table.group > 0)))
    assert [t.get_text() for t in ax.get_yticklabels()] == [f'{g} ({n})' for g, n in zip(table.group, table.n)]
    matplotlib.pyplot.close('all')
