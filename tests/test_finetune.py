"Fine-tuning of a speech encoder on random log-mels: frozen parts, schedule, test clips and bad recipes."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from ser_fastai.audio import trim_silence
from ser_fastai.core import SerError
from ser_fastai.features import log_mel
from ser_fastai.models.finetune import PADDING, pad_mels, speech_classifier, speech_learner, train_finetune
from ser_fastai.publish import save_bundle
from ser_fastai.recipes import RECIPES, SPEECH, SPEECH_NETWORKS, apply_options
from ser_fastai.runtime import open_bundle
from ser_fastai.splits import Split
from ser_fastai.synth import make_clip

SPLIT = Split(np.arange(12), np.arange(12, 18), np.arange(18, 24))
SMALL = dict(encoder='random_tiny:1', waveform='', shrinkage=(.7,), bs=4, epochs=2, average=2)


class RandomMels(dict):
    "Log-mels of clips with different lengths, in place of `Features`."
    copies = {}


@pytest.fixture(scope='module')
def corpus():
    rng = np.random.default_rng(0)
    clips = [f'c{i}' for i in range(24)]
    df = pd.DataFrame(dict(clip=clips, emotion=['angry', 'sad']*12, speaker=[f's{i//6}' for i in range(24)]))
    mels = {c: (5*rng.normal(size=(80, 60 + 10*(i % 5))) - 40).astype('float32') for i, c in enumerate(clips)}
    return df, RandomMels(mels)


def recipe(name='speech_finetuned', **changes): return replace(SPEECH_NETWORKS[name], **SMALL | changes)


def test_attention_never_changes_the_encoder(corpus):
    "Including its normalisation layers, which fastai trains by default."
    trained = train_finetune(*corpus, SPLIT, recipe('speech_attention', freeze_epochs=2, lr=1e-2))
    model, start = trained.model.classifier, speech_classifier(recipe(), 2)
    for k, t in start.encoder.state_dict().items(): assert torch.equal(t, model.encoder.state_dict()[k]), k
    assert model.pool.score.weight.abs().max() > 0


def test_fine_tuning_changes_every_part_and_no_test_label_matters(corpus):
    df, mels = corpus
    first = train_finetune(df, mels, SPLIT, recipe())
    encoder = speech_classifier(recipe(), 2).encoder.state_dict()
    assert all(not torch.equal(t, first.model.classifier.encoder.state_dict()[k]) for k, t in encoder.items())
    other = df.assign(emotion=np.r_[df.emotion[:18], df.emotion[18:][::-1]])
    probs = train_finetune(other, mels, SPLIT, recipe()).predict_proba(SPLIT.test)
    assert np.array_equal(probs, first.predict_proba(SPLIT.test))
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize('pooling', ['statistics', 'attention'])
def test_the_bundle_answers_as_the_trained_network_does(corpus, tmp_path, pooling):
    trained = train_finetune(*corpus, SPLIT, recipe(pooling=pooling))
    classifier = trained.model.classifier
    bundle = open_bundle(save_bundle(trained, tmp_path/'b', recipe(pooling=pooling), temperature=2.))
    x = trim_silence(make_clip((5, 2, 1, 1, 1)).astype('float32')/32768)
    S = torch.from_numpy(log_mel(x - x.mean(), **classifier.encoder.mel))[None]
    embedding = bundle.embedding(x)
    with torch.no_grad():   # the noise of the corpus is far from this clip, which magnifies errors of 8 bits
        assert np.corrcoef(embedding, classifier.embed(S)[0].numpy())[0, 1] > .999
        expected = classifier.head(torch.from_numpy(embedding))[[trained.labels.index(k) for k in bundle.labels]]
    np.testing.assert_allclose(bundle.logits(x), expected.numpy(), atol=.05*float(expected.abs().max()))
    assert bundle.temperature == 2 and 'trained by gradient descent' in (tmp_path/'b'/'card.md').read_text()


def test_learning_rates_of_the_recipe(corpus):
    learn = speech_learner(corpus[0], SPLIT, recipe(), corpus[1])
    learn.create_opt()
    learn.opt.set_hyper('lr', slice(recipe().lr*recipe().body_lr, recipe().lr))
    np.testing.assert_allclose([h['lr'] for h in learn.opt.hypers], [1e-6, 2e-5, 4e-4], rtol=1e-3)


def test_padding():
    batch = pad_mels([(torch.zeros(80, n), n) for n in (3, 150)])
    assert [x.shape for x, _ in batch] == [(80, 200)]*2
    assert [int((x[0] > PADDING).sum()) for x, _ in batch] == [n for _, n in batch] == [3, 150]


@pytest.mark.parametrize('change, message', [
    (dict(encoder='random_tiny:1+random_base:1'), 'one Whisper encoder'), (dict(encoder='random_byol_s'), 'one Whisper'),
    (dict(n_mels=64), 'n_mels=80'), (dict(pooling='max'), 'statistics, attention')])
def test_bad_recipes(change, message):
    with pytest.raises(SerError, match=message): speech_classifier(recipe(**change), 2)


def test_the_command_finds_the_recipes():
    from ser_fastai.cli import chosen_recipes
    assert chosen_recipes('speech_finetuned') == [SPEECH_NETWORKS['speech_finetuned']]
    assert not set(SPEECH_NETWORKS) & {*SPEECH, *RECIPES} and len(chosen_recipes('speech')) == len(SPEECH)
    assert apply_options(SPEECH_NETWORKS['speech_finetuned'], epochs=3).epochs == 3
