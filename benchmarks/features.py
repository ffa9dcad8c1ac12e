"Speed of log-mels: `build_features` compared with a librosa loop, and with librosa in parallel by joblib."
import os, sys, tempfile, time
import librosa, numpy as np, pandas as pd
from pathlib import Path
from fastcore.script import call_parse
from joblib import Parallel, cpu_count, delayed
from ser_fastai.recipes import Recipe
from ser_fastai.corpora import find_audio
from ser_fastai.features import build_features
from ser_fastai.tables import to_markdown
from ser_fastai.synth import synthesise

R = Recipe('benchmark', trim=False)   # librosa does not trim either

def by_librosa(path):
    "Log-mel of a file by librosa (dB), and the processor time (s)."
    start = time.process_time()
    y, sr = librosa.load(path, sr=R.sr)
    y = (y - np.mean(y, dtype='float64')).astype(y.dtype)   # as `build_features` removes constant offsets
    S = librosa.feature.melspectrogram(y=y, sr=sr, n_fft=R.n_fft, hop_length=R.hop_length, n_mels=R.n_mels,
                                       fmax=R.fmax)
    return librosa.power_to_db(S), time.process_time() - start

def loop(df): return [by_librosa(p) for p in df.path]
def parallel(df): return Parallel(-1)(delayed(by_librosa)(p) for p in df.path)
def build(df):
    "Log-mels by `build_features` into an empty cache (dB), and the processor time per clip (s)."
    start = time.process_time()
    with tempfile.TemporaryDirectory() as cache:
        feats = build_features(df, R, cache)
        return [(np.array(feats[c]), (time.process_time() - start)/len(df)) for c in df['clip']]

@call_parse
def main(
    data: str = None, # Folder with audio files, at any depth (default: the synthetic corpus)
    clips: int = 0,   # Number of clips; 0 is all
    reps: int = 5     # Repetitions of each method, in alternation
):
    "Time to compute the log-mels of a corpus, and the largest difference between the methods."
    os.environ['SER_QUIET'] = '1'
    with tempfile.TemporaryDirectory() as d:
        paths = find_audio(Path(data) if data else synthesise(d))
        paths = sorted(paths)[:clips or None]
        if not paths: sys.exit(f'{data} contains no audio file')
        sha = [f'{i:08d}' for i in range(len(paths))]
        df = pd.DataFrame(dict(clip=map(str, paths), path=paths, sha=sha))
        n = cpu_count()
        methods = {'librosa, loop': loop, f'librosa, joblib on {n} cores': parallel,
                   f'ser_fastai on {n} cores': build}
        for method in methods.values(): method(df[:16])   # imports, workers and filters are not timed
        times, out = {k: [] for k in methods}, {}
        for i in range(reps):
            for name in list(methods)[i % 3:] + list(methods)[:i % 3]:
                start = time.perf_counter()
                out[name] = methods[name](df)
                times[name].append((time.perf_counter() - start, sum(t for _, t in out[name])))
    wall, processor = ({k: np.median([x[j] for x in v]) for k, v in times.items()} for j in (0, 1))
    first, *_, last = methods
    difference = max(np.abs(a - b).max() for (a, _), (b, _) in zip(out[first], out[last]))
    frames = sum(S.shape[1] for S, _ in out[last])
    print(f'{len(df)} clips, {frames*R.hop_length/R.sr/60:.1f} minutes of audio; '
          f'medians of {reps} repetitions; largest difference {difference:.1e} dB')
    rows = [{'': k, 'seconds': f'{wall[k]:.2f}', 'speed-up of ser_fastai': f'{wall[k]/wall[last]:.2f}',
             'processor seconds': f'{processor[k]:.2f}'} for k in methods]
    print(to_markdown(pd.DataFrame(rows)))
    if difference > 1e-3: sys.exit('the log-mels differ by more than 0.001 dB')
