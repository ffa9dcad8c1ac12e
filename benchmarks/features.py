"Log-mel of a corpus: `build_features` beside a librosa loop, and beside librosa spread over the cores by joblib."
import os, sys, tempfile, time
import librosa, numpy as np, pandas as pd
from pathlib import Path
from fastcore.script import call_parse
from joblib import Parallel, cpu_count, delayed
from ser_fastai.recipes import Recipe
from ser_fastai.corpora import find_audio
from ser_fastai.features import build_features
from ser_fastai.results import to_markdown
from ser_fastai.synth import synthesise

R = Recipe('benchmark', trim=False)   # librosa does not trim, so nobody does

def by_librosa(path):
    "What one writes who has librosa alone; the processor's seconds beside it."
    start = time.process_time()
    y, sr = librosa.load(path, sr=R.sr)
    S = librosa.feature.melspectrogram(y=y, sr=sr, n_fft=R.n_fft, hop_length=R.hop_length, n_mels=R.n_mels, fmax=R.fmax)
    return librosa.power_to_db(S), time.process_time() - start

def loop(df): return [by_librosa(p) for p in df.path]
def spread(df): return Parallel(-1)(delayed(by_librosa)(p) for p in df.path)
def ours(df):
    start = time.process_time()
    with tempfile.TemporaryDirectory() as cache:
        feats = build_features(df, R, cache)
        return [(np.array(feats[c]), (time.process_time() - start)/len(df)) for c in df['clip']]

@call_parse
def main(
    data: str = None, # A folder of audio files, at any depth; without it the embedded corpus is synthesised
    clips: int = 0,   # How many of them; 0 is all
    reps: int = 5     # How often each is timed, in turns
):
    "Seconds to turn a corpus into log-mels, and how far the numbers are apart."
    os.environ['SER_QUIET'] = '1'
    with tempfile.TemporaryDirectory() as d:
        paths = find_audio(Path(data) if data else synthesise(d))
        paths = sorted(paths)[:clips or None]
        if not paths: sys.exit(f'{data} holds no audio file')
        df = pd.DataFrame(dict(clip=map(str, paths), path=paths, sha=[f'{i:08d}' for i in range(len(paths))]))
        ways = {'librosa, a loop': loop, f'librosa, joblib on {cpu_count()} cores': spread, f'ser_fastai on {cpu_count()} cores': ours}
        for way in ways.values(): way(df[:16])                     # imports, workers and filters are there when time starts
        times, out = {k: [] for k in ways}, {}
        for i in range(reps):
            for name in list(ways)[i % 3:] + list(ways)[:i % 3]:
                start = time.perf_counter()
                out[name] = ways[name](df)
                times[name].append((time.perf_counter() - start, sum(t for _, t in out[name])))
    wall, processor = ({k: np.median([x[j] for x in v]) for k, v in times.items()} for j in (0, 1))
    first, *_, last = ways
    apart = max(np.abs(a - b).max() for (a, _), (b, _) in zip(out[first], out[last]))
    frames = sum(S.shape[1] for S, _ in out[last])
    print(f'{len(df)} clips, {frames*R.hop_length/R.sr/60:.1f} minutes of sound; medians of {reps}; largest difference {apart:.1e} dB')
    print(to_markdown(pd.DataFrame([{'': k, 'seconds': f'{wall[k]:.2f}', 'ours is faster by': f'{wall[k]/wall[last]:.2f}',
        'processor seconds': f'{processor[k]:.2f}'} for k in ways])))
    if apart > 1e-4: sys.exit('the numbers differ by more than 1e-4 dB')
