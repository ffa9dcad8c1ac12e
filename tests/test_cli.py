"The commands as a person meets them: installed, in a shell, with good and bad input."
import contextlib, io, json, os, re, runpy, shutil, signal, subprocess, sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from ser_fastai import cli, core
from ser_fastai.experiment import _error_text
from ser_fastai.recipes import RECIPES
from ser_fastai.results import Results
from ser_fastai.splits import PROTOCOLS

BIN = Path(sys.executable).parent
COMMANDS = 'ser_download ser_corpora ser_run ser_reproduce ser_publish ser_report ser_card ser_train ser_predict ser_export ser_app'.split()


def sh(*args, cwd=None, **env):
    "Run a command; it must never show a traceback."
    r = subprocess.run([BIN/args[0], *map(str, args[1:])], cwd=cwd, env=os.environ | {'SER_QUIET': '1'} | {k: str(v) for k, v in env.items()},
                       capture_output=True, text=True, timeout=400)
    assert 'Traceback' not in r.stdout + r.stderr, r.stderr
    return r


@pytest.fixture(scope='module')
def voices(tmp_path_factory):
    "A folder a class: hums of two pitches, twelve clips each."
    d, rng = tmp_path_factory.mktemp('voices')/'hums', np.random.default_rng(0)
    for label, f0 in dict(sad=110, happy=300).items():
        (d/label).mkdir(parents=True)
        for i in range(12):
            t = np.arange(12000)/16000
            sf.write(d/label/f'{i:02d}.wav', .3*np.sin(2*np.pi*f0*(1 + .02*i)*t)*(t < .6) + .003*rng.normal(size=len(t)), 16000)
    return d


def ran(commands, folder):
    "The exit code of each installed command, what it said and what it printed; run in this process, which has imported it all."
    done, signals = [], {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    for name, *args in commands:
        said, printed, status = io.StringIO(), io.StringIO(), None
        with (contextlib.chdir(folder), patch.dict(os.environ, SER_QUIET='1'), patch.object(sys, 'argv', [str(BIN/name), *map(str, args)]),
              contextlib.redirect_stderr(said), contextlib.redirect_stdout(printed)):
            try: runpy.run_path(sys.argv[0], run_name='__main__')
            except SystemExit as e: status = e.code
        for s, handler in signals.items(): signal.signal(s, handler)
        done.append([status, said.getvalue(), printed.getvalue()])
    return done

def misused(commands, folder): return [[status, said] for status, said, _ in ran(commands, folder)]

CHOICES = dict(
    ser_run=(*RECIPES, *PROTOCOLS, 'ravdess', 'iemocap', 'ablations'), ser_reproduce=(*RECIPES, *PROTOCOLS, 'ravdess', 'iemocap'),
    ser_card=(*RECIPES, *PROTOCOLS, 'ravdess', 'iemocap'), ser_export=('ravdess', 'iemocap'), ser_corpora=('ravdess', 'iemocap'),
    ser_download=('ravdess', 'emodb'), ser_predict=('table', 'csv', 'json', 'wav', 'flac'))

def test_help(tmp_path):
    for name, (status, _, printed) in zip(COMMANDS, ran([[name, '--help'] for name in COMMANDS], tmp_path), strict=True):
        assert not status and f'usage: {name}' in printed
        missing = [c for c in CHOICES.get(name, ()) if c not in re.split(r'[^\w]+', printed)]
        assert not missing, (name, missing)


NO_HOME = '''
import pwd, os, sys
def unknown(uid): raise KeyError(uid)
pwd.getpwuid = unknown                    # as for a user that /etc/passwd does not list
from ser_fastai import core
from ser_fastai.cli import load_any
from ser_fastai.experiment import _error_text
print(core.data_path(), core.cache_path(), _error_text(ValueError('a/b')), sep='|')
try: load_any('ravdess')
except core.SerError as e: print(e)
try: load_any('~no-such-user/corpus')
except (core.SerError, RuntimeError) as e: print(type(e).__name__)
del os.environ['HOME']
core.cache_path()
print(list(core.progress(range(3))), file=sys.stderr)
'''

def test_options_have_one_spelling(tmp_path):
    "An option max_size would be --max_size with fastcore 1 and --max-size with fastcore 2; `Dashes` writes a dash."
    for name, (_, _, printed) in zip(COMMANDS, ran([[name, '--help'] for name in COMMANDS], tmp_path), strict=True):
        assert not re.findall(r'--\w*_\w*', printed), name

def test_no_home_and_no_user(tmp_path):
    "A container without a home folder; and a redirected error stream gets no bar."
    env = {k: v for k, v in os.environ.items() if k not in ('HOME', 'SER_DATA', 'SER_CACHE', 'SER_QUIET', 'IN_TEST') and not k.startswith('XDG_')}
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', NO_HOME], env=env | dict(TMPDIR=str(tmp_path)), cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert r.returncode == 0 and r.stderr == '[0, 1, 2]\n', r.stderr
    folders, said, *_ = r.stdout.splitlines()
    data, cache, why = folders.split('|')
    assert data.startswith(str(tmp_path)) and cache.startswith(str(tmp_path)) and data != cache and why == 'ValueError: a/b'
    assert 'RAVDESS is not in' in said and data in said

@pytest.mark.parametrize('home', ['/', '/no-such-folder/home'])
def test_a_home_that_cannot_be_written(home, monkeypatch):
    monkeypatch.setenv('HOME', home)
    monkeypatch.setattr(core.os, 'access', lambda path, how: str(path) != '/')
    for name in ('SER_CACHE', 'XDG_CACHE_HOME'): monkeypatch.delenv(name, raising=False)
    assert core.cache_path().is_relative_to(core.tempfile.gettempdir())

def test_a_short_home_does_not_spoil_messages(monkeypatch):
    monkeypatch.setenv('HOME', '/')
    assert _error_text(ValueError('a/b')) == 'ValueError: a/b'
    monkeypatch.setenv('HOME', '/home/me')
    assert _error_text(ValueError('/home/me/b')) == 'ValueError: ~/b'

@pytest.mark.parametrize('watched', [True, False])
def test_bars_are_for_terminals(watched, monkeypatch):
    class Stream(io.StringIO):
        def isatty(self): return watched
    for name in ('IN_TEST', 'SER_QUIET'): monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, 'stderr', stream := Stream())
    assert list(core.progress(range(3), desc='work')) == [0, 1, 2]
    assert bool(stream.getvalue()) == watched


MISUSE = [
    (('ser_run', '--recipes', 'lsmt'), 'known: svm, lstm'),
    (('ser_run', '--protocol', 'papper'), 'known: paper'),
    (('ser_run', '--seeds', 'x'), 'write, for example'),
    (('ser_run', '--corpora', 'ravdess', '--data', 'nowhere'), 'ser_download ravdess'),
    (('ser_run', '--song'), 'a separate folder with --results'),
    (('ser_run', '--recipes', 'cnn_transfer', '--weights', 'nowhere.pth'), 'nowhere.pth does not exist'),
    (('ser_reproduce', '--data', 'nowhere', '--corpora', 'savee'), 'SAVEE is not in nowhere'),
    (('ser_corpora', 'nowhere'), 'unknown corpus'),
    (('ser_download', 'nowhere'), 'known: ravdess'),
    (('ser_report', '--results', 'nowhere'), 'no runs in'),
    (('ser_card', 'no-such-run'), 'has no run'),
    (('ser_predict',), 'no recording given'),
    (('ser_predict', '--adapt', 'nowhere'), 'and --save-profile'),
    (('ser_predict', 'a.wav', '--save-profile', 'me.json'), 'add --adapt'),
    (('ser_predict', 'a.wav', '--profile', 'me.json', '--adapt', 'nowhere'), 'cannot be combined'),
    (('ser_predict', 'a.wav', '--model', 'nowhere'), 'nowhere'),
    (('ser_export', '.'), 'name a new folder'),
    (('ser_export', 'out', '--bundle', 'nowhere'), 'nowhere'),
]

def test_misuse_is_one_sentence(tmp_path):
    got = misused([args for args, _ in MISUSE], tmp_path)
    wrong = {args: g for (args, said), g in zip(MISUSE, got, strict=True) if g[0] != 2 or said not in g[1] or len(g[1].strip().splitlines()) != 1}
    assert not wrong


@pytest.mark.parametrize('args, said', [
    (dict(folds='99'), 'paper has folds 0 to 0'), (dict(seeds='5-2'), 'write, for example'), (dict(jobs=0), '--jobs 1 or more'), (dict(epochs=-1), 'invalid number of epochs -1'),
    (dict(recipes='cnn_scratch', size='0'), 'invalid image size "0"'), (dict(corpora=','), 'no corpus given'), (dict(protocol='emobox'), 'speaker'), (dict(results='full/results'), 'name another folder with --results')])
def test_misuse_of_a_run_ends_before_the_training(voices, tmp_path, monkeypatch, capsys, args, said):
    monkeypatch.chdir(tmp_path); monkeypatch.setenv('SER_CACHE', str(tmp_path/'cache')); monkeypatch.setenv('SER_QUIET', '1')
    (tmp_path/'full').write_text('a file where a folder should be')
    with pytest.raises(SystemExit, match='2'): cli.ser_run(**(dict(corpora=str(voices), results='r') | args))
    told = capsys.readouterr().err
    assert said in told and len(told.strip().splitlines()) == 1
    assert not list(tmp_path.rglob('facts.json')) and not (tmp_path/'cache').exists()


def test_what_cannot_be_written_is_one_sentence(voices, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv('SER_DATA', raising=False); monkeypatch.chdir(tmp_path); monkeypatch.setenv('SER_CACHE', str(tmp_path/'cache')); monkeypatch.setenv('SER_QUIET', '1')
    (tmp_path/'full').write_text('a file where a folder should be')
    cli.ser_run(corpora=str(voices), results='r')
    run = next((tmp_path/'r').glob('*/facts.json')).parent
    for command in (lambda: cli.ser_card(run.name, results='r', out='full/card.md'), lambda: cli.ser_reproduce(out='full/out'), lambda: cli.ser_report(results='r', out='full/out')):
        capsys.readouterr()
        with pytest.raises(SystemExit, match='2'): command()
        told = capsys.readouterr().err
        assert 'full' in told and len(told.strip().splitlines()) == 1


def test_corpora_shows_what_is_there_and_names_all_that_is_missing(voices):
    r = sh('ser_corpora', 'savee', voices, 'tess', SER_DATA=voices.parent)
    assert r.returncode == 2 and 'hums' in r.stdout and 'SAVEE is not in' in r.stderr and 'TESS is not in' in r.stderr


def test_closed_streams(voices, monkeypatch):
    for name in ('stdout', 'stderr'): monkeypatch.setattr(sys, name, None)
    clip = next((voices/'sad').glob('*.wav'))
    for paths, status in ([str(clip)], '0'), ([str(clip), 'none.wav'], '1'):
        with pytest.raises(SystemExit, match=status): cli.ser_predict(paths)


def test_adapt(embedding_bundle, voices, tmp_path):
    commands = [['ser_predict', '--model', embedding_bundle, '--adapt', voices/'sad', '--save-profile', 'me.json', '--any-sound'],
                ['ser_predict', '--model', embedding_bundle, '--profile', 'me.json', voices/'sad'/'00.wav', '--format', 'json', '--any-sound'],
                ['ser_predict', '--bundle', embedding_bundle, voices/'sad'/'00.wav', '--format', 'json', '--any-sound']]
    (made, *_, printed), (adapted, _, mine), (alone, _, usual) = ran(commands, tmp_path)
    assert not made and adapted == alone == 0 and printed == 'me.json: profile of 12 clips\n'
    assert json.loads(mine)['probabilities'] != json.loads(usual)['probabilities']


def test_export_answers_as_predict(voices, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('SER_QUIET', '1')
    cli.ser_export(str(tmp_path/'model'))
    assert {f.name for f in (tmp_path/'model').iterdir()} == {'model.onnx', 'bundle.json', 'head.npz', 'README.md', 'card.md',
                                                            'LICENSE', 'run.py', 'ser_runtime'}
    clip = next((voices/'sad').glob('*.wav'))
    capsys.readouterr()
    with pytest.raises(SystemExit, match='0'): cli.ser_predict([str(clip)], format='json', any_sound=True)
    ours = json.loads(capsys.readouterr().out)
    its = subprocess.run([sys.executable, tmp_path/'model'/'run.py', '--any-sound', clip, 'none.wav'], capture_output=True, text=True, timeout=100,
                         env=os.environ | dict(PYTHONSAFEPATH='1'))   # Python then does not add the folder of the program
    answer, lost = map(json.loads, its.stdout.splitlines())
    assert its.returncode == 1 and ours['probabilities'] == pytest.approx(answer['probabilities'], abs=1e-3)
    assert list(answer) == list(lost) == list(ours) and answer['emotion'] == ours['emotion'] and lost['error'] + '\n' == its.stderr
    hum = subprocess.run([sys.executable, tmp_path/'model'/'run.py', clip], capture_output=True, text=True, timeout=100)
    assert json.loads(hum.stdout) == dict(path=str(clip), emotion='no speech', confidence=None, probabilities=None, error=None)


def test_corpora_lists_a_folder_and_skips_a_bad_clip(voices, tmp_path):
    bad = voices/'sad'/'broken.wav'
    bad.write_bytes(b'RIFF')
    try:
        (status, _, printed), (strict, *_) = ran([['ser_corpora', voices], ['ser_corpora', voices, '--strict']], tmp_path)
        assert not status and '24' in printed and 'broken.wav' in printed and strict == 2
    finally: bad.unlink()


def test_run_own_corpus_then_resume(voices, tmp_path, monkeypatch):
    monkeypatch.setenv('SER_CACHE', str(tmp_path/'cache')); monkeypatch.setenv('SER_QUIET', '1')
    run = lambda: cli.ser_run(corpora=str(voices), recipes='svm', seeds='0-1', results=str(tmp_path/'r'))
    run()
    files = sorted((tmp_path/'r').glob('*/facts.json'))
    assert len(files) == 2 and all(json.loads(f.read_text())['status'] == 'done' for f in files)
    before = [f.stat().st_mtime_ns for f in files]
    run()
    assert [f.stat().st_mtime_ns for f in files] == before
    assert len(list((tmp_path/'r').iterdir())) == 2


def test_reproduce_rehearses_on_the_embedded_corpus(synth, tmp_path, monkeypatch, capsys):
    for name, value in dict(SER_CACHE=tmp_path/'cache', TORCH_HOME=tmp_path/'torch', SER_QUIET='1').items(): monkeypatch.setenv(name, str(value))
    monkeypatch.setattr('ser_fastai.synth.synthesise', lambda folder: shutil.copytree(synth/'synth', folder))   # half of the corpus
    cli.ser_reproduce(recipes='svm,cnn_transfer', jobs=1, out=str(tmp_path/'out'))
    out = capsys.readouterr().out
    page = Path(out.strip().splitlines()[-1])
    assert page.is_file() and page.suffix == '.html' and {'table1.csv', 'table1.md', 'figure1.png'} <= {f.name for f in page.parent.iterdir()}
    assert 'synthetic' in out and 'resnet18 instead of resnet34' in out
    assert 'ImageNet weights of resnet18 are missing' in out      # offline: said, with the remedy, and the rest has run
    runs = Results(tmp_path/'out'/'runs').runs
    assert set(runs[runs.status == 'done'].recipe) == {'svm'} and set(runs[runs.status == 'failed'].recipe) == {'cnn_transfer'}
    svm = runs[runs.recipe == 'svm'].set_index('protocol').accuracy
    assert svm['paper'] > .3
