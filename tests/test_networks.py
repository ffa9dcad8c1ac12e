"The networks beyond the paper's table: each trains through the registry, and the CRNN gives the same answers as a bundle."
from dataclasses import replace

import numpy as np, pytest, torch

from ser_fastai.core import SerError
from ser_fastai.corpora import load_corpus
from ser_fastai.experiment import model_input, train
from ser_fastai.export import load_network, to_bundle
from ser_fastai.recipes import NETWORKS, RECIPES
from ser_fastai.results import recipe_facts
from ser_fastai.splits import Split

SMALL = dict(epochs=1, bs=8, seconds=1.)


@pytest.fixture(scope='module')
def corpus(small_synth, tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv('SER_CACHE', str(tmp_path_factory.mktemp('cache')))
    df = load_corpus('synth', small_synth)
    yield df[df.emotion.isin(['sad', 'angry', 'happy'])].reset_index(drop=True)
    patch.undo()


@pytest.fixture(scope='module')
def rows(corpus):
    is_valid = np.arange(len(corpus)) % 4 == 0   # the clips are sorted by emotion
    return Split(np.flatnonzero(~is_valid), np.flatnonzero(is_valid), np.array([], int))


@pytest.mark.parametrize('name', NETWORKS)
def test_the_same_seed_gives_the_same_network(corpus, rows, name):
    recipe = replace(NETWORKS[name], **SMALL)
    features = model_input(corpus, recipe)
    P, again = (train(corpus, recipe, rows, seed=1, features=features).predict_proba(rows.valid) for _ in range(2))
    np.testing.assert_allclose(P, again, atol=1e-6)
    np.testing.assert_allclose(P.sum(1), 1, atol=1e-4)
    assert recipe_facts(recipe)['epochs'] == 1 and recipe_facts(recipe)['arch'] == recipe.model


@pytest.mark.parametrize('name', ['crnn', 'crnn_tiny'])
def test_a_bundle_answers_like_the_network(corpus, rows, name, tmp_path):
    ort = pytest.importorskip('onnxruntime')
    from ser_fastai.audio import read_audio, trim_silence
    recipe = replace(NETWORKS[name], **SMALL)
    trained = train(corpus, recipe, rows, seed=0)
    to_bundle(trained, recipe, tmp_path/'b')
    net, loaded, labels = load_network(tmp_path/'b')
    assert loaded == recipe and labels == trained.labels
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), trained.model.model.state_dict().values()))
    session = ort.InferenceSession(tmp_path/'b'/'model.onnx')
    for i in rows.valid:   # clips of different lengths
        x = trim_silence(read_audio(corpus.path[i], recipe.sr))[None].astype('float32')
        logits = session.run(None, dict(samples=x))[0][0]
        p = np.exp(logits - logits.max())
        np.testing.assert_allclose(p/p.sum(), trained.predict_proba([i])[0], atol=2e-3)


def test_a_cnn_of_timm_becomes_a_bundle(corpus, rows, tmp_path):
    pytest.importorskip('timm')
    recipe = replace(RECIPES['cnn_scratch'], arch='tf_efficientnet_lite0', sizes=(32,), **SMALL)
    trained = train(corpus, recipe, rows, seed=0)
    to_bundle(trained, recipe, tmp_path/'b')
    net, loaded, _ = load_network(tmp_path/'b')
    assert loaded.head == 'layer_norm' and any(isinstance(m, torch.nn.LayerNorm) for m in net[1])


def test_a_network_on_waveforms_cannot_be_exported(corpus, rows, tmp_path):
    recipe = replace(NETWORKS['waveform'], **SMALL)
    with pytest.raises(SerError, match='a waveform has no ONNX graph'):
        to_bundle(train(corpus, recipe, rows), recipe, tmp_path/'b')
