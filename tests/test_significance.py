"Paired tests and gaps between groups against SciPy, statsmodels and cases worked by hand; their error rates."
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np, pandas as pd, pytest
from scipy import stats
from statsmodels.stats import contingency_tables, multitest
from ser_fastai.core import EMOTIONS, SerError
from ser_fastai.metrics import METRICS, accuracy, bootstrap, labels_of, uar
from ser_fastai.significance import (group_gap, group_scores, holm, mcnemar, align_predictions,
                                     paired_bootstrap, permutation_test, plot_groups, shuffled_group_gap)
from test_metrics import predictions, rng

pytestmark = pytest.mark.filterwarnings('error::RuntimeWarning')  # those of NumPy

def system(right):
    "Predictions of two labels, correct where the argument is true."
    p = np.where(right, .8, .2)
    return pd.DataFrame(dict(clip=[f'{i:04}' for i in range(len(p))],
                             truth=np.where(np.arange(len(p)) % 2, 'calm', 'sad'))).assign(
        calm=lambda d: np.where(d.truth == 'calm', p, 1 - p), sad=lambda d: 1 - d.calm)

def test_runs_are_sorted_into_the_same_order(rng):
    a = pd.concat([predictions(rng, 20).assign(pair=f'fold 0 seed {s}', run='a') for s in range(3)])
    b = a.sample(frac=1, random_state=0)[['clip', *EMOTIONS[::-1], 'pair', 'truth']]
    x, y = align_predictions(a, b)
    assert labels_of(x) == labels_of(y) == list(EMOTIONS)
    pd.testing.assert_frame_equal(x.drop(columns='run')[y.columns], y)

@pytest.mark.parametrize('change,message', [
    (lambda d: d[2:], 'only the first system predicts c/0000 of 0:'),
    (lambda d: d.assign(pair=1), 'only the first system predicts c/0000 of 0:'),
    (lambda d: pd.concat([d, d[4:5]]), 'the second system predicts c/0004 twice'),
    (lambda d: d.drop(columns='pair'), 'only one of the systems has a column pair'),
    (lambda d: d.assign(truth=d.truth.where(d.index != 7, 'bored')), 'different true labels for c/0007'),
    (lambda d: d.rename(columns=dict(calm='bored')), 'different labels')])
def test_different_clips_or_labels_are_refused(rng, change, message):
    a = predictions(rng, 20).assign(pair=0)
    with pytest.raises(SerError, match=message): align_predictions(a, change(a))
    with pytest.raises(SerError): align_predictions(change(a), a)

@pytest.mark.parametrize('test', [mcnemar, permutation_test, paired_bootstrap])
@pytest.mark.parametrize('change', [
    lambda d: d[::-1], lambda d: d[1:], lambda d: d[['clip', 'truth', *EMOTIONS[::-1]]]])
def test_rows_in_different_order_are_refused(rng, test, change):
    a = predictions(rng, 20)
    with pytest.raises(SerError, match='are not in the same order'): test(a, change(a))

@pytest.mark.parametrize('table', [
    [[5, 3], [1, 4]], [[0, 10], [0, 0]], [[7, 0], [0, 2]], [[30, 19], [9, 14]], [[2, 6], [6, 2]]])
def test_mcnemar_equals_statsmodels(table):
    (both, only_a), (only_b, none) = table
    a = system(np.repeat([1, 1, 0, 0], [both, only_a, only_b, none]))
    b = system(np.repeat([1, 0, 1, 0], [both, only_a, only_b, none]))
    p = contingency_tables.mcnemar(table, exact=True).pvalue if only_a + only_b else 1
    assert mcnemar(a, b) == (only_a, only_b, pytest.approx(p))

def test_mcnemar_refuses_seeds(rng):
    a = predictions(rng, 20)
    two = pd.concat([a, a])
    with pytest.raises(SerError, match='one prediction per clip.*permutation_test'): mcnemar(two, two)

def test_permutation_of_three_speakers_by_hand():
    "UAR is computed class by class, under each of the eight exchanges."
    who = np.repeat([0, 1, 2], 4)  # two clips of each label per speaker
    a, b = (np.array(x) for x in ([1, 1, 1, 1, 1, 0, 1, 1, 0, 0, 1, 0], [0, 1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 0]))
    differences = []
    for swap in np.ndindex(2, 2, 2):
        s = np.array(swap)[who].astype(bool)
        x, y = np.where(s, b, a), np.where(s, a, b)
        differences.append(np.mean([x[i::2].mean() - y[i::2].mean() for i in (0, 1)]))
    k = sum(abs(d) >= abs(differences[0]) - 1e-12 for d in differences)
    assert 2 <= k < 8
    assert permutation_test(system(a), system(b), who) == pytest.approx((differences[0], k/8))

def mean_difference(x, y, axis): return (x - y).mean(axis)

def test_permutation_of_clips_equals_scipy(rng):
    a, b = rng.random(11) < .8, rng.random(11) < .4
    want = stats.permutation_test((a.astype(float), b.astype(float)), mean_difference,
                                  permutation_type='samples', vectorized=True)
    found = permutation_test(system(a), system(b), metric=accuracy)
    assert found == pytest.approx((want.statistic, want.pvalue))

@pytest.mark.parametrize('metric', METRICS.values())
def test_random_exchanges_approximate_all_exchanges(rng, metric):
    a, b, who = predictions(rng, 200, right=.6), predictions(rng, 200, right=.5), np.arange(200) % 12
    b = b.assign(truth=a.truth)
    exact, random = (permutation_test(a, b, who, metric, n) for n in (4096, 4095))
    assert exact.difference == random.difference and exact.p != random.p
    assert exact.p == pytest.approx(random.p, abs=.03)

def test_smallest_p_values():
    a, b = system(np.ones(30)), system(np.zeros(30))
    assert permutation_test(a, b, n_perm=999) == (1, 1/1000)          # the observed exchange only
    assert permutation_test(a, b, np.arange(30) % 5) == (1, 2/32)  # the observed exchange and its mirror image
    assert permutation_test(a, b, np.zeros(30)) == (1, 1)             # a single speaker
    assert paired_bootstrap(a, b) == (1, 1) and np.isnan(paired_bootstrap(a, b, np.zeros(30))).all()

def test_seeds_with_equal_predictions_change_nothing(rng):
    a, b = predictions(rng, 120, right=.6), predictions(rng, 120, right=.5)
    b = b.assign(truth=a.truth)
    a2, b2 = align_predictions(*(pd.concat([x.assign(pair=s) for s in range(4)]) for x in (a, b)))
    assert permutation_test(a2, b2, n_perm=500) == pytest.approx(permutation_test(a, b, n_perm=500))
    assert paired_bootstrap(a2, b2) == pytest.approx(paired_bootstrap(a, b))

def test_paired_bootstrap_equals_scipy(rng):
    a, b = rng.random(300) < .6, rng.random(300) < .5
    ci = stats.bootstrap((a.astype(float), b.astype(float)), mean_difference, paired=True,
                         method='percentile', n_resamples=4000, random_state=1).confidence_interval
    found = paired_bootstrap(system(a), system(b), metric=accuracy, n_boot=4000)
    assert found == pytest.approx((ci.low, ci.high), abs=.01)

def test_error_rates_over_speakers(rng):
    "With 14 different speakers, p is uniform without a difference, and intervals cover about 95 %."
    who, p, covered = np.repeat(np.arange(14), 12), [], 0
    for _ in range(150):
        skill = rng.beta(3, 2, (2, 14))
        skills = skill[0], skill[1], skill[1] + .1*(1 - skill[1])/.4
        a, b, better = (system(rng.random(len(who)) < s[who]) for s in skills)
        p.append(permutation_test(a, b, who, accuracy, n_perm=199).p)
        lo, hi = paired_bootstrap(better, b, who, accuracy, n_boot=200)
        covered += lo <= .1 <= hi
    for level in (.05, .1, .25, .5):
        assert stats.binomtest(int((np.array(p) <= level).sum()), len(p), level).pvalue > .005
    assert .85*len(p) <= covered <= .99*len(p)

@pytest.mark.parametrize('p', [[.01, .04, .03, .005], [.9, .8, .7], [.02, .02, .02], [0, 1, .5], [.2]])
def test_holm_equals_statsmodels(p):
    want = multitest.multipletests(p, method='holm')[1]
    np.testing.assert_allclose(holm(p), want)
    gaps = np.insert(np.array(p), 1, np.nan)
    np.testing.assert_allclose(holm(gaps), np.insert(want, 1, np.nan))
    square = pd.Series(p, [f'test {i}' for i in p])
    np.testing.assert_allclose(holm(square), want)
    assert (square == p).all(), 'the argument is not changed'

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
def test_groups_are_scored_on_their_common_classes(rng, metric):
    pred = predictions(rng, 400)
    strong = (rng.random(400) < .5) & ~pred.truth.isin(['neutral', 'sad'])
    table = group_scores(pred, strong, pred['clip'], metric, n_boot=50)
    fair = ~pred.truth.isin(['neutral', 'sad'])
    assert table.score.to_list() == pytest.approx([metric(pred[fair & (strong == s)]) for s in (False, True)])
    with pytest.raises(SerError, match='no emotion in common'): group_scores(pred, pred.truth, pred['clip'])

def test_a_group_of_one_speaker_has_no_interval(rng):
    pred, who = predictions(rng, 300), np.arange(300) % 6
    table = group_scores(pred, who == 0, who)
    assert table.lo.isna().to_list() == [False, True] and np.isnan(group_gap(pred, who == 0, who)[3:]).all()
    assert group_scores(pred, who, who)[['lo', 'hi']].isna().all(axis=None)
    assert group_scores(pred, who, pred['clip'])[['lo', 'hi']].notna().all(axis=None)
    few = group_scores(pred, who < 2, who)  # some resamples have neither of the two
    assert few.notna().all(axis=None) and (few.lo <= few.score).all() and (few.score <= few.hi).all()

def test_gap_uses_one_draw_for_all_groups(rng):
    "If speakers differ more than sentences, the interval of the gap is narrower than those of the scores."
    who = np.repeat(np.arange(24), 40)
    sentence = np.where(np.arange(960) // 2 % 2, 'dogs', 'kids')
    pred = system(rng.random(960) < rng.uniform(0, .9, 24)[who] + .1*(sentence == 'dogs'))
    found, table = group_gap(pred, sentence, who, accuracy), group_scores(pred, sentence, who, accuracy)
    assert (found.best, found.worst) == ('dogs', 'kids') and found.lower < found.difference < found.upper
    assert found.difference == pytest.approx(table.score.max() - table.score.min())
    assert found.upper - found.lower < (table.hi - table.lo).min()
    a, b = (pred[sentence == s].reset_index(drop=True) for s in ('dogs', 'kids'))
    b = b.assign(clip=a['clip'])  # the same as two systems on the same clips
    assert found[3:] == pytest.approx(paired_bootstrap(a, b, who[::2], accuracy), abs=.01)

def test_gap_allows_for_selection(rng):
    "For equal speakers, the interval of the gap between the best and the worst contains zero."
    who = np.repeat(np.arange(24), 30)
    equal = [system(rng.random(720) < .6) for _ in range(20)]
    found = [group_gap(p, who, p['clip'], accuracy, n_boot=200) for p in equal]
    assert all(g.difference > .1 for g in found)            # by chance
    assert sum(g.lower > 0 for g in found) <= 4
    strong = system(rng.random(720) < np.where(who < 2, .95, .2))
    assert group_gap(strong, who, strong['clip'], accuracy, n_boot=200).lower > 0

def test_shuffled_gap_equals_the_gap_of_random_groups(rng):
    pred = predictions(rng).drop_duplicates('clip').reset_index(drop=True)
    by = pred.groupby('truth').cumcount().to_numpy() % 2
    gaps = [group_gap(pred, by, pred['clip'], n_boot=2).difference]
    for seed in range(200):
        r, random = np.random.default_rng([seed, 7]), by.copy()
        for t in pred.truth.unique():
            i = np.flatnonzero(pred.truth == t)
            random[i] = random[r.permutation(i)]
        gaps.append(group_gap(pred, random, pred['clip'], n_boot=2).difference)
    found = shuffled_group_gap(pred, by, pred['clip'])
    assert found.mean == pytest.approx(np.mean(gaps), rel=.25)
    five = pd.concat([pred]*5, ignore_index=True)           # five seeds are not five times as many clips
    assert shuffled_group_gap(five, np.tile(by, 5), five['clip']) == pytest.approx(found)
    sure = pred.assign(**{e: (pred.truth == e).astype(float) for e in pred if e not in ('clip', 'truth')})
    assert shuffled_group_gap(sure, by, sure['clip']) == (0, 1)

def test_p_of_a_gap_by_hand():
    "Two of four speakers are always correct: two of the six assignments have a gap of 1, and four have none."
    who = np.repeat(np.arange(4), 2)
    found = shuffled_group_gap(system(who < 2), np.where(who < 2, 'x', 'y'), who, accuracy, n_shuffles=899)
    k = round(899*found.mean)
    assert found == pytest.approx((k/899, (k + 1)/900)) and 250 < k < 350
    without_gap = system(who % 2 == 0)
    assert shuffled_group_gap(without_gap, np.where(who < 2, 'x', 'y'), who, accuracy).p == 1
    assert np.isnan(shuffled_group_gap(system(np.ones(2)), ['x', 'y'], [0, 1])).all()  # no emotion in common

def test_plot_groups(rng):
    pred = predictions(rng)
    table = group_scores(pred, pred.index % 3, pred['clip'])
    ax = plot_groups(table.assign(lo=table.lo.where(table.group > 0)))
    names = [t.get_text() for t in ax.get_yticklabels()]
    assert names == [f'{g} ({n})' for g, n in zip(table.group, table.n)]
    plt.close(ax.figure)
