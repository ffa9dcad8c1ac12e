"Rules for all notebooks: title, length, size, outputs, imports and the sidebar."
import ast, json, re
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).parents[1]
NBS = {p.relative_to(REPO/'nbs').as_posix(): p for p in sorted((REPO/'nbs').rglob('*.ipynb'))
       if not any(part[0] in '._' for part in p.relative_to(REPO).parts)}


def cells(name): return json.loads(NBS[name].read_text(encoding='utf8'))['cells']
def source(cell): return ''.join(cell['source'])
def outputs(name): return [o for c in cells(name) for o in c.get('outputs', ())]


def check_starts_with_title_and_subtitle(name):
    first = source(cells(name)[0])
    assert re.match(r'# [^#\s].*\n\n> \S', first), 'the first cell must be "# Title", "", "> subtitle"'


def check_is_short_and_small(name):
    sources = [source(c) for c in cells(name)]
    n_exported = sum(len(s.splitlines()) - 1 for s in sources if re.search(r'^#\|\s*export', s, re.M))
    assert sum(c['cell_type'] == 'code' for c in cells(name)) <= 80 and n_exported <= 560
    assert NBS[name].stat().st_size < 500_000


def check_outputs_are_clean(name):
    "No traceback, warning, progress bar or local path."
    text = json.dumps(outputs(name))
    sources = ''.join(map(source, cells(name)))
    assert not [o for o in outputs(name) if o['output_type'] == 'error' or o.get('name') == 'stderr']
    assert not [p for p in (REPO, Path.home()) if f'{p}/' in text + sources]
    assert not re.search(r'["> ]/tmp/', text)
    assert 'it/s]' not in text and 'application/vnd.jupyter.widget-view+json' not in text


REPORTS = [n for n in NBS if n.startswith('reports/')] + ['23_compare.ipynb', 'index.ipynb']

@pytest.mark.parametrize('name', REPORTS)
def test_each_stream_is_one_output(name):
    "`ser_report` runs these notebooks, which must give the same files each time."
    for c in cells(name):
        streams = [o['name'] for o in c.get('outputs', ()) if o['output_type'] == 'stream']
        assert len(streams) == len(set(streams))


def check_imports_are_separate(name):
    "Cells with imports contain nothing else, because the documentation runs them. Exported cells may."
    for c in cells(name):
        assert c.get('id'), 'a cell has no id: nbdev_clean would change it each time'
        if c['cell_type'] != 'code' or re.search(r'^#\|\s*(export|eval: false)', source(c), re.M): continue
        nodes = list(ast.walk(ast.parse(re.sub(r'^[%!].*', '', source(c), flags=re.M))))
        if any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in nodes):
            mixed = any(isinstance(n, (ast.Expr, ast.Assign)) for n in nodes)
            assert not mixed, f'cell {c["id"]} mixes imports with other code'


def check_links_exist(name):
    "Links between notebooks name files, which work on GitHub too; Quarto translates them."
    text = '\n'.join(source(c) for c in cells(name) if c['cell_type'] == 'markdown')
    links = [link for link in re.findall(r'\]\(([^)#\s]+)', text) if '://' not in link]
    assert not [link for link in links if not (NBS[name].parent/link).is_file()]


@pytest.mark.parametrize('name', NBS)
def test_notebook_can_be_published(name):
    check_starts_with_title_and_subtitle(name)
    check_is_short_and_small(name)
    check_outputs_are_clean(name)
    check_imports_are_separate(name)
    check_links_exist(name)


def test_sidebar_lists_every_notebook():
    found = []
    def walk(entries):
        for e in entries:
            if isinstance(e, str): found.append(e)
            else: walk(e['contents'])
    walk(yaml.safe_load((REPO/'nbs'/'sidebar.yml').read_text())['website']['sidebar']['contents'])
    assert sorted(found) == sorted(NBS), 'nbs/sidebar.yml does not list the same notebooks as nbs/'
