"`ser_train`: a model on a user's own recordings, with the encoder of a tiny bundle."
import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from conftest import write_embedding_bundle
from ser_fastai import cli
from ser_fastai.core import SerError
from ser_fastai.corpora import load_corpus
from ser_fastai.own_model import embed_clips, train_own, training_report
from ser_fastai.predict import Predictor
from ser_fastai.runtime import open_bundle


@pytest.fixture(scope='module')
def encoder(tmp_path_factory):
    return write_embedding_bundle(tmp_path_factory.mktemp('encoder')/'tiny')


@pytest.fixture(scope='module')
def clips(synth):
    df = load_corpus('synth', synth)
    return df[df.emotion.isin(['happy', 'sad'])].reset_index(drop=True)


@pytest.fixture
def recordings(tmp_path, clips):
    "A list of clips with speakers."
    clips[['path', 'emotion', 'speaker']].to_csv(tmp_path/'list.csv', index=False)
    return tmp_path/'list.csv'


def test_the_command_writes_a_model_that_predicts(capsys, tmp_path, recordings, encoder, clips):
    cli.ser_train(str(recordings), str(tmp_path/'mine'), str(encoder))
    out = capsys.readouterr().out
    assert 'For speakers it was not trained on' in out and 'happy' in out and f'--model {tmp_path/"mine"}' in out
    p = Predictor(tmp_path/'mine')
    assert p.labels == ['happy', 'sad'] and p.info['scores']['unseen speakers']['clips'] == len(clips)
    assert set(p.predict_files(list(clips.path[:4])).emotion) <= {'happy', 'sad', 'uncertain', 'no speech'}
    assert 'unseen speakers' in p.card and (tmp_path/'mine'/'LICENSE').is_file()


def test_no_clip_is_scored_by_a_head_that_saw_its_speaker(monkeypatch, tmp_path, clips, encoder):
    from ser_fastai import heads
    fit, seen = heads.fit_heads, []
    def fit_heads(X, y, speakers, *args): seen.append(set(speakers)); return fit(X, y, speakers, *args)
    monkeypatch.setattr(heads, 'fit_heads', fit_heads)
    train_own(clips, tmp_path/'mine', encoder)
    *parts, everything = seen
    assert everything == set(clips.speaker) and len(parts) == clips.speaker.nunique()
    assert all(len(everything - part) == 1 for part in parts)


def test_clips_without_speech_are_left_out(tmp_path, clips, encoder):
    sf.write(tmp_path/'noise.wav', np.random.default_rng(0).normal(0, .1, 32000), 16000)
    noise = pd.DataFrame(dict(path=[str(tmp_path/'noise.wav')], clip=['noise'], sha=['noise'], emotion=['sad']))
    own = train_own(pd.concat([clips, noise]), tmp_path/'mine', encoder)
    assert len(own.predictions) == len(clips) and 'noise.wav contains no speech' in own.left_out[0]
    with pytest.raises(SerError, match='none of 1 clips contains speech'): embed_clips(open_bundle(encoder), noise)


def test_copies_are_used_in_training_only(tmp_path, clips, encoder):
    one = train_own(clips, tmp_path/'one', encoder)
    two = train_own(clips, tmp_path/'two', encoder, copies=1)
    assert list(one.predictions['clip']) == list(two.predictions['clip'])
    assert not np.allclose(one.predictions.happy, two.predictions.happy)


@pytest.mark.parametrize('change, words', [
    (lambda df: df.assign(emotion='sad'), 'recordings have 1'),
    (lambda df: df.assign(emotion=['calm', *df.emotion[1:]]), '"calm" has 1 clip'),
    (lambda df: df[:0], 'recordings have 0')])
def test_too_few_emotions_or_clips(tmp_path, clips, encoder, change, words):
    with pytest.raises(SerError, match=words): train_own(change(clips), tmp_path/'mine', encoder)
    assert not (tmp_path/'mine').exists()


def test_other_files_are_kept(tmp_path, clips, encoder):
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine'/'thesis.txt').write_text('x')
    with pytest.raises(SerError, match='name a new folder'): train_own(clips, tmp_path/'mine', encoder)
    assert (tmp_path/'mine'/'thesis.txt').read_text() == 'x'


def test_without_speakers_the_report_says_so(tmp_path, clips, encoder):
    text = training_report(train_own(clips.assign(speaker=None), tmp_path/'mine', encoder))
    assert 'other clips of the same voices' in text and 'give the speaker of each clip in a CSV' in text
