"""Install the wheel in an empty environment, and use it there as a new user does, offline.

    .venv/bin/python tests/trial.py                             # installs all requirements: some minutes
    .venv/bin/python tests/trial.py --python .venv/bin/python   # uses the packages of that environment instead

Prints one line per step with its time, and exits with 1 if a step fails. pytest does not collect this file.
"""
import argparse, json, os, shutil, socket, subprocess, sys, tempfile, time
from pathlib import Path

import numpy as np

REPO = Path(__file__).parents[1]
MAX_WHEEL_MB = 40
RUNTIME = 'onnxruntime', 'numpy', 'soundfile', 'soxr'   # all that an exported folder needs
TIMEOUT_S = 1800
STEPS = []

MAKE_CLIPS = '''
from pathlib import Path
import numpy as np, soundfile as sf
from ser_fastai.synth import example_clips, make_clip
Path('my_clips').mkdir()
sf.write('clip.wav', make_clip((5, 2, 1, 1, 1)), 16000)
for emotion in (1, 3, 4): sf.write(f'my_clips/{emotion}.wav', make_clip((emotion, 1, 1, 1, 1)), 16000)
sf.write('noise.wav', .1*np.random.default_rng(0).standard_normal(48000), 16000)
Path('broken.wav').write_text('not audio')
'''
ASK_PAGE = '''
import json, sys
from gradio_client import Client, handle_file
page = Client(sys.argv[1], verbose=False)
print(json.dumps(page.predict(handle_file('clip.wav'), api_name='/predict')))
'''


def user_environment(home):
    "Environment variables of a user without settings, whose network does not work."
    env = {k: v for k, v in os.environ.items()
           if k not in ('PYTHONPATH', 'VIRTUAL_ENV') and not k.startswith('SER_')}
    proxies = {k: 'http://127.0.0.1:9' for k in ('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY')}
    return env | proxies | dict(HOME=str(home), no_proxy='localhost,127.0.0.1', NO_PROXY='localhost,127.0.0.1')


class Trial:
    "A folder with a wheel, two environments and an empty working folder."
    def __init__(self, folder, packages_of):
        self.folder, self.packages_of, self.work = folder, packages_of, folder/'work'
        self.work.mkdir()
        self.env = user_environment(folder/'home')
        self.bin, self.bare = folder/'full'/'bin', folder/'bare'/'bin'

    def run(self, program, *args, status=0, env=None):
        "Run a program in the working folder, check its exit status, and return its output."
        command = [str(program), *map(str, args)]
        r = subprocess.run(command, cwd=self.work, env=env or self.env, capture_output=True, text=True,
                           timeout=TIMEOUT_S)
        assert r.returncode == status, f'{Path(program).name} exited with {r.returncode}: {r.stderr[-500:]}'
        assert 'Traceback' not in r.stderr, r.stderr[-500:]
        return r.stdout if not status else r.stderr

    def predict(self, *args): return json.loads(self.run(self.bin/'ser_predict', *args, '--format', 'json'))

    def install(self, name, *requirements):
        "Create an environment with these requirements, and nothing else."
        python = self.folder/name/'bin'/'python'
        if not self.packages_of:
            self.run(sys.executable, '-m', 'venv', self.folder/name, env=os.environ)
            pip = '-m', 'pip', 'install', '-q', '--disable-pip-version-check'
            return self.run(python, *pip, *requirements, env=os.environ)
        self.run(self.packages_of, '-m', 'venv', '--without-pip', self.folder/name)
        path_of = '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))'
        site = Path(self.run(python, *path_of).strip())
        (site/'packages.pth').write_text(self.run(self.packages_of, *path_of))
        pip = '-m', 'pip', '--python', python, 'install', '-q', '--no-deps', '--no-index', '--force-reinstall'
        wheels = [r.partition('[')[0] for r in requirements if '.whl' in r]
        if wheels: self.run(self.packages_of, *pip, *wheels)


def step(f):
    STEPS.append(f)
    return f

def same(a, b, tolerance=1e-3):
    "Check that two answers, label -> probability, agree."
    assert list(a) == list(b) and np.allclose([*a.values()], [*b.values()], atol=tolerance), f'{a} is not {b}'

@step
def build_the_wheel(t):
    source = t.folder/'source'   # a copy, without files of earlier builds
    shutil.copytree(REPO/'ser_fastai', source/'ser_fastai', ignore=shutil.ignore_patterns('__pycache__'))
    for path in REPO.iterdir():
        if path.is_file(): shutil.copy(path, source)
    isolation = ['--no-isolation'] if t.packages_of else []
    python = t.packages_of or sys.executable
    t.run(python, '-m', 'build', '--wheel', *isolation, '--outdir', t.folder, source, env=os.environ)
    t.wheel = next(t.folder.glob('*.whl'))
    mb = t.wheel.stat().st_size/1e6
    assert mb <= MAX_WHEEL_MB, f'{t.wheel.name} has {mb:.1f} MB: the limit is {MAX_WHEEL_MB}'
    return f'{t.wheel.name}, {mb:.1f} MB'

@step
def install_it(t):
    t.install('full', f'{t.wheel}[onnx,app]')
    t.install('bare', *RUNTIME)
    return f'packages of {t.packages_of}' if t.packages_of else 'from the package registry'

@step
def import_it(t):
    code = 'import ser_fastai; print(ser_fastai.__version__, ser_fastai.__file__)'
    return t.run(t.bin/'python', '-c', code).strip()

@step
def predict_a_clip(t):
    t.run(t.bin/'python', '-c', MAKE_CLIPS)
    t.answer = t.predict('clip.wav')
    assert abs(sum(t.answer['probabilities'].values()) - 1) < 1e-2 and not t.answer['error']
    return f'{t.answer["emotion"]}, {t.answer["confidence"]:.2f}'

@step
def adapt_to_a_voice(t):
    adapted = t.predict('clip.wav', '--adapt', 'my_clips', '--save-profile', 'me.json')
    same(t.predict('clip.wav', '--profile', 'me.json')['probabilities'], adapted['probabilities'])
    assert adapted['probabilities'] != t.answer['probabilities'], 'the adaptation changes nothing'
    return f'{adapted["emotion"]}, {adapted["confidence"]:.2f}'

@step
def refuse_noise(t):
    answer = t.predict('noise.wav')
    assert answer['emotion'] == 'no speech' and answer['probabilities'] is None
    return answer['emotion']

@step
def report_bad_input(t):
    message = t.run(t.bin/'ser_predict', 'broken.wav', 'missing.wav', 'clip.wav', status=1).strip()
    assert len(message.splitlines()) == 2, message
    return message.splitlines()[0]

@step
def export_and_run(t):
    t.run(t.bin/'ser_export', 'model')
    done = json.loads(t.run(t.bare/'python', 'model/run.py', 'clip.wav'))
    same(done['probabilities'], t.answer['probabilities'])
    code = ('import sys, runpy; runpy.run_path("model/run.py"); '
            'assert not {"torch", "fastai", "pandas"} & set(sys.modules)')
    t.run(t.bare/'python', '-c', code)
    return f'{done["emotion"]}, {done["confidence"]:.2f}'

@step
def ask_the_page(t):
    with socket.create_server(('127.0.0.1', 0)) as s: port = str(s.getsockname()[1])
    page = subprocess.Popen([t.bin/'ser_app', '--port', port], cwd=t.work, env=t.env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        url = page.stdout.readline().split(' ')[0]
        assert url.startswith('http://'), page.stderr.read()[-500:]
        same(json.loads(t.run(t.bin/'python', '-c', ASK_PAGE, url)), t.answer['probabilities'])
    finally:
        page.terminate()
        page.wait(120)
    assert page.returncode == 0, page.stderr.read()[-500:]
    return url


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--python', metavar='PYTHON', type=lambda p: Path(p).absolute(),
                        help='interpreter of an environment with all requirements; default: install them')
    failed = 0
    with tempfile.TemporaryDirectory() as d:
        t = Trial(Path(d), parser.parse_args().python)
        for f in STEPS:
            start, name = time.time(), f.__name__.replace('_', ' ')
            try: result = f(t)
            except Exception as e: failed, result = failed + 1, f'FAILED: {type(e).__name__}: {e}'
            print(f'{name:<18} {time.time() - start:6.1f} s  {result}', flush=True)
    sys.exit(1 if failed else 0)

if __name__ == '__main__': main()
