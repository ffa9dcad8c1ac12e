"The runtime: it needs few packages, and refuses damaged bundles."
import hashlib, json, pickle, shutil, subprocess, sys
from pathlib import Path

import numpy as np, pytest

from ser_fastai import heads as H, runtime as R
from ser_fastai.bundle_info import write_info
from ser_fastai.core import SerError


@pytest.fixture
def bundle(tmp_path): return shutil.copytree(R.model_folder('cnn'), tmp_path/'bundle')   # a graph that ends in logits

def change(folder, **fields):
    "Replace fields of bundle.json; None removes one."
    info = json.loads((folder/'bundle.json').read_text(encoding='utf8')) | fields
    (folder/'bundle.json').write_text(json.dumps({k: v for k, v in info.items() if v is not None}), encoding='utf8')

@pytest.mark.parametrize('fields, says', [
    (dict(format=2), 'its format is 2'), (dict(labels=None), 'field "labels"'), (dict(colour='red'), 'field "colour"'),
    (dict(temperature='warm'), 'field "temperature"'), (dict(temperature=0), 'must be positive'), (dict(labels=['sad', 'sad']), 'different labels'),
    (dict(input=dict(sample_rate=16000)), 'field "channels"'), (dict(output='image'), 'logits or embedding'), (dict(output=1), 'field "output"'), (dict(sha256='0'*64), 'checksum differs')])
def test_descriptions_that_are_refused(bundle, fields, says):
    change(bundle, **fields)
    with pytest.raises(SerError, match=says) as e: R.open_bundle(bundle)
    assert len(str(e.value).splitlines()) == 1 and str(bundle) in str(e.value)

@pytest.mark.parametrize('text', ['', '{', '[]', 'null', chr(0)*99])
def test_damaged_json(bundle, text):
    (bundle/'bundle.json').write_text(text, encoding='utf8')
    with pytest.raises(SerError, match='bundle.json'): R.open_bundle(bundle)

@pytest.mark.parametrize('data', [b'', b'not a graph'])
def test_damaged_graphs(bundle, data):
    (bundle/'model.onnx').write_bytes(data)
    change(bundle, sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(SerError, match='cannot (open|use) .*model.onnx'): R.open_bundle(bundle)

@pytest.mark.parametrize('name', ['bundle.json', 'model.onnx'])
def test_missing_files(bundle, name):
    (bundle/name).unlink()
    with pytest.raises(SerError, match='cannot open'): R.open_bundle(bundle)

def test_labels_that_do_not_fit_the_graph(bundle):
    change(bundle, labels=['sad', 'happy'])
    with pytest.raises(SerError, match='no logits for 2 labels'): R.open_bundle(bundle).logits(np.random.randn(16000))

def test_graph_runs_in_a_browser():
    "onnxruntime-web runs opset 17 and the standard operators."
    onnx = pytest.importorskip('onnx')
    model = onnx.load(R.default_bundle()/'model.onnx')
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [('', 17)]
    assert not {n.op_type for n in model.graph.node} & {'STFT', 'DFT', 'Loop', 'If'}

@pytest.mark.parametrize('n', [256, 15999, 48000, 100001])
def test_any_length(n):
    b = R.open_bundle()
    assert b.probabilities([np.random.default_rng(0).standard_normal(n)]).sum() == pytest.approx(1)


# an embedding and a head

@pytest.fixture
def speech(embedding_bundle, tmp_path): return shutil.copytree(embedding_bundle, tmp_path/'speech')

def noise(seed=0, n=16000): return .1*np.random.default_rng(seed).standard_normal(n).astype('float32')

def test_logits_are_the_head_of_the_embedding(speech):
    b, head = R.open_bundle(speech), H.load_head(speech/'head.npz')
    e = b.embedding(noise())
    assert e.shape == (6,) and e.dtype == 'float32' and b.profile is None
    np.testing.assert_allclose(b.logits(noise()), H.head_logits(head, e[None])[0], atol=1e-6)
    assert b.probabilities([noise(), noise(1)]).sum(1) == pytest.approx(1)
    assert [b.embedding(noise(n=n)).shape for n in (1600, 48000)] == [(6,)]*2

def test_a_profile_changes_the_logits_and_goes_to_other_processes(speech):
    b = R.open_bundle(speech)
    profile = H.adapt(b.head, np.stack([b.embedding(noise(i)) for i in range(4)]))
    adapted = b.with_profile(profile)
    want = H.head_logits(b.head, b.embedding(noise(9))[None], profile)[0]
    np.testing.assert_allclose(adapted.logits(noise(9)), want, atol=1e-6)
    assert np.abs(want - b.logits(noise(9))).max() > .01 and b.profile is None
    sent = pickle.loads(pickle.dumps(adapted))
    np.testing.assert_array_equal(sent.logits(noise(9)), adapted.logits(noise(9)))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(b)).logits(noise(9)), b.logits(noise(9)))
    np.testing.assert_array_equal(adapted.with_profile(None).logits(noise(9)), b.logits(noise(9)))

def test_profiles_that_do_not_fit(speech, bundle):
    b = R.open_bundle(speech)
    for offset, scale in ((np.zeros(5), np.ones(5)), (np.zeros(6), np.ones(5)), (np.full(6, np.nan), np.ones(6))):
        with pytest.raises(SerError, match='needs 6 finite offsets and positive scales: make it again'): b.with_profile(H.Profile(offset, scale))
    with pytest.raises(SerError, match='has no embedding, because its graph ends in logits: use a speech model'):
        R.open_bundle(bundle).with_profile(H.Profile(np.zeros(6), np.ones(6)))
    with pytest.raises(SerError, match='has no embedding'): R.open_bundle(bundle).embedding(noise())

def test_heads_that_are_refused(speech):
    head = H.load_head(speech/'head.npz')
    def refused(says):
        with pytest.raises(SerError, match=says) as e: R.open_bundle(speech).logits(noise())
        assert len(str(e.value).splitlines()) == 1 and str(speech) in str(e.value)
    def replace(**arrays):
        H.save_head(H.Head(**(vars(head) | arrays)), speech/'head.npz')
        write_info(speech, json.loads((speech/'bundle.json').read_text()))
    replace(weight=head.weight[:2], bias=head.bias[:2], class_means=head.class_means[:2])
    refused('2 labels instead of 3')
    replace(**{k: getattr(head, k)[..., :5] for k in ('mean', 'deviation', 'weight', 'class_means')})
    refused('no embedding of 5 values')
    replace(mean=head.mean*np.nan)
    refused('inconsistent shapes')
    (speech/'head.npz').write_bytes(b'no head')
    refused('its checksum differs')
    change(speech, head_sha256=hashlib.sha256(b'no head').hexdigest())
    refused('cannot read .*head.npz')
    (speech/'head.npz').unlink()
    refused('cannot open .*head.npz')
    change(speech, output='logits')
    refused('its input and output are not "samples" and "logits"')

COMMAND = Path(sys.executable).parent/'ser_predict'
LIGHT = '''
import runpy, sys
sys.argv = sys.argv[1:]
try: runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as e: assert not e.code, e.code
found = {m.split(".")[0] for m in sys.modules} & {"torch", "fastai", "pandas", "matplotlib", "scipy", "sklearn", "librosa"}
assert not found, found
'''

@pytest.mark.parametrize('format', ['table', 'csv', 'json'])
def test_the_command_imports_little(tmp_path, format):
    import soundfile as sf
    sf.write(tmp_path/'a.wav', .1*np.random.default_rng(0).standard_normal(32000), 16000)
    done = subprocess.run([sys.executable, '-c', LIGHT, COMMAND, tmp_path/'a.wav', '--format', format], capture_output=True, text=True)
    assert not done.returncode and 'a.wav' in done.stdout, done.stderr

def test_help_imports_little():
    done = subprocess.run([sys.executable, '-c', LIGHT, COMMAND, '--help'], capture_output=True, text=True)
    assert not done.returncode and '--timeline' in done.stdout, done.stderr
