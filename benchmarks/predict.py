"From a file to its emotion: fastai's learner, loops around torch and scikit-learn, and ours, exported to 8 bits; an hour of sound; the web page under load."
import json, os, socket, subprocess, sys, tempfile, time, warnings
warnings.filterwarnings('ignore')
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from uuid import uuid4
import librosa, numpy as np, pandas as pd, soundfile as sf, torch
from fastai.vision.all import CategoryBlock, ColReader, DataBlock, TransformBlock, accuracy, vision_learner
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

def in_turns(ways, reps, n):
    "Median seconds of each way for one item; the ways take turns, and each goes first as often."
    took = {k: [] for k in ways}
    for f in ways.values(): f()
    for i in range(reps):
        for k in [*ways][i % len(ways):] + [*ways][:i % len(ways)]:
            t = time.perf_counter(); ways[k](); took[k].append((time.perf_counter() - t)/n)
    return {k: np.median(v) for k, v in took.items()}

def table(took, ours, unit=1000, name='milliseconds'):
    return to_markdown(pd.DataFrame([{'': k, name: f'{unit*v:.1f}', f'{ours} is faster by': f'{v/took[ours]:.1f}'} for k, v in took.items()]))

def learner(paths, arch, size):
    "A learner that takes files, as a user of fastai would make it."
    r = Recipe('benchmark', arch=arch, sizes=(size,))
    def load(path): return TensorSpectrogram(torch.from_numpy(as_image(clip_features(read_audio(path)), 250)).expand(3, -1, -1))
    block = DataBlock((TransformBlock(type_tfms=load), CategoryBlock(vocab=list(EMOTIONS), sort=False)), get_x=ColReader('path'), get_y=ColReader('emotion'),
                      splitter=lambda df: (list(range(8)), [0]), batch_tfms=image_tfms(size, r))
    df = pd.DataFrame(dict(path=paths[:8], emotion=EMOTIONS))
    learn = vision_learner(block.dataloaders(df, bs=8), find_arch(arch), pretrained=False, metrics=accuracy)
    for m in learn.model.modules():   # as after training: layers alike share their numbers in a graph, and shared ones are not brought to 8 bits
        if isinstance(m, torch.nn.BatchNorm2d): m.bias.data.normal_(0, .1); m.running_mean.normal_(0, .1)
    return learn, r

def torch_loop(learn, paths):
    "A model in a loop over files, features by librosa."
    model = learn.model.eval()
    with torch.inference_mode():
        for p in paths:
            x, _ = librosa.effects.trim(librosa.load(p, sr=16000)[0], top_db=30)
            S = librosa.power_to_db(librosa.feature.melspectrogram(y=x, sr=16000, n_fft=1024, hop_length=192, n_mels=128, fmax=8000), ref=np.max)
            image = torch.from_numpy(as_image(S, 250))[None, None]
            model(torch.nn.functional.interpolate(image, (learn.size, learn.size), mode='bilinear').expand(-1, 3, -1, -1)).softmax(1)

def sklearn_loop(model, paths):
    "Averaged MFCC by librosa and an SVM by scikit-learn in a loop over files."
    for p in paths:
        x, _ = librosa.effects.trim(librosa.load(p, sr=16000)[0], top_db=30)
        model.predict(librosa.feature.mfcc(y=x, sr=16000, n_mfcc=20, n_fft=1024, hop_length=192).mean(1)[None])

HOUR = '''
import json, re, sys, time
from ser_fastai.predict import Predictor
from ser_fastai.publish import export_bundle, save_bundle
peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])/1024   # MB
p = Predictor(sys.argv[1] or None)
p.predict(sys.argv[2])
before, t = peak(), time.perf_counter()
n = len(p.timeline(sys.argv[3]))
print(json.dumps([n, time.perf_counter() - t, before, peak()]))
'''

def an_hour(bundle, paths, folder):
    "Seconds and memory of a process that hears an hour; (windows, seconds, MB before, MB at the peak)."
    x = np.concatenate([read_audio(p) for p in paths])
    sf.write(folder/'hour.flac', np.resize(x, 3600*16000), 16000)
    r = subprocess.run([sys.executable, '-c', HOUR, bundle, paths[0], folder/'hour.flac'], capture_output=True, text=True, check=True)
    return json.loads(r.stdout.splitlines()[-1])

def program(url):
    "Ask as a program does: probabilities, from the endpoint that is for programs."
    from gradio_client import Client, handle_file
    client = Client(url, verbose=False)
    return lambda path: client.predict(handle_file(path), api_name='/predict')

def visitor(url):
    "Ask as a browser does: the page's own event, whose answer is the spectrogram with its Grad-CAM, drawn."
    from requests import get, post
    event = next(d['id'] for d in get(f'{url}/config', timeout=60).json()['dependencies'] if d['targets'][0][1] == 'change')
    def ask(path):
        with open(path, 'rb') as f: sent = post(f'{url}/gradio_api/upload', files=dict(files=f), timeout=600).json()[0]
        me = dict(session_hash=uuid4().hex)
        data = [dict(path=sent, orig_name=Path(path).name, meta={'_type': 'gradio.FileData'})]
        post(f'{url}/gradio_api/queue/join', json=dict(data=data, fn_index=event, **me), timeout=600).raise_for_status()
        with get(f'{url}/gradio_api/queue/data', params=me, stream=True, timeout=600) as r:
            told = (json.loads(line[5:]) for line in r.iter_lines() if line.startswith(b'data:'))
            last = next(m for m in told if m['msg'] in ('process_completed', 'unexpected_error'))
        if 'ser-bars' not in str(last.get('output')) or '<img' not in str(last['output']): raise RuntimeError(str(last))
    return ask

def page(connect, paths, requests, clients):
    "Requests to a page of its own: (seconds, errors, MB of the server after every hundred); each error is on the error stream."
    with socket.create_server(('127.0.0.1', 0)) as s: port = s.getsockname()[1]
    server = subprocess.Popen([Path(sys.executable).parent/'ser_app', '--port', str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    memory = lambda: int(Path(f'/proc/{server.pid}/statm').read_text().split()[1])*os.sysconf('SC_PAGE_SIZE')/2**20
    def connected():
        for _ in range(120):
            try: return connect(f'http://127.0.0.1:{port}')
            except Exception: time.sleep(1)
        raise SystemExit('the page did not start')
    try:
        each, errors, marks, done, every = [connected() for _ in range(clients)], [], [], count(1), max(min(100, requests//2), 1)
        def ask(i):
            try: each[i % clients](paths[i % len(paths)])
            except Exception as e: errors.append(e); print(f'request {i}: {e!r:.300}', file=sys.stderr)
            if next(done) % every == 0: marks.append(round(memory()))
        t = time.perf_counter()
        with ThreadPoolExecutor(clients) as ex: list(ex.map(ask, range(requests)))
        return time.perf_counter() - t, len(errors), marks
    finally: server.terminate(); server.wait()

@call_parse
def main(
    arch: str = 'resnet34', # Architecture; its weights are drawn at random, which takes the same time
    size: int = 128,        # Height and width of the image, pixels
    clips: int = 200,       # Clips in the folder
    reps: int = 5,          # Turns
    requests: int = 2000,   # To the page, each way; 0 leaves it out
    clients: int = 8
):
    "Times and ratios, for benchmarks/README.md."
    os.environ['SER_QUIET'] = '1'
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        df = load_corpus('synth', synthesise(d/'synth'))
        paths = list(map(str, df.path[:clips]))
        seed_all(0)
        learn, recipe = learner(paths, arch, size)
        learn.size = size
        save_bundle(learn, d/'bundle', recipe)
        export_bundle(d/'int8', d/'bundle', clips=df[-64:])
        fp32, int8 = Predictor(d/'bundle'), Predictor(d/'int8')
        svm = svm_pipeline().fit(np.random.default_rng(0).normal(size=(80, 20)), np.arange(80) % 8)
        n_threads = torch.get_num_threads()
        def stock(paths, threads=n_threads):
            torch.set_num_threads(threads)
            with learn.no_bar(), learn.no_logging():
                for p in paths: learn.predict(p)
            torch.set_num_threads(n_threads)
        one = dict(zip(('fastai, learn.predict', 'fastai, learn.predict, one thread', 'librosa and a torch loop', 'librosa and scikit-learn (SVM)', 'Predictor, ONNX', 'Predictor, ONNX in 8 bits'),
                       (lambda: stock(paths[:1]), lambda: stock(paths[:1], 1), lambda: torch_loop(learn, paths[:1]), lambda: sklearn_loop(svm, paths[:1]), lambda: fp32.predict(paths[0]), lambda: int8.predict(paths[0]))))
        all = dict(zip(one, (lambda: stock(paths), lambda: stock(paths, 1), lambda: torch_loop(learn, paths), lambda: sklearn_loop(svm, paths), lambda: fp32.predict_files(paths), lambda: int8.predict_files(paths))))
        print(f'{arch}, {size} pixels, {torch.get_num_threads()} threads\n\nOne clip\n\n{table(in_turns(one, 4*reps, 1), "Predictor, ONNX in 8 bits")}')
        print(f'A folder of {clips} clips, milliseconds a clip\n\n{table(in_turns(all, max(reps//2, 1), clips), "Predictor, ONNX in 8 bits")}')
        for name, bundle in {'the bundle that ships': '', f'{arch} in 8 bits': d/'int8'}.items():
            n, seconds, before, peak = an_hour(bundle, paths, d)
            print(f'An hour, {name}: {n} windows in {seconds:.1f} s, {3600/seconds:.0f} times real time; {before:.0f} MB after a clip, {peak:.0f} MB at the peak')
        for name, connect in {'/predict': program, "the page's own event": visitor}.items() if requests else ():
            seconds, errors, marks = page(connect, paths, requests, clients)
            print(f'{requests} requests from {clients} clients, {name}: {seconds:.0f} s, {requests/seconds:.1f} a second, {errors} errors; MB of the server on the way: {marks}', flush=True)
