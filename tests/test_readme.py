"README.md is nbs/index.ipynb: `make readme` would change nothing."
import subprocess, sys
from pathlib import Path

REPO = Path(__file__).parents[1]


def test_readme_mirrors_index(tmp_path):
    subprocess.run([sys.executable, '-m', 'nbconvert', 'nbs/index.ipynb', '--config', 'nbs/_readme.py', '--to', 'markdown',
                    '--output-dir', tmp_path, '--output', 'README'], cwd=REPO, check=True, timeout=120)
    assert (tmp_path/'README.md').read_text(encoding='utf8') == (REPO/'README.md').read_text(encoding='utf8'), 'run make readme and commit'
    for made in (p for p in tmp_path.rglob('*') if p.is_file()):
        assert (REPO/made.relative_to(tmp_path)).exists(), 'run make readme and commit its pictures'
