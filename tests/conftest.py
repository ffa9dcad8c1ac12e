"What many tests share: made once, for all workers, in the folder of the session."
import os

import pytest
from filelock import FileLock

# The files that take longest, first, so that no worker is left with one of them at the end.
LONGEST = 'test_export test_train test_grid test_app test_compare test_cli test_report test_predict test_augment test_corpora'.split()


def pytest_collection_modifyitems(items):
    place = {f'{name}.py': i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture(scope='session')
def shared(tmp_path_factory):
    "A function that gives a folder, which `make` fills in the first worker that asks for it."
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
    "A data folder with 30 clips of the embedded corpus, of one speaker; to be read only."
    from ser_fastai.synth import synthesise
    return shared('small_synth', lambda d: synthesise(d/'synth', n_speakers=1, n_repetitions=1, n_jobs=1))


@pytest.fixture(scope='session')
def synth(shared):
    "A data folder with half of the embedded corpus, 240 clips of eight speakers; to be read only."
    from ser_fastai.synth import synthesise
    return shared('synth', lambda d: synthesise(d/'synth', n_repetitions=1, n_jobs=1))


@pytest.fixture(scope='session')
def shipped(shared):
    "The bundle that ships, as an export; to be read only."
    pytest.importorskip('onnx'); pytest.importorskip('onnxruntime')
    from ser_fastai.publish import export_bundle
    return shared('shipped', export_bundle)
