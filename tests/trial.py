"""Install the wheel in an empty environment, as a new user does, and predict by every interface.

    .venv/bin/python tests/trial.py ravdess/Actor_01/03-01-05-01-01-01-01.wav emodb/wav/03a01Fa.wav ...

The arguments are recordings; the first one must be a RAVDESS clip in the folder of all corpora. Prints the
commands and their output as Markdown, and stops at the first unexpected output. Needs PyPI and some minutes.
"""
import json, os, subprocess, sys, tempfile, time
from pathlib import Path

import numpy as np

REPO = Path(__file__).parents[1]
CLIPS = [Path(c).resolve() for c in sys.argv[1:]] or sys.exit(__doc__)
ENV = {k: v for k, v in os.environ.items()
       if k not in ('PYTHONPATH', 'VIRTUAL_ENV') and not k.startswith('SER_')}

def run(*words, code=0, cwd):
    "Run a command, print it with its output, check its exit code, and return its standard output."
    r = subprocess.run(list(map(str, words)), cwd=cwd, env=ENV, capture_output=True, text=True, timeout=1800)
    plain = lambda s: s.replace(str(cwd), '.').replace(str(CLIPS[0].parents[2]), 'DATA').rstrip()
    command = ' '.join([Path(words[0]).name, *map(str, words[1:])])
    print(f'```\n$ {plain(command)}\n{plain(r.stdout + r.stderr)}\n```\n', flush=True)
    assert r.returncode == code, f'exit code {r.returncode} instead of {code}'
    assert 'Traceback' not in r.stdout + r.stderr
    return r.stdout

def new_environment(folder, *packages):
    "Create a virtual environment with these packages only, and return its `bin` folder."
    subprocess.run([sys.executable, '-m', 'venv', folder], check=True)
    pip = folder/'bin'/'python', '-m', 'pip', 'install', '-q', '--disable-pip-version-check'
    subprocess.run([*pip, *map(str, packages)], check=True, env=ENV)
    return folder/'bin'

def probabilities(lines):
    "Probabilities (n_clips, n_labels) from lines of JSON."
    return np.array([list(json.loads(l)['probabilities'].values()) for l in lines.splitlines()])

QUERY_PAGE = '''
import json, sys
from gradio_client import Client, handle_file
page = Client(sys.argv[1], verbose=False)
for clip in sys.argv[2:]:
    print(json.dumps(dict(probabilities=page.predict(handle_file(clip), api_name='/predict'))))
'''

with tempfile.TemporaryDirectory() as d:
    d = Path(d)
    (d/'empty').mkdir()
    build = sys.executable, '-m', 'build', '--wheel', '--outdir', d, REPO
    subprocess.run(build, check=True, capture_output=True)
    wheel = next(d.glob('*.whl'))
    full = new_environment(d/'full', f'{wheel}[onnx,app]')
    without_torch = new_environment(d/'without_torch', 'onnxruntime', 'numpy', 'soundfile', 'soxr')
    def run_empty(*words, **kwargs): return run(*words, cwd=d/'empty', **kwargs)
    (d/'empty'/'broken.wav').write_text('not audio')

    print('## Predict\n')
    run_empty(full/'ser_predict', *CLIPS)
    expected = probabilities(run_empty(full/'ser_predict', *CLIPS, '--format', 'json'))
    run_empty(full/'ser_predict', CLIPS[0], 'broken.wav', 'missing.wav', code=1)
    run_empty(full/'ser_predict', CLIPS[0], '--threshold', 50, code=2)

    print('## Export\n')
    for bits, tolerance in {32: 1e-3, 8: .5}.items():
        options = ['--int8', '--data', CLIPS[0].parents[2]] if bits == 8 else []
        run_empty(full/'ser_export', f'out{bits}', *options)
        outputs = (run_empty(without_torch/'python', f'out{bits}/run.py', *CLIPS),
                   run_empty(full/'ser_predict', *CLIPS, '--bundle', f'out{bits}', '--format', 'json'))
        for output in outputs:
            difference = np.abs(probabilities(output) - expected).max()
            assert difference < tolerance, f'{bits} bits: {difference}'
        run_empty(without_torch/'python', f'out{bits}/run.py', 'broken.wav', 'missing.wav', CLIPS[0], code=1)
    pip_list = without_torch/'python', '-m', 'pip', 'list', '--format', 'freeze'
    installed = subprocess.run(pip_list, check=True, env=ENV, capture_output=True, text=True).stdout
    assert 'torch' not in installed and 'fastai' not in installed

    print('## Web page\n')
    with open(d/'page.log', 'w') as log:
        page = subprocess.Popen([full/'ser_app', '--port', '7893'], cwd=d/'empty', env=ENV, stdout=log,
                                stderr=subprocess.STDOUT)
    try:
        while 'http://' not in (d/'page.log').read_text():
            assert page.poll() is None, (d/'page.log').read_text()
            time.sleep(.5)
        got = probabilities(run_empty(full/'python', '-c', QUERY_PAGE, 'http://127.0.0.1:7893', *CLIPS))
        assert np.abs(got - expected).max() < 1e-3, f'the page: {np.abs(got - expected).max()}'
    finally: page.terminate(), page.wait(60)
    assert page.returncode == 0, (d/'page.log').read_text()
    print('Files left in the working folder:', *sorted(p.name for p in (d/'empty').iterdir()))
