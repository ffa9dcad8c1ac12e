"What 8 bits cost: a bundle in 32 and in 8 bits, on its training corpus and on another one."
import os, tempfile, warnings
warnings.filterwarnings('ignore')
from pathlib import Path
import pandas as pd
from fastcore.script import call_parse
from ser_fastai.corpora import load_corpus
from ser_fastai.metrics import uar
from ser_fastai.predict import Predictor
from ser_fastai.publish import export_bundle
from ser_fastai.tables import to_markdown

@call_parse
def main(
    data: str = None,   # The folder of all corpora, with ravdess and emodb in it; default $SER_DATA
    bundle: str = None, # The folder of a bundle; default the one that ships
    clips: int = 0      # How many of each, evenly spread; 0 is all
):
    "Agreement and UAR of each, for benchmarks/README.md; the ranges of the 8 bits come from RAVDESS."
    os.environ['SER_QUIET'] = '1'
    frames = {c: load_corpus(c, data) for c in ('ravdess', 'emodb')}
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        export_bundle(d/'int8', bundle, clips=frames['ravdess'])
        ways = {'32 bits': Predictor(bundle), '8 bits': Predictor(d/'int8')}
        labels = ways['32 bits'].labels
        for corpus, df in frames.items():
            df = df[df.emotion.isin(labels)]
            df = df.iloc[::max(len(df)//clips, 1)] if clips else df
            probs = {k: p.predict_files(df.path)[labels].astype(float) for k, p in ways.items()}
            first, rows = probs['32 bits'], []
            for k, p in probs.items():
                found = uar(p.assign(truth=df.emotion.to_numpy()))
                rows.append({'': k, 'same answer as 32 bits': f'{100*(p.idxmax(axis=1) == first.idxmax(axis=1)).mean():.2f} %',
                             'largest difference of a probability': f'{(p - first).abs().max(axis=None):.1e}', 'UAR': f'{100*found:.1f}'})
            print(f'{corpus}: {len(df)} clips of {df.emotion.nunique()} classes\n\n{to_markdown(pd.DataFrame(rows))}', flush=True)
