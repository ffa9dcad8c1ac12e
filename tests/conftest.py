"Fixtures that several test files use. They are created once per session and shared by all workers."
import os

import pytest
from filelock import FileLock

# The slowest files run first, so that no worker is still busy with one of them at the end.
SLOWEST = ('test_export test_train test_grid test_app test_compare test_cli test_report test_predict '
           'test_augment test_corpora').split()


def pytest_collection_modifyitems(items):
    order = {f'{name}.py': i for i, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope='session')
def shared(tmp_path_factory):
    "A function that returns a folder of the session; the first worker that needs it fills it with `make`."
    def get(name, make):
        root = tmp_path_factory.getbasetemp()
        root = root.parent if 'PYTEST_XDIST_WORKER' in os.environ else root
        with FileLock(root/f'{name}.lock'):
            if not (root/f'{name}.done').exists():
                make(root/name)
                (root/f'{name}.done').touch()
        return root/name
    return get


@pytest.fixture(scope='session')
def small_synth(shared):
    "Data folder with 30 clips of one synthetic speaker; read-only."
    from ser_fastai.synth import synthesise
    return shared('small_synth', lambda d: synthesise(d/'synth', n_speakers=1, n_repetitions=1, n_jobs=1))


@pytest.fixture(scope='session')
def synth(shared):
    "Data folder with 240 clips of eight synthetic speakers, half of the synthetic corpus; read-only."
    from ser_fastai.synth import synthesise
    return shared('synth', lambda d: synthesise(d/'synth', n_repetitions=1, n_jobs=1))


@pytest.fixture(scope='session')
def shipped(shared):
    "The packaged model, exported; read-only."
    pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    from ser_fastai.publish import export_bundle
    return shared('shipped', export_bundle)


def write_embedding_bundle(folder, labels=('sad', 'calm', 'angry'), d=6, seed=0):
    "Write a bundle with a tiny graph from samples (1, n) to an embedding (1, d), and a head fitted to random embeddings."
    import numpy as np, onnx
    from ser_fastai.bundle_info import write_info
    from ser_fastai.heads import fit_head, save_head
    rng, node = np.random.default_rng(seed), onnx.helper.make_node
    filters = rng.standard_normal((d, 1, 64)).astype('float32')   # the mean power of d bands
    graph = onnx.helper.make_graph(
        [node('Unsqueeze', ['samples', 'one'], ['channel']), node('Conv', ['channel', 'filters'], ['bands'], strides=[32]),
         node('Abs', ['bands'], ['power']), node('ReduceMean', ['power'], ['embedding'], axes=[2], keepdims=0)], 'tiny',
        [onnx.helper.make_tensor_value_info('samples', onnx.TensorProto.FLOAT, [1, 'n'])],
        [onnx.helper.make_tensor_value_info('embedding', onnx.TensorProto.FLOAT, [1, d])],
        [onnx.numpy_helper.from_array(np.array([1]), 'one'), onnx.numpy_helper.from_array(filters, 'filters')])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid('', 17)], ir_version=8)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder/'model.onnx')
    y, speakers = np.tile(sorted(labels), 40), np.repeat(np.arange(4), 10*len(labels))
    X = .5 + rng.standard_normal((len(y), d)) + .5*rng.standard_normal((len(labels), d))[np.unique(y, return_inverse=True)[1]]
    save_head(fit_head(X, y, speakers), folder/'head.npz')
    write_info(folder, dict(
        name='tiny', summary='Trained on noise.', labels=sorted(labels), output='embedding', temperature=1., threshold=.3,
        input=dict(sample_rate=16000, channels=1, range=[-1, 1], trim=True, window=1.),
        scores={}, data={}, licence={}, versions={},
        recipe=dict(sr=16000, trim=True, seconds=1., encoder='tiny')))
    return folder


@pytest.fixture(scope='session')
def embedding_bundle(shared):
    "Folder of a tiny bundle with an embedding and a head; read-only."
    pytest.importorskip('onnx')
    return shared('embedding_bundle', write_embedding_bundle)
