"Bad input of every kind: a right answer or one clear sentence; never a traceback, a hang, or code run from the file."
import io, json, os, pickle, re, signal, socket, struct, tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np, pytest, soundfile as sf

from ser_fastai.audio import resample
from ser_fastai.core import SerError, one_line
from ser_fastai.recipes import Recipe
from ser_fastai.corpora import load_corpus
from ser_fastai.publish import train_bundle
from ser_fastai.predict import Predictor, predict_paths
from ser_fastai.synth import clip_path, make_clip

SR, PLAN = 16000, (3, 2, 1, 1, 1)  # a happy clip of the embedded corpus, which the models below were trained on
CLIP = (make_clip(PLAN)/2**15).astype('float32')
BAND = dict(fmax=3400., n_mels=40, hop_length=512, seconds=1.)  # they hear what a telephone carries, so a file of 8 kHz lacks nothing
RECIPE = Recipe('tiny_lstm', model='lstm', hidden=16, layers=1, epochs=30, lr=1e-2, bs=16, dropout=0., **BAND)

# How far a probability may be from that of the samples in memory. Measured: 1e-4 for 16 bits and any rate, .006 for mu-law, A-law and what is made
# to sound the same, .12 for 8 bits and ADPCM, whose noise lies 50 dB under full scale, over the pauses of the clip.
EXACT, LOSSY, COARSE = .001, .02, .25


@pytest.fixture(autouse=True)
def no_hang():
    "A hang is a failure, even that of a file which never answers."
    def late(*args): raise TimeoutError('no answer in 200 s')
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(200)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)

@pytest.fixture(scope='session')
def bundles(small_synth, tmp_path_factory):
    d, df = tmp_path_factory.mktemp('models'), load_corpus('synth', small_synth)
    assert str(clip_path(PLAN)) in ' '.join(map(str, df.path))
    with pytest.MonkeyPatch.context() as m:
        m.setenv('SER_CACHE', str(d/'cache'))
        train_bundle(df, RECIPE, d/'tiny')
        train_bundle(df, replace(RECIPE, seconds=3.), d/'patient')
    return d

@pytest.fixture(scope='session')
def tiny(bundles): return Predictor(bundles/'tiny', any_sound=True)

@pytest.fixture(scope='session')
def patient(bundles):
    "One whose windows are long, so that a long recording has few."
    return Predictor(bundles/'patient', any_sound=True)


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
    **{f'{k}_cut_{n}': (data[:n], 'empty|cannot read|no samples|lasts|cut short') for k, data in ENCODED.items() for n in (0, 10, 44, 90)},
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
    if not rest.isprintable() or not re.search(r'NAME.*: \w.+', rest) or len(rest) > 300: return f'is no sentence with a remedy: {text!r}'
    if not re.search(says, rest) or ('not exist' in rest and 'not exist' not in says): return f'says something else than {says!r}: {text!r}'


def check(text, name, says=''):
    if f := flaw(text, name, says): pytest.fail(f, pytrace=False)

def none(wrong):
    if wrong: pytest.fail('\n'.join(f'{k}: {v}' for k, v in wrong.items()), pytrace=False)


# both ways in

def test_the_clip_has_an_answer(tiny):
    "Else all below would prove nothing."
    probs = tiny.predict(CLIP, SR)
    assert probs.max() > .2 and probs.min() < .05
    assert len(RIGHT) + len(BAD) > 150 and 'GSM610' in sf.available_subtypes('WAV')

def test_every_file(tiny, bundles, folder, monkeypatch, capfd):
    "All of it in one command: every good file is answered, every bad one gets its line."
    monkeypatch.chdir(folder)
    odd = [n for n in ODD if '\0' not in n]
    assert predict_paths([folder, folder/'folder.wav', folder/'folder_link.wav', *odd], bundles/'tiny', format='json', any_sound=True) == 1
    out, err = capfd.readouterr()
    assert '\x1b' not in out + err and not MARKER.exists()
    rows = list(map(json.loads, out.splitlines()))
    got = {d['path']: d['probabilities'] for d in rows if d['error'] is None}
    errors = [one_line(d['error'], 5000) for d in rows if d['error']]
    told = err.splitlines()                                 # the first errors, and how many more there are
    assert told[:-1] == errors[:len(told) - 1] and told[-1].startswith(f'and {len(errors) - len(told) + 1} more')
    want = {str(folder/n): (0, EXACT) for n in NAMES} | {str(folder/f'{n}.wav'): v for n, v in RIGHT.items()}
    wrong = {p: 'no answer' for p in want.keys() - got} | {p: 'an answer' for p in got.keys() - want}
    clip = tiny.predict(CLIP, SR)
    for p in want.keys() & got:
        _, tolerance, *samples = want[p]
        truth = tiny.predict(*samples, SR) if samples else clip
        if not near(truth*0 + [got[p][l] for l in tiny.labels], truth, tolerance + 1e-4): wrong[p] = got[p]
    none(wrong | refused('\n'.join(errors), folder, odd))

def refused(err, folder, odd):
    "Which bad files have no sentence of their own in what was printed; and which sentences are of no file."
    lines = err.splitlines()
    plain = lambda s: ''.join(c if c.isprintable() else '\ufffd' for c in str(s))
    said = {plain(folder/f'{n}.wav' if folder else f'{n}.wav'): says for n, (_, says) in BAD.items()} | {plain(n): ODD[n] for n in odd}
    wrong = {}
    for name, says in said.items():
        mine = [l for l in lines if l.removeprefix('cannot read ').startswith((f'{name} ', f'{name}: '))]
        if len(mine) != 1: wrong[name] = mine
        elif f := flaw(mine[0], name, says): wrong[name] = f
    if len(lines) != len(said): wrong['lines'] = f'{len(lines)} in place of {len(said)}'
    return wrong

@pytest.mark.parametrize('name', ['nan', 'silence', 'text', 'folder', 'wav_cut_half', *ODD], ids=ascii)
def test_one_file_by_itself(name, tiny, folder):
    path, says = (name, ODD[name]) if name in ODD else (folder/f'{name}.wav', BAD[name][1])
    with pytest.raises(SerError) as e: tiny.predict(path)
    check(str(e.value), path, says)

def test_unreadable(tiny, tmp_path):
    f = tmp_path/'mine.wav'
    f.write_bytes(ENCODED['wav'])
    f.chmod(0)
    if os.access(f, os.R_OK):   # an administrator's is heard
        tiny.predict(f)
        return
    with pytest.raises(SerError) as e: tiny.predict(f)
    check(str(e.value), f, 'cannot read')


# memory

def peak_mb(f, *args):
    "The most memory that `f` takes at once."
    tracemalloc.start()
    try: return f(*args), tracemalloc.get_traced_memory()[1]/2**20
    finally: tracemalloc.stop()

def ulaw(path, rate, seconds):
    "A file of the clip, over and over, of one byte a sample."
    words = np.frombuffer(sound(sr=rate, subtype='ULAW', format='RAW'), 'uint8')
    path.write_bytes(wav(7, 1, rate, rate, 1, 8, data=np.resize(words, seconds*rate).tobytes()))
    return path

def test_memory_does_not_grow_with_the_length(patient, tmp_path):
    "The answer is that of two minutes of the same; ten minutes as samples would be 37 MB."
    (some, before), (all_, after) = (peak_mb(patient.predict, ulaw(tmp_path/f'{n}.wav', 8000, n)) for n in (120, 600))
    assert all_.to_dict() == pytest.approx(some.to_dict(), abs=.01)
    assert after - before < 40, f'{after - before:.0f} MB more for ten minutes than for two'

def test_many_long_files_wait_for_their_turn(patient, tmp_path):
    "A minute of one is 12 MB of samples: 8 at once would be 92."
    files = [ulaw(tmp_path/f'{i}.wav', 48000, 65) for i in range(8)]
    _, one = peak_mb(patient.predict, files[0])
    rows, many = peak_mb(patient.predict_files, files)
    assert not rows.error.any() and many - one < 80, f'{many - one:.0f} MB more for 8 long files than for one'
