"Loss of accuracy by quantisation: a bundle in 32 and in 8 bits, on its training corpus and on another one."
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

def compare(predictors, df):
    "Agreement of each predictor with the first, and its UAR, on the clips of a corpus frame."
    labels = next(iter(predictors.values())).labels
    probs = {name: p.predict_files(df.path)[labels].astype(float) for name, p in predictors.items()}
    first, *_ = probs
    rows = []
    for name, p in probs.items():
        same = (p.idxmax(axis=1) == probs[first].idxmax(axis=1)).mean()
        rows.append({'': name, f'same answer as {first}': f'{100*same:.2f} %',
                     'largest difference of a probability': f'{(p - probs[first]).abs().max(axis=None):.1e}',
                     'UAR': f'{100*uar(p.assign(truth=df.emotion.to_numpy())):.1f}'})
    return pd.DataFrame(rows)

@call_parse
def main(
    data: str = None,   # Folder of all corpora, with ravdess and emodb (default: $SER_DATA)
    bundle: str = None, # Folder of a bundle (default: the packaged model)
    clips: int = 0      # Number of clips per corpus, evenly spaced; 0 is all
):
    "Agreement and UAR in 32 and 8 bits. The quantisation is calibrated on RAVDESS."
    os.environ['SER_QUIET'] = '1'
    corpora = {name: load_corpus(name, data) for name in ('ravdess', 'emodb')}
    with tempfile.TemporaryDirectory() as d:
        int8 = export_bundle(Path(d)/'int8', bundle, clips=corpora['ravdess'])
        predictors = {'32 bits': Predictor(bundle), '8 bits': Predictor(int8)}
        for name, df in corpora.items():
            df = df[df.emotion.isin(predictors['32 bits'].labels)]
            if clips: df = df.iloc[::max(len(df)//clips, 1)]
            print(f'{name}: {len(df)} clips of {df.emotion.nunique()} classes\n\n'
                  f'{to_markdown(compare(predictors, df))}', flush=True)
