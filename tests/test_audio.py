"Reading audio: all samples of complete files, clear errors for others, one channel, no offset."
import io, json, os, struct, subprocess, sys

import numpy as np, pytest, soundfile as sf

from ser_fastai.audio import check_samples, decode, decode_blocks, mono_blocks, open_audio, prepare_audio, read_audio, to_mono, trim_silence
from ser_fastai.containers import mpeg_frame, quiet_decoder
from ser_fastai.core import SerError
from ser_fastai.features import clip_features
from ser_fastai.runtime import stream

SR = 16000
SPEECH = np.random.default_rng(0).normal(size=SR)*np.hanning(SR)/5
SPEECH = np.concatenate([np.zeros(SR//2), SPEECH, np.zeros(SR//2)]).astype('float32')
ID3 = b'ID3\x03\0\0\0\0\0\x0a' + bytes(10)
UNKNOWN = {'I': (0, 2**32 - 1, 2**31 - 1, 0x7ffff000), 'Q': (0, 2**64 - 1, 2**62)}

def encoded(x=SPEECH, **kw):
    out = io.BytesIO()
    sf.write(out, x, SR, **kw)
    return bytearray(out.getvalue())

SIZES = {'WAV': (b'data', 4, '<I'), 'AIFF': (b'SSND', 4, '>I'), 'AU': (b'.snd', 8, '>I'), 'CAF': (b'data', 4, '>Q'), 'W64': (b'data', 16, '<Q'), 'RF64': (b'ds64', 16, '<Q')}

def with_size(kind, size):
    "A file with another declared size of its samples."
    data, (name, at, code) = encoded(format=kind), SIZES[kind]
    at += data.find(name)
    data[at:at + struct.calcsize(code)] = struct.pack(code, size)
    return data

@pytest.fixture
def write(tmp_path):
    def f(data, name='a.wav'):
        (tmp_path/name).write_bytes(data)
        return tmp_path/name
    return f

def samples(path):
    whole, blocks = decode(path)[0], np.concatenate([x for x, _ in decode_blocks(path, values=5000)])
    np.testing.assert_array_equal(whole, blocks)
    return whole[:, 0]


# containers

@pytest.mark.parametrize('kind, size', [(k, s) for k, (_, _, code) in SIZES.items() for s in UNKNOWN[code[1]]])
def test_unknown_sizes(kind, size, write):
    np.testing.assert_allclose(samples(write(with_size(kind, size))), SPEECH, atol=1e-4)

@pytest.mark.parametrize('kind', [*SIZES, 'NIST', 'FLAC', 'OGG', 'MP3'])
def test_cut_short(kind, write):
    with pytest.raises(SerError, match='cut short'): decode(write(encoded(format=kind)[:-1500]))
    if kind in SIZES:
        with pytest.raises(SerError, match='cut short.*; download'): decode(write(with_size(kind, 100000)))

@pytest.mark.parametrize('kind', [*SIZES, 'NIST', 'FLAC', 'OGG', 'MP3'])
def test_id3_tags(kind, write):
    data = encoded(format=kind)
    want = samples(write(data))
    np.testing.assert_array_equal(samples(write(ID3 + data)), want)
    np.testing.assert_array_equal(samples(write(data + b'TAG' + b'x'*125))[:len(want)], want)

@pytest.mark.parametrize('kind, code', [('WAV', '<I'), ('AIFF', '>I')])
@pytest.mark.parametrize('more', [-1000, 8, 44, 10**6])
def test_size_of_the_whole_file_does_not_count(kind, code, more, write):
    data = encoded(format=kind)
    data[4:8] = struct.pack(code, len(data) - 8 + more)
    np.testing.assert_allclose(samples(write(data)), SPEECH, atol=1e-4)

def test_flac_of_unknown_length(write):
    data = encoded(format='FLAC')
    data[21:26] = bytes([data[21] & 0xf0, 0, 0, 0, 0])
    np.testing.assert_allclose(samples(write(data)), SPEECH, atol=1e-4)

def test_empty_recording_with_other_chunks(write):
    data = encoded(SPEECH[:0], format='WAV') + b'LIST' + struct.pack('<I', 4000) + bytes(4000)
    with pytest.raises(SerError, match='no samples'): decode(write(data))


# MP3

MP3 = encoded(format='MP3')
BARE = MP3[mpeg_frame(MP3[:4])[0]:]   # without its Xing frame

def loud_start():
    "Variable rate: the first frames are long, the others short, so that the decoder's guess of the length is too short."
    x = np.concatenate([np.random.default_rng(0).normal(size=SR)/5, np.zeros(9*SR)])
    out = io.BytesIO()
    with sf.SoundFile(out, 'w', SR, 1, format='MP3', bitrate_mode='VARIABLE', compression_level=0) as f: f.write(x)
    data = out.getvalue()
    return data[mpeg_frame(data[:4])[0]:]

@pytest.mark.parametrize('data', [BARE, ID3 + BARE, ID3 + bytes(700) + BARE, BARE + b'TAG' + bytes(125), BARE + b'APETAGEX' + bytes(3000)], ids=range(5))
def test_mp3_without_xing(data, write, capfd):
    x = samples(write(data, 'a.mp3'))
    assert len(SPEECH) <= len(x) < len(SPEECH) + 4000
    np.testing.assert_array_equal(x, samples(write(BARE, 'b.mp3')))
    assert not capfd.readouterr().err

def test_mp3_of_variable_rate_without_xing(write):
    path = write(loud_start(), 'a.mp3')
    with sf.SoundFile(path) as f: guess = f.frames
    n = len(samples(path))
    assert guess < 9*SR and n >= 10*SR
    with open_audio(path) as f: assert n <= f.known_frames < n + 4000

def test_two_mp3_files_in_one(write): assert len(samples(write(MP3 + MP3, 'a.mp3'))) >= 2*len(SPEECH)

def test_cut_mp3_without_xing_gives_what_it_has(write): assert len(samples(write(BARE[:len(BARE)//2], 'a.mp3'))) > len(SPEECH)//4

def test_decoder_writes_nothing_on_stderr(write, capfd):
    rng = np.random.default_rng(0)
    for _ in range(5):
        damaged = BARE.copy()
        for i in rng.integers(0, len(damaged), 8): damaged[i] = rng.integers(256)
        try: decode(write(damaged, 'a.mp3'))
        except SerError: pass
    assert not capfd.readouterr().err

def test_other_lines_on_stderr_are_passed_on(capfd):
    with quiet_decoder:
        os.write(2, b'[src/libmpg123/layer3.c:1804] error: dequantization failed!\nmine\n')
        with quiet_decoder: os.write(2, b'mine too\n')
    os.write(2, b'after\n')
    assert capfd.readouterr().err == 'mine\nmine too\nafter\n'


# what is not audio

@pytest.mark.parametrize('data, name, says', [
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n', 'a.wav', 'Git LFS pointer.*git lfs pull'),
    (b'/annex/objects/SHA256E-s1--ab.wav\n', 'a.wav', 'git-annex.*git annex get'), (b'<!DOCTYPE html><title>404</title>', 'a.wav', 'web page.*; download'),
    (b'\n <html>', 'a.mp3', 'web page'), (b'{"error": {"code": 404}}', 'a.wav', 'JSON'), (b'one.wav\ntwo.wav\n', 'a.wav', 'text file.*txt or .csv'),
    (b'', 'a.wav', 'empty'), (bytes(5000), 'a.wav', 'zero bytes'), (b'bplist00' + bytes(90), 'a.wav', 'cloud'),
    (b'\0\0\0\x20ftypM4A ' + bytes(900), 'a.m4a', 'M4A.*convert'), (b'PK\3\4' + bytes(900), 'a.wav', 'archive.*unpack'), (b'RIFF\0\0', 'a.wav.part', 'unfinished'),
    (b'\x93\x01\x02\x03' + bytes(range(256)), 'a.wav', 'not an audio file .first bytes 93 01 02 03.')])
def test_not_audio(data, name, says, write):
    path = write(data, name)
    with pytest.raises(SerError, match=says) as e: decode(path)
    assert str(e.value).startswith(f'cannot read {path}: ') and '\n' not in str(e.value)

def test_missing(tmp_path):
    (tmp_path/'.a.wav.icloud').write_bytes(b'bplist00')
    with pytest.raises(SerError, match='iCloud'): decode(tmp_path/'a.wav')
    with pytest.raises(SerError, match='does not exist'): decode(tmp_path/'b.wav')


# one channel, no offset

def both_ways(x): return to_mono(x), np.concatenate([y for y, _ in mono_blocks(lambda: ((p, SR) for p in np.array_split(x, 9)))])

@pytest.mark.parametrize('weights', [(1, 1), (1, -1), (1, -.97), (1, -.4), (-1, 1), (1, 0), (0, 1), (1, -1, 1), (1, 1, 1, -1, -1, -1), (1, *[0]*7), (1, *[1e-3]*7)], ids=str)
def test_channels_never_cancel(weights):
    hiss = 1e-3*np.random.default_rng(1).normal(size=(len(SPEECH), len(weights)))
    x = (SPEECH[:, None]*weights + hiss + np.arange(len(weights))*.1).astype('float32')
    for y in both_ways(x): assert abs(np.corrcoef(y, SPEECH)[0, 1]) > .999 and y.std() > .9*SPEECH.std()

def test_different_voices_are_averaged():
    x = np.random.default_rng(2).normal(size=(SR, 3)).astype('float32')
    for y in both_ways(x): np.testing.assert_allclose(y, (x - x.mean(0)).mean(1), atol=1e-5)

@pytest.mark.parametrize('seconds', [2, 70])   # as a whole, and as a stream
def test_opposite_phase_and_offset_in_files_and_in_memory(seconds, tmp_path):
    x = np.resize(SPEECH, seconds*SR)
    stereo = np.stack([x, -.97*x], 1) + np.float32([.002, -.1])
    sf.write(tmp_path/'a.wav', stereo, SR, subtype='FLOAT')
    want = x - x.mean()
    for audio in tmp_path/'a.wav', stereo, stereo.T:
        np.testing.assert_allclose(np.concatenate(list(stream(audio, SR))), want, atol=1e-5)
    np.testing.assert_allclose(read_audio(tmp_path/'a.wav'), want, atol=1e-5)

@pytest.mark.parametrize('offset', [.0005, .002, .05, -.3])
@pytest.mark.parametrize('rate', [8000, 16000, 44100])
def test_offset_changes_nothing(offset, rate):
    moved = SPEECH + np.float32(offset)
    assert len(trim_silence(moved)) == len(trim_silence(SPEECH)) < len(SPEECH)
    np.testing.assert_allclose(prepare_audio(moved, rate), prepare_audio(SPEECH, rate), atol=1e-5)
    np.testing.assert_allclose(clip_features(moved), clip_features(SPEECH), atol=.1)

def test_samples_are_checked_before_they_are_mixed():
    for bad in np.nan, np.inf, 1e6:
        with pytest.raises(SerError): prepare_audio(np.stack([SPEECH, np.full_like(SPEECH, bad)], 1), SR)
    with pytest.raises(SerError, match='rate of 500'): prepare_audio(SPEECH, 500)
    with pytest.raises(SerError, match='silent'): prepare_audio(np.stack([0*SPEECH, 0*SPEECH + .1], 1), SR)
