"""What a new user does: install the wheel in an empty environment and predict in every way, on your recordings.

    .venv/bin/python tests/trial.py ravdess/Actor_01/03-01-05-01-01-01-01.wav emodb/wav/03a01Fa.wav ...

Prints the commands and their output in Markdown, and stops with an error at the first unexpected one. Needs the
package index and some minutes.
"""
import json, os, subprocess, sys, tempfile, time
from pathlib import Path

import numpy as np

REPO = Path(__file__).parents[1]
CLIPS = [Path(c).resolve() for c in sys.argv[1:]] or sys.exit(__doc__)
ENV = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'VIRTUAL_ENV') and not k.startswith('SER_')}

def run(*words, code=0, cwd):
    "Run a command, print it with its output, and return the output; fail on any other exit code."
    r = subprocess.run(list(map(str, words)), cwd=cwd, env=ENV, capture_output=True, text=True, timeout=1800)
    plain = lambda s: s.replace(str(cwd), '.').replace(str(CLIPS[0].parents[2]), 'DATA').rstrip()
    print(f'```\n$ {plain(" ".join([Path(words[0]).name, *map(str, words[1:])]))}\n{plain(r.stdout + r.stderr)}\n```\n', flush=True)
    assert r.returncode == code and 'Traceback' not in r.stdout + r.stderr, f'exit code {r.returncode} in place of {code}'
    return r.stdout

def new_environment(folder, *packages):
    "Folder of the programs of a new virtual environment with these packages only."
    subprocess.run([sys.executable, '-m', 'venv', folder], check=True)
    subprocess.run([folder/'bin'/'python', '-m', 'pip', 'install', '-q', '--disable-pip-version-check', *map(str, packages)], check=True, env=ENV)
    return folder/'bin'

def probabilities(lines): return np.array([list(json.loads(l)['probabilities'].values()) for l in lines.splitlines()])

ASK = '''
import json, sys
from gradio_client import Client, handle_file
page = Client(sys.argv[1], verbose=False)
for clip in sys.argv[2:]: print(json.dumps(dict(probabilities=page.predict(handle_file(clip), api_name='/predict'))))
'''

with tempfile.TemporaryDirectory() as d:
    d = Path(d)
    (d/'empty').mkdir()
    subprocess.run([sys.executable, '-m', 'build', '--wheel', '--outdir', d, REPO], check=True, capture_output=True)
    wheel = next(d.glob('*.whl'))
    ours, theirs = new_environment(d/'ours', f'{wheel}[onnx,app]'), new_environment(d/'theirs', 'onnxruntime', 'numpy', 'soundfile')
    do = lambda *words, **kw: run(*words, cwd=d/'empty', **kw)
    (d/'empty'/'broken.wav').write_text('no sound')

    print('## Predict\n')
    do(ours/'ser_predict', *CLIPS)
    want = probabilities(do(ours/'ser_predict', *CLIPS, '--format', 'json'))
    do(ours/'ser_predict', CLIPS[0], 'broken.wav', 'missing.wav', code=1)
    do(ours/'ser_predict', CLIPS[0], '--threshold', 50, code=2)

    print('## Export\n')
    for bits, tolerance in {32: 1e-3, 8: .5}.items():
        more = ['--int8', '--data', CLIPS[0].parents[2]] if bits == 8 else []
        do(ours/'ser_export', f'out{bits}', *more)
        both = (probabilities(do(theirs/'python', f'out{bits}/run.py', *CLIPS)),
                probabilities(do(ours/'ser_predict', *CLIPS, '--bundle', f'out{bits}', '--format', 'json')))
        for got in both: assert np.abs(got - want).max() < tolerance, f'{bits} bits: {np.abs(got - want).max()}'
        do(theirs/'python', f'out{bits}/run.py', 'broken.wav', 'missing.wav', CLIPS[0], code=1)
    installed = subprocess.run([theirs/'python', '-m', 'pip', 'list', '--format', 'freeze'], check=True, env=ENV, capture_output=True, text=True).stdout
    assert 'torch' not in installed and 'fastai' not in installed

    print('## The page\n')
    with open(d/'page.log', 'w') as log:
        page = subprocess.Popen([ours/'ser_app', '--port', '7893'], cwd=d/'empty', env=ENV, stdout=log, stderr=subprocess.STDOUT)
    try:
        while 'http://' not in (d/'page.log').read_text():
            assert page.poll() is None, (d/'page.log').read_text()
            time.sleep(.5)
        got = probabilities(do(ours/'python', '-c', ASK, 'http://127.0.0.1:7893', *CLIPS))
        assert np.abs(got - want).max() < 1e-3, f'the page: {np.abs(got - want).max()}'
    finally: page.terminate(), page.wait(60)
    assert page.returncode == 0, (d/'page.log').read_text()
    print('Left behind in the folder:', *sorted(p.name for p in (d/'empty').iterdir()))
