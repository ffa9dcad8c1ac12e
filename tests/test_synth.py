"The embedded corpus: what the corpus reader makes of it, how hard it is, and that nothing but its seed decides it."
import hashlib, shutil, time

import numpy as np
import pytest
from scipy.io import wavfile
from sklearn.model_selection import PredefinedSplit, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from ser_fastai.core import EMOTIONS, SerError
from ser_fastai.corpora import load_corpus
from ser_fastai.features import log_mel, mfcc
from ser_fastai.synth import clip_path, clip_plan, make_clip, synthesise


@pytest.fixture
def small_copy(small_synth, tmp_path): return shutil.copytree(small_synth/'synth', tmp_path/'synth')

def small(folder, **kwargs): return synthesise(folder, **(dict(n_speakers=1, n_repetitions=1, n_jobs=1) | kwargs))

def digest(folder): return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.glob('*/*.wav'))}


def test_corpus_as_read(synth):
    df = load_corpus('synth', synth)
    assert len(df) == 240 and df.speaker.nunique() == 8 and not df.attrs.get('notes')
    assert set(df.emotion) == set(EMOTIONS)
    assert (df.groupby('speaker').emotion.value_counts().unstack() == [2 if e == 'neutral' else 4 for e in sorted(EMOTIONS)]).all(axis=None)
    assert df.gender.value_counts().nunique() == 1 and df.sha.is_unique
    assert df.duration.between(.9, 3.2).all() and 1.2 < df.duration.mean() < 2.2

def test_two_cores_make_it_in_half_a_minute():
    plan = clip_plan()[::48]
    start = time.process_time()                # of this process alone, however busy the machine
    for c in plan: make_clip(c)
    assert (time.process_time() - start)/len(plan)*480/2 < 25

def test_no_clip_is_clipped_or_silent(synth):
    for f in (synth/'synth').glob('*/*.wav'):
        sr, y = wavfile.read(f)
        assert sr == 16000 and y.dtype == np.int16
        assert 100 < np.abs(y.astype(int)).max() < 32767

def test_known_speakers_are_easy_and_unseen_ones_hard(synth):
    df = load_corpus('synth', synth)
    x = np.stack([mfcc(log_mel(wavfile.read(f)[1]/32768)).mean(1) for f in df.path])
    svm, pairs = make_pipeline(StandardScaler(), SVC(C=10)), (df.speaker.str[-2:].astype(int) - 1)//2
    random, unseen = ((cross_val_predict(svm, x, df.emotion, cv=cv) == df.emotion).mean()
                      for cv in (StratifiedKFold(10, shuffle=True, random_state=0), PredefinedSplit(pairs)))
    assert .55 < random < .88
    assert .3 < unseen < random - .1

def test_the_seed_decides(small_synth, tmp_path):
    a, b, other = small_synth/'synth', small(tmp_path/'b', n_jobs=2), small(tmp_path/'c', seed=1)
    assert len(digest(a)) == 30 and digest(a) == digest(b)
    assert not set(digest(a).values()) & set(digest(other).values())

def test_a_part_equals_that_part_of_a_larger_corpus(small_synth, synth):
    part, whole = digest(small_synth/'synth'), digest(synth/'synth')
    assert part == {name: whole[name] for name in part}

def test_half_written_is_completed_and_complete_is_left(small_copy):
    folder, before = small_copy, digest(small_copy)
    for f in sorted(folder.glob('*/*.wav'))[::3]: f.unlink()
    (folder/'Actor_01'/'.03-01.wav.half.tmp').write_bytes(b'RIFF')
    assert digest(small(folder)) == before
    times = {f: f.stat().st_mtime_ns for f in folder.glob('*/*.wav')}
    small(folder)
    assert times == {f: f.stat().st_mtime_ns for f in times}

@pytest.mark.parametrize('change', [dict(seed=1), dict(n_speakers=2), dict(sr=22050)])
def test_another_corpus_is_not_mixed_in(small_copy, change):
    with pytest.raises(SerError, match='another folder'): small(small_copy, **change)

def test_recordings_are_never_written_to(tmp_path):
    (tmp_path/'Actor_01').mkdir()
    (tmp_path/'Actor_01'/'03-01-01-01-01-01-01.wav').write_bytes(b'a recording')
    with pytest.raises(SerError, match='another folder'): small(tmp_path)
    assert not (tmp_path/'synth.json').exists()

def test_a_damaged_note_is_named(small_copy):
    (small_copy/'synth.json').write_text('{"seed"')
    with pytest.raises(SerError, match='synth'): small(small_copy)

@pytest.mark.parametrize('sr', [8000, 22050, 48000])
def test_other_rates(sr):
    y, ref = make_clip((5, 2, 1, 1, 2), sr=sr), make_clip((5, 2, 1, 1, 2))
    assert abs(len(y)/sr - len(ref)/16000) < .01                # the same timing
    assert abs(20*np.log10(y.std()/ref.std())) < 1              # and level
    assert np.isfinite(y).all() and np.abs(y.astype(int)).max() < 32767

def test_every_seed_makes_sound():
    plan = clip_plan(24)
    assert len(plan) == 1440 == len({clip_path(c) for c in plan})
    rng = np.random.default_rng(0)
    for seed in range(15):
        y = make_clip(plan[rng.integers(len(plan))], seed=seed)
        assert .8 < len(y)/16000 < 3.5 and 30 < y.std() < 15000
