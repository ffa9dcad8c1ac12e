"What holds for every notebook: short, small, in the sidebar, with outputs that are fit to publish."
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


def check_opens_with_title_and_subtitle(name):
    assert re.match(r'# [^#\s].*\n\n> \S', source(cells(name)[0])), 'the first cell is "# Title", an empty line, "> subtitle"'


def check_is_short_and_small(name):
    exported = sum(len(source(c).splitlines()) - 1 for c in cells(name) if re.search(r'^#\|\s*export', source(c), re.M))
    assert sum(c['cell_type'] == 'code' for c in cells(name)) <= 80 and exported <= 560
    assert NBS[name].stat().st_size < 500_000


def check_outputs_are_fit_to_publish(name):
    "No traceback, no warning, no progress bar, and no folder of the machine it ran on."
    text = json.dumps(outputs(name))
    assert not [o for o in outputs(name) if o['output_type'] == 'error' or o.get('name') == 'stderr']
    assert not [p for p in (REPO, Path.home()) if f'{p}/' in text + ''.join(map(source, cells(name)))]
    assert not re.search(r'["> ]/tmp/', text)
    assert 'it/s]' not in text and 'application/vnd.jupyter.widget-view+json' not in text


@pytest.mark.parametrize('name', [n for n in NBS if n.startswith('reports/')] + ['23_compare.ipynb', 'index.ipynb'])
def test_what_is_printed_is_in_one_piece(name):
    "`ser_report` runs these, and gives the same file each time."
    for c in cells(name):
        streams = [o['name'] for o in c.get('outputs', ()) if o['output_type'] == 'stream']
        assert len(streams) == len(set(streams))


def check_imports_stand_alone(name):
    "The documentation runs every cell with an import in it, so such a cell does nothing else; an exported one may."
    for c in cells(name):
        assert c.get('id'), 'a cell without an id changes at every clean'
        if c['cell_type'] != 'code' or re.search(r'^#\|\s*(export|eval: false)', source(c), re.M): continue
        nodes = list(ast.walk(ast.parse(re.sub(r'^[%!].*', '', source(c), flags=re.M))))
        if any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in nodes):
            assert not any(isinstance(n, (ast.Expr, ast.Assign)) for n in nodes), f'cell {c["id"]} mixes imports with other code'


@pytest.mark.parametrize('name', NBS)
def test_is_fit_to_publish(name):
    for check in check_opens_with_title_and_subtitle, check_is_short_and_small, check_outputs_are_fit_to_publish, check_imports_stand_alone: check(name)


def test_sidebar_lists_every_notebook():
    found = []
    def walk(entries):
        for e in entries:
            if isinstance(e, str): found.append(e)
            else: walk(e['contents'])
    walk(yaml.safe_load((REPO/'nbs'/'sidebar.yml').read_text())['website']['sidebar']['contents'])
    assert sorted(found) == sorted(NBS), 'nbs/sidebar.yml and the notebooks differ'
