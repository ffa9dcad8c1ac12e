"Exports: the graph answers as the bundle, in any batch and length, and its folder runs where there is no torch."
import json, shutil, subprocess, sys
from dataclasses import replace

import numpy as np, pytest, soundfile as sf, torch
from sklearn.metrics import balanced_accuracy_score

pytest.importorskip('onnx'); pytest.importorskip('onnxruntime')
from ser_fastai import export as X
from ser_fastai.audio import resample, trim_silence
from ser_fastai.core import Recipe, SerError
from ser_fastai.corpora import load_csv
from ser_fastai.features import log_mel
from ser_fastai.bundles import save_bundle, train_bundle
from ser_fastai.predict import load_bundle
from ser_fastai.train import Trained

SR, LABELS = 16000, ['sad', 'angry', 'awe']
RECIPES = dict(svm=Recipe('tiny_svm', model='svm', stats='mean,std,min,max'),
               lstm=Recipe('tiny_lstm', model='lstm', n_mels=32, n_mfcc=13, hop_length=256, seconds=1., hidden=4, layers=2, epochs=1, bs=8),
               cnn=Recipe('tiny_cnn', arch='resnet18', seconds=1., sizes=(32,), epochs=1, bs=6, lr=1e-4))
BLOCK = '''
import sys
class No:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('torch', 'fastai', 'librosa', 'ser_fastai', 'scipy', 'soxr', 'pandas', 'sklearn', 'onnx'): raise ImportError(name + ' is not here')
sys.meta_path.insert(0, No())
import runpy
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
'''

def buzz(f0=150, seconds=.8, sr=SR, seed=0):
    t = np.arange(int(seconds*sr))/sr
    x = sum(np.sin(2*np.pi*k*f0*t)/k for k in range(1, 9))*np.hanning(len(t))
    return (.1*x + .0005*np.random.default_rng(seed).standard_normal(len(t))).astype('float32')

@pytest.fixture(scope='session')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('export')
    rows = ['path,emotion,speaker']
    for i, e in enumerate(LABELS*6):
        sf.write(folder/f'{i}.wav', buzz(100*(1 + LABELS.index(e)) + 7*i, .5 + .13*i, seed=i), SR, subtype='FLOAT')
        rows.append(f'{i}.wav,{e},{"ab"[i % 2]}')
    (folder/'buzz.csv').write_text('\n'.join(rows))
    return folder

@pytest.fixture(scope='session')
def corpus(folder): return load_csv(folder/'buzz.csv')

@pytest.fixture(scope='session')
def bundles(corpus, folder):
    with pytest.MonkeyPatch.context() as m:
        m.setenv('SER_CACHE', str(folder/'cache'))
        for k, r in RECIPES.items(): train_bundle(corpus, r, folder/k)
    return folder

@pytest.fixture(scope='session')
def exports(bundles, corpus):
    for k in RECIPES: X.export_bundle(bundles/f'{k}_out', bundles/k)
    X.export_bundle(bundles/'cnn8_out', bundles/'cnn', clips=corpus)
    return bundles

def probs(p, corpus): return p.predict_files(corpus.path)[p.labels].to_numpy(float)


@pytest.mark.parametrize('kind', RECIPES)
def test_parity(kind, exports, corpus):
    want, got = probs(load_bundle(exports/kind), corpus), probs(X.load_bundle(exports/f'{kind}_out'), corpus)
    assert want.std(0).max() > 1e-4, 'a model that answers all alike proves nothing'
    np.testing.assert_allclose(got, want, atol=1e-4)

def test_int8(exports, corpus):
    small, large = X.load_bundle(exports/'cnn8_out'), X.load_bundle(exports/'cnn_out')
    assert (exports/'cnn8_out'/'model.onnx').stat().st_size < .35*(exports/'cnn_out'/'model.onnx').stat().st_size
    a, b = probs(small, corpus), probs(large, corpus)
    assert 0 < np.abs(a - b).max() < .1
    text, said = (exports/'cnn8_out'/'card.md').read_text(), small.settings['agreement']
    assert '## In 8 bits' in text and said['clips'] == len(corpus) and said['same'] == (a.argmax(1) == b.argmax(1)).mean()
    assert said['largest'] == pytest.approx(np.abs(a - b).max(), abs=1e-3)
    of = lambda p: balanced_accuracy_score(corpus.emotion, np.array(small.labels)[p.argmax(1)])
    assert said['uar'] == pytest.approx([of(b), of(a)], abs=.02) and f'its UAR is {100*said["uar"][1]:.1f} in place of {100*said["uar"][0]:.1f}' in text

def test_the_front_end_stays_in_32_bits(exports):
    import onnx
    steps = [n.name for n in onnx.load(str(exports/'cnn8_out'/'model.onnx')).graph.node if n.op_type.endswith('antizeLinear')]
    assert len(steps) > 40 and len([n for n in steps if '/front.0/' in n]) == 2, 'only the image, where the network takes it'

@pytest.mark.parametrize('kind', ['svm', 'lstm', 'cnn', 'cnn8'])
def test_any_length_any_batch(kind, exports):
    s = X.load_bundle(exports/f'{kind}_out').session
    run = lambda x: s.run(None, dict(samples=x))[0]
    for n in (256, 1600, 15999, 16000, 16001, 16192, 31999, 48000):
        x = np.stack([buzz(100 + 40*i, 3., seed=i)[12000 - n//4:][:n] for i in range(3)])
        got = run(x)
        assert got.shape == (3, 3) and np.allclose(got.sum(1), 1, atol=1e-5)
        np.testing.assert_allclose(got, np.concatenate([run(r[None]) for r in x]), atol=1e-5)

@pytest.mark.parametrize('seconds', [.1, .5, .99, 1., 1.01, 1.02, 1.9])
@pytest.mark.parametrize('kind', ['lstm', 'cnn'])
def test_pads_and_crops_as_the_bundle(kind, seconds, exports):
    x = buzz(180, 2.5)[8000:8000 + int(seconds*SR)]
    np.testing.assert_allclose(X.load_bundle(exports/f'{kind}_out').predict(x, SR), load_bundle(exports/kind).predict(x, SR), atol=1e-4)

@pytest.mark.parametrize('n_fft, hop', [(1024, 192), (1024, 256), (512, 160), (600, 150), (1022, 77), (254, 50), (1000, 1000)])
def test_log_mel(n_fft, hop):
    r, rng = Recipe('x', n_fft=n_fft, hop_length=hop, n_mels=24), np.random.default_rng(0)
    for n in (1600, 4097):
        x = rng.standard_normal(n).astype('float32')*np.hanning(n).astype('float32')
        np.testing.assert_allclose(X.LogMel(r)(torch.from_numpy(x)[None])[0], log_mel(x, n_fft=n_fft, hop_length=hop, n_mels=24), atol=.01)

@pytest.mark.parametrize('r', [dict(sizes=(32,)), dict(sizes=(200,)), dict(sizes=(64,), rotate=5., zoom=1.1), dict(sizes=(300,), rotate=5.), dict(n_mels=40)])
def test_resize_is_the_learners(r):
    r = replace(Recipe('x', sizes=(48,)), **r)
    rows, cols = X.resize_matrices(r)
    image = torch.rand(2, 1, r.n_mels, len(cols))
    want = X.Pipeline(X.image_tfms(r.sizes[0], r)[:-1], split_idx=1)(X.TensorSpectrogram(image)).as_subclass(torch.Tensor)
    np.testing.assert_allclose(rows@image@cols, want, atol=1e-5)

@pytest.mark.parametrize('k', [2, 3, 5])
def test_svm_of_any_number_of_classes(k, tmp_path):
    from ser_fastai.models.svm import mfcc_stats, svm_pipeline
    rng, r = np.random.default_rng(k), Recipe('s', model='svm', stats='mean,std')
    S = [log_mel(buzz(80*(1 + i % k) + i, .3, seed=i)) for i in range(12*k)]
    model = svm_pipeline().fit([mfcc_stats(s, 20, r.stats) for s in S], np.arange(12*k) % k)
    save_bundle(tmp_path/'b', Trained(None, LABELS[:k] + ['d', 'e'][:k - 3] if k > 3 else LABELS[:k], 0, model), r)
    net, p = X.FromSamples(tmp_path/'b'), load_bundle(tmp_path/'b')
    for i in range(6):
        x = trim_silence(buzz(70 + 45*i, .6, seed=99 + i))
        np.testing.assert_allclose(net(torch.from_numpy(x)[None])[0], p.predict(x, SR), atol=1e-4)

def test_the_bundle_that_ships(tmp_path):
    p = X.load_bundle(X.export_bundle(tmp_path/'out'))
    for f0 in (90, 200, 310): np.testing.assert_allclose(p.predict(buzz(f0), SR), load_bundle().predict(buzz(f0), SR), atol=1e-3)
    assert 'CC BY-NC-SA' in (tmp_path/'out'/'LICENSE').read_text() and 'model.onnx' in (tmp_path/'out'/'LICENSE').read_text()

def test_long_recordings(exports):
    x = np.concatenate([buzz(100, 3.), np.zeros(4*SR, 'float32'), buzz(300, 3.)])
    np.testing.assert_allclose(X.load_bundle(exports/'cnn_out').predict(x, SR), load_bundle(exports/'cnn').predict(x, SR), atol=1e-4)


# the folder, where there is no torch

def deployed(folder, *files):
    return subprocess.run([sys.executable, '-c', BLOCK, str(folder/'run.py'), *map(str, files)], capture_output=True, text=True, env={'PATH': '', 'HOME': '/'})

@pytest.mark.parametrize('kind', ['svm', 'cnn8'])
def test_runs_without_torch(kind, exports, corpus, tmp_path):
    out = shutil.copytree(exports/f'{kind}_out', tmp_path/'elsewhere')
    assert {f.name for f in out.iterdir()} == {'model.onnx', 'settings.json', 'card.md', 'LICENSE', 'run.py'}
    long = np.concatenate([buzz(100, 3.), np.zeros(4*SR, 'float32'), buzz(300, 3.)])
    sf.write(tmp_path/'long.wav', np.stack([long, long], 1), SR)
    files = [corpus.path[0], corpus.path[9], tmp_path/'long.wav']
    done = deployed(out, *files)
    assert done.returncode == 0, done.stderr
    for line, f in zip(done.stdout.splitlines(), files, strict=True):
        want = X.load_bundle(out).predict(f)
        assert json.loads(line)['path'] == str(f) and json.loads(line)['probabilities'] == pytest.approx(want.to_dict(), abs=1e-3)

def test_the_block_blocks():
    assert 'torch is not here' in subprocess.run([sys.executable, '-c', BLOCK.split('import runpy')[0] + 'import torch'], capture_output=True, text=True).stderr

def test_bad_sound_is_one_sentence_without_torch(exports, tmp_path):
    sf.write(tmp_path/'silent.wav', np.zeros(SR), SR); (tmp_path/'text.wav').write_text('no sound'); sf.write(tmp_path/'good.wav', buzz(), SR)
    sf.write(tmp_path/'nan.wav', np.full(SR, np.nan, 'float32'), SR, subtype='FLOAT')
    done = deployed(exports/'svm_out', *[tmp_path/f'{n}.wav' for n in ('silent', 'text', 'good', 'nan', 'missing')])
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 1 and len(done.stderr.splitlines()) == 4 and 'Traceback' not in done.stderr
    assert 'python run.py' in deployed(exports/'svm_out').stderr

@pytest.mark.parametrize('rate', [8000, 11025, 22050, 32000, 44100, 48000, 96000])
def test_resampling_is_soxrs(rate):
    x = buzz(200, .7, rate)
    a, b = X.fourier_resample(x, rate, SR), resample(x, rate, SR)
    assert len(a) == len(b) and a.dtype == np.float32
    np.testing.assert_allclose(a[100:-100], b[100:-100], atol=1e-3)


# what is refused

def test_refusals(exports, bundles, corpus, tmp_path):
    for kind in ('svm', 'lstm'):
        with pytest.raises(SerError, match='8 bits are for a cnn'): X.export_bundle(tmp_path/'x', bundles/kind, clips=corpus)
    with pytest.raises(SerError, match='training clips'): X.export_bundle(tmp_path/'x', bundles/'cnn', clips=corpus[:0])
    with pytest.raises(SerError, match='name the folder of a bundle'): X.export_bundle(tmp_path/'x', tmp_path)
    (tmp_path/'mine').mkdir(); (tmp_path/'mine'/'thesis.tex').write_text('all my work')
    with pytest.raises(SerError, match='no exported model'): X.export_bundle(tmp_path/'mine', bundles/'svm')
    assert [p.name for p in tmp_path.iterdir()] == ['mine'] and (tmp_path/'mine'/'thesis.tex').exists()
    with pytest.raises(SerError, match='name the folder of a bundle'): X.load_bundle(tmp_path/'mine')
    for name, data in {'settings.json': b'{', 'model.onnx': b'junk'}.items():
        d = shutil.copytree(exports/'svm_out', tmp_path/name)
        (d/name).write_bytes(data)
        with pytest.raises(SerError, match='damaged'): X.load_bundle(d)

def test_without_onnx(bundles, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(SerError, match=r'pip install "ser_fastai\[onnx\]"'): X.export_bundle(tmp_path/'x', bundles/'svm')
    assert not list(tmp_path.iterdir())
