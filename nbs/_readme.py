"nbconvert settings for `make readme`: write nbs/index.ipynb to README.md, following nbdev's directives."
import re
from nbconvert.preprocessors import Preprocessor

class Directives(Preprocessor):
    "Remove hidden cells, the source of `echo: false` cells, and the directives."
    def preprocess(self, nb, resources):
        nb.metadata.language_info = {'name': 'python'}
        nb.cells = [c for c in nb.cells if not re.match(r'#\|\s*(hide|default_exp)\b', c.source)]
        for c in nb.cells:
            if c.cell_type != 'code': continue
            if re.search(r'^#\|\s*echo:\s*false', c.source, re.M):
                c.metadata.transient = {'remove_source': True}
            c.source = re.sub(r'^#\|.*\n?', '', c.source, flags=re.M)
        return nb, resources

c = get_config()
c.MarkdownExporter.preprocessors = [Directives]
