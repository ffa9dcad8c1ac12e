"Bundles and predictions: a bundle answers as the trained model, damaged ones are refused, and any input gets an answer or one error."
import io, json, os, pickle, shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np, pandas as pd, pytest, soundfile as sf, torch

from ser_fastai import heads as H, predict as P, publish as B, runtime as R
from ser_fastai.audio import resample, to_mono
from ser_fastai.core import EMOTIONS, THRESHOLD, SerError
from ser_fastai.recipes import Recipe
from ser_fastai.corpora import load_corpus, load_csv
from ser_fastai.experiment import train
from ser_fastai.features import build_features
from ser_fastai.splits import Split
from ser_fastai.synth import make_clip
from ser_fastai.train import BF16

Predictor = partial(P.Predictor, any_sound=True)            # the test signals are buzzes, not speech
predict_paths = partial(P.predict_paths, any_sound=True)

SR, LABELS = 16000, ['sad', 'angry', 'awe']
RECIPES = dict(
               lstm=Recipe('tiny_lstm', model='lstm', n_mels=32, n_mfcc=13, hop_length=256, seconds=1., hidden=4, layers=2, epochs=1, bs=8),
               cnn=Recipe('tiny_cnn', arch='squeezenet1_1', seconds=1., sizes=(32, 48), shares=(.5, .5), epochs=2, bs=8, rotate=5., zoom=1.1, brightness=.1))


def buzz(f0=150, seconds=.8, sr=SR, seed=0):
    t = np.arange(int(seconds*sr))/sr
    x = sum(np.sin(2*np.pi*k*f0*t)/k for k in range(1, 9))*np.hanning(len(t))
    return (.1*x + .001*np.random.default_rng(seed).standard_normal(len(t))).astype('float32')


@pytest.fixture(scope='session')
def folder(tmp_path_factory): return tmp_path_factory.mktemp('predict')

@pytest.fixture(scope='session')
def corpus(folder):
    rows = [dict(path=f'{e}{who}{i}.wav', emotion=e, speaker=who) for e in LABELS for who in 'ab' for i in range(3)]
    for i, r in enumerate(rows): sf.write(folder/r['path'], buzz(100*(1 + LABELS.index(r['emotion'])) + 7*i, .6 + .2*(i % 4), seed=i), SR, subtype='FLOAT')
    pd.DataFrame(rows).to_csv(folder/'buzz.csv', index=False)
    return load_csv(folder/'buzz.csv')

@pytest.fixture(scope='session')
def trained(corpus, folder):
    everything = Split(np.arange(len(corpus)), np.arange(4), np.array([], int))
    out = {k: train(corpus, r, everything, features=build_features(corpus, r, folder/'cache', 1)) for k, r in RECIPES.items()}
    for k in ('lstm', 'cnn'): out[k].model.remove_cb(BF16)  # bf16 is for training
    return out

@pytest.fixture(scope='session')
def bundles(trained, folder):
    for k, t in trained.items(): B.save_bundle(t, folder/k, RECIPES[k])
    return folder

@pytest.fixture(scope='session')
def small(bundles): return Predictor(bundles/'lstm')


# what was saved is what answers

def answers(t, n):
    if isinstance(t.model, torch.nn.Module) or not hasattr(t.model, 'no_bar'): return t.predict_proba(np.arange(n))
    with t.model.no_bar(): return t.predict_proba(np.arange(n))

@pytest.mark.parametrize('kind', RECIPES)
def test_bundle_answers_as_the_trained_model(kind, bundles, trained, corpus):
    got = Predictor(bundles/kind).predict_files(corpus.path)
    assert got.path.tolist() == [str(p) for p in corpus.path] and got.error.isna().all()
    np.testing.assert_allclose(got[trained[kind].labels].to_numpy(float), answers(trained[kind], len(corpus)), atol=1e-4)

def test_half_is_half(tmp_path, bundles, trained, corpus):
    for kind in RECIPES:
        B.save_bundle(trained[kind], tmp_path/kind, RECIPES[kind], half=True)
        size = lambda d: (d/kind/'weights.safetensors').stat().st_size
        assert size(tmp_path) < .75*size(bundles)
        one, other = (Predictor(d/kind).predict(corpus.path[0]) for d in (tmp_path, bundles))
        np.testing.assert_allclose(one, other, atol=.02)

def test_an_utterance_over_the_window_is_treated_as_in_training(bundles, corpus, trained):
    "The images of the LSTM are 1 s wide: clips of 0.8 to 1.2 s stay whole, and their middle is what training saw."
    assert corpus.duration.max() > RECIPES['lstm'].seconds
    p, path = Predictor(bundles/'lstm'), corpus.path[int(corpus.duration.argmax())]
    assert len(p.timeline(path)) == 1

def test_from_memory_as_from_a_file(small, folder):
    x = buzz(210)
    for name, kw in dict(float=dict(subtype='FLOAT'), int16=dict(subtype='PCM_16'), flac=dict(format='FLAC')).items():
        sf.write(folder/f'{name}.snd', x, SR, **({'format': 'WAV'} | kw))
        np.testing.assert_allclose(small.predict(folder/f'{name}.snd'), small.predict(x, SR), atol=.03)
    for same in (np.stack([x, x], 1), np.stack([x, x]), torch.from_numpy(x), x.astype('float64'), (x*2**31).astype('int32'),
                 ((x + 1)*2**15).astype('uint16')):
        np.testing.assert_allclose(small.predict(same, SR), small.predict(x, SR), atol=.03)

def test_many_threads_share_one_predictor(bundles, corpus):
    p = Predictor(bundles/'cnn')
    want = [p.predict(f).to_numpy() for f in corpus.path[:6]]
    with ThreadPoolExecutor(6) as ex: got = list(ex.map(lambda f: p.predict(f).to_numpy(), list(corpus.path[:6])*4))
    np.testing.assert_allclose(got, want*4, atol=1e-5)

def test_windows():
    x = np.random.default_rng(0).normal(size=SR*20)
    spans = list(R.cut_windows([x], SR, 3.))
    assert spans[0][0] == 0 and spans[-1][0] + len(spans[-1][1]) == len(x) and {len(w) for _, w in spans} == {3*SR}
    assert all(b - a <= 3*SR//2 for (a, _), (b, _) in zip(spans, spans[1:])) and all((w == x[s:s + 3*SR]).all() for s, w in spans)
    quiet = np.pad(x[:SR*4], 10*SR)
    assert len(list(R.cut_windows([quiet], SR, 3.))) == 1 and len(list(R.cut_windows([quiet], SR, 3., trim=False))) > 1

@pytest.mark.parametrize('n', [SR*7, SR*20 + 1, 24000*9])
@pytest.mark.parametrize('size', [1000, 48000, 100001])
def test_windows_do_not_depend_on_the_blocks(n, size):
    x = np.arange(n, dtype='float32')
    whole = [(s, len(w), w[0]) for s, w in R.cut_windows([x], SR, 3., trim=False)]
    assert [s for s, *_ in whole] == [*range(0, n - 3*SR, 3*SR//2), n - 3*SR]
    assert [(s, len(w), w[0]) for s, w in R.cut_windows((x[i:i + size] for i in range(0, n, size)), SR, 3., trim=False)] == whole

def test_pauses_get_no_answer(small):
    x = np.concatenate([buzz(150, 6.), np.zeros(10*SR, 'float32'), buzz(250, 6.)])
    t = small.timeline(x, SR)
    assert not ((t.start >= 6) & (t.end <= 16)).any() and t.start.iloc[0] == 0 and t.end.iloc[-1] == 22
    np.testing.assert_allclose(small.predict(x, SR), t[LABELS].mean(), atol=1e-12)
    assert P.segments(t).end.max() == 22

def test_a_long_recording_is_the_mean_of_its_windows(small):
    r = RECIPES['lstm']
    x = np.concatenate([buzz(100, 6.), np.zeros(8*SR, 'float32'), buzz(300, 6.)])
    parts = [w for _, w in R.cut_windows([x], SR, r.seconds)]
    each = [small.predict(w, SR).to_numpy() for w in parts if np.square(w).mean() > 1e-3*max(np.square(w).mean() for w in parts)]
    assert len(parts) > len(each) > 4
    np.testing.assert_allclose(small.predict(x, SR), np.mean(each, 0), atol=1e-6)


# any sound that libsndfile reads

@pytest.mark.parametrize('rate', [8000, 16000, 44100])
def test_blocks_are_the_whole(rate, tmp_path):
    "What comes in blocks is what would come at once."
    x = (.1*np.random.default_rng(0).standard_normal((rate*70, 2))).astype('float32')
    sf.write(tmp_path/'a.wav', x, rate, subtype='FLOAT')
    parts = list(R.stream(tmp_path/'a.wav', rate=SR))
    assert len(parts) > 1 or rate == SR
    np.testing.assert_allclose(np.concatenate(parts), resample(to_mono(x), rate, SR), atol=1e-4)

def test_a_long_recording_is_judged_to_its_end(small, tmp_path):
    good = np.concatenate([buzz(150, 65.), np.zeros(SR*9, 'float32')])
    late = good.copy(); late[-5] = np.nan
    for name, x in dict(late=late, silent=0*good).items():
        sf.write(tmp_path/f'{name}.wav', x, SR, subtype='FLOAT')
        with pytest.raises(SerError, match=name): small.predict(tmp_path/f'{name}.wav')
        assert name in small.predict_files([tmp_path/f'{name}.wav']).error[0]
    whole = wav(good, subtype='FLOAT')
    (tmp_path/'cut.wav').write_bytes(whole[:-100000])
    with pytest.raises(SerError, match='cut short'): small.predict(tmp_path/'cut.wav')

def test_temperature(tmp_path, trained, bundles, corpus):
    B.save_bundle(trained['lstm'], tmp_path/'warm', RECIPES['lstm'], temperature=2.)
    raw, warm = (Predictor(d).predict(corpus.path[0]) for d in (bundles/'lstm', tmp_path/'warm'))
    want = R.softmax(np.log(np.maximum(raw.to_numpy(), 5e-6)), 2)
    np.testing.assert_allclose(warm, want, atol=1e-9)
    assert 'not calibrated' in Predictor(bundles/'lstm').card and 'not calibrated' not in Predictor(tmp_path/'warm').card

def test_segments_of_any_timeline():
    rng = np.random.default_rng(0)
    for _ in range(20):
        start = np.sort(rng.choice(np.arange(0, 60, 1.5), 12, replace=False))
        p = rng.dirichlet([1, 1], 12)
        t = pd.DataFrame(dict(start=start, end=start + 3, emotion='', confidence=0., a=p[:, 0], b=p[:, 1]))
        s = P.segments(t, .6)
        covered = sum(any(x <= at < x + 3 for x in start) for at in np.arange(0, 63, .5))*.5
        assert (s.end - s.start).sum() == pytest.approx(covered) and (s.start.iloc[1:].to_numpy() >= s.end.iloc[:-1].to_numpy()).all()
        assert s.emotion.isin(['a', 'b', 'uncertain']).all() and (s.confidence[s.emotion != 'uncertain'] >= .6).all() and (s.confidence[s.emotion == 'uncertain'] < .6).all()

def wav(x, **kw):
    out = io.BytesIO()
    sf.write(out, x, SR, format='WAV', **kw)
    return out.getvalue()

BAD = dict(missing=None, folder='folder', empty=b'', text=b'no sound at all', image=b'\x89PNG\r\n\x1a\n' + bytes(400), header=wav(buzz())[:40],
           truncated=wav(buzz())[:-5000], zero_length=wav(np.zeros(0)), one_sample=wav(np.ones(1)), short=wav(buzz()[4000:5000]), silent=wav(np.zeros(SR)),
           direct_current=wav(np.full(SR, .3)), nan=wav(np.where(np.arange(SR) == 99, np.nan, buzz(seconds=1.)), subtype='FLOAT'),
           infinite=wav(np.where(np.arange(SR) == 99, np.inf, buzz(seconds=1.)), subtype='FLOAT'), loud=wav(1e25*buzz(), subtype='FLOAT'))

@pytest.fixture
def bad(tmp_path):
    for name, data in BAD.items():
        if data == 'folder': (tmp_path/f'{name}.wav').mkdir()
        elif data is not None: (tmp_path/f'{name}.wav').write_bytes(data)
    return tmp_path

def test_odd_names(small):
    for path in ('x'*5000, 'a\0b.wav', '~nobody-of-that-name/a.wav', '/dev/null', ''):
        with pytest.raises(SerError): small.predict(path)

def test_bad_arrays(small):
    for x in ([], np.zeros((0, 2)), np.zeros((2, 3, 4)), np.array(['a']), np.ones(SR, complex), np.zeros(SR), np.full(SR, np.nan), 3e4*buzz()):
        with pytest.raises(SerError): small.predict(x, SR)
    for x in ([[.1, .2], [.3]], torch.zeros(SR, requires_grad=True)):
        with pytest.raises(SerError, match=r'not an array of numbers \(.*\): pass samples'): small.predict(x, SR)
    with pytest.raises(SerError, match='pass sr'): small.predict(buzz())
    for sr in (0, 1, 10**9, -5, float('nan')):
        with pytest.raises(SerError, match='1 kHz to 768 kHz'): small.predict(buzz(), sr)
    for sr in ('', 'fast', [SR], (SR, 1), 10**400, 1j):
        with pytest.raises(SerError, match='invalid rate .*: pass sr as a number'): small.predict(buzz(), sr)

def test_a_rate_in_words_and_a_path_from_home(small, tmp_path, monkeypatch):
    np.testing.assert_array_equal(small.predict(buzz(), str(SR)), small.predict(buzz(), SR))
    sf.write(tmp_path/'a.wav', buzz(), SR)
    monkeypatch.setenv('HOME', str(tmp_path)), monkeypatch.setenv('USERPROFILE', str(tmp_path))
    for path in ('~/a.wav', Path('~/a.wav')): np.testing.assert_array_equal(small.predict(path), small.predict(tmp_path/'a.wav'))

def test_one_bad_file_does_not_stop_the_rest(bundles, bad, corpus):
    paths = [corpus.path[0], *[bad/f'{n}.wav' for n in BAD], corpus.path[1]]
    for kind in ('lstm', 'cnn'):
        df = Predictor(bundles/kind).predict_files(paths)
        assert df.path.tolist() == list(map(str, paths)) and df.error.isna().tolist() == [True, *[False]*len(BAD), True]
        assert df.emotion[[0, len(df) - 1]].isin(LABELS).all() and df[LABELS].iloc[1:-1].isna().to_numpy().all()
    assert len(Predictor(bundles/'lstm').predict_files([])) == 0

# saving

def test_saving_is_all_or_nothing(bundles, tmp_path, trained, monkeypatch):
    d = tmp_path/'b'
    B.save_bundle(trained['lstm'], d, RECIPES['lstm'])
    before = {f.name: f.read_bytes() for f in d.iterdir()}
    assert set(before) == {'model.onnx', 'weights.safetensors', 'bundle.json', 'card.md', 'LICENSE'}
    with monkeypatch.context() as m:
        def killed(*args): raise KeyboardInterrupt
        m.setattr('ser_fastai.export.save_file', killed)
        with pytest.raises(KeyboardInterrupt): B.save_bundle(trained['cnn'], d, RECIPES['cnn'])
    assert {f.name: f.read_bytes() for f in d.iterdir()} == before and [p.name for p in tmp_path.iterdir()] == ['b']
    B.save_bundle(trained['cnn'], d, RECIPES['cnn'])
    assert Predictor(d).info['recipe']['model'] == 'cnn' and [p.name for p in tmp_path.iterdir()] == ['b']

def test_nothing_of_the_user_is_overwritten(tmp_path, trained):
    (tmp_path/'mine').mkdir(); (tmp_path/'mine'/'thesis.tex').write_text('all my work')
    for path in (tmp_path/'mine', tmp_path/'mine'/'thesis.tex', tmp_path/'mine'/'thesis.tex'/'b'):
        with pytest.raises(SerError): B.save_bundle(trained['lstm'], path, RECIPES['lstm'])
    assert (tmp_path/'mine'/'thesis.tex').read_text() == 'all my work'

def test_train_bundle(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv('SER_CACHE', str(tmp_path/'cache'))
    scores = dict(emobox=dict(unseen_speakers=True, accuracy=.5, uar=.45, clips=18, recall=dict(sad=.25)))
    p = Predictor(B.train_bundle(corpus, RECIPES['lstm'], tmp_path/'b', scores=scores))
    assert p.info['data']['clips'] == len(corpus) == p.info['data']['classes']['sad']*3 and p.info['scores'] == scores
    text = (tmp_path/'b'/'card.md').read_text(encoding='utf8')
    assert text == p.card and 'sad 25 %' in text and '50 % right' in text
    with pytest.raises(SerError, match='has no ONNX graph'): B.train_bundle(corpus, Recipe('svm', model='svm'), tmp_path/'svm')


# the command

def test_command(small, bundles, bad, corpus, capsys, monkeypatch):
    monkeypatch.chdir(bundles)
    assert predict_paths(['sada0.wav', 'awe*.wav'], 'lstm') == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].split() == ['file', 'emotion', 'confidence', 'runner-up'] and len(out.splitlines()) == 1 + 7 + 2 and not err
    assert 'has not been measured' in out
    assert predict_paths(['sada0.wav', str(bad/'text.wav'), 'nothing*.wav', str(bad/'folder.wav')], 'lstm', top=3) == 1
    out, err = capsys.readouterr()
    assert 'third' in out and 'text.wav' not in out and len(err.splitlines()) == 3
    assert predict_paths([str(bad/'text.wav')], 'lstm') == predict_paths([], 'lstm') == 2
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 1
    assert predict_paths([str(bundles), 'sada0.wav'], 'lstm', format='csv') == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert list(table) == ['path', 'emotion', 'confidence', *LABELS, 'error'] and len(table) >= len(corpus) and table.error.isna().all()
    np.testing.assert_allclose(table[LABELS].sum(1), 1, atol=1e-3)
    assert predict_paths(['sada0.wav', 'awea1.wav'], 'lstm', format='json') == 0
    lines = [json.loads(l) for l in capsys.readouterr().out.splitlines()]
    assert [l['path'] for l in lines] == ['sada0.wav', 'awea1.wav'] and sum(lines[0]['probabilities'].values()) == pytest.approx(1, abs=1e-3)
    with pytest.raises(SerError, match='table, csv, json'): predict_paths(['sada0.wav'], 'lstm', format='xml')

def test_lists_and_standard_input(small, bundles, corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('here').mkdir()
    for i in range(3): shutil.copy(corpus.path[i], f'here/{i}.wav')
    Path('here/list.txt').write_text('0.wav\n\n1.wav\n')
    pd.DataFrame(dict(path=['2.wav'], other=['x'])).to_csv('here/list.csv', index=False)
    monkeypatch.setattr('sys.stdin', io.TextIOWrapper(io.BytesIO(Path('here/0.wav').read_bytes())))
    assert predict_paths(['here/list.txt', 'here/list.csv', '-'], bundles/'lstm', format='csv') == 0
    got = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert got.path.tolist() == ['here/0.wav', 'here/1.wav', 'here/2.wav', '-']
    np.testing.assert_allclose(got[LABELS].iloc[0], got[LABELS].iloc[3])
    monkeypatch.setattr('sys.stdin', io.TextIOWrapper(io.BytesIO(b'no sound')))
    Path('none.csv').write_text('a,b\n1,2\n'); Path('bin.txt').write_bytes(bytes(range(256)))
    assert predict_paths(['-', 'none.csv', 'bin.txt'], bundles/'lstm') == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and lines[0].startswith('cannot read standard input') and 'column "path"' in lines[1] and 'bin.txt' in lines[2]
    Path('here/list.txt').write_text('0.wav\n.\n')
    assert predict_paths(['here/list.txt', 'here/*'], bundles/'lstm') == 1 and 'here is a folder' in capsys.readouterr().err
    Path('here/LIST.CSV').write_bytes(Path('here/list.csv').read_bytes())
    assert predict_paths(['here/LIST.CSV'], bundles/'lstm') == 0 and 'here/2.wav' in capsys.readouterr().out

@pytest.mark.parametrize('stdin, says', [(None, 'is closed'), (io.TextIOWrapper(io.BytesIO(bytes(2**22))), 'is longer than')])
def test_odd_standard_input(stdin, says, bundles, corpus, capsys, monkeypatch):
    monkeypatch.setattr('sys.stdin', stdin), monkeypatch.setattr(P, 'MAX_STDIN', 2**21)
    assert predict_paths(['-', corpus.path[0]], bundles/'lstm') == 1
    assert says in capsys.readouterr().err

def test_standard_input_that_does_not_wait(bundles, corpus, tmp_path, capsys, monkeypatch):
    "What comes in pieces is one recording; and the folder it is kept in may be called anything."
    class Slow(io.BytesIO):
        def read(self, n): self.asked = getattr(self, 'asked', 0) + 1; return super().read(1000) if self.asked % 2 else None
    monkeypatch.setattr('sys.stdin', type('Stream', (), dict(buffer=Slow(Path(corpus.path[0]).read_bytes()))))
    (tmp_path/'a[b]').mkdir(), monkeypatch.setattr('tempfile.tempdir', str(tmp_path/'a[b]'))
    assert predict_paths(['-', corpus.path[0]], bundles/'lstm', format='json') == 0
    a, b = (json.loads(l)['probabilities'] for l in capsys.readouterr().out.splitlines())
    assert a == b

def test_unreadable_files_have_rows_in_input_order(bundles, corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    broken = [f'{i:02}.wav' for i in range(P.MAX_SHOWN + 2)]
    for name in broken: Path(name).write_bytes(b'no sound')
    paths = ['https://example.org/a.wav', broken[0], str(corpus.path[0]), *broken[1:], 'none*.wav', str(corpus.path[1])]
    for timeline in (False, True):
        assert predict_paths(paths, bundles/'lstm', format='json', timeline=timeline) == 1
        out, err = capsys.readouterr()
        rows, told = [json.loads(line) for line in out.splitlines()], err.splitlines()
        assert [r['path'] for r in rows] == paths
        read = [r['error'] is None for r in rows]
        assert read == [p in paths[2::len(paths) - 3] for p in paths]
        lost = [r for r in rows if r['error']]
        assert all(r[k] is None for r in lost for k in ('emotion', 'confidence', 'probabilities', *['segments']*timeline))
        assert told[:-1] == [r['error'] for r in lost][:P.MAX_SHOWN] and told[-1].startswith(f'and {len(lost) - P.MAX_SHOWN} more')
        assert told[0].startswith('https://example.org/a.wav is a web address')
        assert predict_paths(paths, bundles/'lstm', format='csv', timeline=timeline) == 1
        table = pd.read_csv(io.StringIO(capsys.readouterr().out))
        assert table.path.tolist() == paths and table.error.isna().tolist() == read and table.emotion.notna().tolist() == read
    assert Predictor(bundles/'lstm').predict_files(paths).error.isna().tolist() == read
    assert predict_paths(broken[:1], bundles/'lstm', format='csv') == 2
    assert len(capsys.readouterr().out.splitlines()) == 2

def test_one_threshold_everywhere():
    import inspect
    from ser_fastai import app, cli
    functions = (R.answer, P.Predictor.predict_files, P.result_row, P.segments, P.plot_timeline, P.predict_paths, cli.ser_predict, cli.ser_app,
                 app.answer_sentence, app.timeline_section, app.answer_html, app.handle_recording, app.build_app, app.serving)
    assert {inspect.signature(f).parameters['threshold'].default for f in functions} == {THRESHOLD}

def test_a_predictor_goes_to_other_processes(bundles, corpus, monkeypatch):
    "It is pickled for spawn and joblib, and opened once per process there; a fork opens it anew."
    monkeypatch.chdir(bundles)
    p = Predictor('lstm')
    want = p.predict(corpus.path[0])
    monkeypatch.chdir('/')                                    # a relative path means the folder it was opened in
    one, other = (pickle.loads(pickle.dumps(p)) for _ in range(2))
    assert one.bundle is other.bundle
    pd.testing.assert_series_equal(one.predict(corpus.path[0]), want)
    if not (child := os.fork()):
        try: os._exit(0 if p.predict(corpus.path[0]).idxmax() == want.idxmax() else 8)
        finally: os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    pd.testing.assert_series_equal(p.predict(corpus.path[0]), want)   # and here as before

def test_a_bundle_that_changed_is_not_taken_for_the_pickled_one(bundles, tmp_path):
    folder = shutil.copytree(bundles/'cnn', tmp_path/'b')
    data = pickle.dumps(Predictor(folder))
    shutil.rmtree(folder), shutil.copytree(bundles/'lstm', folder)
    with pytest.raises(SerError, match='has changed'): pickle.loads(data)

@pytest.mark.parametrize('wrong', [dict(top=0), dict(top=-1), dict(threshold=50), dict(threshold=-.1), dict(threshold=float('nan'))])
def test_odd_options(wrong, bundles, corpus):
    with pytest.raises(SerError, match='invalid threshold|invalid number of emotions'): predict_paths([corpus.path[0]], bundles/'lstm', **wrong)

def test_timeline_of_the_command(bundles, tmp_path, capsys):
    x = np.concatenate([buzz(100, 8.), buzz(300, 8.)])
    sf.write(tmp_path/'talk.wav', x, SR)
    (tmp_path/'b').mkdir(); sf.write(tmp_path/'b'/'talk.wav', x, SR)
    paths = [tmp_path/'talk.wav', tmp_path/'b'/'talk.wav']
    assert predict_paths(paths, bundles/'lstm', format='json', timeline=True, plot=tmp_path/'pictures') == 0
    rows = [json.loads(l) for l in capsys.readouterr().out.splitlines()]
    assert rows[0]['segments'] == rows[1]['segments'] and rows[0]['segments'][0]['start'] == 0 and rows[0]['segments'][-1]['end'] == 16
    assert sorted(f.name for f in (tmp_path/'pictures').iterdir()) == ['talk 2.png', 'talk.png']
    assert predict_paths(paths[:1], bundles/'lstm', format='csv', timeline=True) == 0
    out = capsys.readouterr().out
    assert predict_paths(paths[:1], bundles/'lstm', format='csv', timeline=True, threshold=1) == 0
    assert set(pd.read_csv(io.StringIO(capsys.readouterr().out)).emotion) == {'uncertain'}
    assert list(pd.read_csv(io.StringIO(out)).columns) == ['path', 'start', 'end', 'emotion', 'confidence', *LABELS, 'error']
    (tmp_path/'file').write_text('')
    with pytest.raises(SerError, match='cannot write to'): predict_paths(paths[:1], bundles/'lstm', plot=tmp_path/'file')

@pytest.mark.parametrize('format', ['table', 'json'])
@pytest.mark.parametrize('how', [KeyboardInterrupt, SerError('pictures cannot be written: name another folder.')], ids=['interrupted', 'no picture'])
def test_what_is_done_is_shown_though_the_rest_fails(how, format, bundles, corpus, tmp_path, capsys, monkeypatch):
    "The rows that there are, and the sentences; then the failure goes its way."
    draw = P._save_plot
    def draw_one(path, timeline, folder, threshold, used):
        if used: raise how
        draw(path, timeline, folder, threshold, used)
    monkeypatch.setattr(P, '_save_plot', draw_one)
    (tmp_path/'broken.wav').write_text('no sound')
    with pytest.raises(type(how) if how is not KeyboardInterrupt else how):
        predict_paths([tmp_path/'broken.wav', *corpus.path[:3]], bundles/'lstm', format=format, timeline=True, plot=tmp_path/'pictures')
    out, err = capsys.readouterr()
    told = [str(path) in out for path in corpus.path[:3]]
    assert told == [True, True, False] and len(err.splitlines()) == 1 and 'cannot read' in err and 'broken.wav' in err

def test_segments_of_many_windows():
    "Three hours: as a matrix of stretches by windows it would be 400 MB."
    start = np.arange(0, 3*3600, 1.5)
    p = np.random.default_rng(0).dirichlet([1, 1, 1], len(start))
    t = pd.DataFrame(dict(start=start, end=start + 3, emotion='', confidence=0.) | dict(zip(LABELS, p.T)))
    s = P.segments(t)
    assert s.start.iloc[0] == 0 and s.end.iloc[-1] == start[-1] + 3
    i = 1000                                            # the stretch from 1500 s on lies in windows 999 and 1000
    assert s[(s.start <= start[i]) & (s.end > start[i])].emotion.item() == LABELS[(p[i - 1] + p[i]).argmax()]

def test_formulas_are_no_formulas(bundles, corpus, tmp_path, capsys):
    shutil.copy(corpus.path[0], tmp_path/r'c $\x$.wav')
    assert predict_paths([tmp_path/r'c $\x$.wav'], bundles/'lstm', plot=tmp_path/'p') == 0
    t = pd.DataFrame({'start': [0.], 'end': [3.], 'emotion': [''], 'confidence': [0.], r'$\x$': [.4], 'power': [.6]})
    P.plot_timeline(t).figure.canvas.draw()
    shutil.copy(corpus.path[0], tmp_path/f'{"é"*125}.wav')   # 254 bytes
    assert predict_paths([tmp_path/f'{"é"*125}.wav'], bundles/'lstm', plot=tmp_path/'p', top=10**9) == 0
    assert (tmp_path/'p'/f'{"é"*100}.png').stat().st_size > 5000

def test_uncertain(bundles, corpus, capsys):
    assert predict_paths([corpus.path[0]], bundles/'lstm', format='json', threshold=1) == 0
    assert json.loads(capsys.readouterr().out)['emotion'] == 'uncertain'
    assert predict_paths([corpus.path[0]], bundles/'lstm', threshold=1) == 0
    unsure = capsys.readouterr().out.splitlines()[:2]
    assert predict_paths([corpus.path[0]], bundles/'lstm') == 0
    sure = capsys.readouterr().out.splitlines()[1].split()   # the file, the answer, its share, the next
    assert unsure[1].split() == [sure[0], 'uncertain', f'({sure[1]})', *sure[2:]]

def test_names_cannot_drive_the_terminal(bundles, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('SER_QUIET', '1')   # a slow machine would show its bar
    for name in ('a\nb.wav', 'red\x1b[31m.wav', 'smile\U0001f600.wav'): sf.write(tmp_path/name, buzz(), SR)
    (tmp_path/'bad\x1b[2J.wav').write_bytes(b'')
    for form in ('table', 'json'): assert predict_paths([tmp_path], bundles/'lstm', format=form) == 1
    out, err = capsys.readouterr()
    assert '\x1b' not in out + err and len(err.splitlines()) == 2 and '\U0001f600' in out


# no speech

MELODY = (.3*np.sin(2*np.pi*np.repeat([262, 330, 392, 523], SR)*np.arange(4*SR)/SR)).astype('float32')

@pytest.fixture(scope='session')
def voice_and_melody(tmp_path_factory):
    "A folder with a synthetic voice, a melody, and a melody between two voices."
    folder = tmp_path_factory.mktemp('sounds')
    voice = (make_clip((5, 2, 2, 1, 3))/2**15).astype('float32')
    sounds = dict(voice=voice, melody=MELODY, both=np.concatenate([*[voice]*4, *[MELODY]*2, *[voice]*4]))
    for name, x in sounds.items(): sf.write(folder/f'{name}.wav', x, SR, subtype='FLOAT')
    return folder

def test_no_speech(bundles, voice_and_melody):
    p, melody = P.Predictor(bundles/'lstm'), voice_and_melody/'melody.wav'
    assert p.recognise(melody) == [] and p.predict(melody).isna().all() and R.answer(p.predict(melody)) == 'no speech'
    assert len(p.timeline(melody)) == 0 and list(p.timeline(melody)) == list(p.timeline(voice_and_melody/'voice.wav'))
    assert len(P.segments(p.timeline(melody))) == 0
    with pytest.raises(SerError, match='contains no speech'): P.plot_timeline(p.timeline(melody))
    table = p.predict_files([melody, voice_and_melody/'voice.wav'])
    assert table.emotion[0] == 'no speech' and table.error.isna().all() and table[['confidence', *LABELS]].isna().all(axis=1).tolist() == [True, False]
    assert P.Predictor(bundles/'lstm', any_sound=True).predict(melody).sum() == pytest.approx(1)
    assert pickle.loads(pickle.dumps(p)).recognise(melody) == [] != pickle.loads(pickle.dumps(Predictor(bundles/'lstm'))).recognise(melody)

def test_a_melody_is_a_gap_in_the_timeline(bundles, voice_and_melody):
    t = P.Predictor(bundles/'lstm').timeline(voice_and_melody/'both.wav')
    seconds = sf.info(voice_and_melody/'both.wav').duration
    middle = seconds/2
    assert t.start.iloc[0] == 0 and t.end.iloc[-1] == seconds and not ((t.start < middle) & (t.end > middle)).any()

@pytest.mark.parametrize('timeline', [False, True])
def test_no_speech_in_all_formats(timeline, bundles, voice_and_melody, tmp_path, capsys):
    paths = [voice_and_melody/'melody.wav', voice_and_melody/'voice.wav']
    def printed(paths, format):
        assert P.predict_paths(paths, bundles/'lstm', format=format, timeline=timeline, plot=tmp_path/'plots') == 0
        out, err = capsys.readouterr()
        assert not err
        return out
    assert printed(paths[:1], 'table').splitlines()[1].split()[-2:] == ['no', 'speech']
    table = pd.read_csv(io.StringIO(printed(paths, 'csv')))
    assert table.emotion[0] == 'no speech' and table[['confidence', *LABELS]].iloc[0].isna().all() and table.error.isna().all()
    row = json.loads(printed(paths, 'json').splitlines()[0])
    assert row == dict(path=str(paths[0]), emotion='no speech', confidence=None, probabilities=None, error=None) | (dict(segments=[]) if timeline else {})
    assert not (tmp_path/'plots'/'melody.png').exists() and (tmp_path/'plots'/'voice.png').exists()

def test_clips_without_speech_do_not_adapt(embedding_bundle, voice_and_melody):
    with pytest.raises(SerError, match='no clip with speech .*melody.wav contains no speech'):
        P.Predictor(embedding_bundle).adapt(voice_and_melody/'melody.wav')


# adaptation to a voice

@pytest.fixture
def voice(tmp_path):
    "A folder with four recordings of one speaker."
    (tmp_path/'voice').mkdir()
    for i in range(4): sf.write(tmp_path/'voice'/f'{i}.wav', buzz(180 + 20*i, seed=i), SR, subtype='FLOAT')
    return tmp_path/'voice'

def test_adapt(embedding_bundle, voice):
    p = Predictor(embedding_bundle)
    adapted = p.adapt(voice)
    x, files = buzz(205), sorted(voice.iterdir())
    embedding = R.embeddings(p.bundle, x, SR)
    assert embedding.shape == (1, 6) and p.bundle.profile is None and adapted.bundle.profile.n_clips == 4
    want = R.softmax(H.head_logits(p.bundle.head, embedding, adapted.bundle.profile))[0]
    np.testing.assert_allclose(adapted.predict(x, SR), want, atol=1e-5)
    assert np.abs(adapted.predict(x, SR) - p.predict(x, SR)).max() > 1e-3
    for same in (files, map(str, files), [sf.read(f, dtype='float32')[0] for f in files], [str(voice/'*.wav')]):
        same = same if isinstance(same, list) else list(same)
        np.testing.assert_allclose(p.adapt(same, SR).predict(x, SR), adapted.predict(x, SR), atol=1e-5)
    np.testing.assert_allclose(pickle.loads(pickle.dumps(adapted)).predict(x, SR), adapted.predict(x, SR))

def test_a_profile_is_saved_and_used_again(embedding_bundle, voice, tmp_path):
    adapted = Predictor(embedding_bundle).adapt(voice)
    adapted.save_profile(tmp_path/'me.json')
    again = Predictor(embedding_bundle, profile=tmp_path/'me.json')
    np.testing.assert_allclose(again.predict(buzz(205), SR), adapted.predict(buzz(205), SR), atol=1e-3)
    with pytest.raises(SerError, match='cannot write .*: use another'): adapted.save_profile(tmp_path/'none'/'me.json')
    with pytest.raises(SerError, match='no profile to save: call adapt'): Predictor(embedding_bundle).save_profile(tmp_path/'you.json')
    from conftest import write_embedding_bundle
    with pytest.raises(SerError, match='made with another model: make it again'):
        Predictor(write_embedding_bundle(tmp_path/'other', seed=1), profile=tmp_path/'me.json')
    facts = json.loads((tmp_path/'me.json').read_text())
    for broken, says in (('', 'cannot read the profile'), ('{}', 'not a speaker profile'), (json.dumps(facts | dict(offset=[float('nan')]*6)), '6 finite'),
                         (json.dumps(facts | dict(scale=[1, 2])), '6 finite')):
        (tmp_path/'me.json').write_text(broken)
        with pytest.raises(SerError, match=says) as e: Predictor(embedding_bundle, profile=tmp_path/'me.json')
        assert 'make it again with --adapt' in str(e.value) and len(str(e.value).splitlines()) == 1
    with pytest.raises(SerError, match='cannot read the profile'): Predictor(embedding_bundle, profile=tmp_path/'none.json')

def test_clips_that_cannot_be_used(embedding_bundle, bundles, voice, bad, tmp_path, capsys):
    p = Predictor(embedding_bundle)
    (tmp_path/'empty').mkdir()
    for clips, says in (
            ([voice/'0.wav'], 'one clip is not enough: use two or more'), (buzz(), 'one clip is not enough'),
            ([voice/'0.wav', bad/'text.wav'], r'one clip is not enough \(not usable: 1; the first: cannot read .*text.wav'),
            (tmp_path/'empty', 'no clip .*contains no audio files'), ('none*.wav', 'matches no file'), ([], 'no clip'),
            ([bad/'text.wav', bad/'nan.wav', bad/'silent.wav'], 'not usable: 3; the first'), ([np.full(SR, np.nan)], 'clip 0: .*finite|clip 0.*NaN')):
        with pytest.raises(SerError, match=says) as e: p.adapt(clips, SR)
        assert len(str(e.value).splitlines()) == 1 and str(e.value).startswith('cannot adapt: ')
    assert not capsys.readouterr().err
    some = p.adapt([voice, bad/'text.wav', bad/'nan.wav'])
    lines = capsys.readouterr().err.splitlines()
    assert some.bundle.profile.n_clips == 4 and len(lines) == 2 and 'text.wav' in lines[0] and 'nan.wav' in lines[1]
    with pytest.raises(SerError, match='lstm has no embedding, because its graph ends in logits: use a speech model'): Predictor(bundles/'lstm').adapt(voice)
    with pytest.raises(SerError, match='has no embedding'): Predictor(bundles/'lstm', profile='me.json')

def test_adapt_with_the_command(embedding_bundle, voice, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    def answers(**kwargs):
        assert predict_paths([voice/'1.wav'], embedding_bundle, format='json', **kwargs) == 0
        return json.loads(capsys.readouterr().out)['probabilities']
    alone, adapted = answers(), answers(adapt=voice, save_profile='me.json')
    assert answers(profile='me.json') == pytest.approx(adapted, abs=1e-3) and alone != pytest.approx(adapted, abs=1e-3)
    for wrong, says in ((dict(profile='me.json', adapt=voice), 'cannot be combined'), (dict(save_profile='me.json'), 'add --adapt')):
        with pytest.raises(SerError, match=says): predict_paths([voice/'1.wav'], embedding_bundle, **wrong)


# the bundle that ships

def test_default_bundle():
    d = R.default_bundle()
    p = Predictor()
    assert p.labels == list(EMOTIONS) and sum(f.stat().st_size for f in d.iterdir()) < 6e6
    assert p.info['data']['corpora'] == ['emodb', 'nemo', 'ravdess'] and p.info['data']['speakers'] == 43
    assert any(s['unseen_speakers'] for s in p.info['scores'].values())
    licence = (d/'LICENSE').read_text(encoding='utf8')
    for words in ('CC BY-NC-SA 4.0', 'Livingstone', '10.1371/journal.pone.0196391', 'Zenodo 1188976', 'OpenAI'): assert words in licence
    assert p.summary in p.card
    assert Predictor(any_sound=True).predict(buzz(), SR).sum() == pytest.approx(1)

def real(name):
    try: return load_corpus(name)
    except SerError: pytest.skip(f'{name} is not here')

def test_default_bundle_knows_what_it_learnt():
    df = real('ravdess').iloc[::29]
    assert (Predictor().predict_files(df.path).emotion.to_numpy() == df.emotion).mean() > .6

def test_default_bundle_answers_strangers():
    df = real('emodb').iloc[::25]
    got = Predictor().predict_files(df.path)
    assert got.error.isna().all() and np.allclose(got[list(EMOTIONS)].sum(axis=1), 1)
