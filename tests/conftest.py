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
