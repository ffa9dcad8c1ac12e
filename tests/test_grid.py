"Grids of several processes: no run is trained twice, and a killed process does not block others."
import os, re, shutil, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Thread, get_ident
import pandas as pd, psutil, pytest
from filelock import Timeout
from joblib.externals.loky import get_reusable_executor
from ser_fastai import cli, experiment as X, results as R
from ser_fastai.core import SerError
from ser_fastai.recipes import RECIPES
from ser_fastai.results import Results
from test_train import cache, made, small

def test_two_programs_share_a_grid(made, tmp_path, monkeypatch):
    "Two threads, each with its own locks, as in two programs."
    real, trained, both = X.TRAINERS['svm'], [], Barrier(2)
    def svm(df, features, s, *rest):
        trained.append((get_ident(), df.speaker.iloc[s.test[0]]))
        if len([t for t, _ in trained if t == get_ident()]) == 1: both.wait(60)   # until both threads train
        return real(df, features, s, *rest)
    monkeypatch.setitem(X.TRAINERS, 'svm', svm)
    def grid(_): return X.run_grid(made[0], [RECIPES['svm']], ['loso'], folder=tmp_path)
    with ThreadPoolExecutor(2) as ex: grids = list(ex.map(grid, range(2)))
    assert all(set(rows.status) == {'done'} for rows in grids)
    assert sorted(s for _, s in trained) == [f'made_{i}' for i in range(5)]
    assert len({t for t, _ in trained}) == 2
    assert len(Results(tmp_path).runs) == 5

HOLD = '''
import sys, time
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(99)
'''

def test_a_killed_process_releases_its_lock(made, tmp_path, monkeypatch):
    locks, acquire = [], X.FileLock.acquire
    def seen(self, *args, **kw): locks.append(self.lock_file); return acquire(self, *args, **kw)
    monkeypatch.setattr(X.FileLock, 'acquire', seen)
    with X._lock('a-run', False): pass
    with subprocess.Popen([sys.executable, '-c', HOLD, locks[0]], stdout=subprocess.PIPE, text=True) as p:
        assert p.stdout.readline() == 'held\n'
        with pytest.raises(Timeout): X._lock('a-run', False)
        p.kill()
    with X._lock('a-run', False): pass

def test_parallel_runs_give_the_same_results(made, tmp_path):
    df, d = made
    recipes = [RECIPES['svm'], small('lstm', d)]
    one, two = (X.run_grid(df, recipes, ['loso'], folds=[0, 1], folder=tmp_path/str(jobs), jobs=jobs)
                for jobs in (1, 2))
    assert one.equals(two) and set(two.status) == {'done'}
    a, b = Results(tmp_path/'1'), Results(tmp_path/'2')
    for run in one.run: assert a.predictions(run).equals(b.predictions(run))

def test_a_killed_worker_ends_a_grid_with_a_one_line_error(made, tmp_path):
    def ended(): return len(Results(tmp_path).runs)
    def killer():   # quick, because the workers of the previous test are reused
        while not ended(): time.sleep(.02)
        children = psutil.Process().children(recursive=True)
        next(c for c in children if 'popen_loky' in ' '.join(c.cmdline())).kill()
    thread = Thread(target=killer)
    thread.start()
    with pytest.raises(SerError, match='fewer --jobs'):
        X.run_grid(made[0], [RECIPES['svm']], ['loso'], seeds=range(6), folder=tmp_path, jobs=2)
    thread.join()
    assert 0 < ended() < 30 and set(Results(tmp_path).runs.status) == {'done'}

def test_workers_import_from_the_environment_only(made, tmp_path, monkeypatch):
    "The current folder has modules with the names of standard ones."
    get_reusable_executor().shutdown(wait=True)      # start new workers
    for name in ('random', 'json', 'copy', 'logging', 'queue'):
        (tmp_path/f'{name}.py').write_text('raise SystemExit(f"{__file__} was imported")')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend('')
    monkeypatch.delenv('PYTHONSAFEPATH', raising=False)
    path = sys.path[:]
    rows = X.run_grid(made[0], [RECIPES['svm']], ['loso'], folds=[0, 1], folder=tmp_path/'results', jobs=2)
    assert set(rows.status) == {'done'} and sys.path == path and 'PYTHONSAFEPATH' not in os.environ

@pytest.mark.parametrize('cause, message', [
    ('The exit codes of the workers are {SIGKILL(-9)}', 'lack of memory: run again with fewer --jobs'),
    ('The exit codes of the workers are {SIGSEGV(-11), EXIT(1)}',
     r'failed \(exit code SIGSEGV\(-11\), EXIT\(1\)\): run again with --jobs 1'),
    ('A task has failed to un-serialize.', 'failed .*un-serialize.*--jobs 1')])
def test_errors_mention_memory_only_after_sigkill(cause, message):
    text = str(X._worker_error(X.BrokenProcessPool(cause)))
    assert re.search(message, text) and ('memory' in text) == ('SIGKILL' in cause) and '\n' not in text

def test_a_published_store_takes_no_new_runs(made, tmp_path, monkeypatch):
    monkeypatch.setitem(X.TRAINERS, 'svm', lambda *args: pytest.fail('it was trained'))
    (tmp_path/'runs.csv').write_text(','.join(R.FACTS) + '\n')
    with pytest.raises(SerError, match='published store: name another folder'):
        X.run_grid(made[0], [RECIPES['svm']], ['loso'], folder=tmp_path)

def test_published_runs_are_not_repeated(made, tmp_path, monkeypatch):
    "By default both stores are searched; with a folder, only that one."
    monkeypatch.setattr(R, 'repo_path', lambda: tmp_path)
    monkeypatch.setenv('SER_RESULTS', str(tmp_path/'results'))
    def grid(df=made[0], **kwargs): return X.run_grid(df, [RECIPES['svm']], ['loso'], folds=[0], **kwargs)
    run = grid().run[0]
    R.publish()
    shutil.rmtree(tmp_path/'runs')
    with monkeypatch.context() as m:
        m.setitem(X.TRAINERS, 'svm', lambda *args: pytest.fail('it was trained'))
        assert list(grid().status) == ['done'] and not (tmp_path/'runs'/run).exists()
        with pytest.raises(SerError, match='made with other clips.*--results'): grid(made[0][:-1])
    assert list(grid(folder=tmp_path/'other').status) == ['done'] and (tmp_path/'other'/run).exists()

def test_every_finished_run_is_listed_at_once(made, tmp_path, monkeypatch):
    listed, real = [], X.TRAINERS['svm']
    def svm(*args):
        listed.append(len(Results(tmp_path).runs))
        if len(listed) == 2: raise RuntimeError('out of memory')
        return real(*args)
    monkeypatch.setitem(X.TRAINERS, 'svm', svm)
    X.run_grid(made[0], [RECIPES['svm']], ['loso'], folds=[0, 1, 2], folder=tmp_path)
    assert listed == [0, 1, 2]
    assert sorted(Results(tmp_path).runs.status) == ['done', 'done', 'failed']

def test_leaks_are_printed_once_before_training(made, tmp_path, capsys):
    df, svm = made[0], RECIPES['svm']
    X.run_one(df, svm, 'loso', folder=tmp_path)
    X.sweep(df, [svm], 'loso', 1)
    X.run_grid(df, [svm], ['loso'], folder=tmp_path)
    printed = [line.split(':')[:2] for line in capsys.readouterr().out.splitlines() if 'in training' in line]
    assert printed == [['loso fold 0', ' clean'], ['loso fold 1', ' clean'], ['loso fold 0', ' clean']]
    X.run_one(df, svm, 'loso', folder=tmp_path)
    X.run_grid(df, [svm], ['loso'], folder=tmp_path)
    assert 'in training' not in capsys.readouterr().out                   # all runs are stored

def test_a_stored_run_of_other_clips_is_an_error(made, tmp_path):
    df, svm = made[0], RECIPES['svm']
    def grid(df): return X.run_grid(df, [svm], ['loso', 'paper'], folds=[0], folder=tmp_path)
    run = grid(df).run[0]
    before = {f: f.stat().st_mtime_ns for f in tmp_path.rglob('*.json')}
    assert len(before) == 2 and set(grid(df).status) == {'done'}
    part = df[df.index % 10 != 4].reset_index(drop=True)                  # a corpus that was half unpacked
    more = pd.concat([df, df[-1:].assign(clip='made/new', sha='f'*16)], ignore_index=True)
    rotated = df.emotion.map(dict(neutral='sad', sad='angry', angry='neutral'))
    others = dict(more=more, part=part, renamed=df.assign(clip='made/x' + df['clip'].str[5:]),
                  relabelled=df.assign(emotion=rotated))
    for other in others.values():
        with pytest.raises(SerError, match='was made with other clips.*--results.*delete') as e: grid(other)
        assert '\n' not in str(e.value)
        with pytest.raises(SerError, match=run): X.run_one(other, svm, 'loso', folder=tmp_path)
    assert before == {f: f.stat().st_mtime_ns for f in tmp_path.rglob('*.json')}
    (tmp_path/run/'facts.json').unlink()
    assert X.run_one(part, svm, 'loso', folder=tmp_path) == run           # the remedy of the message works
    assert Results(tmp_path).done(run)

def test_a_checkpoint_of_other_clips_is_not_resumed(made, tmp_path, monkeypatch):
    df, checkpoints = made[0], []
    def stop(*args):
        checkpoints.append(args[-1])
        raise KeyboardInterrupt
    monkeypatch.setitem(X.TRAINERS, 'svm', stop)
    for other in df, df, df.assign(sha='f' + df.sha.str[1:]):
        with pytest.raises(KeyboardInterrupt): X.run_one(other, RECIPES['svm'], 'loso', folder=tmp_path)
    assert checkpoints[0] == checkpoints[1] != checkpoints[2]

def test_a_read_only_cache_is_a_one_line_error(made, tmp_path, monkeypatch, capsys):
    df, svm = made[0], RECIPES['svm']
    def denied(*args, **kw): raise PermissionError(13, 'Permission denied')
    for where, what in (Path, 'mkdir'), (X.FileLock, 'acquire'):
        with monkeypatch.context() as m:
            m.setattr(where, what, denied)
            with pytest.raises(SerError, match='locks cannot be written.*Permission denied.*set SER_CACHE'):
                X._lock('a-run', True)
    def no_lock(run, wait): raise SerError('no lock')
    monkeypatch.setattr(X, '_lock', no_lock)
    rows = X.run_grid(df, [svm], ['loso'], folds=[0], folder=tmp_path)
    assert list(rows.status) == ['failed'] and not list(tmp_path.rglob('*.json'))
    capsys.readouterr()
    cli._show_runs(rows, tmp_path)
    text = capsys.readouterr().out
    assert 'failed' in text and 'not run: no lock' in text and 'Traceback' not in text

def test_chosen_folds_apply_to_protocols_with_several(made):
    df = made[0]
    assert X.splits_of(df, ['paper', 'loso'], [1, 2]) == [('paper', 0, 0), ('loso', 1, 0), ('loso', 2, 0)]
    assert X.splits_of(df, ['paper', 'loso'], [0]) == [('paper', 0, 0), ('loso', 0, 0)]
    with pytest.raises(SerError, match='paper has folds 0 to 0'): X.splits_of(df, ['paper'], [1])
    with pytest.raises(SerError, match='paper has folds 0 to 0; loso has folds 0 to 4'):
        X.splits_of(df, ['paper', 'loso'], [99])
