"Augmentation: copies that are the same each time, cached entry by entry, and drawn by training items alone."
import numpy as np, pandas as pd, pytest, soundfile as sf, torch
from dataclasses import replace
from fastai.vision.all import CrossEntropyLossFlat, LabelSmoothingCrossEntropyFlat
from ser_fastai import augment as A, features as F
from ser_fastai.audio import read_audio, remove_offset, trim_silence
from ser_fastai.core import SerError
from ser_fastai.recipes import Recipe
from ser_fastai.data import LoadSpectrogram, spectrogram_dls
from ser_fastai.models.cnn import cnn_learner
from ser_fastai.models.lstm import train_lstm
from ser_fastai.models.svm import mfcc_stats, svm_pipeline, train_svm
from ser_fastai.publish import save_bundle
from ser_fastai.results import recipe_facts
from ser_fastai.splits import Split

R = Recipe('test', bs=4)
ALL = ','.join(A.WAVEFORM)

@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    "Sixteen hummed clips of two speakers and three emotions, with silence around; the third emotion lies in the last two rows."
    d, rng, rows = tmp_path_factory.mktemp('hum'), np.random.default_rng(0), []
    for i in range(16):
        emotion = ('sad', 'happy')[i % 2] if i < 14 else 'angry'
        n = 5000 + 300*i
        hum = sum(np.sin(2*np.pi*k*(120 + 60*(i % 2) + 40*(i//8))*np.arange(n)/16000)/k for k in range(1, 9))*.1 + .002*rng.normal(size=n)
        sf.write(d/f'{i:02d}.wav', np.r_[np.zeros(2000), hum, np.zeros(3000)], 16000, subtype='FLOAT')
        rows.append(dict(clip=f'c/{i:02d}', path=str(d/f'{i:02d}.wav'), sha=f'{(7*i + 3) % 16:016x}', emotion=emotion, speaker=f's{i//8}'))
    return pd.DataFrame(rows)

@pytest.fixture(scope='module')
def cache(tmp_path_factory): return tmp_path_factory.mktemp('cache')

TRAIN = Split(np.arange(0, 8), np.arange(8, 11), np.arange(11, 14))   # leaves the angry rows out

def entries(cache): return sorted(p.name for p in cache.iterdir() if p.is_dir())

@pytest.mark.parametrize('kind', A.WAVEFORM)
def test_a_copy_is_what_its_clip_kind_and_number_say(corpus, cache, tmp_path, kind):
    r = replace(R, waveform=kind, copies=2)
    feats = F.build_features(corpus, r, cache, 2)
    np.random.seed(5); np.random.rand(3)                                            # nothing global matters, nor order, nor threads
    again = F.build_features(corpus.iloc[::-1], r, tmp_path, 1)
    for c, p, sha in zip(corpus['clip'], corpus.path, corpus.sha):
        for copy in (kind, 0), (kind, 1):
            x = A.augmented_copy(trim_silence(read_audio(p)), 16000, *copy, sha)          # trimmed first: noise would hide the silence
            assert np.array_equal(feats.copies[copy][c], F.log_mel(remove_offset(x))) and np.array_equal(again.copies[copy][c], feats.copies[copy][c])
        first, second = feats.copies[kind, 0][c], feats.copies[kind, 1][c]
        assert first.shape != second.shape or np.abs(first - second).max() > .1

def test_clean_features_keep_their_entry_and_kinds_share_theirs(corpus, tmp_path):
    clean = F.build_features(corpus, R, tmp_path, 1)
    was = entries(tmp_path)
    two = F.build_features(corpus, replace(R, waveform='gain', copies=2), tmp_path, 1)
    assert set(was) < set(entries(tmp_path)) and len(entries(tmp_path)) == 3 and list(two.copies) == [('gain', 0), ('gain', 1)]
    assert all(np.array_equal(clean[c], two[c]) for c in corpus['clip']) and clean.copies == {}
    both = F.build_features(corpus, replace(R, waveform='gain,noise', copies=2), tmp_path, 1)
    assert list(both.copies) == [('gain', 0), ('noise', 1)] and len(entries(tmp_path)) == 4    # one new entry: the second copy, by noise
    F.build_features(corpus.assign(path='gone.wav'), replace(R, waveform='gain,noise', copies=2, shift=.1, specaugment=1), tmp_path, 1)
    assert len(entries(tmp_path)) == 4                                                          # what acts on images is not stored

def test_a_wrong_plan_computes_nothing(corpus, tmp_path):
    for wrong, why in (('echo', 'unknown waveform augmentation "echo"'), (ALL, 'at least one copy per kind')):
        with pytest.raises(SerError, match=why): F.build_features(corpus, replace(R, waveform=wrong), tmp_path, 1)
    assert not entries(tmp_path)

def test_noise_is_white_and_as_loud_as_it_says():
    x = np.sin(np.arange(160000)*.3)
    for snr in 0, 15, 30:
        noise = A.add_noise(x, snr, np.random.default_rng(1)) - x
        assert abs(10*np.log10(np.mean(x**2)/np.mean(noise**2)) - snr) < .1
        assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < .01 and abs(((noise - noise.mean())**4).mean()/noise.var()**2 - 3) < .1

@pytest.mark.parametrize('factor', [.9, .97, 1.1])
def test_speed_moves_every_frequency_and_tempo_none(factor):
    t = np.arange(32000)/16000
    peak = lambda x: np.abs(np.fft.rfft(x*np.hanning(len(x)), 2**17)).argmax()*16000/2**17
    for f in 200., 1000., 3000.:
        x = np.sin(2*np.pi*f*t)
        assert abs(peak(A.change_speed(x, factor)) - f*factor) < 1 and abs(peak(A.stretch_time(x, factor)) - f) < 1
        assert abs(peak(A.shift_pitch(x, 12*np.log2(factor))) - f*factor) < 1
    assert abs(len(A.change_speed(x, factor)) - 32000/factor) < 1 and abs(len(A.stretch_time(x, factor)) - 32000/factor) < 1
    assert len(A.shift_pitch(x, 2.)) == 32000

def test_tempo_moves_a_click_and_pitch_does_not():
    x = np.random.default_rng(0).normal(size=32000)*1e-3; x[16000:17600] += np.sin(np.arange(1600)*.5)
    centre = lambda x: np.average(np.arange(len(x)), weights=np.square(x))
    assert abs(centre(A.stretch_time(x, 1.1)) - 16800/1.1) < 400 and abs(centre(A.change_speed(x, 1.1)) - 16800/1.1) < 100
    assert abs(centre(A.shift_pitch(x, 2.)) - 16800) < 400     # a vocoder's step is 256 samples

def test_a_shift_loses_what_leaves_and_fills_with_silence():
    x = np.random.default_rng(0).uniform(.1, 1, (16, 40)).astype('float32')
    for n in range(-40, 41, 5):
        y = A.shift_image(x, n)
        want = np.zeros_like(x)
        for j in range(40):
            if 0 <= j - n < 40: want[:, j] = x[:, j - n]
        assert np.array_equal(y, want) and y.dtype == np.float32

def test_items_of_training_alone_are_augmented(corpus, cache):
    r = replace(R, waveform='noise,gain', copies=2, shift=.2, specaugment=2, rotate=5.)
    feats = F.build_features(corpus, r, cache, 1)
    dls, clean = spectrogram_dls(corpus, feats, TRAIN, r, 64), LoadSpectrogram(feats)
    np.random.seed(0)
    same = lambda ds, rows: [all(torch.equal(ds[i][0], clean(corpus['clip'].iloc[row])) for _ in range(4)) for i, row in enumerate(rows)]
    assert not any(same(dls.train_ds, TRAIN.train)) and all(same(dls.valid_ds, TRAIN.valid))
    for rows in TRAIN: assert all(same(dls.test_dl(corpus.iloc[rows].reset_index(drop=True), with_labels=True).dataset, rows))
    test = dls.test_dl(corpus.iloc[TRAIN.test].reset_index(drop=True))
    assert torch.equal(test.one_batch()[0], test.one_batch()[0])                    # rotation keeps off too

def test_what_is_off_draws_no_number(corpus, cache):
    feats = F.build_features(corpus, R, cache, 1)
    ds = spectrogram_dls(corpus, feats, TRAIN, R).train_ds
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    for i in range(8): ds[i]
    assert np.array_equal(before[0], np.random.get_state()[1]) and torch.equal(before[1], torch.get_rng_state())

def test_a_seed_fixes_what_is_drawn(corpus, cache):
    r = replace(R, shift=.2, specaugment=2)
    ds = spectrogram_dls(corpus, F.build_features(corpus, r, cache, 1), TRAIN, r).train_ds
    def draws(): np.random.seed(3); return [ds[i][0] for i in range(8)]
    assert all(torch.equal(a, b) for a, b in zip(draws(), draws()))

def test_features_without_the_copies_are_refused(corpus, cache):
    feats = F.build_features(corpus, R, cache, 1)
    for train in (lambda r: spectrogram_dls(corpus, feats, TRAIN, r)), (lambda r: train_svm(corpus, feats, TRAIN, r)):
        with pytest.raises(SerError, match='contain no copies by speed'): train(replace(R, waveform='speed'))

def test_the_classes_are_those_of_the_training_rows(corpus, cache):
    feats = F.build_features(corpus, R, cache, 1)
    assert list(spectrogram_dls(corpus, feats, TRAIN, R).vocab) == train_svm(corpus, feats, TRAIN, R).labels == ['happy', 'sad']
    with pytest.raises(SerError, match='angry has no clip to train on'): spectrogram_dls(corpus, feats, TRAIN._replace(valid=np.arange(8, 16)), R)

def test_an_svm_learns_from_the_copies_and_is_asked_about_recordings(corpus, cache):
    r = replace(R, model='svm', waveform='speed,noise', copies=3)
    feats = F.build_features(corpus, r, cache, 1)
    t = train_svm(corpus, feats, TRAIN, r)
    of = lambda f, rows: np.stack([mfcc_stats(f[c]) for c in corpus['clip'].iloc[rows]])
    X = np.concatenate([of(f, TRAIN.train) for f in (feats, *feats.copies.values())])
    want = svm_pipeline().fit(X, [['happy', 'sad'].index(e) for e in corpus.emotion.iloc[TRAIN.train]]*4)
    assert len(X) == 32 and np.array_equal(t.predict_proba(TRAIN.test).argmax(1), want.predict(of(feats, TRAIN.test)))
    assert np.allclose(t.model.decision_function(of(feats, TRAIN.test)), want.decision_function(of(feats, TRAIN.test)))

def test_standardising_by_speaker(corpus, cache):
    r = replace(R, model='svm', standardise='speaker', stats='mean,std')
    feats = F.build_features(corpus, r, cache, 1)
    t = train_svm(corpus, feats, TRAIN, r)
    X = pd.DataFrame([mfcc_stats(feats[c], 20, 'mean,std') for c in corpus['clip']])
    Z = X.groupby(corpus.speaker.to_numpy()).transform(lambda x: (x - x.mean())/x.std(ddof=0)).to_numpy()
    assert np.allclose(t.model[0].mean_, Z[TRAIN.train].mean(0), atol=1e-4)
    assert np.array_equal(t.predict_proba(TRAIN.test).argmax(1), t.model.predict(Z[TRAIN.test]))
    ds = spectrogram_dls(corpus, feats, TRAIN, r).valid_ds                              # and a log-mel, over the test clips too
    S = np.concatenate([feats[c] for c in corpus['clip'][8:]], 1)
    z = (feats['c/08'] - S.mean(1, keepdims=True))/S.std(1, keepdims=True)
    start = (250 - z.shape[1])//2
    assert np.allclose(ds[0][0][0][:, start:start + z.shape[1]], np.clip(.5 + z/6, 0, 1), atol=1e-4) and ds[0][0][:, :, :start].max() == 0
    with pytest.raises(SerError, match='c/03 has no speaker'): spectrogram_dls(corpus.assign(speaker=corpus.speaker.where(corpus.index != 3)), feats, TRAIN, r)
    with pytest.raises(SerError, match='unknown standardisation'): spectrogram_dls(corpus, feats, TRAIN, replace(r, standardise='corpus'))

def test_a_transductive_recipe_says_so_and_makes_no_bundle(corpus, cache, tmp_path):
    r = replace(R, model='svm', standardise='speaker')
    assert recipe_facts(r)['transductive'] is True and recipe_facts(R)['transductive'] is False
    t = train_svm(corpus, F.build_features(corpus, r, cache, 1), TRAIN, r)
    with pytest.raises(SerError, match='standardises by speaker'): save_bundle(t, tmp_path/'b', r)
    assert not (tmp_path/'b').exists()

def test_label_smoothing_is_fastais(corpus, cache):
    feats = F.build_features(corpus, R, cache, 1)
    dls = spectrogram_dls(corpus, feats, TRAIN, R, 32)
    loss = cnn_learner(dls, 'squeezenet1_1', smoothing=.1).loss_func
    assert isinstance(loss, LabelSmoothingCrossEntropyFlat) and isinstance(cnn_learner(dls, 'squeezenet1_1').loss_func, CrossEntropyLossFlat)
    x, y = torch.randn(5, 2), torch.tensor([0, 1, 1, 0, 1])
    assert torch.allclose(loss(x, y), torch.nn.CrossEntropyLoss(label_smoothing=.1)(x, y))
    short = replace(R, model='lstm', epochs=1, hidden=4, layers=1, seconds=.5)
    for r in short, replace(short, smoothing=.2, mixup=.4, shift=.1, specaugment=1):
        t = train_lstm(corpus, feats, TRAIN, r, 0)
        assert isinstance(t.model.loss_func, LabelSmoothingCrossEntropyFlat) == (r.smoothing > 0) and np.isfinite(t.curves.train_loss).all()
        assert np.allclose(t.predict_proba(TRAIN.test).sum(1), 1, atol=1e-5)
