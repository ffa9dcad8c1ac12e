"Scores and intervals against scikit-learn, SciPy and cases worked by hand; coverage of the intervals."
import matplotlib
matplotlib.use('Agg')
import numpy as np, pandas as pd, pytest
from scipy import stats
from sklearn import metrics as sk
from ser_fastai.core import EMOTIONS, SerError
from ser_fastai.metrics import (COLORS, MARKERS, METRICS, accuracy, bootstrap, bootstrap_counts, check_clips,
                                check_predictions, confusion, counts, labels_of, macro_f1, metrics,
                                plot_confusion, plot_curves, predicted_labels, recall_by_class, spread, uar,
                                wilson)

pytestmark = pytest.mark.filterwarnings('error::RuntimeWarning')  # those of NumPy

@pytest.fixture
def rng(): return np.random.default_rng(0)

def predictions(rng, n=200, truths=EMOTIONS, answers=EMOTIONS, right=.5):
    "Made-up predictions: correct with a probability, otherwise any of `answers`."
    truth = rng.choice(list(truths), n)
    guess = np.where(rng.random(n) < right, truth, rng.choice(list(answers), n))
    p = rng.dirichlet(np.ones(8), n)*.3 + .7*(guess[:, None] == np.array(EMOTIONS))
    clips = pd.DataFrame(dict(clip=[f'c/{i:04}' for i in range(n)], truth=truth))
    return pd.concat([clips, pd.DataFrame(p, columns=EMOTIONS)], axis=1)

@pytest.mark.parametrize('truths', [EMOTIONS, EMOTIONS[:3], EMOTIONS[2:7]])
@pytest.mark.parametrize('answers', [EMOTIONS, EMOTIONS[1:2], EMOTIONS[5:]])
@pytest.mark.filterwarnings('ignore:y_pred contains classes')
def test_scores_equal_sklearn(rng, truths, answers):
    pred = predictions(rng, truths=truths, answers=answers)
    y, g = pred.truth, predicted_labels(pred)
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
    correct = (predicted_labels(pred) == pred.truth).to_numpy(float)
    result = stats.bootstrap((correct,), np.mean, method='percentile', n_resamples=4000, random_state=1)
    ci = result.confidence_interval
    assert bootstrap(pred, metric=accuracy, n_boot=4000) == pytest.approx((ci.low, ci.high), abs=.01)

def test_bootstrap_of_speakers_by_hand(rng):
    "Every resample is the sum of the counts of the speakers that are drawn."
    pred = predictions(rng, 60)
    who = pred['clip'].str[-1].astype(int) % 3
    one = counts(pred, who)
    sums = {tuple(one[list(drawn)].sum(0).ravel()) for drawn in np.ndindex(3, 3, 3)}
    assert {tuple(cm.ravel()) for cm in bootstrap_counts(pred, who).astype(int)} == sums

def test_speaker_intervals_have_the_right_coverage_and_clip_intervals_do_not(rng):
    "Speakers differ in how well they are recognised."
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

@pytest.mark.parametrize('damage,line,message', [
    (lambda d: d.assign(calm=np.where(d.index == 4, np.nan, d.calm)), 6, 'missing'),
    (lambda d: d.assign(calm=np.where(d.index == 0, .99, d.calm)), 2, 'sum to one'),
    (lambda d: d.assign(calm=d.calm - 2*(d.index == 1), sad=d.sad + 2*(d.index == 1)), 3, 'outside'),
    (lambda d: d.assign(truth=d.truth.where(d.index != 7, 'bored')), 9, 'not one of the labels'),
    (lambda d: pd.concat([d, d[3:4]], ignore_index=True), 202, 'duplicate clip'),
    (lambda d: d.drop(columns='truth'), 1, 'columns'),
    (lambda d: d[['clip', 'truth']], 1, 'columns')])
def test_damaged_predictions_are_refused(rng, damage, line, message):
    damaged = damage(predictions(rng))
    with pytest.raises(SerError, match=f'x.csv line {line}: .*{message}'): check_predictions(damaged, 'x.csv')

def test_predictions_for_other_clips_are_refused(rng):
    pred = predictions(rng, 5)
    assert check_clips(pred, reversed(list(pred['clip'])), 'x.csv') is pred
    with pytest.raises(SerError, match='x.csv lacks the clip c/0003:'):
        check_clips(pred.drop(index=[3, 4]), pred['clip'], 'x.csv')
    with pytest.raises(SerError, match='x.csv contains the unexpected clip c/0002:'):
        check_clips(pred, pred['clip'].drop([2, 4]), 'x.csv')

@pytest.mark.filterwarnings('ignore:y_pred contains classes')
def test_spread(rng):
    pred = predictions(rng, 90)
    by = pred['clip'].str[-1]
    each = [sk.balanced_accuracy_score(g.truth, predicted_labels(g)) for _, g in pred.groupby(by)]
    want = dict(mean=np.mean(each), sd=np.std(each, ddof=1), min=min(each), max=max(each), n=10)
    assert spread(pred, by).to_dict() == pytest.approx(want)
    assert np.isnan(spread(pred, np.zeros(90))['sd'])

def test_there_are_as_many_colours_as_markers():
    assert len(set(COLORS)) == len(COLORS) == len(set(MARKERS)) >= 8

def test_plots(rng):
    pred = predictions(rng)
    assert 'neutral' in plot_confusion(pred).get_yticklabels()[0].get_text()
    assert plot_confusion(confusion(pred), normalize=False).get_xlabel() == 'prediction'
    c = pd.DataFrame(dict(epoch=[0, 1]*2, train_loss=[2., 1]*2, train_clean_loss=np.nan,
                          valid_loss=[2., 1.5, 2, 2.5], valid_accuracy=.5))
    assert 'gap at the end 1.00' in plot_curves({'two seeds': c})[0].get_title()
    tall = c.assign(valid_loss=9.)
    for axs in (plot_curves({'low': c, 'tall': tall}), plot_curves({'tall': tall, 'low': c})):
        assert all(ax.get_ylim()[0] == 0 and ax.get_ylim()[1] > 9 for ax in axs)
    matplotlib.pyplot.close('all')
