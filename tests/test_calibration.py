"Reliability and temperature against scikit-learn and cases worked by hand."
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np, pandas as pd, pytest
from sklearn import metrics as sk
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from ser_fastai.calibration import ece, plot_reliability, reliability, rescaled, temperature
from ser_fastai.core import EMOTIONS
from ser_fastai.metrics import MIN_PROBABILITY, check_predictions, metrics, wilson
from test_metrics import predictions, rng

pytestmark = pytest.mark.filterwarnings('error::RuntimeWarning')  # those of NumPy

def confident(top, right):
    "Predictions of two labels with a given confidence."
    top = np.array(top, float)
    clips = [str(i) for i in range(len(top))]
    return pd.DataFrame(dict(clip=clips, truth=np.where(right, 'calm', 'sad'), calm=top, sad=1 - top))

def test_calibration_error_by_hand():
    pred = confident([.55, .6, .65, .9, .95, 1, 1], [1, 0, 1, 1, 1, 1, 0])  # .6 and .9 are in the lower bins
    want = pd.DataFrame(dict(bin=[5, 6, 8, 9], confidence=[.575, .65, .9, 2.95/3],
                             accuracy=[.5, 1, 1, 2/3], n=[2, 1, 1, 3]))
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
    pytest.importorskip('sklearn', '1.8', reason='scikit-learn fits temperatures from 1.8')
    from sklearn.frozen import FrozenEstimator
    pred = predictions(rng, 400)
    z = np.log(pred[sorted(EMOTIONS)].to_numpy())*sharp
    p = np.exp(z)/np.exp(z).sum(1, keepdims=True)
    pred = pred[['clip', 'truth']].join(pd.DataFrame(p, columns=sorted(EMOTIONS)))
    want = CalibratedClassifierCV(FrozenEstimator(Stored()), method='temperature', ensemble=False).fit(
        np.log(np.maximum(pred[sorted(EMOTIONS)].to_numpy(), MIN_PROBABILITY)), pred.truth)
    T = temperature(pred)
    assert T == pytest.approx(1/want.calibrated_classifiers_[0].calibrators[0].beta_, rel=.01)
    nll = lambda t: sk.log_loss(pred.truth, rescaled(pred, t)[sorted(EMOTIONS)], labels=sorted(EMOTIONS))
    assert nll(T) <= min(map(nll, np.geomspace(.06, 18, 30))) + 1e-6

def test_temperature_of_rounded_probabilities():
    "A true label with a stored probability of 0 has a finite loss."
    pred = confident([1.]*20, [1]*15 + [0]*5)
    T = temperature(pred)
    assert rescaled(pred, T).calm.iloc[0] == pytest.approx(.75, abs=1e-3)
    assert T == pytest.approx(-np.log(MIN_PROBABILITY)/np.log(3), rel=1e-3)
    check_predictions(rescaled(pred, T))
    assert metrics(rescaled(pred, T)) == metrics(pred)

def test_reliability_intervals_count_clips(rng):
    pred = predictions(rng)
    def ends(p):
        ax, = plot_reliability({'made up': p})
        found = [y for (_, a), (_, b) in ax.collections[0].get_segments() for y in (a, b)]
        plt.close('all')
        return found
    assert ends(pd.concat([pred]*5, ignore_index=True)) == pytest.approx(ends(pred))
    once = pred.drop_duplicates('clip')
    want = [y for r in reliability(once).itertuples() for y in wilson(r.accuracy*r.n, r.n)]
    assert ends(once) == pytest.approx(want)

def test_plot_reliability(rng):
    pred = predictions(rng)
    axs = plot_reliability({f'model {i}': pred for i in range(5)})
    assert [ax.get_title() for ax in axs] == [f'model {i}\nECE {ece(pred):.3f}' for i in range(5)]
    assert len(axs[0].figure.axes) == 5   # no empty panel
    plt.close(axs[0].figure)
