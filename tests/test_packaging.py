"What would be released: the wheel, built from the source archive, holds every module, the bundles, the commands and the licences."
import ast, re, subprocess, sys
from configparser import ConfigParser
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path
from shutil import copytree, ignore_patterns
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = Path(__file__).parents[1]


@pytest.fixture(scope='session')
def cfg():
    config = ConfigParser(delimiters=['='])
    config.read(REPO/'settings.ini', encoding='utf8')
    return config['DEFAULT']


@pytest.fixture(scope='session')
def wheel(tmp_path_factory):
    "The names in the wheel, with the text of its metadata."
    src = tmp_path_factory.mktemp('src')
    copytree(REPO/'ser_fastai', src/'ser_fastai', ignore=ignore_patterns('__pycache__'))
    for f in ('settings.ini', 'setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE', 'CHANGELOG.md'):
        (src/f).write_bytes((REPO/f).read_bytes())
    subprocess.run([sys.executable, '-m', 'build', '--no-isolation', '--outdir', src/'dist', src], check=True, timeout=300, capture_output=True)
    with ZipFile(next((src/'dist').glob('*.whl'))) as z:
        return {n.split('.dist-info/')[-1]: z.read(n).decode('utf8', 'replace') for n in z.namelist()}


def test_every_module_is_in_the_wheel(wheel):
    modules = {p.relative_to(REPO).as_posix() for p in (REPO/'ser_fastai').rglob('*.py')}
    assert {n for n in wheel if n.endswith('.py')} == modules
    assert any(n.startswith('ser_fastai/models/') for n in wheel)


def test_bundles_are_in_the_wheel(wheel):
    bundles = REPO/'ser_fastai'/'bundles'
    data = {p.relative_to(REPO).as_posix() for p in bundles.rglob('*') if p.is_file() and p.suffix not in ('.py', '.pyc')}
    assert data and data <= set(wheel)
    limits = dict(default=6e6, accurate=20e6, cnn=6e6)   # bytes; the wheel stays under 40 MB
    sizes = {d.name: sum(f.stat().st_size for f in d.iterdir() if f.is_file()) for d in bundles.iterdir() if d.is_dir()}
    assert sizes.keys() == limits.keys() and all(sizes[k] < limits[k] for k in limits)


def test_licences_are_in_the_wheel(wheel):
    assert wheel['licenses/LICENSE'] == (REPO/'LICENSE').read_text(encoding='utf8')
    own = [p.relative_to(REPO).as_posix() for p in (REPO/'ser_fastai'/'bundles').glob('*/LICENSE*')]
    own.append('ser_fastai/speech_detector/LICENSE')
    assert len(own) > 1 and all(f'licenses/{n}' in wheel for n in own)


def test_the_speech_detector_is_in_the_wheel(wheel):
    assert {'ser_fastai/speech_detector/silero_vad.onnx', 'ser_fastai/speech_detector/LICENSE'} <= set(wheel)
    assert 'Silero' in wheel['ser_fastai/speech_detector/LICENSE']


def test_metadata_follows_settings(wheel, cfg):
    meta = Parser().parsestr(wheel['METADATA'])
    assert (meta['Name'], meta['Version'], meta['Summary']) == (cfg['lib_name'], cfg['version'], cfg['description'])
    assert meta['Requires-Python'] == f">={cfg['min_python']}"
    assert meta['License-Expression'] == cfg['license_expression']
    needed = [r for r in meta.get_all('Requires-Dist') if 'extra ==' not in r]
    assert len(needed) == len(cfg['requirements'].split()) and not any('==' in r for r in needed)
    assert '"dev"' in ' '.join(meta.get_all('Requires-Dist')).replace("'", '"')


def requirements(cfg, *extras):
    "The requirements of the package and of these extras, by name."
    lines = ' '.join(cfg[k] for k in ('requirements', *(f'{e}_requirements' for e in extras)))
    return {canonicalize_name(r.name): r for r in map(Requirement, lines.split())}


def test_every_import_is_a_requirement(cfg):
    "Otherwise the lowest versions that are tested leave a package out, or an installation works by luck."
    modules = set()
    for path in (REPO/'ser_fastai').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf8'))):
            if isinstance(node, ast.Import): modules |= {a.name.split('.')[0] for a in node.names}
            if isinstance(node, ast.ImportFrom) and not node.level: modules.add(node.module.split('.')[0])
    modules -= set(sys.stdlib_module_names) | {'ser_fastai', 'starlette'}   # starlette is a part of gradio's interface
    installed = packages_distributions()
    needed = {canonicalize_name(installed.get(m, [m])[0]) for m in modules}
    assert 'torch' in needed and needed <= set(requirements(cfg, 'onnx', 'app'))


@pytest.mark.parametrize('name, version', dict(
    ipython='7.34.0', librosa='0.11.0', matplotlib='3.10.0', numpy='2.0.2', pandas='2.2.2', requests='2.32.4',
    scikit_learn='1.6.1', soundfile='0.13.1').items())
def test_google_colab_is_allowed(cfg, name, version):
    "Versions that Google Colab starts with need not be replaced: that would need a restart."
    assert requirements(cfg)[canonicalize_name(name)].specifier.contains(version)


def test_pythons_agree(wheel):
    "The versions we promise are the versions we test."
    promised = re.findall(r'^Classifier: Programming Language :: Python :: (3\.\d+)$', wheel['METADATA'], re.M)
    tested = re.search(r'python: \[(.*)\]', (REPO/'.github'/'workflows'/'test.yml').read_text()).group(1)
    assert promised == re.findall(r'3\.\d+', tested)


def test_commands_exist(wheel, cfg):
    scripts = wheel['entry_points.txt']
    for line in cfg['console_scripts'].split():
        name, module, function = re.fullmatch(r'(\w+)=([\w.]+):(\w+)', line).groups()
        assert f'{name} = {module}:{function}' in scripts
        assert f'def {function}(' in wheel[module.replace('.', '/') + '.py']
