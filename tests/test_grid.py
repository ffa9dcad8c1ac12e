"Grids of several processes: nothing is trained twice, a killed process blocks nobody, and the list of runs keeps up."
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
    "Two threads, each with locks of its own, as two programs would have them."
    real, trained, both = X.TRAINERS['svm'], [], Barrier(2)
    def svm(df, features, s, *rest):
        trained.append((get_ident(), df.speaker.iloc[s.test[0]]))
        if len([t for t, _ in trained if t == get_ident()]) == 1: both.wait(60)   # the first training of each goes on once both have begun one
        return real(df, features, s, *rest)
    monkeypatch.setitem(X.TRAINERS, 'svm', svm)
    with ThreadPoolExecutor(2) as ex: grids = list(ex.map(lambda _: X.run_grid(made[0], [RECIPES['svm']], ['loso'], folder=tmp_path), range(2)))
    assert all(set(rows.status) == {'done'} for rows in grids)
    assert sorted(s for _, s in trained) == [f'made_{i}' for i in range(5)] and len({t for t, _ in trained}) == 2
    assert len(Results(tmp_path).runs) == 5

HOLD = 'import sys, time; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire(); print("held", flush=True); time.sleep(99)'

def test_a_killed_process_blocks_nobody(made, tmp_path, monkeypatch):
    locks, acquire = [], X.FileLock.acquire
    def seen(self, *args, **kw): locks.append(self.lock_file); return acquire(self, *args, **kw)
    monkeypatch.setattr(X.FileLock, 'acquire', seen)
    with X._lock('a-run', False): pass
    with subprocess.Popen([sys.executable, '-c', HOLD, locks[0]], stdout=subprocess.PIPE, text=True) as p:
        assert p.stdout.readline() == 'held\n'
        with pytest.raises(Timeout): X._lock('a-run', False)
        p.kill()
    with X._lock('a-run', False): pass

def test_runs_side_by_side_are_the_same_runs(made, tmp_path):
    df, d = made
    recipes = [RECIPES['svm'], small('lstm', d)]
    one, two = (X.run_grid(df, recipes, ['loso'], folds=[0, 1], folder=tmp_path/str(jobs), jobs=jobs) for jobs in (1, 2))
    assert one.equals(two) and set(two.status) == {'done'}
    for run in one.run: assert Results(tmp_path/'1').predictions(run).equals(Results(tmp_path/'2').predictions(run))

def test_a_killed_worker_ends_a_grid_in_a_sentence(made, tmp_path):
    def ended(): return len(Results(tmp_path).runs)
    def killer():   # the processes of the test before are still there, so this one is quick
        while not ended(): time.sleep(.02)
        next(c for c in psutil.Process().children(recursive=True) if 'popen_loky' in ' '.join(c.cmdline())).kill()
    thread = Thread(target=killer)
    thread.start()
    with pytest.raises(SerError, match='fewer --jobs'): X.run_grid(made[0], [RECIPES['svm']], ['loso'], seeds=range(6), folder=tmp_path, jobs=2)
    thread.join()
    assert 0 < ended() < 30 and set(Results(tmp_path).runs.status) == {'done'}

def test_workers_import_from_the_environment_only(made, tmp_path, monkeypatch):
    "A folder with modules of the user that are called as standard ones are."
    get_reusable_executor().shutdown(wait=True)      # the workers of an earlier test have imported already
    for name in ('random', 'json', 'copy', 'logging', 'queue'): (tmp_path/f'{name}.py').write_text('raise SystemExit(f"{__file__} was imported")')
    monkeypatch.chdir(tmp_path), monkeypatch.syspath_prepend(''), monkeypatch.delenv('PYTHONSAFEPATH', raising=False)
    path = sys.path[:]
    rows = X.run_grid(made[0], [RECIPES['svm']], ['loso'], folds=[0, 1], folder=tmp_path/'results', jobs=2)
    assert set(rows.status) == {'done'} and sys.path == path and 'PYTHONSAFEPATH' not in os.environ

@pytest.mark.parametrize('said, told', [
    ('The exit codes of the workers are {SIGKILL(-9)}', 'lack of memory: run again with fewer --jobs'),
    ('The exit codes of the workers are {SIGSEGV(-11), EXIT(1)}', r'failed \(exit code SIGSEGV\(-11\), EXIT\(1\)\): run again with --jobs 1'),
    ('A task has failed to un-serialize.', 'failed .*un-serialize.*--jobs 1')])
def test_memory_is_blamed_only_where_the_system_killed_a_worker(said, told):
    text = str(X._worker_error(X.BrokenProcessPool(said)))
    assert re.search(told, text) and ('memory' in text) == ('SIGKILL' in said) and '\n' not in text

def test_a_published_store_takes_no_new_runs(made, tmp_path, monkeypatch):
    monkeypatch.setitem(X.TRAINERS, 'svm', lambda *args: pytest.fail('it was trained'))
    (tmp_path/'runs.csv').write_text(','.join(R.FACTS) + '\n')
    with pytest.raises(SerError, match='published store: name another folder'): X.run_grid(made[0], [RECIPES['svm']], ['loso'], folder=tmp_path)

def test_published_runs_are_not_repeated(made, tmp_path, monkeypatch):
    "By default a run is looked for in both stores; with a folder of its own only there."
    monkeypatch.setattr(R, 'repo_path', lambda: tmp_path)
    monkeypatch.setenv('SER_RESULTS', str(tmp_path/'results'))
    grid = lambda **kw: X.run_grid(made[0], [RECIPES['svm']], ['loso'], folds=[0], **kw)
    run = grid().run[0]
    R.publish()
    shutil.rmtree(tmp_path/'runs')
    with monkeypatch.context() as m:
        m.setitem(X.TRAINERS, 'svm', lambda *args: pytest.fail('it was trained'))
        assert list(grid().status) == ['done'] and not (tmp_path/'runs'/run).exists()
        with pytest.raises(SerError, match='made of other clips.*--results'): X.run_grid(made[0][:-1], [RECIPES['svm']], ['loso'], folds=[0])
    assert list(grid(folder=tmp_path/'other').status) == ['done'] and (tmp_path/'other'/run).exists()

def test_every_finished_run_is_listed_at_once(made, tmp_path, monkeypatch):
    listed, real = [], X.TRAINERS['svm']
    def svm(*args):
        listed.append(len(Results(tmp_path).runs))
        if len(listed) == 2: raise RuntimeError('out of memory')
        return real(*args)
    monkeypatch.setitem(X.TRAINERS, 'svm', svm)
    X.run_grid(made[0], [RECIPES['svm']], ['loso'], folds=[0, 1, 2], folder=tmp_path)
    assert listed == [0, 1, 2] and list(Results(tmp_path).runs.status.value_counts()[['done', 'failed']]) == [2, 1]

def test_what_leaks_is_said_once_before_a_run(made, tmp_path, capsys):
    df, svm = made[0], RECIPES['svm']
    X.run_one(df, svm, 'loso', folder=tmp_path)
    X.sweep(df, [svm], 'loso', 1)
    X.run_grid(df, [svm], ['loso'], folder=tmp_path)
    said = [line.split(':')[:2] for line in capsys.readouterr().out.splitlines() if 'in training' in line]
    assert said == [['loso fold 0', ' clean'], ['loso fold 1', ' clean'], ['loso fold 0', ' clean']]
    X.run_one(df, svm, 'loso', folder=tmp_path); X.run_grid(df, [svm], ['loso'], folder=tmp_path)
    assert 'in training' not in capsys.readouterr().out                                        # nothing was run

def test_a_run_of_other_clips_is_not_taken_for_this_one(made, tmp_path):
    df, svm = made[0], RECIPES['svm']
    grid = lambda df: X.run_grid(df, [svm], ['loso', 'paper'], folds=[0], folder=tmp_path)
    run = grid(df).run[0]
    before = {f: f.stat().st_mtime_ns for f in tmp_path.rglob('*.json')}
    assert len(before) == 2 and set(grid(df).status) == {'done'}
    part = df[df.index % 10 != 4].reset_index(drop=True)                                       # half unpacked, then whole
    others = dict(grown=pd.concat([df, df[-1:].assign(clip='made/new', sha='f'*16)], ignore_index=True), part=part,
                  named=df.assign(clip='made/x' + df['clip'].str[5:]), labelled=df.assign(emotion=df.emotion.map(dict(neutral='sad', sad='angry', angry='neutral'))))
    for other in others.values():
        with pytest.raises(SerError, match='was made of other clips.*--results.*delete') as e: grid(other)
        assert '\n' not in str(e.value)
        with pytest.raises(SerError, match=run): X.run_one(other, svm, 'loso', folder=tmp_path)
    assert before == {f: f.stat().st_mtime_ns for f in tmp_path.rglob('*.json')}
    (tmp_path/run/'facts.json').unlink()
    assert X.run_one(part, svm, 'loso', folder=tmp_path) == run and Results(tmp_path).done(run)       # as the sentence says

def test_a_checkpoint_of_other_clips_is_not_taken_up(made, tmp_path, monkeypatch):
    df, asked = made[0], []
    def stop(*args): asked.append(args[-1]); raise KeyboardInterrupt
    monkeypatch.setitem(X.TRAINERS, 'svm', stop)
    for other in df, df, df.assign(sha='f' + df.sha.str[1:]):
        with pytest.raises(KeyboardInterrupt): X.run_one(other, RECIPES['svm'], 'loso', folder=tmp_path)
    assert asked[0] == asked[1] != asked[2]

def test_a_cache_without_room_for_locks_is_one_sentence(made, tmp_path, monkeypatch, capsys):
    df, svm = made[0], RECIPES['svm']
    def denied(*args, **kw): raise PermissionError(13, 'Permission denied')
    for where, what in (Path, 'mkdir'), (X.FileLock, 'acquire'):
        with monkeypatch.context() as m:
            m.setattr(where, what, denied)
            with pytest.raises(SerError, match='locks cannot be written.*Permission denied.*set SER_CACHE'): X._lock('a-run', True)
    monkeypatch.setattr(X, '_lock', lambda run, wait: (_ for _ in ()).throw(SerError('no lock')))
    rows = X.run_grid(df, [svm], ['loso'], folds=[0], folder=tmp_path)
    assert list(rows.status) == ['failed'] and not list(tmp_path.rglob('*.json'))
    capsys.readouterr(); cli._show_runs(rows, tmp_path)
    assert 'failed' in (said := capsys.readouterr().out) and 'not run: no lock' in said and 'Traceback' not in said

def test_folds_are_of_the_protocols_that_have_several(made):
    df = made[0]
    assert X.splits_of(df, ['paper', 'loso'], [1, 2]) == [('paper', 0, 0), ('loso', 1, 0), ('loso', 2, 0)]
    assert X.splits_of(df, ['paper', 'loso'], [0]) == [('paper', 0, 0), ('loso', 0, 0)]
    with pytest.raises(SerError, match='paper has 0 to 0'): X.splits_of(df, ['paper'], [1])
    with pytest.raises(SerError, match='paper has 0 to 0; loso has 0 to 4'): X.splits_of(df, ['paper', 'loso'], [99])
