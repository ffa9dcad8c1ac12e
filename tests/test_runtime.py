"The runtime: it needs few packages, and refuses damaged bundles."
import hashlib, json, shutil, subprocess, sys
from pathlib import Path

import numpy as np, pytest

from ser_fastai import runtime as R
from ser_fastai.core import SerError


@pytest.fixture
def bundle(tmp_path): return shutil.copytree(R.default_bundle(), tmp_path/'bundle')

def change(folder, **fields):
    "Replace fields of bundle.json; None removes one."
    info = json.loads((folder/'bundle.json').read_text(encoding='utf8')) | fields
    (folder/'bundle.json').write_text(json.dumps({k: v for k, v in info.items() if v is not None}), encoding='utf8')

@pytest.mark.parametrize('fields, says', [
    (dict(format=2), 'its format is 2'), (dict(labels=None), 'field "labels"'), (dict(colour='red'), 'field "colour"'),
    (dict(temperature='warm'), 'field "temperature"'), (dict(temperature=0), 'must be positive'), (dict(labels=['sad', 'sad']), 'different labels'),
    (dict(input=dict(sample_rate=16000)), 'field "channels"'), (dict(sha256='0'*64), 'checksum differs')])
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
