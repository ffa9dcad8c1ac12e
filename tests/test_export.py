"Exports: the graph answers as the bundle, in any batch and length, and its folder runs where there is no torch."
import hashlib, importlib.metadata, json, os, re, shutil, signal, subprocess, sys
from dataclasses import replace
from pathlib import Path

import numpy as np, pytest, soundfile as sf, torch
from packaging.requirements import Requirement
from sklearn.metrics import balanced_accuracy_score

pytest.importorskip('onnx'); pytest.importorskip('onnxruntime')
from ser_fastai import export as X
from ser_fastai.audio import resample, trim_silence
from ser_fastai.core import Recipe, SerError
from ser_fastai.corpora import load_csv
from ser_fastai.features import log_mel
from ser_fastai.bundles import save_bundle, train_bundle
from ser_fastai.predict import Predictor
from ser_fastai.train import Trained
from test_bad_input import BAD, NAMES, ODD, RIGHT, flaw, folder as sounds, near, none, spoilt_at   # the collection of files, good and bad
from test_cli import misused

SR, LABELS = 16000, ['sad', 'angry', 'awe']
RECIPES = dict(svm=Recipe('tiny_svm', model='svm', stats='mean,std,min,max'),
               lstm=Recipe('tiny_lstm', model='lstm', n_mels=32, n_mfcc=13, hop_length=256, seconds=1., hidden=4, layers=2, epochs=1, bs=8),
               cnn=Recipe('tiny_cnn', arch='resnet18', seconds=1., sizes=(32,), epochs=1, bs=6, lr=1e-4))
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

@pytest.fixture(scope='session')
def small(exports, corpus):
    "The same with a network of 3 MB."
    d = exports/'small'
    r = replace(RECIPES['cnn'], arch='squeezenet1_1', epochs=1)
    with pytest.MonkeyPatch.context() as m:
        m.setenv('SER_CACHE', str(exports/'cache'))
        train_bundle(corpus, r, d/'cnn')
    X.export_bundle(d/'cnn_out', d/'cnn'); X.export_bundle(d/'cnn8_out', d/'cnn', clips=corpus)
    shutil.copytree(exports/'svm_out', d/'svm_out')
    return d

def probs(p, corpus): return p.predict_files(corpus.path)[p.labels].to_numpy(float)


@pytest.mark.parametrize('kind', RECIPES)
def test_parity(kind, exports, corpus):
    want, got = probs(Predictor(exports/kind), corpus), probs(X.Predictor(exports/f'{kind}_out'), corpus)
    assert want.std(0).max() > 1e-4, 'a model that answers all alike proves nothing'
    np.testing.assert_allclose(got, want, atol=1e-4)

def test_int8(exports, corpus):
    small, large = X.Predictor(exports/'cnn8_out'), X.Predictor(exports/'cnn_out')
    assert (exports/'cnn8_out'/'model.onnx').stat().st_size < .35*(exports/'cnn_out'/'model.onnx').stat().st_size
    a, b = probs(small, corpus), probs(large, corpus)
    assert 0 < np.abs(a - b).max() < .1
    text, said = (exports/'cnn8_out'/'card.md').read_text(), small.model.settings['agreement']
    assert '## In 8 bits' in text and said['clips'] == len(corpus) and said['same'] == (a.argmax(1) == b.argmax(1)).mean()
    assert said['largest'] == pytest.approx(np.abs(a - b).max(), abs=1e-3)
    of = lambda p: balanced_accuracy_score(corpus.emotion, np.array(small.labels)[p.argmax(1)])
    assert said['uar'] == pytest.approx([of(b), of(a)], abs=.02) and f'its UAR is {100*said["uar"][1]:.1f} in place of {100*said["uar"][0]:.1f}' in text

def test_the_card_says_only_what_is_known_of_the_recordings(small, corpus, tmp_path):
    learnt = dict(corpora=['buzz'])
    for clips, data, said in [
        (corpus, learnt, 'They are of buzz, from which it learnt, so it may have heard these very ones.'), (corpus.assign(corpus='emodb'), learnt, 'They are of EMO-DB, and it learnt from buzz.'),
        (corpus.assign(corpus=['buzz', 'savee', 'other']*6), learnt, 'Some of them are of buzz, from which it learnt, and some of other and SAVEE, from which it did not.'),
        (corpus[['path', 'emotion']], learnt, 'Whether it learnt from them is not known.'), (corpus, {}, 'Whether it learnt from them is not known.')]:
        assert X._whose(clips, data) == said
    for c, said, unsaid in (('buzz', 'They are of buzz, from which it learnt', 'not known'), ('emodb', 'They are of EMO-DB, and it learnt from buzz.', 'from which')):
        text = (X.export_bundle(tmp_path/c, small/'cnn', clips=corpus[:6].assign(corpus=c))/'card.md').read_text().partition('## In 8 bits')[2]
        assert said in text and unsaid not in text and '6 recordings' in text and 'its UAR is' in text

@pytest.mark.parametrize('same', [.95, .99])
def test_too_little_agreement_is_said(same, small, corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(X, 'agreement', lambda *args: dict(clips=200, same=same, largest=.1, uar=[None, None]))
    X.export_bundle(tmp_path/'out', small/'cnn', clips=corpus[:2])
    warned = ', short of the 99 % that one may hope for: export it in 32 bits if they matter'*(same < .99)
    assert capsys.readouterr().out == f'the 8-bit graph gives the same answer on {200*same:.0f} of 200 clips{warned}\n'
    weights = X.Predictor(tmp_path/'out').model.settings['weights']
    assert weights == ('signed, 7 bits' if same >= .99 else 'unsigned, 8 bits') and f'(weights {weights})' in (tmp_path/'out'/'card.md').read_text()

def test_the_command(exports, folder, corpus, tmp_path):
    "`ser_export --int8` writes what `export_bundle` writes, and refuses in one sentence."
    r = subprocess.run([Path(sys.executable).parent/'ser_export', tmp_path/'out', '--bundle', exports/'cnn', '--int8', '--corpora', folder/'buzz.csv'],
                       capture_output=True, text=True, timeout=400, env=os.environ | {'SER_QUIET': '1'})
    assert r.returncode == 0 and 'Traceback' not in r.stderr, r.stderr
    got, want = X.Predictor(tmp_path/'out'), X.Predictor(exports/'cnn8_out')
    same = (probs(got, corpus).argmax(1) == probs(Predictor(exports/'cnn'), corpus).argmax(1)).sum()
    said, path = r.stdout.splitlines()
    assert said.startswith(f'the 8-bit graph gives the same answer on {same} of {len(corpus)} clips') and path == str(tmp_path/'out')
    assert got.model.settings['bits'] == 8 and got.model.settings['agreement']['clips'] == len(corpus)
    assert got.model.settings['agreement']['uar'] == pytest.approx(want.model.settings['agreement']['uar'], abs=.001)
    assert {f.name for f in (tmp_path/'out').iterdir()} == {f.name for f in (exports/'cnn8_out').iterdir()}
    np.testing.assert_allclose(probs(got, corpus), probs(want, corpus), atol=1e-3)
    refused = {('--bundle', exports/'svm', '--int8', '--corpora', folder/'buzz.csv'): '8 bits are for a cnn',
               ('--bundle', exports/'cnn', '--int8', '--data', tmp_path): 'RAVDESS is not in'}
    for (status, told), said in zip(misused([['ser_export', 'other', *map(str, args)] for args in refused], tmp_path), refused.values(), strict=True):
        assert status == 2 and said in told and len(told.strip().splitlines()) == 1 and not (tmp_path/'other').exists()

def test_the_front_end_stays_in_32_bits(exports):
    import onnx
    steps = [n.name for n in onnx.load(str(exports/'cnn8_out'/'model.onnx')).graph.node if n.op_type.endswith('antizeLinear')]
    assert len(steps) > 40 and len([n for n in steps if '/front.0/' in n]) == 2, 'only the image, where the network takes it'

@pytest.mark.parametrize('weights', X.WEIGHTS)
def test_no_weights_overflow_in_8_bits(weights, small, tmp_path):
    "A processor without VNNI adds two products of 8 bits up in 16: signed weights of a full 8 bits, and the bundle that ships changes one answer in four."
    import onnx
    from onnx.numpy_helper import to_array
    graph = onnx.load(str(X.to_int8(small/'cnn_out'/'model.onnx', tmp_path/'graph.onnx', [buzz(100 + 50*i) for i in range(4)], weights))).graph
    kernels = [to_array(t) for t in graph.initializer if t.name.endswith('_quantized') and len(t.dims) == 4]
    assert len(kernels) == 25                                   # the convolutions of a squeezenet
    for k in kernels: assert k.dtype == 'uint8' or k.dtype == 'int8' and 2*255*np.abs(k.astype(int)).max() < 2**15
    assert (kernels[0].dtype == 'int8') == weights.startswith('signed')

@pytest.mark.parametrize('kind', ['svm', 'lstm', 'cnn', 'cnn8'])
def test_any_length_any_batch(kind, exports):
    s = pytest.importorskip('onnxruntime').InferenceSession(exports/f'{kind}_out'/'model.onnx', providers=['CPUExecutionProvider'])
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
    np.testing.assert_allclose(X.Predictor(exports/f'{kind}_out').predict(x, SR), Predictor(exports/kind).predict(x, SR), atol=1e-4)

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
    r = Recipe('s', model='svm', stats='mean,std')
    S = [log_mel(buzz(80*(1 + i % k) + i, .3, seed=i)) for i in range(12*k)]
    model = svm_pipeline().fit([mfcc_stats(s, 20, r.stats) for s in S], np.arange(12*k) % k)
    save_bundle(Trained(None, LABELS[:k] + ['d', 'e'][:k - 3] if k > 3 else LABELS[:k], 0, model), tmp_path/'b', r)
    net, p = X.FromSamples(tmp_path/'b'), Predictor(tmp_path/'b')
    for i in range(6):
        x = trim_silence(buzz(70 + 45*i, .6, seed=99 + i))
        np.testing.assert_allclose(net(torch.from_numpy(x)[None])[0], p.predict(x, SR), atol=1e-4)

def test_the_bundle_that_ships(tmp_path):
    p = X.Predictor(X.export_bundle(tmp_path/'out'))
    for f0 in (90, 200, 310): np.testing.assert_allclose(p.predict(buzz(f0), SR), Predictor().predict(buzz(f0), SR), atol=1e-3)
    assert 'CC BY-NC-SA' in (tmp_path/'out'/'LICENSE').read_text() and 'model.onnx' in (tmp_path/'out'/'LICENSE').read_text()

def test_long_recordings(exports):
    x = np.concatenate([buzz(100, 3.), np.zeros(4*SR, 'float32'), buzz(300, 3.)])
    np.testing.assert_allclose(X.Predictor(exports/'cnn_out').predict(x, SR), Predictor(exports/'cnn').predict(x, SR), atol=1e-4)


# the folder, where there is no torch

def needed(*names):
    "Installed distributions, and those that they say they need."
    found = {}
    for name in names:
        d = importlib.metadata.distribution(name)
        wants = [r.name for r in map(Requirement, d.requires or []) if not r.marker or r.marker.evaluate({'extra': ''})]
        found |= {d.name: d} | needed(*wants)
    return found

@pytest.fixture(scope='session')
def bare(tmp_path_factory):
    "The Python of an environment that holds what run.py asks for, and nothing else."
    env = tmp_path_factory.mktemp('bare')
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', env], check=True)
    site = Path(subprocess.run([env/'bin'/'python', '-c', 'import sysconfig; print(sysconfig.get_path("platlib"))'], capture_output=True, text=True, check=True).stdout.strip())
    for d in needed('onnxruntime', 'numpy', 'soundfile').values():
        for part in {f.parts[0] for f in d.files} - {'..', '__pycache__'}: (site/part).symlink_to(d.locate_file(part))
    return env/'bin'/'python'

def deployed(python, folder, *files, **kw):
    return subprocess.run([python, '-I', folder/'run.py', *files], capture_output=True, text=True, env={'PATH': '', 'HOME': '/'}, timeout=450, **kw)

@pytest.mark.parametrize('kind', ['svm', 'cnn8'])
def test_runs_without_torch(kind, exports, corpus, bare, tmp_path):
    out = shutil.copytree(exports/f'{kind}_out', tmp_path/'elsewhere')
    assert {f.name for f in out.iterdir()} == {'model.onnx', 'settings.json', 'card.md', 'LICENSE', 'run.py'}
    long = np.concatenate([buzz(100, 3.), np.zeros(4*SR, 'float32'), buzz(300, 3.)])
    sf.write(tmp_path/'long.wav', np.stack([long, long], 1), SR)
    files = [corpus.path[0], corpus.path[9], tmp_path/'long.wav']
    done = deployed(bare, out, *files)
    assert done.returncode == 0, done.stderr
    for line, f in zip(done.stdout.splitlines(), files, strict=True):
        want = X.Predictor(out).predict(f)
        assert json.loads(line)['path'] == str(f) and json.loads(line)['probabilities'] == pytest.approx(want.to_dict(), abs=1e-3)

@pytest.mark.skipif(not Path('/dev/full').exists(), reason='a disk that is always full is of Linux')
def test_the_program_on_a_full_disk(exports, corpus, bare):
    with open('/dev/full', 'w') as full:
        done = subprocess.run([bare, '-I', exports/'svm_out'/'run.py', corpus.path[0]], stdout=full, stderr=subprocess.PIPE, text=True, timeout=100)
    assert done.returncode == 1 and done.stderr == 'the answer cannot be written (No space left on device): make room, or send it elsewhere\n'

def test_there_is_no_torch(bare):
    "All that can be imported is the standard library and the three packages with what they need."
    listing = 'import json, pkgutil, sysconfig; print(json.dumps([m.name for m in pkgutil.iter_modules([sysconfig.get_path("platlib")])]))'
    found = set(json.loads(subprocess.run([bare, '-I', '-c', listing], capture_output=True, text=True, check=True).stdout))
    known = {'onnxruntime', 'numpy', 'soundfile', '_soundfile', '_soundfile_data', 'flatbuffers', 'google', 'packaging', 'cffi', '_cffi_backend', 'pycparser',
             'typing_extensions', 'coloredlogs', 'humanfriendly', 'sympy', 'mpmath', 'isympy'}   # the last four of earlier versions
    assert {'onnxruntime', 'numpy', 'soundfile'} <= found <= known
    for name in ('torch', 'fastai', 'ser_fastai', 'librosa', 'scipy', 'soxr', 'onnx'):
        r = subprocess.run([bare, '-I', '-c', f'import {name}'], capture_output=True, text=True)
        assert r.returncode and f"No module named '{name}'" in r.stderr

def test_the_program_on_every_kind_of_file(exports, bare, sounds):
    "One process hears them all: the answers are those of the library, and each bad file gets its sentence."
    odd = [n for n in ODD if '\0' not in n]
    good, bad = [*NAMES, *[f'{n}.wav' for n in RIGHT]], [*[f'{n}.wav' for n in BAD], *odd]
    done = subprocess.run([bare, '-I', exports/'svm_out'/'run.py', *good, *bad], cwd=sounds, capture_output=True, timeout=450, env={'PATH': '', 'HOME': '/'})
    out, err = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == 1 and 'Traceback' not in out + err and '\x1b' not in out + err
    got = {d['path']: d['probabilities'] for d in map(json.loads, out.splitlines())}
    wrong = {p: 'no answer' for p in good if p not in got} | {p: 'an answer' for p in got if p not in good}
    p = X.Predictor(exports/'svm_out')
    for name in set(good) & set(got):
        want = p.predict(sounds/name)
        if not near(want*0 + [got[name][l] for l in p.labels], want, .02): wrong[name] = got[name], want.to_dict()
    lines = [l for l in err.splitlines() if 'mpg123' not in l and 'Xing' not in l]   # the decoder of mp3 has its own say
    plain = lambda s: ''.join(c if c.isprintable() else '\ufffd' for c in str(s))
    said = {plain(f'{n}.wav'): says for n, (_, says) in BAD.items()} | {plain(n): ODD[n] for n in odd}
    for name, says in said.items():
        mine = [l for l in lines if l.startswith(f'{name} ')]
        if len(mine) != 1: wrong[name] = mine
        elif f := flaw(mine[0], name, says): wrong[name] = f
    none(wrong)
    assert len(lines) == len(said)

PEAK = '''
import json, resource, runpy, sys
run = runpy.run_path(sys.argv[1])
model = run['load'](sys.argv[2])
for f in sys.argv[3:]: print(json.dumps([run['predict'](f, *model), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024]))
'''

def test_the_program_hears_twenty_minutes_in_the_memory_of_two(exports, bare, tmp_path):
    out, files = exports/'svm_out', [tmp_path/f'{n}.flac' for n in ('two', 'twenty')]
    x = np.concatenate([buzz(f, 3., 22050) for f in (100, 150, 300)])
    for f, n in zip(files, (13, 133)): sf.write(f, np.tile(x, n), 22050)
    done = subprocess.run([bare, '-I', '-c', PEAK, out/'run.py', out, *files], capture_output=True, text=True, timeout=450)
    assert not done.returncode, done.stderr
    (some, before), (all_, after) = map(json.loads, done.stdout.splitlines())
    want = X.Predictor(out).predict(files[0])
    assert some == pytest.approx(want.to_dict(), abs=.01) and all_ == pytest.approx(some, abs=.02)
    assert after - before < 40, f'{after - before} MB more for twenty minutes than for two'

def test_a_piece_of_a_long_recording_is_resampled_as_the_whole(tmp_path):
    run, rate = dict(__name__='run', __file__='run.py'), 22050
    exec(X.runner(), run)
    x = np.tile(buzz(150, 3.7, rate), 20)
    sf.write(tmp_path/'x.wav', x, rate, subtype='FLOAT')
    pieces = list(run['listen'](tmp_path/'x.wav', SR, 10.5))
    assert len(pieces) > 6
    np.testing.assert_allclose(np.concatenate(pieces), X.fourier_resample(x, rate, SR), atol=1e-4)

def test_a_damaged_folder_is_one_sentence(exports, bare, corpus, tmp_path):
    data = (exports/'svm_out'/'model.onnx').read_bytes()
    settings = json.loads((exports/'svm_out'/'settings.json').read_text())
    odd = [settings | x for x in (dict(sr='16000'), dict(sr=0), dict(seconds=float('nan')), dict(seconds=10**9), dict(trim=1), dict(labels='abc'), dict(labels=[1, 2, 3]))]
    odd = [json.dumps(x).encode() for x in [*odd, {k: v for k, v in settings.items() if k != 'sr'}]]
    for i, (name, new) in enumerate([('model.onnx', data[:-9]), *(('settings.json', x) for x in [b'{', b'[]', *odd])]):
        d = shutil.copytree(exports/'svm_out', tmp_path/str(i))
        (d/name).write_bytes(new)
        done = deployed(bare, d, corpus.path[0])
        assert done.returncode == 1 and not done.stdout and len(done.stderr.splitlines()) == 1 and 'is damaged' in done.stderr
    (d/'settings.json').write_text(json.dumps(settings | dict(labels=LABELS[:2])))
    done = deployed(bare, d, corpus.path[0])
    assert done.returncode == 1 and not done.stdout and 'knows 3 labels and its settings name 2' in done.stderr
    assert 'python run.py' in deployed(bare, exports/'svm_out').stderr

def test_the_program_ends_without_a_traceback(exports, bare, corpus, tmp_path):
    "Asked what it is, interrupted, read no further, and with a graph that fails as it runs."
    from onnx import TensorProto, helper
    out = exports/'svm_out'
    for word in ('-h', '--help'):
        done = deployed(bare, out, word)
        assert done.returncode == 0 and 'python run.py' in done.stdout and not done.stderr
    for how in (signal.SIGINT, signal.SIGPIPE):
        with subprocess.Popen([bare, '-I', out/'run.py', *[corpus.path[0]]*2000], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={'PATH': '', 'HOME': '/'}) as p:
            assert json.loads(p.stdout.readline())
            if how == signal.SIGINT: p.send_signal(how)
            p.stdout.close()
            assert p.stderr.read() == '' and p.wait(60) == -how
    float_ = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node('Identity', ['noise'], ['probabilities'])], 'other', [float_('noise')], [float_('probabilities')])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8).SerializeToString()
    other = shutil.copytree(out, tmp_path/'other')
    (other/'model.onnx').write_bytes(data)
    (other/'settings.json').write_text(json.dumps(json.loads((other/'settings.json').read_text()) | dict(sha256=hashlib.sha256(data).hexdigest())))
    done = deployed(bare, other, corpus.path[0], corpus.path[1])
    said = done.stderr.splitlines()
    assert done.returncode == 1 and not done.stdout and len(said) == 2
    for line, path in zip(said, corpus.path): assert line.startswith(f'{path} gets no answer (') and line.endswith('): export the bundle again.')

@pytest.mark.parametrize('rate', [8000, 11025, 22050, 32000, 44100, 48000, 96000])
def test_resampling_is_soxrs(rate):
    x = buzz(200, .7, rate)
    a, b = X.fourier_resample(x, rate, SR), resample(x, rate, SR)
    assert len(a) == len(b) and a.dtype == np.float32
    np.testing.assert_allclose(a[100:-100], b[100:-100], atol=1e-3)


# what is refused

@pytest.mark.parametrize('what', ['export', 'bundle'])
def test_a_folder_of_other_things_is_left_alone(what, bundles, tmp_path):
    "A settings.json alone makes no export, and notes that lie beside a model are somebody's work."
    name = dict(export='settings.json', bundle='bundle.json')[what]
    (tmp_path/'project').mkdir()
    (tmp_path/'project'/name).write_text('{}')
    (tmp_path/'project'/'thesis.tex').write_text('all my work')
    with pytest.raises(SerError, match='holds other files'): X.export_bundle(tmp_path/'project', bundles/'svm') if what == 'export' else save_bundle(None, tmp_path/'project', None)
    assert (tmp_path/'project'/'thesis.tex').read_text() == 'all my work'

def test_refusals(exports, bundles, corpus, tmp_path):
    for kind in ('svm', 'lstm'):
        with pytest.raises(SerError, match='8 bits are for a cnn'): X.export_bundle(tmp_path/'x', bundles/kind, clips=corpus)
    with pytest.raises(SerError, match='training clips'): X.export_bundle(tmp_path/'x', bundles/'cnn', clips=corpus[:0])
    with pytest.raises(SerError, match='name the folder of a bundle'): X.export_bundle(tmp_path/'x', tmp_path)
    (tmp_path/'mine').mkdir(); (tmp_path/'mine'/'thesis.tex').write_text('all my work')
    with pytest.raises(SerError, match='no exported model'): X.export_bundle(tmp_path/'mine', bundles/'svm')
    assert [p.name for p in tmp_path.iterdir()] == ['mine'] and (tmp_path/'mine'/'thesis.tex').exists()
    with pytest.raises(SerError, match='name the folder of a bundle'): X.Predictor(tmp_path/'mine')
    for name, data in {'settings.json': b'{', 'model.onnx': b'junk'}.items():
        d = shutil.copytree(exports/'svm_out', tmp_path/name)
        (d/name).write_bytes(data)
        with pytest.raises(SerError, match='damaged'): X.Predictor(d)

def test_without_onnx(bundles, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(SerError, match=r'pip install "ser_fastai\[onnx\]"'): X.export_bundle(tmp_path/'x', bundles/'svm')
    assert not list(tmp_path.iterdir())


# a stranger's graph

@pytest.mark.parametrize('kind', ['svm', 'cnn', 'cnn8'])
def test_spoilt_graphs(kind, small, tmp_path):
    import onnx
    folder, ends = shutil.copytree(small/f'{kind}_out', tmp_path/kind), {}
    data, settings = (folder/'model.onnx').read_bytes(), json.loads((folder/'settings.json').read_text())
    nodes = sum(n.ByteSize() for n in onnx.load_model_from_string(data).graph.node)
    for how, new in spoilt_at(data, 16, nodes):
        (folder/'model.onnx').write_bytes(new)
        (folder/'settings.json').write_text(json.dumps(settings | dict(sha256=hashlib.sha256(new).hexdigest())))
        try: p = X.Predictor(folder).predict(buzz(), SR)
        except SerError as e: ends[how] = 'refused' if re.search('damaged|no probabilities|cannot answer', str(e)) else str(e)
        else: ends[how] = 'answered' if np.isfinite(p).all() and (p >= 0).all() and abs(p.sum() - 1) < 1e-4 else str(p.to_dict())
    assert len(ends) == 16 and set(ends.values()) == {'refused', 'answered'}, ends
