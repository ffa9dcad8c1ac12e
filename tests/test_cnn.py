"A body from a file is read without running code, fits whole or not at all, and is treated as fastai treats its own pretrained ones."
import os, pickle, sys
import pytest, torch, torchvision
import numpy as np, pandas as pd
from fastai.vision.all import Normalize, accuracy, vision_learner
from safetensors.torch import save_file
from ser_fastai.core import SerError, seed_all
from ser_fastai.recipes import Recipe
from ser_fastai.data import spectrogram_dls
from ser_fastai.features import Features
from ser_fastai.models import cnn
from ser_fastai.splits import Split

ARCHS = 'resnet18', 'squeezenet1_1'

def random_state(arch, seed=0):
    torch.manual_seed(seed)
    return getattr(torchvision.models, arch)(weights=None).state_dict()

@pytest.fixture(scope='module')
def files(tmp_path_factory):
    "A state dict of each architecture, as torch and as safetensors, with and without its classifier."
    d = tmp_path_factory.mktemp('weights')
    for arch in ARCHS:
        state = random_state(arch)
        body = {k: v for k, v in state.items() if not k.startswith(('fc.', 'classifier.'))}
        for name, s in dict(whole=state, body=body).items():
            torch.save(s, d/f'{arch}_{name}.pth'); save_file(s, d/f'{arch}_{name}.safetensors')
    return d

@pytest.fixture(scope='module')
def dls():
    rng = np.random.default_rng(0)
    df = pd.DataFrame([dict(clip=str(i), emotion=('sad', 'calm')[i % 2]) for i in range(8)])
    feats = Features(rng.normal(size=(8*20, 128)).astype('float32'), {str(i): (20*i, 20*i + 20) for i in range(8)}, dict(sr=16000, hop_length=192))
    return lambda: spectrogram_dls(df, feats, Split(np.arange(6), np.arange(6, 8), []), Recipe('r', bs=4, seconds=.3), size=64)

def body_of(dls, arch): return vision_learner(dls, cnn.find_arch(arch), pretrained=False).model[0]

@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('name', ['whole.pth', 'body.pth', 'whole.safetensors', 'body.safetensors'])
def test_all_tensors_arrive(files, dls, arch, name):
    body, want = body_of(dls(), arch), random_state(arch)
    cnn.load_body(body, arch, files/f'{arch}_{name}')
    for got, w in zip(body.state_dict().values(), want.values()): assert torch.equal(got, w)   # the classifier comes last

@pytest.mark.parametrize('arch', ARCHS)
def test_as_fastais_own(files, dls, arch, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    file = cnn.cached_weights(arch)
    file.parent.mkdir(parents=True)
    file.write_bytes((files/f'{arch}_whole.pth').read_bytes())
    assert cnn.fetch_weights(arch) == file
    made = []
    for make in (lambda d: vision_learner(d, cnn.find_arch(arch), pretrained=True, metrics=accuracy),
                 lambda d: cnn.cnn_learner(d, arch, files/f'{arch}_body.pth', head='batch_norm'),
                 lambda d: cnn.cnn_learner(d, arch, head='batch_norm')):
        seed_all(1)
        made.append(make(dls()))
    theirs, ours, scratch = made
    for learn in made:
        assert sum(isinstance(t, Normalize) for t in learn.dls.after_batch.fs) == 1
    trains = lambda learn: [p.requires_grad for p in learn.model.parameters()]
    assert trains(ours) == trains(theirs) and ours.opt.frozen_idx == theirs.opt.frozen_idx > 0
    assert all(trains(scratch))
    assert ours.splitter is theirs.splitter and str(ours.model) == str(theirs.model)
    body = {k: v.clone() for k, v in ours.model[0].state_dict().items()}
    with ours.no_bar(), ours.no_logging(): ours.fit_one_cycle(1, 1e-2)
    moved = {k for k, v in ours.model[0].named_parameters() if not torch.equal(v, body[k])}
    assert all('bn' in k or k[0] == '1' or 'downsample.1' in k for k in moved)               # a frozen body rests, but for its batch norms
    ours.model[0].load_state_dict(body)
    for (k, a), b in zip(ours.model[0].state_dict().items(), theirs.model[0].state_dict().values()): assert torch.equal(a, b), k
    means = [torch.stack([t.mean for t in l.dls.after_batch.fs if isinstance(t, Normalize)]) for l in made]
    assert torch.equal(means[0], means[1]) and torch.equal(means[0], means[2])

class Harm:
    def __reduce__(self): return os.mkdir, ('harmed',)

def damaged(files, d):
    good = (files/'squeezenet1_1_whole.pth').read_bytes()
    torch.save(random_state('squeezenet1_1') | {'new.weight': torch.ones(1)}, d/'more.pth')
    torch.save({k: v for k, v in random_state('squeezenet1_1').items() if k != 'features.3.squeeze.weight'}, d/'less.pth')
    torch.save(random_state('squeezenet1_1') | {'features.0.weight': torch.ones(64, 1, 3, 3)}, d/'shape.pth')
    torch.save([1, 2], d/'list.pth')
    torch.save({'features.0.weight': 'a word'}, d/'word.pth')
    torch.save(torchvision.models.squeezenet1_1(weights=None), d/'model.pth')
    (d/'cut.pth').write_bytes(good[:len(good)//2]); (d/'empty.pth').write_bytes(b''); (d/'text.pth').write_text('<html>')
    (d/'cut.safetensors').write_bytes((files/'squeezenet1_1_whole.safetensors').read_bytes()[:1000])
    (d/'code.pth').write_bytes(pickle.dumps(Harm())); torch.save({'a': Harm()}, d/'code_in_zip.pth')
    (d/'folder.pth').mkdir()
    return {'more.pth': '0 tensors are missing, 1 are unknown', 'less.pth': '1 tensors are missing, 0 are unknown', 'shape.pth': 'features.0.weight',
            'list.pth': 'does not fit', 'word.pth': 'does not fit', 'model.pth': 'without running code', 'cut.pth': 'download it again',
            'empty.pth': 'download it again', 'text.pth': 'download it again', 'cut.safetensors': 'download it again',
            'code.pth': 'without running code', 'code_in_zip.pth': 'without running code', 'folder.pth': 'does not exist', 'gone.pth': 'does not exist'}

def test_refused_in_one_sentence(files, dls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    body = body_of(dls(), 'squeezenet1_1')
    before = {k: v.clone() for k, v in body.state_dict().items()}
    for name, words in damaged(files, tmp_path).items():
        with pytest.raises(SerError, match=words) as e: cnn.load_body(body, 'squeezenet1_1', tmp_path/name)
        assert name in str(e.value) and '\n' not in str(e.value) and len(str(e.value)) < 300 + len(str(tmp_path))
    with pytest.raises(SerError, match='missing'): cnn.load_body(body, 'squeezenet1_1', files/'resnet18_body.pth')
    with pytest.raises(SerError, match='does not fit squeezenet1_0'): cnn.load_body(body_of(dls(), 'squeezenet1_0'), 'squeezenet1_0', files/'squeezenet1_1_whole.pth')
    assert all(torch.equal(v, before[k]) for k, v in body.state_dict().items())              # whole or not at all
    assert not (tmp_path/'harmed').exists()

@pytest.mark.parametrize('arch', ['efficientnet_b0', 'regnet_y_400mf', 'xresnet18'])
def test_any_architecture_of_torchvision_and_fastai(dls, arch, tmp_path):
    learn = cnn.cnn_learner(dls(), arch)
    assert learn.model.eval()(learn.dls.one_batch()[0]).shape == (4, 2)
    state = cnn.find_arch(arch)().state_dict()
    torch.save(state, tmp_path/'body.pth')
    cnn.load_body(learn.model[0], arch, tmp_path/'body.pth')
    assert torch.equal(next(iter(learn.model[0].state_dict().values())), next(iter(state.values())))

@pytest.mark.parametrize('arch', ['vit_b_16', 'mobilenet_v2'])
def test_what_fastai_cannot_cut_is_one_sentence(dls, arch):
    with pytest.raises(SerError, match=f'cannot cut {arch} into a body and a head'): cnn.cnn_learner(dls(), arch)

def test_fastais_own_have_no_published_weights():
    with pytest.raises(SerError, match='--weights FILE'): cnn.fetch_weights('xresnet34')

def test_network_of_timm(dls, files, tmp_path):
    "Pretrained weights arrive complete, from half precision, and the body is frozen."
    timm = pytest.importorskip('timm')
    arch = 'tf_efficientnet_lite0'
    state = {k: t.half() if t.is_floating_point() else t for k, t in timm.create_model(arch).state_dict().items()}
    save_file(state, tmp_path/'net.safetensors')
    learn = cnn.cnn_learner(dls(), arch, tmp_path/'net.safetensors')
    body = learn.model[0].model.state_dict()
    assert set(state) - set(body) == {'classifier.weight', 'classifier.bias'}
    assert all(torch.equal(t, state[k].to(t.dtype)) for k, t in body.items())
    assert len(learn.opt.param_lists) == 2 and learn.opt.frozen_idx == 1
    with pytest.raises(SerError, match='does not fit tf_efficientnet_lite0'):
        cnn.load_body(learn.model[0], arch, files/'resnet18_whole.pth')
    with pytest.raises(SerError, match='does not fit resnet18'):
        cnn.load_body(body_of(dls(), 'resnet18'), 'resnet18', tmp_path/'net.safetensors')

def test_networks_of_timm_need_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(SerError, match=r'this needs timm: pip install "ser_fastai\[vision\]"'):
        cnn.find_arch('tf_efficientnet_lite0')

def test_the_head_has_the_size_of_fastais(dls):
    ours, theirs = (cnn.cnn_learner(dls(), 'squeezenet1_1', head=head) for head in cnn.HEADS)
    n_values = [sum(p.numel() for p in learn.model.parameters()) for learn in (ours, theirs)]
    assert n_values[0] == n_values[1]
    assert not any(isinstance(m, torch.nn.BatchNorm1d) for m in ours.model[1])

def test_unknown_architectures():
    for arch in 'resnet35', 'os', '__doc__', 'resnet':
        for f in cnn.find_arch, cnn.fetch_weights:
            with pytest.raises(SerError, match='unknown architecture'): f(arch)
