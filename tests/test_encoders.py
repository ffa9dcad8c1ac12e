"Encoders of transformers and BYOL-S: recipes that name them, errors, and the cache."
import json, os, sys

import numpy as np
import pytest

from ser_fastai.core import SerError
from ser_fastai.models.speech import embed, encoder_facts, load_encoder, parse_encoders

transformers = pytest.importorskip('transformers')


@pytest.fixture(scope='module')
def wavlm(tmp_path_factory):
    "Folder with a tiny WavLM of random weights."
    folder = tmp_path_factory.mktemp('models')/'wavlm+v1.0'
    config = transformers.WavLMConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, conv_dim=(16,)*7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4)
    transformers.WavLMModel(config).save_pretrained(folder)
    return folder


def test_a_folder_may_contain_plus_and_dot(wavlm):
    text = f'hf:{wavlm}:1-2+whisper_tiny:1+byol_s'
    assert parse_encoders(text) == {f'hf:{wavlm}': [1, 2], 'whisper_tiny': [1], 'byol_s': [0]}


def test_home_folder(wavlm, monkeypatch):
    monkeypatch.setenv('HOME', str(wavlm.parent))
    assert encoder_facts(f'hf:~/{wavlm.name}').width == 32


def test_weights_in_half_precision_are_computed_in_fp32(wavlm, tmp_path):
    transformers.WavLMModel.from_pretrained(wavlm).half().save_pretrained(tmp_path/'half')
    x = np.random.default_rng(0).normal(size=4000).astype('float32')
    half, full = (embed(load_encoder(f'hf:{p}'), x) for p in (tmp_path/'half', wavlm))
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, full, atol=.02)


def test_more_layers_than_the_model_has(wavlm):
    with pytest.raises(SerError, match=':1-2'): parse_encoders(f'hf:{wavlm}:1-12')
    with pytest.raises(SerError, match='has 2 layers, not 3'): load_encoder(f'hf:{wavlm}', 3)


def test_damaged_weights(wavlm, tmp_path):
    (tmp_path/'config.json').write_text((wavlm/'config.json').read_text())
    with pytest.raises(SerError, match='cannot load') as e: load_encoder(f'hf:{tmp_path}')
    assert '\n' not in str(e.value)
    (tmp_path/'model.safetensors').write_bytes(b'not weights')
    with pytest.raises(SerError, match='cannot load'): load_encoder(f'hf:{tmp_path}')


def test_unknown_architecture(tmp_path):
    (tmp_path/'config.json').write_text(json.dumps(dict(model_type='data2vec-audio')))
    with pytest.raises(SerError, match='data2vec-audio: use a model of wav2vec2, hubert, wavlm, whisper'):
        parse_encoders(f'hf:{tmp_path}:1')


def test_missing_extra(wavlm, tmp_path, monkeypatch):
    other = tmp_path/'copy'   # the configuration of the first folder is cached
    other.mkdir()
    (other/'config.json').write_text((wavlm/'config.json').read_text())
    monkeypatch.setitem(sys.modules, 'transformers', None)
    with pytest.raises(SerError, match=r'pip install "ser_fastai\[speech\]"'): parse_encoders(f'hf:{other}:1')


def test_offline_fails_at_once(monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(SerError, match='cannot load nobody/nothing .* name its folder') as e:
        parse_encoders('hf:nobody/nothing:1')
    assert '\n' not in str(e.value)


def test_the_cache_follows_the_files_of_a_folder(wavlm, tmp_path, small_synth, monkeypatch):
    from ser_fastai.corpora import load_corpus
    from ser_fastai.models.speech import build_embeddings
    from ser_fastai.recipes import Recipe
    df = load_corpus('synth', small_synth).head(3)
    folder = tmp_path/'model'
    transformers.WavLMModel.from_pretrained(wavlm).save_pretrained(folder)
    recipe = Recipe('r', model='speech', encoder=f'hf:{folder}:1')
    first = build_embeddings(df, recipe, tmp_path/'cache').clean[f'hf:{folder}']
    assert first.shape == (3, 3, 2, 32)
    model = transformers.WavLMModel.from_pretrained(folder)
    for p in model.parameters(): p.data.mul_(1.1)
    model.save_pretrained(folder)
    os.utime(folder/'model.safetensors', (1, 1))
    second = build_embeddings(df, recipe, tmp_path/'cache').clean[f'hf:{folder}']
    assert np.abs(first - second).max() > 1e-3
    assert len(list((tmp_path/'cache').glob('*.npz'))) == 2
