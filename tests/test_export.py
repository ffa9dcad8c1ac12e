"Exports: the graph answers as the network, for any batch and length, and the deployed folder runs without torch."
import contextlib, importlib.metadata, io, json, shutil, subprocess, sys
from dataclasses import replace
from pathlib import Path

import numpy as np, pytest, soundfile as sf, torch
from packaging.requirements import Requirement

pytest.importorskip('onnx'); pytest.importorskip('onnxruntime')
from ser_fastai import cli, export as X, publish as P, runtime as R
from ser_fastai.bundle_info import write_bundle
from ser_fastai.core import SerError
from ser_fastai.corpora import load_csv
from ser_fastai.features import log_mel
from ser_fastai.predict import Predictor
from ser_fastai.recipes import Recipe

SR, LABELS = 16000, ['sad', 'angry', 'awe']
RECIPES = dict(
    lstm=Recipe('tiny_lstm', model='lstm', n_mels=32, hop_length=256, seconds=1., hidden=4, layers=2, epochs=1, bs=8),
    cnn=Recipe('tiny_cnn', arch='squeezenet1_1', seconds=1., sizes=(32,), epochs=1, bs=6, lr=1e-4))


def buzz(f0=150, seconds=.8, sr=SR, seed=0):
    t = np.arange(int(seconds*sr))/sr
    x = sum(np.sin(2*np.pi*k*f0*t)/k for k in range(1, 9))*np.hanning(len(t))
    return (.1*x + .0005*np.random.default_rng(seed).standard_normal(len(t))).astype('float32')


@pytest.fixture(scope='session')
def folder(tmp_path_factory):
    folder, rows = tmp_path_factory.mktemp('export'), ['path,emotion,speaker']
    for i, e in enumerate(LABELS*6):
        sf.write(folder/f'{i}.wav', buzz(100*(1 + LABELS.index(e)) + 7*i, .5 + .13*i, seed=i), SR, subtype='FLOAT')
        rows.append(f'{i}.wav,{e},{"ab"[i % 2]}')
    (folder/'buzz.csv').write_text('\n'.join(rows))
    return folder

@pytest.fixture(scope='session')
def corpus(folder): return load_csv(folder/'buzz.csv')

@pytest.fixture(scope='session')
def exports(corpus, folder):
    "Each bundle, each as a deployed folder, and the CNN in 8 bits by the command, with what that one printed."
    with pytest.MonkeyPatch.context() as m:
        m.setenv('SER_CACHE', str(folder/'cache'))
        for k, r in RECIPES.items(): P.export_bundle(folder/f'{k}_out', P.train_bundle(corpus, r, folder/k))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        cli.ser_export(str(folder/'cnn8_out'), str(folder/'cnn'), int8=True, corpora=str(folder/'buzz.csv'))
    (folder/'printed.txt').write_text(printed.getvalue())
    return folder


@pytest.mark.parametrize('kind', RECIPES)
def test_graph_answers_as_the_network(kind, exports, corpus):
    net, recipe, labels = X.load_network(exports/kind)
    torch_net, b = X.FromSamples(net, recipe), R.open_bundle(exports/kind)
    want, got = [], []
    for path in corpus.path:
        _, x = next(R.windows_of(b, path))
        got.append(b.logits(x))
        want.append(torch_net(torch.from_numpy(R.trim_silence(x))[None])[0].numpy())
    assert labels == LABELS and np.std(want, 0).max() > 1e-4
    np.testing.assert_allclose(got, want, atol=1e-3)

@pytest.mark.parametrize('kind', ['lstm', 'cnn', 'cnn8_out'])
def test_any_length_any_batch(kind, exports):
    import onnxruntime
    session = onnxruntime.InferenceSession(exports/kind/'model.onnx', providers=['CPUExecutionProvider'])
    def run(x): return session.run(None, dict(samples=x))[0]
    for n in (256, 15999, 16001, 48000):
        x = np.stack([buzz(100 + 40*i, 3., seed=i)[12000 - n//4:][:n] for i in range(3)])
        np.testing.assert_allclose(run(x), np.concatenate([run(r[None]) for r in x]), atol=1e-4)

@pytest.mark.parametrize('n_fft, hop', [(1024, 192), (600, 150), (1022, 77), (1000, 1000)])
def test_log_mel(n_fft, hop):
    r, rng = Recipe('x', n_fft=n_fft, hop_length=hop, n_mels=24), np.random.default_rng(0)
    for n in (1600, 4097):
        x = rng.standard_normal(n).astype('float32')*np.hanning(n).astype('float32')
        want = log_mel(x, n_fft=n_fft, hop_length=hop, n_mels=24)
        np.testing.assert_allclose(X.LogMel(r)(torch.from_numpy(x)[None])[0], want, atol=.01)

@pytest.mark.parametrize('r', [
    dict(sizes=(32,)), dict(sizes=(200,)), dict(sizes=(64,), rotate=5., zoom=1.1), dict(sizes=(300,), rotate=5.), dict(n_mels=40)])
def test_resize_is_the_learners(r):
    r = replace(Recipe('x', sizes=(48,)), **r)
    rows, cols = X.resize_matrices(r)
    image = torch.rand(2, 1, r.n_mels, len(cols))
    want = X.Pipeline(X.image_tfms(r.sizes[0], r)[:-1], split_idx=1)(X.TensorSpectrogram(image)).as_subclass(torch.Tensor)
    np.testing.assert_allclose(rows@image@cols, want, atol=1e-5)

def test_int8(exports, corpus):
    text, printed = (exports/'cnn8_out'/'card.md').read_text(), (exports/'printed.txt').read_text().splitlines()
    found = P.agreement(*(R.open_bundle(exports/k, any_sound=True) for k in ('cnn', 'cnn8_out')), corpus)
    assert 0 < found['largest'] < .1 and '## In 8 bits' in text and 'They are from buzz, on which it was trained' in text
    assert printed[-2].startswith(f'the 8-bit graph gives the same answer on {found["same"]*len(corpus):.0f} of {len(corpus)} clips')
    saved = (exports/'cnn_out'/'model.onnx').stat().st_size - (exports/'cnn8_out'/'model.onnx').stat().st_size
    assert saved > 2e6   # of 700 thousand weights of 4 bytes
    with pytest.raises(SerError, match='8 bits are for a CNN'): P.export_bundle(exports/'no', exports/'lstm', corpus)

@pytest.mark.parametrize('weights', X.QUANTISED_WEIGHTS)
def test_no_weights_overflow_in_8_bits(weights, exports, tmp_path):
    "A processor without VNNI adds pairs of 8-bit products in 16 bits, which signed weights of a full 8 bits would overflow."
    import onnx
    graph = onnx.load(X.to_int8(exports/'cnn'/'model.onnx', tmp_path/'graph.onnx', [buzz(100), buzz(250)], weights)).graph
    kernels = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name.endswith('_quantized') and len(t.dims) == 4]
    assert len(kernels) == 25   # the convolutions of a SqueezeNet
    for k in kernels: assert k.dtype == 'uint8' or k.dtype == 'int8' and 2*255*np.abs(k.astype(int)).max() < 2**15
    assert (kernels[0].dtype == 'int8') == weights.startswith('signed')

def test_other_files_are_not_overwritten(exports, tmp_path):
    (tmp_path/'thesis.tex').write_text('all my work')
    for write in (P.export_bundle, lambda f: write_bundle(f, {}, None)):
        with pytest.raises(SerError, match='(holds|contains) other files'): write(tmp_path)


# the deployed folder, without torch

def needed(*names):
    "Installed distributions, and those that they require."
    found = {}
    for name in names:
        d = importlib.metadata.distribution(name)
        requirements = map(Requirement, d.requires or [])
        found |= {d.name: d} | needed(*[r.name for r in requirements if not r.marker or r.marker.evaluate({'extra': ''})])
    return found

@pytest.fixture(scope='session')
def bare(tmp_path_factory):
    "The Python of an environment with the packages that run.py needs, and nothing else."
    env = tmp_path_factory.mktemp('bare')
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', env], check=True)
    code = 'import sysconfig; print(sysconfig.get_path("platlib"))'
    site = Path(subprocess.run([env/'bin'/'python', '-c', code], capture_output=True, text=True, check=True).stdout.strip())
    for d in needed(*P.NEEDS.split()).values():
        for part in {f.parts[0] for f in d.files} - {'..', '__pycache__'}: (site/part).symlink_to(d.locate_file(part))
    return env/'bin'/'python'

def test_runs_without_torch(exports, corpus, bare, tmp_path):
    assert subprocess.run([bare, '-c', 'import torch'], capture_output=True).returncode
    out = shutil.copytree(exports/'cnn_out', tmp_path/'elsewhere')
    for name in P.MODULES: assert (out/'ser_runtime'/f'{name}.py').read_text() == (Path(R.__file__).parent/f'{name}.py').read_text()
    (tmp_path/'text.wav').write_text('not a recording')
    long = np.concatenate([buzz(100, 3.), np.zeros(4*SR, 'float32'), buzz(300, 3.)])
    sf.write(tmp_path/'long.wav', np.stack([long, long], 1), SR)
    files = [corpus.path[0], tmp_path/'text.wav', tmp_path/'long.wav']
    done = subprocess.run([bare, out/'run.py', '--any-sound', *files], capture_output=True, text=True, env={'PATH': '', 'HOME': '/'})
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1 and [bool(r['error']) for r in rows] == [False, True, False], done.stderr
    assert len(done.stderr.splitlines()) == 1
    for r in (rows[0], rows[2]): assert r['probabilities'] == pytest.approx(Predictor(out, any_sound=True).predict(r['path']).to_dict(), abs=1e-3)
    sf.write(out/'my.wav', buzz(), SR)
    program = (out/'README.md').read_text(encoding='utf8').split('```python\n')[1].split('```')[0]
    done = subprocess.run([bare, '-c', program.replace("open_bundle('.')", "open_bundle('.', any_sound=True)")], cwd=out, capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == 1 + len(LABELS), done.stderr

@pytest.mark.skipif(not Path('/dev/full').exists(), reason='only Linux has a disk that is always full')
def test_the_program_on_a_full_disk(exports, corpus, bare):
    with open('/dev/full', 'w') as full:
        done = subprocess.run([bare, exports/'lstm_out'/'run.py', corpus.path[0]], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and done.stderr == 'cannot write the answer (No space left on device): free some space, or write it elsewhere\n'
