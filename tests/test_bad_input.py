"Bad input of every kind: a right answer or one clear sentence; never a traceback, a hang, or code run from the file."
import hashlib, io, itertools, json, os, pickle, re, shutil, signal, socket, struct, subprocess, sys, tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np, pytest, soundfile as sf, torch
from safetensors.torch import load, save

from ser_fastai import graphs
from ser_fastai.audio import resample
from ser_fastai.core import Recipe, SerError
from ser_fastai.corpora import load_corpus
from ser_fastai.bundles import LARGEST, train_bundle
from ser_fastai.predict import Predictor
from ser_fastai.synth import clip_path, make_clip, synthesise

SR, PLAN = 16000, (3, 2, 1, 1, 1)  # a happy clip of the embedded corpus, which the models below were trained on
CLIP = (make_clip(PLAN)/2**15).astype('float32')
BAND = dict(fmax=3400., n_mels=40, hop_length=512, seconds=1.)  # they hear what a telephone carries, so a file of 8 kHz lacks nothing
RECIPES = dict(svm=Recipe('tiny_svm', model='svm', stats='mean,std', **BAND), cnn=Recipe('tiny_cnn', arch='squeezenet1_1', sizes=(32,), epochs=1, bs=8, **BAND))

# How far a probability may be from that of the samples in memory. Measured: 1e-4 for 16 bits and any rate, .006 for mu-law, A-law and what is made
# to sound the same, .12 for 8 bits and ADPCM, whose noise lies 50 dB under full scale, over the pauses of the clip.
EXACT, LOSSY, COARSE = .001, .02, .25


@pytest.fixture(autouse=True)
def no_hang():
    "A hang is a failure, even that of a file which never answers."
    def late(*args): raise TimeoutError('no answer in 500 s')
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(500)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)

@pytest.fixture(scope='session')
def bundles(tmp_path_factory):
    d = tmp_path_factory.mktemp('models')
    synthesise(d/'data'/'synth', n_speakers=1, n_repetitions=1, n_jobs=1)
    df = load_corpus('synth', d/'data')
    assert str(clip_path(PLAN)) in ' '.join(map(str, df.path))
    with pytest.MonkeyPatch.context() as m:
        m.setenv('SER_CACHE', str(d/'cache'))
        for kind, r in RECIPES.items(): train_bundle(df, r, d/kind, half=kind == 'cnn')
        train_bundle(df, replace(RECIPES['svm'], seconds=3.), d/'patient')
    return d

@pytest.fixture(scope='session')
def svm(bundles): return Predictor(bundles/'svm')


# the files

def sound(x=CLIP, sr=SR, **kw):
    "The bytes of a file; `x` is at 16 kHz, whatever the rate of the file."
    out = io.BytesIO()
    sf.write(out, x if sr == SR else resample(x, SR, sr), sr, **(dict(format='WAV') | kw))
    return out.getvalue()

PCM = np.round(CLIP*2**15).astype('<i2').tobytes()
def chunk(name, data, size=None): return name + struct.pack('<I', len(data) if size is None else size) + data
def wav(tag=1, channels=1, rate=SR, bytes_s=2*SR, align=2, bits=16, data=PCM, fmt_size=None, data_size=None, riff_size=None, before=b'', after=b'', swap=False):
    "A wav file by hand, whose header says what we like."
    parts = [chunk(b'fmt ', struct.pack('<HHIIHH', tag, channels, rate, bytes_s, align, bits), fmt_size), chunk(b'data', data, data_size)]
    return chunk(b'RIFF', b'WAVE' + before + b''.join(parts[::-1] if swap else parts) + after, riff_size)

def piped_flac():
    "As ffmpeg gives it to a pipe: how many samples follow is not said, and stands as 0 in 36 bits."
    data = sound(format='FLAC')
    return data[:21] + bytes([data[21] & 0xf0, 0, 0, 0, 0]) + data[26:]

def wide(*channels): return np.stack(channels, 1)
def spoilt(value): return np.where(np.arange(len(CLIP)) == 9999, value, CLIP).astype('float32')
def info(size=None): return chunk(b'LIST', b'INFOISFT' + bytes(100), size)
LOUD, HALF, SILENCE, MOST = np.clip(20*CLIP, -1, 1), CLIP[:len(CLIP)//2], np.zeros_like(CLIP), 2**32 - 1
ENCODED = dict(wav=sound(), flac=sound(format='FLAC'), ogg=sound(format='OGG', subtype='VORBIS'), opus=sound(format='OGG', subtype='OPUS'), mp3=sound(format='MP3'),
               aiff=sound(format='AIFF'), au=sound(format='AU'), w64=sound(format='W64'), rf64=sound(format='RF64'), caf=sound(format='CAF'), nist=sound(format='NIST'))

GSM = sound(CLIP[:2*(len(CLIP)//2 - 400)], sr=8000, subtype='GSM610')  # so coarse that a small model may change its mind: its answer is that to what it holds
RIGHT = dict(  # name -> bytes, or how to make it; how near its answer has to be; to that of which samples
    **{f'rate_{sr}': (sound(sr=sr), EXACT) for sr in (8000, 11025, 12000, 16001, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 176400, 192000)},
    **{f'{k.lower()}_{s.lower()}': (sound(format=k, subtype=s), EXACT) for k, s in [
        ('WAV', 'PCM_16'), ('WAV', 'PCM_24'), ('WAV', 'PCM_32'), ('WAV', 'FLOAT'), ('WAV', 'DOUBLE'), ('WAVEX', 'PCM_24'), ('W64', 'PCM_16'), ('RF64', 'PCM_16'),
        ('FLAC', 'PCM_16'), ('FLAC', 'PCM_24'), ('AIFF', 'PCM_16'), ('AIFF', 'FLOAT'), ('AU', 'PCM_16'), ('CAF', 'ALAC_16'), ('NIST', 'PCM_16'), ('VOC', 'PCM_16')]},
    **{f'{k.lower()}_{s.lower()}': (sound(format=k, subtype=s), LOSSY) for k, s in [
        ('WAV', 'ULAW'), ('WAV', 'ALAW'), ('AU', 'ULAW'), ('OGG', 'VORBIS'), ('OGG', 'OPUS'), ('MP3', 'MPEG_LAYER_III')]},
    **{f'telephone_{s.lower()}': (sound(sr=8000, subtype=s), tol) for s, tol in dict(ULAW=LOSSY, ALAW=LOSSY).items()},
    telephone_gsm610=(GSM, EXACT, resample(sf.read(io.BytesIO(GSM), frames=len(CLIP)//2 - 400, dtype='float32')[0], 8000, SR)),
    **{f'wav_{s.lower()}': (sound(subtype=s), COARSE) for s in ('PCM_U8', 'IMA_ADPCM', 'MS_ADPCM')},
    **{f'channels_{n}': (sound(wide(*[CLIP]*n)), EXACT) for n in (2, 6, 8, 64)},
    one_of_8=(sound(wide(CLIP, *[SILENCE]*7), subtype='FLOAT'), EXACT), opposed_of_3=(sound(wide(CLIP, -CLIP, CLIP), subtype='FLOAT'), EXACT),
    opposed=(sound(wide(CLIP, -CLIP), subtype='FLOAT'), EXACT), opposed_with_hiss=(sound(wide(CLIP, .001*np.random.default_rng(0).normal(size=len(CLIP)) - .97*CLIP), subtype='FLOAT'), EXACT),
    quiet=(sound(CLIP/1000, subtype='FLOAT'), EXACT, CLIP/1000), over_full_scale=(sound(20*CLIP, subtype='FLOAT'), EXACT, 20*CLIP), clipping=(sound(LOUD), EXACT, LOUD),
    offset=(sound(CLIP + .3), EXACT), small_offset=(sound(CLIP + .002), EXACT), pauses=(sound(np.pad(CLIP, 5*SR)), EXACT, np.pad(CLIP, 5*SR)),
    # what streams, recorders and editors write of sizes
    riff_size_0=(wav(riff_size=0), EXACT), riff_size_4=(wav(riff_size=4), EXACT), riff_size_max=(wav(riff_size=MOST), EXACT), riff_size_31=(wav(riff_size=2**31), EXACT),
    data_size_max=(wav(data_size=MOST), EXACT), both_sizes_max=(wav(riff_size=MOST, data_size=MOST), EXACT), data_size_0=(wav(data_size=0), EXACT), both_sizes_0=(wav(riff_size=0, data_size=0), EXACT),
    riff_size_double=(wav(riff_size=2*len(PCM)), EXACT), riff_size_8_more=(wav(riff_size=len(wav())), EXACT),
    data_size_half=(wav(data_size=2*len(HALF)), EXACT, HALF), data_size_odd=(wav(data_size=len(PCM) - 1), EXACT), data_odd=(wav(data=PCM + b'x'), EXACT),
    piped_flac=(piped_flac(), EXACT), list_before=(wav(before=info()), EXACT), list_behind=(wav(after=chunk(b'LIST', b'INFO' + bytes(10**6))), EXACT), lying_list_behind=(wav(after=info(2**31)), EXACT),
    junk_chunk=(wav(before=chunk(b'junk', bytes(5000))), EXACT), no_align=(wav(align=0), EXACT), largest_align=(wav(align=65535), EXACT), no_byte_rate=(wav(bytes_s=0), EXACT),
    link=(lambda f: f.symlink_to(f.with_name('wav_pcm_16.wav')), EXACT))

class Boom:
    "What a pickle would run."
    def __reduce__(self): return open, (str(MARKER), 'w')
MARKER = Path.home()/'ser_fastai_ran_a_file'

def make_socket(f):
    here = os.getcwd()
    os.chdir(f.parent)   # the name of a socket has at most 107 bytes
    try: socket.socket(socket.AF_UNIX).bind(f.name)
    finally: os.chdir(here)

BAD = dict(  # name -> bytes, or how to make it; what its sentence says
    **{f'{k}_cut_{n}': (data[:n], 'empty|cannot read|no samples|lasts|cut short') for k, data in ENCODED.items() for n in range(0, 100, 10)},
    **{f'{k}_cut_half': (data[:len(data)//2], 'cut short|no samples|cannot read') for k, data in ENCODED.items()},
    ogg_cut_end=(ENCODED['ogg'][:-2], 'cut short|cannot read'),
    data_size_double=(wav(data_size=2*len(PCM)), 'cut short'), data_size_1000=(wav(data_size=1000), 'lasts 31 ms'),
    **{f'fmt_size_{n}': (wav(fmt_size=n), 'cannot read') for n in (0, 14, 2**31, MOST)}, data_first=(wav(swap=True), 'cannot read'),
    lying_list=(wav(before=info(2**31)), 'cannot read'), short_list=(wav(before=info(51)), 'cannot read'), two_formats=(wav(before=chunk(b'fmt ', bytes(16))), 'cannot read'),
    two_data=(wav(after=chunk(b'data', PCM)), 'cannot read'), no_data=(chunk(b'RIFF', b'WAVE' + chunk(b'fmt ', struct.pack('<HHIIHH', 1, 1, SR, 2*SR, 2, 16))), 'cannot read'),
    no_fmt=(chunk(b'RIFF', b'WAVE' + chunk(b'data', PCM)), 'cannot read'), big_endian=(b'RIFX' + wav()[4:], 'cannot read'),
    no_channels=(wav(channels=0), 'cannot read'), most_channels=(wav(channels=65535), 'cannot read'), thousand_channels=(wav(channels=1000), 'lasts 1 ms'),
    **{f'header_rate_{n}': (wav(rate=n), 'rate|cannot read|longer') for n in (0, 1, 10**6, 2**31 - 1, MOST)}, rate_500=(sound(sr=500), 'rate of 500 Hz'),
    **{f'bits_{n}': (wav(bits=n), 'cannot read') for n in (0, 64, 65535)}, **{f'tag_{n}': (wav(tag=n), 'cannot read') for n in (0, 2, 3, 0x11, 0x31, 0x55, 0x9999, 0xfffe)},
    raw=(PCM, 'cannot read'), random=(np.random.default_rng(0).bytes(50000), 'cannot read'), zeros=(bytes(50000), 'cannot read'), ones=(b'\xff'*50000, 'cannot read'),
    no_samples=(sound(SILENCE[:0]), 'no samples'), one_sample=(sound(np.ones(1)), 'lasts 0 ms'), two_samples=(sound(CLIP[5000:5002]), 'lasts 0 ms'), short=(sound(CLIP[5000:6500]), 'lasts 94 ms'),
    silence=(sound(SILENCE), 'silent'), denormal=(sound(CLIP*1e-39, subtype='DOUBLE'), 'silent'), direct_current=(sound(SILENCE + .3), 'silent'),
    full_scale=(sound(SILENCE + 1), 'silent'), silence_8=(sound(wide(*[SILENCE]*8)), 'silent'),
    nan=(sound(spoilt(np.nan), subtype='FLOAT'), 'NaN'), all_nan=(sound(SILENCE*np.nan, subtype='FLOAT'), 'NaN'), infinity=(sound(spoilt(np.inf), subtype='FLOAT'), 'NaN|far outside'),
    minus_infinity=(sound(spoilt(-np.inf), subtype='FLOAT'), 'NaN|far outside'), too_loud=(sound(1e25*CLIP, subtype='FLOAT'), 'far outside'),
    double_max=(sound(spoilt(0).astype('float64')*1e308, subtype='DOUBLE'), 'NaN|far outside'), nan_of_2=(sound(wide(CLIP, spoilt(np.nan)), subtype='FLOAT'), 'NaN'),
    text=('no sound at all\n'*999).encode(), html=b'<!doctype html><title>404</title>'*99, image=b'\x89PNG\r\n\x1a\n' + bytes(4000), jpeg=b'\xff\xd8\xff\xe0\0\x10JFIF\0' + bytes(4000),
    pdf=b'%PDF-1.7\n' + bytes(4000), archive=b'PK\3\4' + bytes(4000), gzip=b'\x1f\x8b\x08' + bytes(4000), m4a=b'\0\0\0\x20ftypM4A ' + bytes(4000), webm=b'\x1a\x45\xdf\xa3' + bytes(4000),
    id3=b'ID3\3\0\0\0\0\0\x0a' + bytes(4000), python=b'import os; os.abort()\n'*99, pickle=pickle.dumps(Boom()), program=b'\x7fELF\2\1\1' + bytes(4000), array=b'\x93NUMPY\1\0v\0' + bytes(4000),
    folder=(Path.mkdir, 'folder'), folder_link=(lambda f: f.symlink_to('/etc'), 'folder'), dangling=(lambda f: f.symlink_to('nowhere.wav'), 'does not exist'),
    loop=(lambda f: f.symlink_to(f), 'cannot read|does not exist'), fifo=(os.mkfifo, 'not a regular file'), socket=(make_socket, 'not a regular file'),
    zero=(lambda f: f.symlink_to('/dev/zero'), 'not a regular file'), null=(lambda f: f.symlink_to('/dev/null'), 'not a regular file'), full=(lambda f: f.symlink_to('/dev/full'), 'not a regular file'),
    memory=(lambda f: f.symlink_to('/proc/self/mem'), 'empty'))
BAD = {k: v if isinstance(v, tuple) else (v, 'cannot read') for k, v in BAD.items()}
NAMES = ['smile \U0001f600.wav', 'two\nlines.wav', 'tab\t.wav', 'red\x1b[31m.wav', '-n.wav', '--help.wav', '%s{0}.wav', '[a-z]*?.wav', '$(touch x);`.wav', "'\"quote.wav", '~root.wav',
         '\u202egnp.wav', os.fsdecode(b'caf\xe9.wav'), 'x'*251 + '.wav', ' .WAV']
ODD = {'/dev/zero': 'not a regular file', '/dev/null': 'not a regular file', 'missing.wav': 'does not exist', 'mis\nsing.wav': 'does not exist', 'y'*300: 'cannot read', 'a\0b': 'cannot read'}

@pytest.fixture(scope='session')
def folder(tmp_path_factory):
    d = tmp_path_factory.mktemp('sounds')
    for name, (make, *_) in (RIGHT | BAD).items():
        if callable(make): make(d/f'{name}.wav')
        else: (d/f'{name}.wav').write_bytes(make)
    for name in NAMES: (d/name).write_bytes(ENCODED['wav'])
    return d

def near(probs, want, tolerance): return probs.idxmax() == want.idxmax() and np.abs(probs - want).max() <= tolerance

def flaw(text, name, says=''):
    "What keeps a message from being one sentence on what, why and the remedy; nothing if it is one."
    rest = text.replace(str(name), 'NAME')
    if 'NAME' not in rest: return f'does not name it: {text!r}'
    text = text[:400]
    if not rest.isprintable() or not re.search(r'NAME.*: \w.+\.$', rest) or len(rest) > 300: return f'is no sentence with a remedy: {text!r}'
    if not re.search(says, rest) or ('not exist' in rest and 'not exist' not in says): return f'says something else than {says!r}: {text!r}'


def check(text, name, says=''):
    if f := flaw(text, name, says): pytest.fail(f, pytrace=False)

def none(wrong):
    if wrong: pytest.fail('\n'.join(f'{k}: {v}' for k, v in wrong.items()), pytrace=False)


# both ways in

def test_the_clip_has_an_answer(svm, bundles):
    "Else all below would prove nothing."
    probs = svm.predict(CLIP, SR)
    assert probs.idxmax() == 'happy' and .5 < probs.max() < .999
    assert len(RIGHT) + len(BAD) > 200 and 'GSM610' in sf.available_subtypes('WAV')

@pytest.mark.parametrize('name', [*RIGHT, *NAMES], ids=ascii)
def test_right(name, svm, folder):
    _, tolerance, *samples = RIGHT.get(name, (0, EXACT))
    got, want = svm.predict(folder/(name if name in NAMES else f'{name}.wav')), svm.predict(*samples or [CLIP], SR)
    assert near(got, want, tolerance), f'{got.idxmax()}, not {want.idxmax()}; {np.abs(got - want).max():.4f} apart'

@pytest.mark.parametrize('name', [*BAD, *ODD], ids=ascii)
def test_one_sentence(name, svm, folder):
    path, says = (name, ODD[name]) if name in ODD else (folder/f'{name}.wav', BAD[name][1])
    with pytest.raises(SerError) as e: svm.predict(path)
    check(str(e.value), path, says)
    assert not MARKER.exists()

def test_unreadable(svm, tmp_path):
    f = tmp_path/'mine.wav'
    f.write_bytes(ENCODED['wav'])
    f.chmod(0)
    if os.access(f, os.R_OK):   # an administrator's is heard
        svm.predict(f)
        return
    with pytest.raises(SerError) as e: svm.predict(f)
    check(str(e.value), f, 'cannot read')

def test_command(svm, bundles, folder):
    "All of it at once: every good file is answered, every bad one gets its line."
    odd = [n for n in ODD if '\0' not in n]
    r = subprocess.run([Path(sys.executable).parent/'ser_predict', folder, folder/'folder.wav', folder/'folder_link.wav', *odd, '--bundle', bundles/'svm', '--format', 'json'],
                       cwd=folder, capture_output=True, timeout=450, env=os.environ | dict(SER_QUIET='1'))
    out, err = r.stdout.decode(), r.stderr.decode()
    assert r.returncode == 1 and 'Traceback' not in out + err and '\x1b' not in out + err and not MARKER.exists()
    got = {d['path']: d['probabilities'] for d in map(json.loads, out.splitlines())}
    want = {str(folder/n): (0, EXACT) for n in NAMES} | {str(folder/f'{n}.wav'): v for n, v in RIGHT.items()}
    wrong = {p: 'no answer' for p in want.keys() - got} | {p: 'an answer' for p in got.keys() - want}
    for p in want.keys() & got:
        _, tolerance, *samples = want[p]
        truth = svm.predict(*samples or [CLIP], SR)
        if not near(truth*0 + [got[p][l] for l in svm.labels], truth, tolerance + 1e-4): wrong[p] = got[p]
    lines = err.splitlines()
    plain = lambda s: ''.join(c if c.isprintable() else '\ufffd' for c in str(s))
    said = {plain(folder/f'{n}.wav'): says for n, (_, says) in BAD.items()} | {plain(n): ODD[n] for n in odd}
    for name, says in said.items():
        mine = [l for l in lines if l.removeprefix('cannot read ').startswith((f'{name} ', f'{name}: '))]
        if len(mine) != 1: wrong[name] = mine
        elif f := flaw(mine[0], name, says): wrong[name] = f
    none(wrong)
    assert len(lines) == len(said)

PEAK = '''
import json, resource, sys
from ser_fastai.predict import Predictor
p = Predictor(sys.argv[1])
print(json.dumps([(p.predict(f).to_dict(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024) for f in sys.argv[2:]]))
'''

def test_three_hours(bundles, tmp_path):
    "The answer is that of ten minutes of the same, and memory does not grow with the length."
    words = np.frombuffer(sound(sr=8000, subtype='ULAW', format='RAW'), 'uint8')
    for name, seconds in dict(short=2, minutes=600, hours=3*3600).items():
        (tmp_path/f'{name}.wav').write_bytes(wav(7, 1, 8000, 8000, 1, 8, data=np.resize(words, seconds*8000).tobytes()))
    r = subprocess.run([sys.executable, '-c', PEAK, bundles/'patient', *[tmp_path/f'{n}.wav' for n in ('short', 'minutes', 'hours')]], capture_output=True, text=True, timeout=450)
    assert not r.returncode, r.stderr
    (_, before), (some, _), (all, after) = json.loads(r.stdout)
    assert all == pytest.approx(some, abs=.01)
    assert after - before < 300, f'{after - before} MB more for three hours than for two seconds'

MANY = '''
import resource, sys
from ser_fastai.predict import Predictor
p, peak = Predictor(sys.argv[1]), lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024
p.predict(sys.argv[2])
before = peak()
assert not p.predict_files(sys.argv[2:]).error.any()
print(peak() - before)
'''

def test_many_long_files_wait_for_their_turn(bundles, tmp_path):
    "A minute of one is 23 MB of samples: 12 at once would be 276."
    words = np.frombuffer(sound(subtype='ULAW', format='RAW'), 'uint8')
    for i in range(12): (tmp_path/f'{i}.wav').write_bytes(wav(7, 1, 96000, 96000, 1, 8, data=np.resize(words, 70*96000).tobytes()))
    r = subprocess.run([sys.executable, '-c', MANY, bundles/'svm', *sorted(tmp_path.iterdir())], capture_output=True, text=True, timeout=450)
    assert not r.returncode, r.stderr
    assert int(r.stdout) < 150, f'{int(r.stdout)} MB more for 12 long files than for one'


# a stranger's bundle

def changed(folder, to, file, data):
    "A copy with another file in it, and the right checksum."
    if not to.exists(): shutil.copytree(folder, to)
    (to/file).write_bytes(data)
    head = to/('settings.json' if (to/'settings.json').exists() else 'bundle.json')
    if file != head.name:
        was = json.loads((folder/head.name).read_text(encoding='utf8'))
        head.write_text(json.dumps(was | dict(sha256=hashlib.sha256(data).hexdigest())), encoding='utf8')
    return to

def verdict(read, folder):
    "What is wrong with how a folder is treated; nothing, if it is refused in one sentence or answers in probabilities."
    at = folder
    try:
        p = read(folder)
        at, probs, text = '', p.predict(CLIP, SR), p.card
    except SerError as e: return flaw(str(e), at)
    except TimeoutError: raise
    except Exception as e: return f'{type(e).__name__}: {str(e)[:200]}'
    if list(probs.index) != p.labels or not np.isfinite(probs).all() or (probs < 0).any() or abs(probs.sum() - 1) > 1e-4: return f'no probabilities: {probs.to_dict()}'
    assert text.startswith('# ')

SPOIL = dict(flip=lambda b, i: b[:i] + bytes([b[i] ^ 1 << i % 8]) + b[i+1:], zero=lambda b, i: b[:i] + b'\0' + b[i+1:], ones=lambda b, i: b[:i] + b'\xff' + b[i+1:],
             digit=lambda b, i: b[:i] + b'9' + b[i+1:], double=lambda b, i: b[:i] + b[i:i+1] + b[i:], cut=lambda b, i: b[:i])

def spoilt_at(data, n, head):
    "Byte after byte of `n` drawn ones, half of them in the head, spoilt in turn in every way."
    rng = np.random.default_rng(0)
    at = np.r_[rng.integers(0, head, n//2), rng.integers(0, len(data), n - n//2)]
    for i, (name, way) in zip(at, itertools.cycle(SPOIL.items())): yield f'{name} {i}', way(data, int(i))

@pytest.mark.parametrize('kind, n', [('svm', 200), ('cnn', 50)])
@pytest.mark.parametrize('file', ['model.safetensors', 'bundle.json'])
def test_spoilt_bundles(kind, n, file, bundles, tmp_path):
    data = (bundles/kind/file).read_bytes()
    head = 8 + int.from_bytes(data[:8], 'little') if file == 'model.safetensors' else len(data)
    wrong = {how: v for how, new in spoilt_at(data, n, head) if (v := verdict(Predictor, changed(bundles/kind, tmp_path/'b', file, new)))}
    none(wrong)

ODD_VALUES = [None, True, 0, -1, 1e308, float('nan'), 10**400, '', 'x'*10**5, '../../../etc/passwd', '\x1b[2J\n', '\ud800', [[]], {'': 1}]

def leaves(x, path=()):
    "Every place in a JSON value, itself first."
    yield path
    for k, v in x.items() if isinstance(x, dict) else enumerate(x) if isinstance(x, list) else (): yield from leaves(v, (*path, k))

def replaced(x, path, value):
    if not path: return value
    x = x.copy()
    x[path[0]] = replaced(x[path[0]], path[1:], value)
    return x

def odd_values(info, skip=()):
    for path in leaves(info):
        if path[:1] not in [(s,) for s in skip]:
            for value in ODD_VALUES: yield f'{".".join(map(str, path))} = {str(value)[:20]!r}', json.dumps(replaced(info, path, value)).encode()

def test_odd_values_in_a_bundle(bundles, tmp_path):
    info = json.loads((bundles/'svm'/'bundle.json').read_text())
    info['scores'] = dict(emobox=dict(unseen_speakers=True, accuracy=.5, accuracy_lo=.4, accuracy_hi=.6, clips=9, recall=dict(sad=.3)))
    assert not verdict(Predictor, changed(bundles/'svm', tmp_path/'b', 'bundle.json', json.dumps(info).encode()))
    wrong = {how: v for how, new in odd_values(info, ['sha256', 'versions']) if (v := verdict(Predictor, changed(bundles/'svm', tmp_path/'b', 'bundle.json', new)))}
    none(wrong)

def header(size=None, **tensors):
    "A safetensors file of nothing but claims."
    text = json.dumps({k: dict(dtype=d, shape=s, data_offsets=o) for k, (d, s, o) in tensors.items()}).encode()
    return struct.pack('<Q', len(text) if size is None else size) + text

def zipped_pickle():
    out = io.BytesIO()
    torch.save(Boom(), out)
    return out.getvalue()

TENSORS = dict(quadrillion=header(mean=('F64', [10**15], [0, 8*10**15])), overflow=header(mean=('F64', [2**32, 2**32], [0, 0])), of_nothing=header(mean=('F64', [0, 10**15], [0, 0])),
    negative=header(mean=('F64', [-1], [0, 0])), fraction=header(mean=('F64', [.5], [0, 4])), backwards=header(mean=('F64', [1], [8, 0])), overlapping=header(mean=('F64', [1], [0, 8]), scale=('F64', [1], [0, 8])) + bytes(8),
    other_type=header(mean=('F8_E4M3', [1], [0, 1])) + b'\0', no_type=header(mean=('evil', [1], [0, 1])) + b'\0', long_header=header(2**63), longest_header=header(2**64 - 1),
    short_header=header(1), deep=struct.pack('<Q', 10**5) + b'['*10**5, pickle=pickle.dumps(Boom()), torch=zipped_pickle(), passwords=Path('/etc/passwd').read_bytes())

@pytest.mark.parametrize('how', TENSORS)
def test_hostile_tensors(how, bundles, tmp_path):
    with pytest.raises(SerError) as e: Predictor(changed(bundles/'svm', tmp_path/'b', 'model.safetensors', TENSORS[how]))
    check(str(e.value), tmp_path/'b')
    assert 'root:' not in str(e.value) and not MARKER.exists()

@pytest.mark.parametrize('name', ['two\nlines', 'red\x1b[31m', 'x'*10**5], ids=['lines', 'colour', 'long'])
def test_hostile_names_of_tensors_and_fields(name, bundles, tmp_path):
    of = load((bundles/'svm'/'model.safetensors').read_bytes())
    wrong = dict(tensor=verdict(Predictor, changed(bundles/'svm', tmp_path/'tensor', 'model.safetensors', save(of | {name: torch.ones(1)}))))
    info = json.loads((bundles/'svm'/'bundle.json').read_text())
    for where in ('recipe', 'features', 'data', 'licence', 'scores'):
        odd = info | {where: info[where] | {name: 1}}
        wrong[where] = verdict(Predictor, changed(bundles/'svm', tmp_path/where, 'bundle.json', json.dumps(odd).encode()))
    none({k: v for k, v in wrong.items() if v})

@pytest.mark.parametrize('file', ['bundle.json', 'model.safetensors'])
@pytest.mark.parametrize('to', ['/etc/passwd', '/dev/zero', '/dev/null', '/proc/self/mem', '/etc', 'nowhere', 'fifo'])
def test_bundles_of_links(file, to, bundles, tmp_path):
    d = shutil.copytree(bundles/'svm', tmp_path/'b')
    (d/file).unlink()
    os.mkfifo(d/file) if to == 'fifo' else (d/file).symlink_to(to)
    with pytest.raises(SerError) as e: Predictor(d)
    check(str(e.value), d/file)
    assert 'root:' not in str(e.value)


# a stranger's graph

@pytest.fixture(scope='session')
def exported(bundles):
    pytest.importorskip('onnx'); pytest.importorskip('onnxruntime')
    from ser_fastai.export import export_bundle
    return export_bundle(bundles/'svm_out', bundles/'svm')

def read_export(folder):
    return Predictor(folder)

def graph(k=8, name='samples', kind='FLOAT', shape=('batch', 'n'), out='FLOAT', bias=None, more=(), values=(), outputs=('probabilities',), op='Softmax', domain='', opset=17):
    "A small graph that hears the mean of the samples, and answers what `bias` says."
    from onnx import TensorProto as T, helper as h, numpy_helper as nh
    consts = [*values] or [nh.from_array(np.zeros(k, 'float32') if bias is None else np.full(k, bias, 'float32'), 'bias')]
    nodes = [h.make_node('Cast', [name], ['x'], to=T.FLOAT), h.make_node('ReduceMean', ['x'], ['mean'], axes=[1], keepdims=1), h.make_node('Add', ['mean', 'bias'], ['logits']), *more,
             h.make_node(op, ['logits'], ['p'], domain=domain), *[h.make_node('Cast', ['p'], [o], to=getattr(T, out)) for o in outputs]]
    g = h.make_graph(nodes, 'g', [h.make_tensor_value_info(name, getattr(T, kind), shape)], [h.make_tensor_value_info(o, getattr(T, out), None) for o in outputs], consts)
    return h.make_model(g, opset_imports=[h.make_opsetid('', opset), *([h.make_opsetid(domain, 1)] if domain else [])], ir_version=8).SerializeToString()

def outside(location, k=8):
    "A graph whose numbers are the bytes of another file."
    from onnx import TensorProto as T
    t = T(name='bias', data_type=T.FLOAT, dims=[k], data_location=T.EXTERNAL)
    for key, v in dict(location=location, offset='0', length=str(4*k)).items(): t.external_data.add(key=key, value=v)
    return graph(values=[t])

def endless():
    "A graph that counts to nine quintillion."
    from onnx import TensorProto as T, helper as h, numpy_helper as nh
    true = lambda n: nh.from_array(np.array(True), n)
    body = h.make_graph([h.make_node('Identity', ['c'], ['c2']), h.make_node('Identity', ['v'], ['v2'])], 'body',
        [h.make_tensor_value_info(*x) for x in (('i', T.INT64, []), ('c', T.BOOL, []), ('v', T.FLOAT, None))], [h.make_tensor_value_info(*x) for x in (('c2', T.BOOL, []), ('v2', T.FLOAT, None))])
    loop = h.make_node('Loop', ['times', 'go', 'mean'], ['looped'], body=body)
    return graph(values=[nh.from_array(np.zeros(8, 'float32'), 'bias'), nh.from_array(np.array(2**63 - 1), 'times'), true('go')], more=[loop])

def greedy(how):
    "A graph of a few bytes that asks for 64 GB, or for hours."
    from onnx import helper as h, numpy_helper as nh
    node, size = h.make_node, nh.from_array(np.array([2**17, 2**17]), 'size')
    word, kernel = nh.from_array(np.array(['x'*1000], object), 'word'), dict(kernel_shape=[10**4, 10**4], pads=[10**4 - 1]*4)
    more = dict(memory=[node('ConstantOfShape', ['size'], ['m'])], words=[node('Expand', ['word', 'size'], ['m'])], pool=[node('MaxPool', ['image'], ['m'], **kernel)],
                division=[node('Div', ['least', 'minus'], ['m'])],   # a signal that ends a process
                convolution=[node('ConstantOfShape', ['long'], ['line']), node('ConstantOfShape', ['long'], ['w']), node('Conv', ['line', 'w'], ['m'], pads=[10**7]*2)],
                outer=[node('Expand', ['x', 'size'], ['wide']), node('Transpose', ['wide'], ['tall']), node('MatMul', ['tall', 'wide'], ['m'])],
                hours=[node('ConstantOfShape', ['square'], ['m0']), *[node('MatMul', ['m0', f'm{i}'], [f'm{i + 1}'] if i < 999 else ['m']) for i in range(1000)]])[how]
    const = lambda v, n: nh.from_array(np.array(v), n)
    return graph(values=[const(np.zeros(8, 'float32'), 'bias'), size, word, const([4000, 4000], 'square'), const([1, 1, 10**7], 'long'), const([-2**63], 'least'), const([-1], 'minus'), const(np.ones((1, 1, 9, 9), 'float32'), 'image')], more=[*more, node('ReduceMax', ['m'], ['most'], keepdims=0)])

def inside(location):
    "The same as `outside`, in a node."
    from onnx import TensorProto as T, helper as h, numpy_helper as nh
    t = T(name='t', data_type=T.FLOAT, dims=[8], data_location=T.EXTERNAL)
    t.external_data.add(key='location', value=location)
    return graph(values=[nh.from_array(np.zeros(8, 'float32'), 'bias')], more=[h.make_node('Constant', [], ['c'], value=t)])

def two_formats(tmp=Path(tempfile.gettempdir())/f'{os.getpid()}.ort'):
    "Bytes that are a graph of ONNX, and at the same place another one in onnxruntime's own format, which it would take them for."
    import onnxruntime as ort
    options = ort.SessionOptions()
    options.log_severity_level, options.optimized_model_filepath = 4, str(tmp)
    options.add_session_config_entry('session.save_model_format', 'ORT')
    ort.InferenceSession(graph(op='Identity', bias=9), options, providers=['CPUExecutionProvider'])
    fb = tmp.read_bytes()
    tmp.unlink()
    number = lambda at, n=4, sign=False: int.from_bytes(fb[at:at + n], 'little', signed=sign)
    small = lambda n, sign=False: n.to_bytes(4, 'little', signed=sign)
    root, at = number(0), 0x00808088   # 88 80 80 00: in ONNX a field's number, written long; in a flatbuffer the place of its root
    fields = root - number(root, 4, True)
    n_fields, n = number(fields, 2), number(fields + 2, 2)
    start, table = (at + n + n_fields + 32)//16*16, bytearray(small(-n, True) + fb[root + 4:root + n])
    for f in range(fields + 4, fields + n_fields, 2):
        if o := number(f, 2): table[o:o + 4] = small(start + root + o + number(root + o) - at - o)
    front = bytes([0x88, 0x80, 0x80, 0]) + b'ORTM' + bytes(83) + graph()
    body = bytes(at - len(front) - 6) + table + fb[fields:fields + n_fields]
    body += bytes(start - len(front) - 6 - len(body)) + fb
    return front + b'\x32' + bytes(len(body) >> 7*i & 127 | (128 if i < 4 else 0) for i in range(5)) + body

def test_a_graph_in_two_formats(exported, tmp_path):
    "What was looked at is what answers."
    p = read_export(changed(exported, tmp_path/'out', 'model.onnx', two_formats())).predict(CLIP, SR)
    np.testing.assert_allclose(p, 1/8, atol=1e-5)

GRAPHS = dict(  # what a graph of `export_bundle` never is
    empty=lambda: b'', text=lambda: b'no graph\n'*99, random=lambda: np.random.default_rng(1).bytes(9999), pickle=lambda: pickle.dumps(Boom()), other_input=lambda: graph(name='sound'),
    whole_numbers_in=lambda: graph(kind='INT64'), words_in=lambda: graph(kind='STRING'), one_length=lambda: graph(shape=(1, 100)), three_axes=lambda: graph(shape=('a', 'b', 'c')),
    fewer_labels=lambda: graph(3), more_labels=lambda: graph(9), one_number=lambda: graph(1), no_outputs=lambda: graph(outputs=()),
    whole_numbers_out=lambda: graph(out='INT64'), words_out=lambda: graph(out='STRING'), nan=lambda: graph(bias=np.nan), infinite=lambda: graph(op='Identity', bias=np.inf),
    no_probabilities=lambda: graph(op='Identity', bias=7.), negative=lambda: graph(op='Neg', bias=.125), unknown_step=lambda: graph(op='Nothing'), own_step=lambda: graph(op='Evil', domain='evil'),
    newest=lambda: graph(opset=999), endless=endless, passwords=lambda: outside('/etc/passwd'), passwords_upwards=lambda: outside('../'*20 + 'etc/passwd'),
    memory_device=lambda: outside('/dev/zero'), no_file=lambda: outside('nowhere.bin'), beside=lambda: outside('settings.json'), in_a_node=lambda: inside('settings.json'),
    **{how: partial(greedy, how) for how in ('memory', 'words', 'outer', 'hours', 'pool', 'convolution', 'division')})

def hangs_when_loud():
    "A graph without loops that multiplies large matrices for minutes where a sample is 1.5 or more."
    from onnx import helper as h, load_model_from_string, numpy_helper as nh
    node, const = h.make_node, lambda v, n: nh.from_array(np.array(v), n)
    more = [node('ReduceMax', ['x'], ['top'], keepdims=0), node('GreaterOrEqual', ['top', 'limit'], ['loud']), node('Where', ['loud', 'large', 'little'], ['size']),
            node('ConstantOfShape', ['size'], ['m0']), *[node('MatMul', ['m0', f'm{i}'], [f'm{i + 1}']) for i in range(200)], node('ReduceMax', ['m200'], ['most'], keepdims=0),
            node('Mul', ['most', 'nought'], ['none']), node('Add', ['logits', 'none'], ['late'])]
    m = load_model_from_string(graph(more=more, values=[const(np.zeros(8, 'float32'), 'bias'), const(np.float32(1.5), 'limit'), const([2500, 2500], 'large'),
                                                        const([1, 1], 'little'), const(np.float32(0), 'nought')]))
    next(n for n in m.graph.node if n.op_type == 'Softmax').input[0] = 'late'
    return m.SerializeToString()

def test_a_graph_that_hangs_on_what_it_hears(exported, tmp_path, monkeypatch):
    "It answers when it is loaded, so every answer has its time."
    p = read_export(changed(exported, tmp_path/'out', 'model.onnx', hangs_when_loud()))
    assert p.predict(CLIP, SR).sum() == pytest.approx(1)
    monkeypatch.setattr(graphs, 'PATIENCE', 1)
    with pytest.raises(SerError, match='cannot answer .*export the bundle again'): p.predict(CLIP*2/np.abs(CLIP).max(), SR)

@pytest.mark.parametrize('how', GRAPHS)
def test_hostile_graphs(how, exported, tmp_path, monkeypatch):
    d = changed(exported, tmp_path/'out', 'model.onnx', GRAPHS[how]())
    monkeypatch.chdir(d)
    monkeypatch.setattr(graphs, 'PATIENCE', 1)
    with pytest.raises(SerError) as e: how == 'endless' and read_export(d) or read_export(d).predict(CLIP, SR)
    check(str(e.value), d)
    assert 'root:' not in str(e.value) and not MARKER.exists()

SETTINGS = dict(sr=[0, -1, 1, 8000, 1e9, 16000.5, '16000', float('nan')], seconds=[float('nan'), 0, -1, 1e9, '1', float('inf')], trim=['yes', None, 2],
                labels=[['sad']*8, ['sad', 'happy'], [str(i) for i in range(8)], [], 'abcdefgh', list(range(8))], bundle=[None, [], {}, 'x'], sha256=[None, 0, ['']])

def test_exports_of_another_age_or_size(exported, tmp_path, monkeypatch):
    info = json.loads((exported/'settings.json').read_text(encoding='utf8'))
    new = changed(exported, tmp_path/'new', 'settings.json', json.dumps(info | dict(bundle=info['bundle'] | dict(format=99))).encode())
    with pytest.raises(SerError, match='new.settings.json is of format 99 .* pip install --upgrade'): read_export(new)
    monkeypatch.setitem(LARGEST, 'model.onnx', 1000)
    with pytest.raises(SerError, match='model.onnx is larger than any'): read_export(exported)

@pytest.mark.parametrize('field', SETTINGS)
def test_lying_settings(field, exported, tmp_path):
    "What is not the export's own is refused before a sound is read: to a rate of NaN soxr resamples for ever."
    info, wrong = json.loads((exported/'settings.json').read_text(encoding='utf8')), {}
    odd = [info | {field: v} for v in [*SETTINGS[field], *ODD_VALUES] if v is not info[field]]
    for new in [*odd, {k: v for k, v in info.items() if k != field}]:
        d = changed(exported, tmp_path/'out', 'settings.json', json.dumps(new).encode())
        try: read_export(d)
        except SerError as e: found = flaw(str(e), d)
        except Exception as e: found = f'{type(e).__name__}: {str(e)[:200]}'
        else: found = 'was taken'
        if found: wrong[ascii(str(new.get(field, 'missing'))[:20])] = found
    none(wrong)
