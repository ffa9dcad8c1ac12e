"The cache of features: keyed by content, whole or absent, made once, and a sentence where it cannot be."
import os, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, get_ident
import librosa, numpy as np, pandas as pd, pytest, soundfile as sf
from dataclasses import replace
from ser_fastai import features as F
from ser_fastai.audio import read_audio
from ser_fastai.core import SerError
from ser_fastai.recipes import Recipe

R = Recipe('test')

def tone(i, n=8000): return (.3*np.sin(2*np.pi*(200 + 70*i)*np.arange(n)/16000) + .001*np.random.default_rng(i).normal(size=n)).astype('float32')

@pytest.fixture
def corpus(tmp_path):
    "Twelve clips of different lengths; `sha` is a number of the content."
    (tmp_path/'wav').mkdir()
    rows = []
    for i in range(12):
        sf.write(tmp_path/'wav'/f'{i:02d}.wav', tone(i, 8000 + 500*i), 16000, subtype='FLOAT')
        rows.append(dict(clip=f'c/{i:02d}', path=str(tmp_path/'wav'/f'{i:02d}.wav'), sha=f'{(7*i + 3) % 12:016x}'))
    return pd.DataFrame(rows)

def entries(cache): return [p for p in cache.iterdir() if p.is_dir()]

@pytest.mark.parametrize('sr,n_fft,hop,n_mels,fmax', [(16000, 1024, 192, 128, 8000.), (16000, 512, 160, 64, 7000.), (22050, 2048, 512, 80, 11025.), (8000, 256, 64, 40, 4000.)])
def test_librosas_numbers(sr, n_fft, hop, n_mels, fmax):
    rng = np.random.default_rng(0)
    speechlike = np.cumsum(rng.normal(size=3*sr)); speechlike = (speechlike - speechlike.mean())*np.hanning(3*sr)/100
    for x in speechlike, rng.normal(size=n_fft), np.r_[np.zeros(sr), tone(5)], np.ones(sr//2), 1e-4*rng.normal(size=sr):
        kw = dict(sr=sr, n_fft=n_fft, hop_length=hop, n_mels=n_mels, fmax=fmax)
        want = librosa.power_to_db(librosa.feature.melspectrogram(y=x.astype('float32'), **kw))
        got = F.log_mel(x.astype('float32'), **kw)
        assert got.shape == want.shape and got.dtype == 'float32' and np.abs(got - want).max() < 1e-4
        cepstra = librosa.feature.mfcc(S=want, n_mfcc=20)
        assert np.abs(F.mfcc(want) - cepstra).max() < 1e-4
        assert np.abs(F.mfcc(got) - cepstra).max() < 2e-3     # a coefficient sums what 128 bands differ by

def test_memory_of_a_long_recording_is_bounded():
    import tracemalloc
    x = np.random.default_rng(0).normal(size=16000*120).astype('float32')   # two minutes; all frames at once would be 80 MB
    tracemalloc.start(); F.mel_power(x); peak = tracemalloc.get_traced_memory()[1]; tracemalloc.stop()
    assert peak < 40e6

@pytest.mark.parametrize('jobs', [1, 2])
def test_every_clip_is_its_own(corpus, tmp_path, jobs):
    feats = F.build_features(corpus, R, tmp_path/'cache', jobs)
    assert len(feats) == 12
    for c, p in zip(corpus['clip'], corpus.path): assert np.array_equal(feats[c], F.clip_features(read_audio(p), **feats.settings))

def test_keyed_by_content(corpus, tmp_path):
    cache = tmp_path/'cache'
    first = F.build_features(corpus, R, cache, 1)
    renamed = corpus.assign(path='gone.wav').assign(clip=corpus['clip'].str.replace('c/', 'd/')).sample(frac=1, random_state=0)
    again = F.build_features(renamed, R, cache, 1)                                         # other names, another order, no audio
    for c in corpus['clip']: assert np.array_equal(first[c], again[c.replace('c/', 'd/')])
    F.build_features(corpus, replace(R, name='other', epochs=3, lr=1., bs=2, seconds=1.), cache, 1)  # what does not touch the log-mel
    assert len(entries(cache)) == 1
    changed = corpus.assign(sha=corpus.sha.where(corpus.index > 0, 'f'*16))
    F.build_features(changed, R, cache, 1)
    for k, v in dict(trim=False, n_mels=64, hop_length=256, fmax=7000.).items(): F.build_features(corpus, replace(R, **{k: v}), cache, 1)
    assert len(entries(cache)) == 6

def test_the_same_samples_twice(corpus, tmp_path):
    twice = pd.concat([corpus, corpus[:1].assign(clip='c/again')], ignore_index=True)
    feats = F.build_features(twice, R, tmp_path/'cache', 1)
    assert np.array_equal(feats['c/again'], feats['c/00']) and len(feats) == 13

def test_a_damaged_entry_is_made_again(corpus, tmp_path):
    want = np.array(F.build_features(corpus, R, tmp_path/'cache', 1).frames)
    folder, = entries(tmp_path/'cache')
    for damage in (lambda: (folder/'frames.f32').write_bytes(b'123'), lambda: (folder/'frames.f32').unlink(),
                   lambda: (folder/'index.csv').write_text(''), lambda: (folder/'index.csv').unlink()):
        damage()
        assert np.array_equal(F.build_features(corpus, R, tmp_path/'cache', 1).frames, want)

def test_a_bad_clip_leaves_no_entry(corpus, tmp_path):
    (tmp_path/'wav'/'07.wav').write_bytes(b'')
    with pytest.raises(SerError, match='07.wav: the file is empty'): F.build_features(corpus, R, tmp_path/'cache', 2)
    assert not list((tmp_path/'cache').rglob('*.tmp')) and not list((tmp_path/'cache').rglob('index.csv'))
    sf.write(tmp_path/'wav'/'07.wav', tone(7), 16000)
    assert len(F.build_features(corpus, R, tmp_path/'cache', 2)) == 12

def test_a_cache_that_cannot_be_written(corpus, tmp_path, monkeypatch):
    (tmp_path/'file').write_text('')
    with pytest.raises(SerError, match='set SER_CACHE to another folder') as e: F.build_features(corpus, R, tmp_path/'file'/'cache', 1)
    assert '\n' not in str(e.value)
    def full(path): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(F, 'atomic_write', full)
    with pytest.raises(SerError, match='No space left on device'): F.build_features(corpus, R, tmp_path/'cache', 1)

@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() == 0, reason='root may write anywhere')
def test_a_read_only_cache(corpus, tmp_path):
    cache = tmp_path/'cache'; cache.mkdir(); cache.chmod(0o555)
    with pytest.raises(SerError, match='Permission denied'): F.build_features(corpus, R, cache, 1)

def test_two_programs_at_once(corpus, tmp_path, monkeypatch):
    "Two threads, each with a lock of its own, as two programs would have them: one builds, the other waits."
    read, built, both = F.read_audio, [], Barrier(2)
    monkeypatch.setattr(F, 'read_audio', lambda p, sr: (built.append(get_ident()), time.sleep(.01), read(p, sr))[2])
    def build(_):
        both.wait(60)
        return F.build_features(corpus, R, tmp_path/'cache', 1)
    with ThreadPoolExecutor(2) as ex: a, b = ex.map(build, range(2))
    assert len(built) == 12 and len(set(built)) == 1 and all(np.array_equal(a[c], b[c]) for c in corpus['clip'])

def test_an_interrupted_build(corpus, tmp_path, monkeypatch):
    read, seen = F.read_audio, []
    def interrupted(p, sr):
        seen.append(p)
        if len(seen) == 6: raise KeyboardInterrupt
        return read(p, sr)
    with monkeypatch.context() as m:
        m.setattr(F, 'read_audio', interrupted)
        with pytest.raises(KeyboardInterrupt): F.build_features(corpus, R, tmp_path/'cache', 1)
    assert not list((tmp_path/'cache').rglob('index.csv'))
    assert len(F.build_features(corpus, R, tmp_path/'cache', 1)) == 12 and not list((tmp_path/'cache').rglob('*.tmp'))

BUILD = '''
import sys, time, pandas as pd
from pathlib import Path
import ser_fastai.features as F
from ser_fastai.recipes import Recipe
read = F.read_audio
F.read_audio = lambda p, sr: (time.sleep(1), read(p, sr))[1]     # 12 s long, so that the signal comes in the middle on a busy machine too
F.build_features(pd.read_csv(sys.argv[1], dtype=dict(sha=str)), Recipe('test'), Path(sys.argv[2]), 1)
'''

def test_a_killed_build(corpus, tmp_path):
    corpus.to_csv(tmp_path/'corpus.csv', index=False)
    p, end = subprocess.Popen([sys.executable, '-c', BUILD, tmp_path/'corpus.csv', tmp_path/'cache']), time.time() + 120
    while not list((tmp_path/'cache').rglob('*.tmp')):
        assert time.time() < end
        time.sleep(.01)
    p.kill(), p.wait(60)
    assert not list((tmp_path/'cache').rglob('index.csv'))
    feats = F.build_features(corpus, R, tmp_path/'cache', 1)
    assert len(feats) == 12 and not list((tmp_path/'cache').rglob('*.tmp'))              # what was left is swept up
