"The import table of the library: which module may import which."
import ast, sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1]/'ser_fastai'

FOUNDATION = ['core', 'containers', 'audio', 'archives', 'files', 'labels', 'parsers', 'bundle_info', 'corpora',
              'synth', 'recordings', 'augment', 'features', 'splits', 'heads']  # each may import the earlier ones
TRAIN = ['recipes', 'data', 'train', 'models.svm', 'models.lstm', 'models.cnn', 'models.crnn', 'models.waveform',
         'models.speech', 'models.encoders', 'models.finetune', 'adaptation', 'experiment', 'tuning', 'export',
         'export_speech']
JUDGE = ['metrics', 'calibration', 'significance', 'results', 'tables', 'compare', 'ablation', 'plots', 'report']
USE = ['speech_detector', 'runtime', 'output', 'predict', 'explain', 'app']
JOINS = ['cards', 'publish', 'own_model', 'cli', 'all']
WINGS = dict(foundation=FOUNDATION, train=TRAIN, judge=JUDGE, use=USE, joins=JOINS)

ALLOWED = dict(
    train={*FOUNDATION, *TRAIN, 'metrics', 'results'},
    judge={*FOUNDATION, *JUDGE},
    use={'core', 'containers', 'audio', 'files', 'bundle_info', 'heads', *USE},
    joins={*FOUNDATION, *TRAIN, *JUDGE, *USE, *JOINS})

# Maps of a network need torch and the log-mel that it was trained on; `explain` imports the modules for both
# inside its functions, so the web page starts without torch.
EXCEPTIONS = {'explain': {'data',       # the input of a fastai learner
                          'export',     # the torch network of a bundle, for Grad-CAM
                          'features'}}  # log-mels and their axes

WITHOUT_TORCH = [*FOUNDATION, *JUDGE, 'speech_detector', 'runtime', 'output', 'predict', 'app', 'recipes', 'cards',
                 'own_model']


def imports(module):
    "Names of all modules that a module imports, also inside functions; our own as `.name`."
    path = PACKAGE/f'{module.replace(".", "/")}.py'
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf8'))):
        if isinstance(node, ast.Import): found |= {a.name for a in node.names}
        if not isinstance(node, ast.ImportFrom): continue
        if not node.level and not (node.module or '').startswith('ser_fastai'):
            found.add(node.module)
            continue
        name = (node.module or '').removeprefix('ser_fastai').strip('.')
        if node.level == 1 and name: name = '.'.join([*module.split('.')[:-1], name])   # a module beside this one
        if name and name != 'models': found.add(f'.{name}')
        else: found |= {f'.{name}.{a.name}'.replace('..', '.') for a in node.names}
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
    names = [n for s in top for n in ([a.name for a in s.names] if isinstance(s, ast.Import) else [s.module or ''])]
    packages = {n.split('.')[0] for n in names}
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
