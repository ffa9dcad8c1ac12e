"README.md is up to date with nbs/index.ipynb."
from pathlib import Path

from nbconvert import MarkdownExporter
from traitlets.config.loader import PyFileConfigLoader

REPO = Path(__file__).parents[1]


def test_readme_mirrors_index():
    config = PyFileConfigLoader('_readme.py', path=str(REPO/'nbs')).load_config()
    exporter = MarkdownExporter(config=config)
    resources = dict(output_files_dir='README_files', unique_key='README')
    text, resources = exporter.from_filename(str(REPO/'nbs'/'index.ipynb'), resources=resources)
    committed = (REPO/'README.md').read_text(encoding='utf8')
    assert text.rstrip('\n') == committed.rstrip('\n'), 'run make readme and commit'
    for figure in resources['outputs']:
        assert (REPO/figure).exists(), 'run make readme and commit its figures'
