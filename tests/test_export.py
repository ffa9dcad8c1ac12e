"Exports: the graph answers as the bundle, in any batch and length, and its folder runs where there is no torch."
import contextlib, hashlib, importlib.metadata, io, json, re, shutil, signal, subprocess, sys
from dataclasses import replace
from pathlib import Path

import numpy as np, pytest, soundfile as sf, torch
from packaging.requirements import Requirement
from sklearn.metrics import balanced_accuracy_score

pytest.importorskip('onnx'); pytest.importorskip('onnxruntime')
from ser_fastai import cli, export as X
from ser_fastai.audio import resample, trim_silence
from ser_fastai.core import SerError
from ser_fastai.recipes import Recipe
from ser_fastai.corpora import load_csv
from ser_fastai.features import log_mel
from ser_fastai.bundles import save_bundle, train_bundle
from ser_fastai.predict import Predictor
from test_bad_input import NAMES, ODD, BAD, RIGHT, folder as sounds, near, none, refused   # the collection of files, good and bad

SR, LABELS = 16000, ['sad', 'angry', 'awe']
RECIPES = dict(lstm=Recipe('tiny_lstm', model='lstm', n_mels=32, n_mfcc=13, hop_length=256, seconds=1., hidden=4, layers=2, epochs=1, bs=8),
               cnn=Recipe('tiny_cnn', arch='squeezenet1_1', seconds=1., sizes=(32,), epochs=1, bs=6, lr=1e-4))

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
def exports(bundles, folder):
    "Each in 32 bits, and the network in 8 bits, by the command; with what that one printed."
    for k in RECIPES: X.export_bundle(bundles/f'{k}_out', bundles/k)
    said = io.StringIO()
    with contextlib.redirect_stdout(said): cli.ser_export(str(bundles/'cnn8_out'), str(bundles/'cnn'), int8=True, corpora=str(folder/'buzz.csv'))
    (bundles/'said.txt').write_text(said.getvalue())
    return bundles

def probs(p, corpus): return p.predict_files(corpus.path)[p.labels].to_numpy(float)


@pytest.mark.parametrize('kind', RECIPES)
def test_parity(kind, exports, corpus):
    want, got = probs(Predictor(exports/kind), corpus), probs(X.Predictor(exports/f'{kind}_out'), corpus)
    assert want.std(0).max() > 1e-4, 'a model that answers all alike proves nothing'
    np.testing.assert_allclose(got, want, atol=1e-4)

def test_int8(exports, corpus):
    small, large = X.Predictor(exports/'cnn8_out'), X.Predictor(exports/'cnn_out')
    saved = np.subtract(*[(exports/f/'model.onnx').stat().st_size for f in ('cnn_out', 'cnn8_out')])
    assert saved > 2e6                                          # of the convolutions, 700 thousand weights of 4 bytes
    a, b = probs(small, corpus), probs(large, corpus)
    assert 0 < np.abs(a - b).max() < .1
    text, said = (exports/'cnn8_out'/'card.md').read_text(), small.model.settings['agreement']
    assert '## In 8 bits' in text and said['clips'] == len(corpus) and said['same'] == (a.argmax(1) == b.argmax(1)).mean()
    assert said['largest'] == pytest.approx(np.abs(a - b).max(), abs=1e-3)
    of = lambda p: balanced_accuracy_score(corpus.emotion, np.array(small.labels)[p.argmax(1)])
    assert said['uar'] == pytest.approx([of(b), of(a)], abs=.02) and f'its UAR is {100*said["uar"][1]:.1f} in place of {100*said["uar"][0]:.1f}' in text
    assert 'They are of buzz, from which it learnt' in text and 'not known' not in text
    told, path = (exports/'said.txt').read_text().splitlines()[-2:]
    assert told.startswith(f'the 8-bit graph gives the same answer on {said["same"]*len(corpus):.0f} of {len(corpus)} clips') and path == str(exports/'cnn8_out')

def test_the_card_says_only_what_is_known_of_the_recordings(corpus):
    learnt = dict(corpora=['buzz'])
    for clips, data, said in [
        (corpus, learnt, 'They are of buzz, from which it learnt, so it may have heard these very ones.'), (corpus.assign(corpus='emodb'), learnt, 'They are of EMO-DB, and it learnt from buzz.'),
        (corpus.assign(corpus=['buzz', 'savee', 'other']*6), learnt, 'Some of them are of buzz, from which it learnt, and some of other and SAVEE, from which it did not.'),
        (corpus[['path', 'emotion']], learnt, 'Whether it learnt from them is not known.'), (corpus, {}, 'Whether it learnt from them is not known.')]:
        assert X._whose(clips, data) == said

@pytest.mark.parametrize('same', [.95, .99])
def test_too_little_agreement_is_said(same, exports, corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(X, 'agreement', lambda *args: dict(clips=200, same=same, largest=.1, uar=[None, None]))
    monkeypatch.setattr(X, 'to_onnx', lambda net, file: Path(shutil.copy(exports/'cnn_out'/'model.onnx', file)))
    monkeypatch.setattr(X, 'to_int8', lambda graph, file, *args: Path(shutil.copy(graph, file)))
    X.export_bundle(tmp_path/'out', exports/'cnn', clips=corpus[:2])
    warned = ', short of the 99 % that one may hope for: export it in 32 bits if they matter'*(same < .99)
    assert capsys.readouterr().out == f'the 8-bit graph gives the same answer on {200*same:.0f} of 200 clips{warned}\n'
    weights = json.loads((tmp_path/'out'/'settings.json').read_text())['weights']
    assert weights == ('signed, 7 bits' if same >= .99 else 'unsigned, 8 bits') and f'(weights {weights})' in (tmp_path/'out'/'card.md').read_text()

def test_misuse_of_the_command_is_one_sentence(exports, folder, tmp_path, capsys):
    for args, said in [(dict(bundle=str(exports/'lstm'), int8=True, corpora=str(folder/'buzz.csv')), '8 bits are for a cnn'),
                       (dict(bundle=str(exports/'cnn'), int8=True, data=str(tmp_path)), 'RAVDESS is not in')]:
        with pytest.raises(SystemExit, match='2'): cli.ser_export(str(tmp_path/'other'), **args)
        told = capsys.readouterr().err
        assert said in told and len(told.strip().splitlines()) == 1 and not (tmp_path/'other').exists()

def test_the_front_end_stays_in_32_bits(exports):
    import onnx
    steps = [n.name for n in onnx.load(str(exports/'cnn8_out'/'model.onnx')).graph.node if n.op_type.endswith('antizeLinear')]
    assert len(steps) > 40 and len([n for n in steps if '/front.0/' in n]) == 2, 'only the image, where the network takes it'

@pytest.mark.parametrize('weights', X.WEIGHTS)
def test_no_weights_overflow_in_8_bits(weights, exports, tmp_path):
    "A processor without VNNI adds two products of 8 bits up in 16: signed weights of a full 8 bits, and the bundle that ships changes one answer in four."
    import onnx
    from onnx.numpy_helper import to_array
    graph = onnx.load(str(X.to_int8(exports/'cnn_out'/'model.onnx', tmp_path/'graph.onnx', [buzz(100), buzz(250)], weights))).graph
    kernels = [to_array(t) for t in graph.initializer if t.name.endswith('_quantized') and len(t.dims) == 4]
    assert len(kernels) == 25                                   # the convolutions of a squeezenet
    for k in kernels: assert k.dtype == 'uint8' or k.dtype == 'int8' and 2*255*np.abs(k.astype(int)).max() < 2**15
    assert (kernels[0].dtype == 'int8') == weights.startswith('signed')

@pytest.mark.parametrize('kind', ['lstm', 'cnn', 'cnn8'])
def test_any_length_any_batch(kind, exports):
    s = pytest.importorskip('onnxruntime').InferenceSession(exports/f'{kind}_out'/'model.onnx', providers=['CPUExecutionProvider'])
    run = lambda x: s.run(None, dict(samples=x))[0]
    for n in (256, 15999, 16001, 48000):
        x = np.stack([buzz(100 + 40*i, 3., seed=i)[12000 - n//4:][:n] for i in range(3)])
        got = run(x)
        assert got.shape == (3, 3) and np.allclose(got.sum(1), 1, atol=1e-5)
        np.testing.assert_allclose(got, np.concatenate([run(r[None]) for r in x]), atol=1e-5)

@pytest.mark.parametrize('kind', RECIPES)
def test_pads_and_crops_as_the_bundle(kind, exports):
    graph, net, x = X.Predictor(exports/f'{kind}_out'), Predictor(exports/kind), buzz(180, 2.5)[8000:]
    for seconds in (.1, .5, .99, 1., 1.01, 1.9):
        part = x[:int(seconds*SR)]
        np.testing.assert_allclose(graph.predict(part, SR), net.predict(part, SR), atol=1e-4)

@pytest.mark.parametrize('n_fft, hop', [(1024, 192), (600, 150), (1022, 77), (1000, 1000)])
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

def test_the_bundle_that_ships(shipped):
    p = X.Predictor(shipped)
    for f0 in (90, 310): np.testing.assert_allclose(p.predict(buzz(f0), SR), Predictor().predict(buzz(f0), SR), atol=1e-3)
    assert 'CC BY-NC-SA' in (shipped/'LICENSE').read_text() and 'model.onnx' in (shipped/'LICENSE').read_text()

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

def test_runs_without_torch(exports, corpus, bare, tmp_path):
    out = shutil.copytree(exports/'cnn8_out', tmp_path/'elsewhere')
    assert {f.name for f in out.iterdir()} == {'model.onnx', 'settings.json', 'README.md', 'card.md', 'LICENSE', 'run.py'}
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
        done = subprocess.run([bare, '-I', exports/'lstm_out'/'run.py', corpus.path[0]], stdout=full, stderr=subprocess.PIPE, text=True, timeout=100)
    assert done.returncode == 1 and done.stderr == 'the answer cannot be written (No space left on device): make room, or send it elsewhere\n'

def test_there_is_no_torch(bare):
    "All that can be imported is the standard library and the three packages with what they need."
    unwanted = 'torch', 'fastai', 'ser_fastai', 'librosa', 'scipy', 'soxr', 'onnx'
    listing = ('import importlib.util, json, pkgutil, sys, sysconfig; print(json.dumps([[m.name for m in pkgutil.iter_modules([sysconfig.get_path("platlib")])],'
               '[name for name in sys.argv[1:] if importlib.util.find_spec(name)]]))')
    found, unwanted = json.loads(subprocess.run([bare, '-I', '-c', listing, *unwanted], capture_output=True, text=True, check=True).stdout)
    known = {'onnxruntime', 'numpy', 'soundfile', '_soundfile', '_soundfile_data', 'flatbuffers', 'google', 'packaging', 'cffi', '_cffi_backend', 'pycparser',
             'typing_extensions', 'coloredlogs', 'humanfriendly', 'sympy', 'mpmath', 'isympy'}   # the last four of earlier versions
    assert {'onnxruntime', 'numpy', 'soundfile'} <= set(found) <= known and not unwanted

def test_the_program_on_every_kind_of_file(exports, bare, sounds):
    "One process hears them all: the answers are those of the library, and each bad file gets its sentence."
    odd = [n for n in ODD if '\0' not in n]
    good, bad = [*NAMES, *[f'{n}.wav' for n in RIGHT]], [*[f'{n}.wav' for n in BAD], *odd]
    done = subprocess.run([bare, '-I', exports/'lstm_out'/'run.py', *good, *bad], cwd=sounds, capture_output=True, timeout=450, env={'PATH': '', 'HOME': '/'})
    out, err = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == 1 and 'Traceback' not in out + err and '\x1b' not in out + err
    rows = list(map(json.loads, out.splitlines()))
    assert len(rows) == len(good) + len(bad) and sum(r['error'] is None for r in rows) == len(good)
    got = {d['path']: d['probabilities'] for d in rows if d['error'] is None}
    wrong = {p: 'no answer' for p in good if p not in got} | {p: 'an answer' for p in got if p not in good}
    p = X.Predictor(exports/'lstm_out')
    want = p.predict_files([sounds/f'{n}.wav' for n in RIGHT]).set_index('path')[p.labels].astype(float)
    for path, probs in want.iterrows():
        name = Path(path).name
        if name in got and np.abs(probs - [got[name][l] for l in p.labels]).max() > .02: wrong[name] = got[name], probs.to_dict()
    none(wrong | refused(err, None, odd))

PEAK = '''
import json, resource, runpy, sys
run = runpy.run_path(sys.argv[1])
model = run['load'](sys.argv[2])
for f in sys.argv[3:]: print(json.dumps([run['predict'](f, *model), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024]))
'''

def test_the_program_hears_eight_minutes_in_the_memory_of_two(exports, bare, tmp_path):
    out, files = exports/'lstm_out', [tmp_path/f'{n}.flac' for n in ('two', 'eight')]
    x = np.concatenate([buzz(f, 3., 22050) for f in (100, 150, 300)])
    for f, n in zip(files, (13, 53)): sf.write(f, np.tile(x, n), 22050)
    done = subprocess.run([bare, '-I', '-c', PEAK, out/'run.py', out, *files], capture_output=True, text=True, timeout=450)
    assert not done.returncode, done.stderr
    (some, before), (all_, after) = map(json.loads, done.stdout.splitlines())
    want = X.Predictor(out).predict(files[0])
    assert some == pytest.approx(want.to_dict(), abs=.01) and all_ == pytest.approx(some, abs=.02)
    assert after - before < 25, f'{after - before} MB more for eight minutes than for two'   # whose samples are 42 MB, and 30 resampled

def test_a_piece_of_a_long_recording_is_resampled_as_the_whole(tmp_path):
    run, rate = dict(__name__='run', __file__='run.py'), 22050
    exec(X.runner(), run)
    x = np.tile(buzz(150, 3.7, rate), 20)
    sf.write(tmp_path/'x.wav', x, rate, subtype='FLOAT')
    pieces = list(run['listen'](tmp_path/'x.wav', SR, 10.5))
    assert len(pieces) > 6
    np.testing.assert_allclose(np.concatenate(pieces), X.fourier_resample(x, rate, SR), atol=1e-4)

def test_a_damaged_folder_is_one_sentence(exports, bare, corpus, tmp_path):
    "Through the program and through `Predictor`: a file cut short, one missing, no JSON, a field missing, a graph that is none."
    data, settings = (exports/'lstm_out'/'model.onnx').read_bytes(), json.loads((exports/'lstm_out'/'settings.json').read_text())
    written = lambda x: json.dumps(x).encode()
    run = dict(__name__='run', __file__='run.py')
    exec(X.runner(), run)
    wrong = {'cut': ('model.onnx', data[:-9]), 'missing': ('model.onnx', None), 'no json': ('settings.json', b'{'),
             'no labels': ('settings.json', written({k: v for k, v in settings.items() if k != 'labels'})),
             'no graph': ('settings.json', written(settings | dict(sha256=hashlib.sha256(b'no graph').hexdigest())))}
    for how, (name, new) in wrong.items():
        d = shutil.copytree(exports/'lstm_out', tmp_path/how)
        if how == 'no graph': (d/'model.onnx').write_bytes(b'no graph')
        (d/name).unlink() if new is None else (d/name).write_bytes(new)
        for load, error in (run['load'], run['SerError']), (X.Predictor, SerError):
            with pytest.raises(error, match='damaged|is missing') as e: load(d)
            assert str(d) in str(e.value) and '\n' not in str(e.value) and len(str(e.value)) < 400
    done = deployed(bare, d, corpus.path[0])
    assert done.returncode == 1 and not done.stdout and len(done.stderr.splitlines()) == 1 and 'is damaged' in done.stderr
    d = shutil.copytree(exports/'lstm_out', tmp_path/'labels')
    (d/'settings.json').write_text(json.dumps(settings | dict(labels=LABELS[:2])))
    with pytest.raises(run['SerError'], match='knows 3 labels and its settings name 2'): run['predict'](corpus.path[0], *run['load'](d))

def test_the_program_ends_without_a_traceback(exports, bare, corpus):
    "Asked what it is, interrupted, and read no further."
    out = exports/'lstm_out'
    done = deployed(bare, out, '--help')
    assert done.returncode == 0 and 'python run.py' in done.stdout and not done.stderr
    assert 'python run.py' in deployed(bare, out).stderr
    for how in (signal.SIGINT, signal.SIGPIPE):
        with subprocess.Popen([bare, '-I', out/'run.py', *[corpus.path[0]]*2000], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={'PATH': '', 'HOME': '/'}) as p:
            assert json.loads(p.stdout.readline())
            if how == signal.SIGINT: p.send_signal(how)
            p.stdout.close()
            assert p.stderr.read() == '' and p.wait(60) == -how

@pytest.mark.parametrize('rate', [8000, 11025, 44100, 96000])
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
    with pytest.raises(SerError, match='holds other files'): X.export_bundle(tmp_path/'project', bundles/'lstm') if what == 'export' else save_bundle(None, tmp_path/'project', None)
    assert (tmp_path/'project'/'thesis.tex').read_text() == 'all my work'

def test_refusals(bundles, corpus, tmp_path):
    with pytest.raises(SerError, match='8 bits are for a cnn'): X.export_bundle(tmp_path/'x', bundles/'lstm', clips=corpus)
    with pytest.raises(SerError, match='training clips'): X.export_bundle(tmp_path/'x', bundles/'cnn', clips=corpus[:0])
    with pytest.raises(SerError, match='name the folder of a bundle'): X.export_bundle(tmp_path/'x', tmp_path)
    (tmp_path/'mine').mkdir(); (tmp_path/'mine'/'thesis.tex').write_text('all my work')
    with pytest.raises(SerError, match='no exported model'): X.export_bundle(tmp_path/'mine', bundles/'lstm')
    assert [p.name for p in tmp_path.iterdir()] == ['mine'] and (tmp_path/'mine'/'thesis.tex').exists()
    with pytest.raises(SerError, match='name the folder of a bundle'): X.Predictor(tmp_path/'mine')

def test_without_onnx(bundles, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(SerError, match=r'pip install "ser_fastai\[onnx\]"'): X.export_bundle(tmp_path/'x', bundles/'lstm')
    assert not list(tmp_path.iterdir())
