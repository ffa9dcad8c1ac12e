"README.md is nbs/index.ipynb: `make readme` would change nothing."
from pathlib import Path

from nbconvert import MarkdownExporter
from traitlets.config.loader import PyFileConfigLoader

REPO = Path(__file__).parents[1]


def test_readme_mirrors_index():
    config = PyFileConfigLoader('_readme.py', path=str(REPO/'nbs')).load_config()
    text, made = MarkdownExporter(config=config).from_filename(str(REPO/'nbs'/'index.ipynb'), resources=dict(output_files_dir='README_files', unique_key='README'))
    assert text.rstrip('\n') == (REPO/'README.md').read_text(encoding='utf8').rstrip('\n'), 'run make readme and commit'
    for picture in made['outputs']: assert (REPO/picture).exists(), 'run make readme and commit its pictures'
