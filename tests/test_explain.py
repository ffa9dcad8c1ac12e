"Maps against hand-worked networks, the player's marker against the pixels of its picture and in a JavaScript engine, and bad input."
import base64, io, json, re, shutil, subprocess
from types import SimpleNamespace

import numpy as np, pandas as pd, pytest, soundfile as sf, torch
from fastai.vision.all import CrossEntropyLossFlat, Learner
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import cosine_distances
from torch import nn

from ser_fastai import explain as I
from ser_fastai.publish import save_bundle
from ser_fastai.core import SerError, seed_all
from ser_fastai.recipes import Recipe
from ser_fastai.corpora import load_csv
from ser_fastai.data import spectrogram_dls
from ser_fastai.features import Features, as_image, build_features, mel_frequencies
from ser_fastai.models.cnn import cnn_learner
from ser_fastai.models.lstm import BiLSTM
from ser_fastai.predict import Predictor
from ser_fastai.splits import Split

N, SHORT, LONG = 8, 20, 40   # clips; frames of all but the last, and of the last; an image has 25


@pytest.fixture(scope='module')
def data():
    rng = np.random.default_rng(0)
    spans = {str(i): (SHORT*i, SHORT*i + (LONG if i == N - 1 else SHORT)) for i in range(N)}
    frames = rng.uniform(-70, 0, (spans[str(N - 1)][1], 128)).astype('float32')
    df = pd.DataFrame([dict(clip=str(i), emotion=('sad', 'calm')[i % 2], path=f'{i}.wav') for i in range(N)])
    return df, Features(frames, spans, dict(sr=16000, hop_length=192))


def dls_of(data, size=None): return spectrogram_dls(*data, Split(np.arange(6), np.arange(6, 8), []), Recipe('r', bs=4, seconds=.3), size)


class Band(nn.Module):
    "Sure of calm as far as bands 32 to 47 of the first channel sound between two frames."
    def __init__(self, start=0, stop=25):
        super().__init__()
        self.start, self.stop = start, stop
    def forward(self, x):
        calm = 4*x[:, 0, 32:48, self.start:self.stop].mean((1, 2)) - 1
        return torch.stack([calm, -calm], 1)


def learner(data, model, size=None): return Learner(dls_of(data, size), model, loss_func=CrossEntropyLossFlat())


@pytest.fixture(scope='module')
def net(data):
    seed_all(0)
    return cnn_learner(dls_of(data, 64), 'resnet18')


def test_the_network_is_asked_as_in_validation(data, net):
    image, logits, S = I.network_input(net, '7')
    assert np.array_equal(image[0, 0].numpy(), as_image(S, 25)) and S.shape == (128, LONG)
    probs, _ = net.get_preds(dl=net.dls.test_dl(data[0].iloc[7:]))
    assert np.allclose(logits(image).softmax(1).detach(), probs, atol=1e-5)


@pytest.mark.parametrize('layer', ['0', '0.5', '0.6'])
def test_grad_cam_is_that_of_the_paper(net, layer):
    "Selvaraju et al. 2017, equations 1 and 2, written out with a hook."
    image, logits, S = I.network_input(net, '0')
    kept, tops = {}, []
    for target, label in enumerate(net.dls.vocab):
        hook = net.model.get_submodule(layer).register_forward_hook(lambda m, x, y: kept.update(A=y))
        score = logits(image)[0, target]
        hook.remove()
        alpha = torch.autograd.grad(score, kept['A'])[0].mean((2, 3), keepdim=True)
        want = (alpha*kept['A']).sum(1, keepdim=True).relu()
        want = nn.functional.interpolate(want, (128, 25), mode='bilinear', align_corners=False)[0, 0].detach().numpy()
        got = I.grad_cam(net, '0', label, layer)
        assert got.shape == S.shape
        want = want[:, 2:22]                                                           # 20 frames in the middle of 25
        assert np.allclose(got, want/max(want.max(), 1e-12), atol=1e-4)
        tops.append(want.max())
    assert max(tops) > 0


def test_grad_cam_by_hand(data):
    "One channel that is the image itself, averaged into a score: the map is the image."
    body = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(body.weight)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2, bias=False))
    head[2].weight.data = torch.tensor([[1.], [-1.]])
    learn = learner(data, nn.Sequential(body, head))
    S = I.network_input(learn, '0')[2]
    first, second = learn.dls.vocab
    assert np.allclose(I.grad_cam(learn, '0', first), as_image(S, SHORT), atol=1e-5)
    assert not I.grad_cam(learn, '0', second).any()                                      # negative everywhere
    long = I.grad_cam(learn, '7', first)
    assert long.shape == (128, LONG) and not long[:, :7].any() and not long[:, 32:].any() and long[:, 7:32].any()   # the crop is not heard


def test_occlusion_finds_the_band(data):
    learn = learner(data, Band())
    first, second = learn.dls.vocab
    fall = I.occlusion(learn, '0', first, 'frequency', bands=16)
    bands = fall.mean(1)
    assert 32 <= bands.argmax() < 48 and abs(bands[:24]).max() < 1e-6 and abs(bands[56:]).max() < 1e-6
    assert np.allclose(I.occlusion(learn, '0', second, 'frequency'), -fall, atol=1e-5)   # two probabilities sum to one
    image, logits, _ = I.network_input(learn, '0')
    silent = image.clone()
    silent[:, :, 32:48] = 0
    p = lambda x: float(logits(x).softmax(1)[0, 0])
    half = image.clone(), image.clone()
    half[0][:, :, 24:40] = 0; half[1][:, :, 40:56] = 0
    assert np.isclose(bands[33], np.mean([p(image) - p(silent), p(image) - p(half[0])]), atol=1e-5)   # two windows cover band 33


def test_occlusion_finds_the_span(data):
    learn = learner(data, Band(10, 15))
    first = learn.dls.vocab[0]
    span = I.occlusion(learn, '0', first, 'time', seconds=.048)[0]                       # four frames
    assert 10 <= span.argmax() + 2 < 15 and abs(span[:4]).max() < 1e-6                   # two frames of padding stand in front
    both = I.occlusion(learn, '0', first, 'both', seconds=.048)
    band, frame = np.unravel_index(both.argmax(), both.shape)
    assert 32 <= band < 48 and 10 <= frame + 2 < 15


def test_occlusion_of_an_lstm_and_what_it_cannot_be_asked(data):
    learn = learner(data, BiLSTM(128, 2, hidden=8, layers=1))
    assert I.occlusion(learn, '0', seconds=.1).shape == (128, SHORT)
    assert I.embeddings(learn, ['0', '1']).shape == (2, 16)
    with pytest.raises(SerError, match='use occlusion'): I.grad_cam(learn, '0')
    for bad in dict(seconds=1.), dict(seconds=.01), dict(axis='frequency', bands=200), dict(axis='both', bands=0):
        with pytest.raises(SerError, match='does not fit'): I.occlusion(learn, '0', **bad)


@pytest.fixture(scope='module')
def voices(tmp_path_factory):
    "Four recordings, their features, and a bundle of a network."
    d, rng = tmp_path_factory.mktemp('explain'), np.random.default_rng(0)
    t = np.arange(16000)/16000
    rows = [dict(path=f'{i}.wav', emotion=('sad', 'calm')[i % 2], speaker=str(i)) for i in range(4)]
    for i, r in enumerate(rows):
        x = sum(np.sin(2*np.pi*k*(120 + 40*i)*t)/k for k in range(1, 12))*np.hanning(len(t)) + .003*rng.standard_normal(len(t))
        sf.write(d/r['path'], np.pad(.1*x, 4000), 16000, subtype='FLOAT')
    pd.DataFrame(rows).to_csv(d/'c.csv', index=False)
    df, r = load_csv(d/'c.csv'), Recipe('tiny', arch='resnet18', seconds=1., sizes=(64,), bs=4)
    seed_all(0)
    learn = cnn_learner(spectrogram_dls(df, build_features(df, r, d/'cache', 1), Split(np.arange(3), np.array([3]), []), r, 64), 'resnet18', head=r.head)
    save_bundle(learn, d/'cnn', r)
    return df, learn, Predictor(d/'cnn')


def test_a_bundle_is_explained_as_its_learner(voices):
    df, learn, p = voices
    for clip, path in zip(df['clip'], df.path):
        for label in (None, 'sad', 'calm'):
            x, S, cam = I.explain(p, path, label=label)
            want = I.grad_cam(learn, clip, label)
            assert S.shape == cam.shape == want.shape and abs(len(x)/16000 - S.shape[1]*.012) < .02
            np.testing.assert_allclose(cam, want, atol=2e-2)


def test_what_has_no_convolutions_is_silenced(voices):
    "A predictor that hears nothing but a low tone, and that in the second half: only there, and only in that band, it misses anything."
    df, _, real = voices
    class Hum(Predictor):
        def __init__(self):
            self.labels, self.sr, self.seconds, self.trim, self.path = ['sad', 'calm'], 16000, 3., False, real.path
            self.bundle, self.info = real.bundle, dict(name='hum', recipe=real.info['recipe'] | dict(model='lstm'))
        def probs(self, xs): return np.array([[1 - q, q] for q in (min(.9, .1 + 10*hum(x[8000:])) for x in xs)])
    t = np.arange(16000)/16000
    wave = np.exp(-2j*np.pi*300*t[8000:])
    def hum(x): return abs(x@wave[:len(x)])/max(len(x), 1)
    sound = (.1*np.sin(2*np.pi*300*t) + .1*np.sin(2*np.pi*3000*t)).astype('float32')
    x, S, fell = I.explain(Hum(), sound, 16000, label='calm')
    assert not I.has_cam(Hum()) and I.has_cam(real)
    assert fell.shape == S.shape and np.abs(fell).max() == pytest.approx(1) and len(x) == len(sound)
    low, half = mel_frequencies(len(S) + 2, 8000.)[1:-1], S.shape[1]//2
    low = (low > 250) & (low < 350)
    assert fell[low, half + 5:].min() > .4                                  # two quarters of a second share what is heard
    assert np.abs(fell[low, :half - 5]).max() < .1 and np.abs(fell[~low][-100:]).max() < .1
    for n in (800, 999, 4000): assert I.explain(Hum(), sound[-n:].repeat(2), 16000)[2].max() <= 1
    with pytest.raises(SerError, match='label'): I.explain(real, df.path[0], label='nobody')


def test_bad_input(data, net):
    with pytest.raises(SerError, match='"x" has no log-mel'): I.grad_cam(net, 'x')
    with pytest.raises(SerError, match='unknown label "bored"; known: '): I.occlusion(net, '0', 'bored')
    with pytest.raises(SerError, match='no convolutional module "1"'): I.grad_cam(net, '0', layer='1')
    with pytest.raises(SerError, match='same clip'): I.plot_map(np.zeros((4, 5)), np.zeros((4, 6)))
    with pytest.raises(SerError, match='8 vectors and 7 rows'): I.closest(np.ones(3), np.ones((8, 3)), data[0].iloc[:7])


def test_randomised_weights_give_other_maps(net):
    before = {k: v.clone() for k, v in net.model.state_dict().items()}
    other = I.randomised(net, 1)
    assert all(torch.equal(v, before[k]) for k, v in net.model.state_dict().items())
    drawn = dict(other.model.named_parameters())
    same = [k for k, v in net.model.named_parameters() if v.dim() > 1 and torch.equal(v, drawn[k])]
    assert not same
    clips = list('0123')
    assert I.sanity_check(net, clips, seeds=1, layer='0.5').correlation.abs().mean() < .7
    blind = I.sanity_check(net, clips, lambda learn, clip, label: I.network_input(learn, clip)[2])  # shows the clip, whatever the model
    assert np.allclose(blind.correlation, 1) and len(blind) == 8
    assert not I.sanity_check(net, clips[:1], lambda *args: np.zeros((2, 2))).correlation.any()


# The player

RATE, HOP = 16000, 192
def parts(html):
    png = Image.open(io.BytesIO(base64.b64decode(re.search(r'image/jpeg;base64,([^"]+)', html)[1]))).convert('RGB')
    facts = {k: float(re.search(f'data-{k}="([^"]+)"', html)[1]) for k in ('end', 'left', 'width')}
    return png, facts


def test_the_marker_stands_over_the_frame_that_is_heard():
    "One bright frame is found in the pixels, where the marker's arithmetic says."
    for frame in 0, 50, 99:
        S = np.full((128, 100), -80.); S[:, frame] = 0
        png, f = parts(I.player(np.zeros(100*HOP), RATE, S).data)
        pixels = np.asarray(png).mean(2)
        row = pixels[pixels.shape[0]//2]
        axes = round(png.width*f['left']/100) + 3, round(png.width*(f['left'] + f['width'])/100) - 3
        found = axes[0] + np.flatnonzero(row[slice(*axes)] > 150).mean()
        seconds = (frame + .5)*HOP/RATE
        assert abs(found - png.width*(f['left'] + seconds/f['end']*f['width'])/100) < 4


def test_the_sound_is_the_sound():
    x = np.sin(np.arange(100*HOP)/20)*.5
    I.player(x, RATE, np.zeros((8, 100)), title=r'a $\x$ b')
    html = I.player(x, RATE, np.zeros((8, 100)) - np.arange(100), np.eye(8, 100), title='<"quoted">').data
    y, sr = sf.read(io.BytesIO(base64.b64decode(re.search(r'audio/flac;base64,([^"]+)', html)[1])))
    assert sr == RATE and np.allclose(x, y, atol=1e-4)
    assert '<"quoted">' not in html and 'aria-label="&lt;&quot;quoted&quot;&gt;"' in html and 'strongest at' in html
    assert not re.search(r'(src|href)="(?!data:)', html)                                 # nothing from elsewhere


needs_node = pytest.mark.skipif(not shutil.which('node'), reason='no JavaScript engine')
PAGE = '''
const [audio, span, img] = [{currentTime: 0, paused: true}, {style: {}}, {clientWidth: 1000}];
const figure = {dataset: {end: "2.4", left: "10", width: "80"}, querySelector: s => ({audio, span, img})[s]};
globalThis.document = {querySelectorAll: s => s.includes(":not([data-ready])") && !figure.dataset.ready ? [figure] : []};
let frames = 0; globalThis.requestAnimationFrame = f => { frames++; audio.currentTime += .6; if (audio.currentTime > 2) audio.paused = true; f(); };
'''
ASK = '''
const seen = [];
for (const t of [0, 1.2, 2.4, 9]) { audio.currentTime = t; audio.onseeked(); seen.push(parseFloat(span.style.left)); }
for (const x of [0, 100, 500, 900, 1000]) { img.onclick({offsetX: x}); seen.push(audio.currentTime); }
audio.currentTime = 0; audio.paused = false; audio.onplay(); seen.push(frames, parseFloat(span.style.left));
console.log(JSON.stringify(seen));
'''


@needs_node
def test_the_script_in_an_engine():
    done = subprocess.run(['node', '-e', PAGE + I.PLAYER_JS + I.PLAYER_JS + ASK], capture_output=True, text=True, timeout=60)
    assert not done.stderr
    seen = json.loads(done.stdout)
    assert np.allclose(seen[:4], [10, 50, 90, 90])                                       # time to place, no further than the axes
    assert np.allclose(seen[4:9], [0, 0, 1.2, 2.4, 2.4])                                 # place to time
    assert seen[9] == 4 and np.isclose(seen[10], 90)                                     # it runs with the sound and stops with it


# Tables

def test_closest_is_scikit_learns_cosine():
    rng = np.random.default_rng(0)
    Z, z = rng.normal(size=(20, 5)), rng.normal(size=5)
    df = pd.DataFrame(dict(clip=[f'c{i}' for i in range(20)], emotion='sad', path=''))
    got, want = I.closest(z, Z, df, 4), cosine_distances(z[None], Z)[0]
    assert np.allclose(got.distance, np.sort(want)[:4]) and list(got['clip']) == [f'c{i}' for i in want.argsort()[:4]]
    assert len(I.closest(z, Z, df, 100)) == 20


def test_importance_is_scikit_learns_for_one_statistic():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 4)); y = (X[:, 2] > 0).astype(int)
    fitted = LogisticRegression().fit(X, y)
    got = I.mfcc_importance(fitted, X, y, n_mfcc=4, n_repeats=5, seed=3)
    want = permutation_importance(fitted, X, y, scoring='balanced_accuracy', n_repeats=5, random_state=3)
    assert np.allclose(got.importance, want.importances_mean) and np.allclose(got.sd, want.importances_std)
    assert got.importance.idxmax() == 2


def test_statistics_of_a_coefficient_go_together():
    "The class is the sign of mean times deviation of coefficient 1: shuffled together they still fit each other, only to another clip."
    class Product(ClassifierMixin, BaseEstimator):
        classes_ = np.array([0, 1])
        __sklearn_is_fitted__ = lambda self: True
        def fit(self, X, y): return self
        def predict(self, X): assert set(np.round(X[:, 1]*X[:, 3], 6)) <= {-1., 1.}; return (X[:, 1]*X[:, 3] > 0).astype(int)
    rng = np.random.default_rng(0)
    a, sign = rng.uniform(.5, 2, 60), rng.choice([-1, 1], 60)
    X = np.stack([rng.normal(size=60), a, rng.normal(size=60), sign/a], 1)
    got = I.mfcc_importance(Product(), X, (sign > 0).astype(int), n_mfcc=2)
    assert got.importance[0] == 0 and .3 < got.importance[1] < .7
