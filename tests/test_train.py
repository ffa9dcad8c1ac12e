"Every kind of model end to end on made-up clips: probabilities, repetition, curves, and grids that are interrupted."
from pathlib import Path
import inspect, json, pickle, platform, subprocess, sys
import numpy as np, pandas as pd, pytest, soundfile as sf, torch, torchvision
from dataclasses import replace
from fastai.vision.all import Callback, CancelBatchException, CrossEntropyLossFlat, Datasets, Learner, nn
from ser_fastai import experiment as X, train as T
from ser_fastai.core import SerError
from ser_fastai.recipes import RECIPES, Recipe, apply_options, weights_name
from ser_fastai.metrics import metrics
from ser_fastai.models import cnn
from ser_fastai.results import Results
from ser_fastai.splits import split

EMOTIONS = 'neutral', 'sad', 'angry'

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "Sixty clips of half a second: three emotions that differ in pitch and hiss, five speakers; and a body of SqueezeNet without meaning."
    d, rng, rows = tmp_path_factory.mktemp('made'), np.random.default_rng(0), []
    t = np.arange(8000)/16000
    for i in range(60):
        e, speaker = i % 3, i//3 % 5
        x = .2*np.sin(2*np.pi*(200 + 600*e + 20*speaker)*t) + (.002, .02, .1)[e]*rng.normal(size=len(t))
        sf.write(d/f'{i:02d}.wav', x, 16000)
        rows.append(dict(clip=f'made/{i:02d}', path=str(d/f'{i:02d}.wav'), corpus='made', speaker=f'made_{speaker}', gender=('male', 'female')[speaker % 2],
                         emotion=EMOTIONS[e], intensity=None, sentence=None, repetition=i, language='en', duration=.5, sha=f'{i:016x}'))
    torch.manual_seed(0)
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), d/'squeeze.pth')
    return pd.DataFrame(rows), d

@pytest.fixture(autouse=True)
def cache(made, monkeypatch):
    monkeypatch.setenv('SER_CACHE', str(made[1]/'cache'))

def small(name, d, **kw):
    "A recipe of the registry at a size that takes a second; two architectures, one with batch norm in its body."
    sizes = dict(cnn_transfer='64', cnn_transfer_aug='48-64', cnn_scratch_aug='32-48')
    size, arch = sizes.get(name, '32'), 'resnet18' if name == 'cnn_scratch_aug' else 'squeezenet1_1'
    r = apply_options(RECIPES[name], arch, d/'squeeze.pth', size, 2 if name.endswith('aug') else 1)
    return replace(r, **dict(seconds=.5, hidden=8, bs=16, shares=(.5, .5) if len(r.sizes) == 2 else (1.,)) | kw)

def trained(made, name, seed=0, protocol='loso', **kw):
    df, d = made
    s = split(df, protocol)
    r = small(name, d, **kw)
    return X.train(df, r, s, seed, d/'squeeze.pth'), s, r

@pytest.mark.parametrize('name', RECIPES)
def test_end_to_end(made, name):
    df, d = made
    t, s, r = trained(made, name)
    P = t.predict_proba(s.test)
    assert t.labels == list(EMOTIONS) and P.shape == (len(s.test), 3) and (P >= 0).all() and np.allclose(P.sum(1), 1, atol=1e-5) and t.n_params > 0
    assert np.allclose(t.predict_proba(s.test[::-1])[::-1], P, atol=1e-4)                    # rows come back in the order asked for
    assert np.array_equal(t.predict_proba(s.test), P)                                        # and are not augmented
    if name not in ('cnn_scratch', 'cnn_transfer'):   # training with augmentation includes all that they do at random
        assert np.array_equal(trained(made, name)[0].predict_proba(s.test), P)               # only the seed is random
    if name == 'svm':
        assert t.curves is None and metrics(T.prediction_frame(df, s.test, P, t.labels))['accuracy'] > .9
        return
    if name == 'lstm': assert not np.allclose(trained(made, name, seed=1)[0].predict_proba(s.test), P)
    c = t.curves
    assert list(c.epoch) == list(range(r.epochs)) and np.isfinite(c.to_numpy(float)).all()
    loss = lambda rows: -np.log(t.predict_proba(rows)[np.arange(len(rows)), df.emotion.iloc[rows].map(t.labels.index)]).mean()
    assert c.train_clean_loss.iloc[-1] == pytest.approx(loss(s.train), rel=1e-3)             # the clean loss is of unmixed clips
    assert c.valid_loss.iloc[-1] == pytest.approx(loss(s.valid), rel=1e-3)
    assert isinstance(t.model.loss_func, CrossEntropyLossFlat) and not any(isinstance(cb, T.Curves) for cb in t.model.cbs)

def test_a_network_learns_and_labels_are_in_place(made):
    "Labels that are not in alphabetical order, so that a mix-up of columns shows."
    df, d = made
    t, s, _ = trained(made, 'lstm', bs=8, lr=2e-2)
    learn = t.model
    with learn.no_logging(): learn.fit_one_cycle(8, 2e-2)
    p = T.prediction_frame(df, s.test, t.predict_proba(s.test), t.labels)
    assert list(p) == ['clip', 'truth', *EMOTIONS] and metrics(p)['accuracy'] > .9

def test_channels_last_changes_nothing_that_is_learned(made, monkeypatch):
    monkeypatch.setenv('SER_BF16', '0')
    fast = trained(made, 'cnn_scratch_aug', epochs=2, lr=2e-4)[0]
    monkeypatch.setattr(T, 'speed_callbacks', lambda device: [])
    plain, s, _ = trained(made, 'cnn_scratch_aug', epochs=2, lr=2e-4)
    assert np.abs(fast.predict_proba(s.test) - plain.predict_proba(s.test)).max() < .01
    assert fast.model.model[0][0].weight.is_contiguous(memory_format=torch.channels_last)

# bf16 is used for training steps and for nothing else

@pytest.fixture(params=['0', '1'], ids=['fp32', 'bf16'])
def bf16(request, monkeypatch):
    "Both settings of `SER_BF16`; without bf16 instructions, 1 is slow but works."
    monkeypatch.setenv('SER_BF16', request.param)
    return request.param == '1'

class Precision(Callback):
    "Record in which mode and precision the last linear layer of the model runs."
    def __init__(self): self.seen = []
    def before_fit(self):
        layer = [m for m in self.model.modules() if isinstance(m, nn.Linear)][-1]
        self.hook = layer.register_forward_hook(lambda layer, x, y: self.seen.append((layer.training, y.dtype)))
    def after_fit(self): self.hook.remove()

def fp32_outputs(learn, dl):
    "Outputs and targets of a plain forward pass."
    learn.model.eval()
    plain = lambda x: x.as_subclass(torch.Tensor)
    with torch.no_grad(): return map(torch.cat, zip(*[(plain(learn.model(x)), plain(y)) for x, y in dl]))

TINY = dict(lstm={}, cnn_scratch_aug=dict(arch='squeezenet1_1', sizes=(32,), shares=(1.,), epochs=1))

@pytest.mark.parametrize('name', TINY)
def test_only_training_steps_run_in_bf16(made, monkeypatch, bf16, name):
    df, precision, speed_callbacks = made[0], Precision(), T.speed_callbacks
    monkeypatch.setattr(T, 'speed_callbacks', lambda device: [*speed_callbacks(device), precision])
    t, s, _ = trained(made, name, **TINY[name])
    assert set(precision.seen) == {(True, torch.bfloat16 if bf16 else torch.float32), (False, torch.float32)}
    learn, row = t.model, t.curves.iloc[-1]
    assert all(p.dtype == torch.float32 for p in learn.model.parameters())
    logits, y = fp32_outputs(learn, learn.dls.valid)
    assert row.valid_loss == pytest.approx(float(nn.functional.cross_entropy(logits, y)), abs=1e-6)
    assert row.valid_accuracy == pytest.approx(float((logits.argmax(1) == y).float().mean()), abs=1e-6)
    logits, y = fp32_outputs(learn, learn.dls.test_dl(df.iloc[s.train], with_labels=True))
    assert row.train_clean_loss == pytest.approx(float(nn.functional.cross_entropy(logits, y)), abs=1e-6)
    logits, _ = fp32_outputs(learn, learn.dls.test_dl(df.iloc[s.test], with_labels=True))
    np.testing.assert_allclose(t.predict_proba(s.test), logits.softmax(1), atol=1e-6)

def test_the_weights_predict_the_same_without_the_training_callbacks(made, bf16):
    t, s, _ = trained(made, 'lstm')
    before = t.predict_proba(s.test)
    t.model.remove_cbs(T.speed_callbacks() + [T.BF16])
    assert np.array_equal(t.predict_proba(s.test), before)

def numbers(i): return torch.tensor([i, i % 2, i % 3, i % 4])/8.
def is_odd(i): return i % 2

def tiny_learner():
    data = Datasets(range(8), [[numbers], [is_odd]], splits=(range(4), range(4, 8)))
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    return Learner(data.dataloaders(bs=4, num_workers=0), model, loss_func=CrossEntropyLossFlat(), cbs=T.BF16())

class Fail(Callback):
    "Raise an error at one event of a training step."
    order = 2000
    def __init__(self, event, error):
        setattr(self, event, self.fail)
        self.error = error
    def fail(self): raise self.error

@pytest.mark.parametrize('where', ['before_batch', 'forward', 'after_pred', 'after_loss', 'before_step', 'after_epoch'])
@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError('out of memory')], ids=['interrupt', 'error'])
def test_an_error_in_training_leaves_a_plain_model(where, error):
    learn = tiny_learner()
    before = learn.loss_func
    def fit(cbs=()):
        with learn.no_bar(), learn.no_logging():
            T.fit_stages(learn, Recipe('r', epochs=1, mixup=.4), lambda size: learn.dls, cbs)
    def raise_error(*args): raise error
    if where == 'forward': hook = learn.model[1].register_forward_hook(raise_error)
    with pytest.raises((KeyboardInterrupt, RuntimeError)): fit([] if where == 'forward' else [Fail(where, error)])
    if where == 'forward': hook.remove()
    assert 'forward' not in vars(learn.model) and learn.loss_func is before
    assert not torch.is_autocast_enabled('cpu') and torch.backends.mkldnn.enabled
    x = torch.ones(1, 4)
    want = learn.model.eval()(x)
    assert want.dtype == torch.float32 and torch.equal(pickle.loads(pickle.dumps(learn.model))(x), want)
    fit()

def test_a_cancelled_batch_leaves_a_plain_model():
    learn = tiny_learner()
    with learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=Fail('before_batch', CancelBatchException))
    assert 'forward' not in vars(learn.model)

@pytest.mark.parametrize('value, has, expected', [('0', True, False), ('1', False, True), ('', True, True), ('', False, False),
                                                  (None, True, True)])
def test_the_switch(monkeypatch, value, has, expected):
    monkeypatch.setattr(T, 'has_bf16', lambda device: has)
    monkeypatch.delenv('SER_BF16', raising=False) if value is None else monkeypatch.setenv('SER_BF16', value)
    assert T.use_bf16() == expected == any(isinstance(cb, T.BF16) for cb in T.speed_callbacks())

def test_a_mistyped_switch_is_explained(made, monkeypatch):
    for value in 'yes', '2', ' 1', 'bf16':
        monkeypatch.setenv('SER_BF16', value)
        with pytest.raises(SerError, match=f'^invalid SER_BF16 "{value}": use 1 .*or 0 .*$'): trained(made, 'lstm')

def test_tiny_corpora(made):
    df, d = made
    tiny = df[:9].reset_index(drop=True)                                                     # three clips of each class
    for name in 'svm', 'lstm', 'cnn_scratch_aug':
        t = X.train(tiny, small(name, d), s := split(tiny, 'paper'))
        assert len(s.train) == 3 and t.predict_proba(s.test).shape == (3, 3)
    two = df[df.emotion != 'sad'].reset_index(drop=True)
    for name in 'svm', 'lstm': assert X.train(two, small(name, d), split(two, 'loso')).predict_proba(np.arange(5)).shape == (5, 2)
    one = df[df.emotion == 'sad'].reset_index(drop=True)
    for name in 'svm', 'lstm':
        with pytest.raises(SerError, match='every clip is sad'): X.train(one, small(name, d), split(one, 'loso'))

def test_weights_are_called_what_they_are(made, tmp_path):
    df, d = made
    imagenet = replace(small('cnn_transfer', d), weights='imagenet')
    run = X.run_one(df, imagenet, 'loso', weights=d/'squeeze.pth', folder=tmp_path)         # the file counts, not the recipe's word
    assert Results(tmp_path).find(run)['weights'] == weights_name(d/'squeeze.pth') and str(d) not in json.dumps(Results(tmp_path).find(run))
    with pytest.raises(SerError, match='squeeze@.*pass its file'): X.train(df, small('cnn_transfer', d), split(df, 'loso'))
    with pytest.raises(SerError, match='gone.pth does not exist'): X.run_grid(df, [imagenet], ['loso'], weights=d/'gone.pth', folder=tmp_path)

def test_options(made):
    _, d = made
    with pytest.raises(SerError, match='invalid image size "big"'): apply_options(RECIPES['cnn_scratch'], size='big')
    with pytest.raises(SerError, match='2 sizes and 1 shares'): T.stages(Recipe('r', sizes=(64, 96)))
    with pytest.raises(SerError, match='unknown statistic "median"; known: mean'): trained(made, 'svm', stats='median')

@pytest.fixture
def counted(monkeypatch):
    "How often a model was trained, and a switch that interrupts the third time."
    seen, stop = [], [None]
    def svm(df, features, s, recipe, seed, weights, checkpoint):
        if stop[0] == len(seen): raise KeyboardInterrupt
        seen.append((recipe.name, seed, tuple(s.test)))
        return svm.real(df, features, s, recipe, seed, weights, checkpoint)
    svm.real = X.TRAINERS['svm']
    monkeypatch.setitem(X.TRAINERS, 'svm', svm)
    return seen, stop

def test_a_killed_grid_goes_on(made, tmp_path, counted):
    df, _ = made
    seen, stop = counted
    grid = lambda: X.run_grid(df, [RECIPES['svm']], ['loso', 'paper'], folder=tmp_path)
    stop[0] = 3
    with pytest.raises(KeyboardInterrupt): grid()
    assert len(seen) == 3 == len(Results(tmp_path).runs)
    stop[0] = None
    rows = grid()
    assert len(rows) == len(seen) == 6 and len(set(seen)) == 6 and set(rows.status) == {'done'}  # three were there, three more
    before = {f: f.read_bytes() for f in tmp_path.rglob('*.*') if f.suffix in ('.csv', '.json')}
    assert set(grid().status) == {'done'} and len(seen) == 6                                  # nothing is run again
    assert before == {f: f.read_bytes() for f in tmp_path.rglob('*.*') if f.suffix in ('.csv', '.json')}
    assert len(Results(tmp_path).predictions(rows.run[rows.protocol == 'loso'])) == len(df)

def test_a_failed_run_is_recorded_and_the_grid_goes_on(made, tmp_path, counted, monkeypatch):
    df, d = made
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path/'hub'))
    def no_network(url, path): raise SerError('no network')
    monkeypatch.setattr(cnn, 'fetch', no_network); cnn._fetch.cache_clear()
    transfer = replace(small('cnn_transfer', d), weights='imagenet')
    rows = X.run_grid(df, [transfer, RECIPES['svm']], ['loso'], folds=[0], folder=tmp_path)
    assert list(rows.status) == ['failed', 'done']
    runs = Results(tmp_path).runs.set_index('recipe')
    assert list(runs.status) == ['failed', 'done'] and 'no network' in runs.error['cnn_transfer'] and 'pass --weights' in rows.error[0]
    assert not (tmp_path/'predictions'/f'{rows.run[0]}.csv').exists()
    def broken(*args): raise RuntimeError(f'out of memory in {Path.home()}/x')
    monkeypatch.setitem(X.TRAINERS, 'lstm', broken)
    rows = X.run_grid(df, [small('lstm', d), RECIPES['svm']], ['loso'], folds=[0, 1], folder=tmp_path)
    assert list(rows.status) == ['failed', 'done']*2 and rows.error[0] == 'RuntimeError: out of memory in ~/x'
    monkeypatch.undo()
    monkeypatch.setenv('SER_CACHE', str(d/'cache'))
    assert list(X.run_grid(df, [small('lstm', d)], ['loso'], folds=[0], folder=tmp_path).status) == ['done']  # what failed may be tried again
    assert Results(tmp_path).find(rows.run[0])['error'] is None

def test_a_killed_training_goes_on(made, tmp_path, monkeypatch):
    df, d = made
    recipe, seen = small('cnn_scratch_aug', d, epochs=4, arch='squeezenet1_1'), []
    whole = X.run_one(df, recipe, 'loso', folder=tmp_path/'whole')
    monkeypatch.setattr(T.Checkpoint.__init__, '__defaults__', (0.,))                          # after every epoch
    def stop(self):
        seen.append(len(self.rows))
        if len(seen) == 2: raise KeyboardInterrupt
        real(self)
    real = T.Curves.after_epoch
    monkeypatch.setattr(T.Curves, 'after_epoch', stop)
    with pytest.raises(KeyboardInterrupt): X.run_one(df, recipe, 'loso', folder=tmp_path/'cut')
    kept = list((d/'cache'/'checkpoints').glob('*.pt'))
    assert len(kept) == 1 and not Results(tmp_path/'cut').runs.shape[0]
    torch.save(torch.load(kept[0], weights_only=True) | dict(seconds=3600.), kept[0])          # an hour, had it been a real one
    run = X.run_one(df, recipe, 'loso', folder=tmp_path/'cut')
    assert 3600 < Results(tmp_path/'cut').find(run)['seconds'] < 4000
    assert seen == [0, 1, 1, 1, 2, 3] and not kept[0].exists()                                # passed over the first epoch, then trained three
    assert Results(tmp_path/'cut').predictions(run).equals(Results(tmp_path/'whole').predictions(whole))

@pytest.mark.parametrize('why', [OSError(28, 'No space left on device'), RuntimeError('PytorchStreamWriter failed writing file')], ids=['system', 'torch'])
def test_a_full_cache_costs_the_checkpoint_and_not_the_training(made, tmp_path, monkeypatch, capsys, why):
    df, d = made
    def full(*args): raise why
    monkeypatch.setattr(T.Checkpoint.__init__, '__defaults__', (0.,))
    monkeypatch.setattr(T.torch, 'save', full)
    run = X.run_one(df, small('lstm', d, epochs=2), 'loso', folder=tmp_path)
    assert Results(tmp_path).find(run)['status'] == 'done' and not list((d/'cache'/'checkpoints').glob('*'))
    assert 'cannot write ' in ''.join(capsys.readouterr())

def test_a_split_that_breaks_its_promise_does_not_start(made, tmp_path):
    df, _ = made
    wrong = df.assign(sha=df.sha.where(df.index != 3, df.sha[0]))                              # one recording under two speakers' names
    assert wrong.speaker[0] != wrong.speaker[3]
    rows = X.run_grid(wrong, [RECIPES['svm']], ['loso', 'paper'], folder=tmp_path)
    failed = rows[rows.status == 'failed']
    assert set(failed.protocol) == {'loso'} and 1 <= len(failed) <= 2 and Results(tmp_path).find(failed.run.iloc[0])['status'] == 'failed'
    with pytest.raises(SerError): X.run_one(wrong, RECIPES['svm'], 'loso', int(failed.fold.iloc[0]), folder=tmp_path)

def test_cross_names_what_was_learnt_and_what_was_tested(made, tmp_path):
    df, _ = made
    both = pd.concat([df, df[df.emotion != 'sad'].assign(corpus='other', clip='other/' + df['clip'], speaker='other_' + df.speaker, sha='f' + df.sha.str[1:])],
                     ignore_index=True)
    rows = X.run_grid(both, [RECIPES['svm']], ['cross'], folder=tmp_path)
    facts = [Results(tmp_path).find(r) for r in rows.run]
    assert [(f['corpora'], f['test_corpora'], f['status']) for f in facts] == [('other', 'made', 'done'), ('made', 'other', 'done')]
    pred = Results(tmp_path).predictions(rows.run[0])
    assert set(pred.truth) == {'neutral', 'angry'} and 'sad' not in pred                       # the classes that both have

def test_a_sweep_repeats_nothing_and_looks_at_no_test_clip(made, tmp_path, counted):
    df, _ = made
    recipes = [replace(RECIPES['svm'], C=c) for c in (1., 10.)]
    sweep = lambda rs, fold=1: X.sweep(df, rs, 'loso', fold, name='c', results=tmp_path)
    assert len(sweep(recipes[:1])) == 1 and len(sweep(recipes)) == 2 and len(counted[0]) == 2
    assert len(sweep(recipes, fold=2)) == 4 and len(counted[0]) == 4                          # another split is another answer
    assert not (tmp_path/'runs').exists()

def test_without_git(monkeypatch):
    def none(*args, **kw): raise FileNotFoundError('git')
    monkeypatch.setattr(X.subprocess, 'run', none)
    assert X.environment()['commit'] == ''


HELD = inspect.getsource(T.reuse_freed_memory) + '''
import ctypes, os, numpy as np
def held():
    "MB that a block of 64 leaves behind once it is freed."
    def now(): return int(open('/proc/self/statm').read().split()[1])*os.sysconf('SC_PAGE_SIZE')/2**20
    before, block = now(), np.ones(2**23)
    del block
    return now() - before
print(held()); reuse_freed_memory(); print(held())
'''

@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='another C library')
def test_what_is_freed_is_kept():
    r = subprocess.run([sys.executable, '-c', HELD], capture_output=True, text=True, timeout=100)
    before, after = map(float, r.stdout.split())
    assert before < 16 and after > 48
