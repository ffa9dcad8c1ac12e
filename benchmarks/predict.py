"Speed of prediction for one clip, a folder, a long recording and requests to the web page."
import json, os, socket, subprocess, sys, tempfile, time, warnings
warnings.filterwarnings('ignore')
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from uuid import uuid4
import librosa, numpy as np, pandas as pd, soundfile as sf, torch
from fastai.vision.all import (CategoryBlock, ColReader, DataBlock, TransformBlock, accuracy,
                               vision_learner)
from fastcore.script import call_parse
from ser_fastai.audio import read_audio
from ser_fastai.core import EMOTIONS, seed_all
from ser_fastai.recipes import Recipe
from ser_fastai.corpora import load_corpus
from ser_fastai.data import TensorSpectrogram, image_tfms
from ser_fastai.features import as_image, clip_features
from ser_fastai.models.cnn import find_arch
from ser_fastai.models.svm import svm_pipeline
from ser_fastai.predict import Predictor
from ser_fastai.publish import export_bundle, save_bundle
from ser_fastai.tables import to_markdown
from ser_fastai.synth import synthesise

SR, N_FFT, HOP_LENGTH, N_FRAMES = 16000, 1024, 192, 250   # 3 seconds

def median_times(methods, reps, n_clips):
    "Median time of each method, s per clip. Methods alternate, and each comes first equally often."
    times, names = {k: [] for k in methods}, list(methods)
    for method in methods.values(): method()   # imports and first calls are not timed
    for i in range(reps):
        for k in names[i % len(names):] + names[:i % len(names)]:
            start = time.perf_counter()
            methods[k]()
            times[k].append((time.perf_counter() - start)/n_clips)
    return {k: np.median(v) for k, v in times.items()}

def speed_table(times):
    "Times per clip, and the speed-up of the last method over each."
    *_, last = times
    rows = [{'': k, 'ms per clip': f'{1000*t:.1f}', f'speed-up of {last}': f'{t/times[last]:.1f}'}
            for k, t in times.items()]
    return to_markdown(pd.DataFrame(rows))

def fastai_learner(paths, arch, size):
    "A fastai learner that takes audio files, and its recipe."
    recipe = Recipe('benchmark', arch=arch, sizes=(size,))
    def load(path):
        image = torch.from_numpy(as_image(clip_features(read_audio(path)), N_FRAMES))
        return TensorSpectrogram(image.expand(3, -1, -1))
    block = DataBlock((TransformBlock(type_tfms=load), CategoryBlock(vocab=list(EMOTIONS), sort=False)),
                      get_x=ColReader('path'), get_y=ColReader('emotion'),
                      splitter=lambda df: (list(range(8)), [0]), batch_tfms=image_tfms(size, recipe))
    df = pd.DataFrame(dict(path=paths[:8], emotion=EMOTIONS))
    learn = vision_learner(block.dataloaders(df, bs=8), find_arch(arch), pretrained=False, metrics=accuracy)
    # As after training: equal layers would share one constant in the graph, which is not quantised.
    for m in learn.model.modules():
        if not isinstance(m, torch.nn.BatchNorm2d): continue
        m.bias.data.normal_(0, .1)
        m.running_mean.normal_(0, .1)
    return learn, recipe

def fastai_loop(learn, paths, n_threads):
    "`learn.predict` in a loop over files."
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    with learn.no_bar(), learn.no_logging():
        for p in paths: learn.predict(p)
    torch.set_num_threads(before)

def load_trimmed(path): return librosa.effects.trim(librosa.load(path, sr=SR)[0], top_db=30)[0]

def torch_loop(model, size, paths):
    "Log-mel by librosa and a torch model in a loop over files."
    with torch.inference_mode():
        for p in paths:
            S = librosa.feature.melspectrogram(y=load_trimmed(p), sr=SR, n_fft=N_FFT, hop_length=HOP_LENGTH,
                                               n_mels=128, fmax=8000)
            image = torch.from_numpy(as_image(librosa.power_to_db(S, ref=np.max), N_FRAMES))[None, None]
            image = torch.nn.functional.interpolate(image, (size, size), mode='bilinear')
            model(image.expand(-1, 3, -1, -1)).softmax(1)

def svm_loop(svm, paths):
    "Mean MFCC by librosa and an SVM by scikit-learn in a loop over files."
    for p in paths:
        mfcc = librosa.feature.mfcc(y=load_trimmed(p), sr=SR, n_mfcc=20, n_fft=N_FFT, hop_length=HOP_LENGTH)
        svm.predict(mfcc.mean(1)[None])

TIMELINE = '''
import json, re, sys, time
from ser_fastai.predict import Predictor
def peak_mb(): return int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])/1024
bundle, clip, recording = sys.argv[1:]
p = Predictor(bundle or None)
p.predict(clip)
before, start = peak_mb(), time.perf_counter()
n_windows = len(p.timeline(recording))
print(json.dumps([n_windows, time.perf_counter() - start, before, peak_mb()]))
'''

def time_timeline(bundle, paths, folder, minutes):
    "Number of windows, seconds, and peak memory after one clip and at the end (MB), in a separate process."
    recording = folder/'long.flac'
    x = np.concatenate([read_audio(p) for p in paths])
    sf.write(recording, np.resize(x, minutes*60*SR), SR)
    command = sys.executable, '-c', TIMELINE, bundle, paths[0], recording
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])

def api_client(url):
    "Requests as a program sends them: probabilities from the endpoint /predict."
    from gradio_client import Client, handle_file
    client = Client(url, verbose=False)
    return lambda path: client.predict(handle_file(path), api_name='/predict')

def browser_client(url):
    "Requests as a browser sends them: each upload is a new session, and the answer contains the figure."
    from requests import get, post
    dependencies = get(f'{url}/config', timeout=60).json()['dependencies']
    event = next(d['id'] for d in dependencies if d['targets'][0][1] == 'change')
    def request(path):
        with open(path, 'rb') as f:
            uploaded = post(f'{url}/gradio_api/upload', files=dict(files=f), timeout=600).json()[0]
        session = dict(session_hash=uuid4().hex)
        data = [dict(path=uploaded, orig_name=Path(path).name, meta={'_type': 'gradio.FileData'})]
        body = dict(data=data, fn_index=event, **session)
        post(f'{url}/gradio_api/queue/join', json=body, timeout=600).raise_for_status()
        with get(f'{url}/gradio_api/queue/data', params=session, stream=True, timeout=600) as r:
            messages = (json.loads(line[5:]) for line in r.iter_lines() if line.startswith(b'data:'))
            last = next(m for m in messages if m['msg'] in ('process_completed', 'unexpected_error'))
        output = str(last.get('output'))
        if 'ser-bars' not in output or '<img' not in output: raise RuntimeError(str(last))
    return request

def start_page():
    "Start `ser_app` on a free port: the process and its address."
    with socket.create_server(('127.0.0.1', 0)) as s: port = s.getsockname()[1]
    command = Path(sys.executable).parent/'ser_app', '--port', str(port)
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return server, f'http://127.0.0.1:{port}'

def wait_for(connect, url):
    "A client of a page that is still starting."
    for _ in range(120):
        try: return connect(url)
        except Exception: time.sleep(1)
    sys.exit('the web page did not start within two minutes')

def resident_mb(pid):
    pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
    return pages*os.sysconf('SC_PAGE_SIZE')/2**20

def time_page(connect, paths, n_requests, n_clients):
    "Seconds, number of errors, and memory of the server (MB) after every hundred requests."
    server, url = start_page()
    errors, memory, finished, every = [], [], count(1), max(min(100, n_requests//2), 1)
    try:
        clients = [wait_for(connect, url) for _ in range(n_clients)]
        def request(i):
            try: clients[i % n_clients](paths[i % len(paths)])
            except Exception as e:
                errors.append(e)
                print(f'request {i}: {e!r:.300}', file=sys.stderr)
            if next(finished) % every == 0: memory.append(round(resident_mb(server.pid)))
        start = time.perf_counter()
        with ThreadPoolExecutor(n_clients) as pool: list(pool.map(request, range(n_requests)))
        return time.perf_counter() - start, len(errors), memory
    finally:
        server.terminate()
        server.wait()

def compare_speed(learn, size, bundles, paths, reps):
    "Print the times of all methods for one clip and for the folder."
    n_threads, model = torch.get_num_threads(), learn.model.eval()
    svm = svm_pipeline().fit(np.random.default_rng(0).normal(size=(80, 20)), np.arange(80) % 8)
    predictors = {name: Predictor(folder) for name, folder in bundles.items()}
    def methods(paths, predict):
        return {'fastai, learn.predict': lambda: fastai_loop(learn, paths, n_threads),
                'fastai, learn.predict, one thread': lambda: fastai_loop(learn, paths, 1),
                'librosa and torch': lambda: torch_loop(model, size, paths),
                'librosa and scikit-learn (SVM)': lambda: svm_loop(svm, paths),
                **{name: lambda p=p: predict(p) for name, p in predictors.items()}}
    print(f'{size} pixels, {n_threads} threads')
    times = median_times(methods(paths[:1], lambda p: p.predict(paths[0])), 4*reps, 1)
    print(f'\nOne clip\n\n{speed_table(times)}', flush=True)
    times = median_times(methods(paths, lambda p: p.predict_files(paths)), max(reps//2, 1), len(paths))
    print(f'\nA folder of {len(paths)} clips\n\n{speed_table(times)}', flush=True)

@call_parse
def main(
    arch: str = 'resnet34', # Architecture, with random weights, which do not affect the time
    size: int = 128,        # Height and width of the image, pixels
    clips: int = 200,       # Number of clips in the folder, 8 or more
    reps: int = 5,          # Repetitions of each method, in alternation
    minutes: int = 60,      # Length of the long recording; 0 leaves it out
    requests: int = 2000,   # Requests to the web page by each kind of client; 0 leaves them out
    clients: int = 8        # Clients that send requests at the same time
):
    "Speed of prediction compared with fastai and librosa loops; the figures of benchmarks/README.md."
    os.environ['SER_QUIET'] = '1'
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        df = load_corpus('synth', synthesise(d/'synth'))
        paths = list(map(str, df.path[:clips]))
        seed_all(0)
        learn, recipe = fastai_learner(paths, arch, size)
        save_bundle(learn, d/'fp32', recipe)
        export_bundle(d/'int8', d/'fp32', clips=df[-64:])
        bundles = {'Predictor, ONNX': d/'fp32', 'Predictor, ONNX in 8 bits': d/'int8'}
        compare_speed(learn, size, bundles, paths, reps)
        timed = {'packaged model': '', f'{arch} in 8 bits': d/'int8'} if minutes else {}
        for name, bundle in timed.items():
            n_windows, seconds, before, peak = time_timeline(bundle, paths, d, minutes)
            print(f'\n{minutes} minutes of audio, {name}: {n_windows} windows in {seconds:.1f} s, '
                  f'{60*minutes/seconds:.0f} times real time; {before:.0f} MB after one clip, '
                  f'{peak:.0f} MB at the peak', flush=True)
        kinds = {'/predict': api_client, 'as a browser': browser_client} if requests else {}
        for name, connect in kinds.items():
            seconds, n_errors, memory = time_page(connect, paths, requests, clients)
            print(f'\n{requests} requests from {clients} clients, {name}: {seconds:.0f} s, '
                  f'{requests/seconds:.1f} per second, {n_errors} errors; '
                  f'memory of the server: {memory} MB', flush=True)
