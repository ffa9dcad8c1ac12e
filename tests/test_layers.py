"The import table of the library: which module may import which."
import ast, sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1]/'ser_fastai'

FOUNDATION = ['core', 'containers', 'audio', 'archives', 'files', 'labels', 'parsers', 'bundle_info', 'corpora', 'synth', 'recordings', 'augment',
              'features', 'splits', 'heads']  # each may import the earlier ones
TRAIN = ['recipes', 'data', 'train', 'models.svm', 'models.lstm', 'models.cnn', 'models.crnn', 'models.waveform',
         'models.speech', 'adaptation', 'experiment', 'tuning', 'export', 'export_speech']
JUDGE = ['metrics', 'calibration', 'significance', 'results', 'tables', 'compare', 'ablation', 'plots', 'report']
USE = ['speech_detector', 'runtime', 'predict', 'explain', 'app']
JOINS = ['cards', 'publish', 'cli', 'all']
WINGS = dict(foundation=FOUNDATION, train=TRAIN, judge=JUDGE, use=USE, joins=JOINS)

ALLOWED = dict(
    train={*FOUNDATION, *TRAIN, 'metrics', 'results'},
    judge={*FOUNDATION, *JUDGE},
    use={'core', 'containers', 'audio', 'files', 'bundle_info', 'heads', *USE},
    joins={*FOUNDATION, *TRAIN, *JUDGE, *USE, *JOINS})

EXCEPTIONS = {  # imports that break the table and are still to be removed
    'explain': {'data',        # the input of a fastai learner; all four are imported inside functions
                'export',      # the torch network of a bundle, for Grad-CAM
                'features',    # log-mels and their axes
                'metrics'},    # top losses of stored predictions
    'app': {'synth'}}                                          # inside a function: the example clips

WITHOUT_TORCH = [*FOUNDATION, *JUDGE, 'speech_detector', 'runtime', 'predict', 'app', 'recipes']


def imports(module):
    "Names of all modules that a module imports, ours as `.name`, wherever the statement stands."
    path = PACKAGE/f'{module.replace(".", "/")}.py'
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf8'))):
        if isinstance(node, ast.Import): found |= {a.name for a in node.names}
        if not isinstance(node, ast.ImportFrom): continue
        if not node.level and not (node.module or '').startswith('ser_fastai'): found.add(node.module); continue
        name = (node.module or '').removeprefix('ser_fastai').strip('.')
        if node.level == 1 and '.' in module: name = f'models.{name}'   # from a neighbour in the same folder
        found |= {f'.{name}'} if name and name != 'models' else {f'.{name}.{a.name}'.replace('..', '.') for a in node.names}
    return found


def test_every_module_belongs_to_a_wing():
    listed = {m for wing in WINGS.values() for m in wing}
    found = {p.relative_to(PACKAGE).with_suffix('').as_posix().replace('/', '.') for p in PACKAGE.rglob('*.py')}
    assert {m for m in found if not m.split('.')[-1].startswith('_')} == listed


@pytest.mark.parametrize('wing, module', [(w, m) for w, modules in WINGS.items() for m in modules])
def test_imports_follow_the_table(wing, module):
    ours = {name[1:] for name in imports(module) if name.startswith('.')}
    allowed = set(FOUNDATION[:FOUNDATION.index(module)]) if wing == 'foundation' else ALLOWED[wing]
    broken = ours - allowed
    assert broken == EXCEPTIONS.get(module, set()), f'{module} belongs to {wing}; imports outside the table: {broken}'


@pytest.mark.parametrize('module', WITHOUT_TORCH)
def test_no_torch_here(module):
    tree = ast.parse((PACKAGE/f'{module}.py').read_text(encoding='utf8'))
    top = [s for s in tree.body if isinstance(s, (ast.Import, ast.ImportFrom))]
    packages = {n.split('.')[0] for s in top for n in ([a.name for a in s.names] if isinstance(s, ast.Import) else [s.module or ''])}
    assert not packages & {'torch', 'torchvision', 'fastai'}


def test_the_runtime_needs_few_packages():
    "A deployed folder contains these modules and needs only these packages."
    allowed = {'numpy', 'soundfile', 'soxr', 'onnxruntime'}
    for module in ('core', 'containers', 'audio', 'bundle_info', 'heads', 'speech_detector', 'runtime'):
        tree = ast.parse((PACKAGE/f'{module}.py').read_text(encoding='utf8'))
        top = {n.name.split('.')[0] for s in tree.body if isinstance(s, ast.Import) for n in s.names}
        top |= {s.module.split('.')[0] for s in tree.body if isinstance(s, ast.ImportFrom) and not s.level}
        assert not {p for p in top if not _standard(p)} - allowed, module


def _standard(package):
    return package in sys.stdlib_module_names
