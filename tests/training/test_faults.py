"""What goes wrong around a run, its images, workers, disk, folder, signals: one line, an end within seconds."""

import json
import multiprocessing.connection
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import processes
import pytest
import torch
import yaml
from conftest import ROOT

from datasets.batches import Batches, Numbers
from models.training.run import Run
from utils import UserError


@pytest.fixture
def start(tmp_path, config):
    """`start(name, *options)` starts train.py in a process, with the config as it is then."""

    def run(name, *options, function=processes.train, **more):
        path = tmp_path / f'{name}.yaml'
        path.write_text(yaml.safe_dump(config))
        return processes.start(function, tmp_path, '-config', path, '-name', name, *options, **more)

    return run


@pytest.fixture
def endless(config):
    """The config of a run that goes on until something stops it, and decodes an image for each sample in a worker."""
    config['stages']['stage1'].update(steps=10**6, warmup_steps=0)
    config['train_dataset']['args'] = {**config['train_dataset']['args'], 'cache': 'none'}
    config['workers'] = 1
    return config


def checkpoint(tmp_path, name='run'):
    return torch.load(tmp_path / 'save' / name / 'last.pth', weights_only=True)


def log_of(tmp_path, name='run'):
    file = tmp_path / 'save' / name / 'log.jsonl'
    return [json.loads(line) for line in (file.read_text().split('\n')[:-1] if file.is_file() else [])]


def wait_for(condition, process, timeout=60):
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)


def finish(process, timeout=60):
    process.join(timeout)
    assert not process.is_alive()
    return process.exitcode


def error_of(tmp_path):
    """The only line that was printed besides validations."""
    lines = (tmp_path / 'output.txt').read_text().splitlines()
    (line,) = [line for line in lines if 'dB' not in line]
    assert line.startswith('error: ')
    return line


def children(process):
    """The numbers of a process's children."""
    found = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
    return [int(number) for number in found]


needs_proc = pytest.mark.skipif(not Path('/proc/self/task').is_dir(), reason='no list of processes')


# ---------------------------------------------------------------- data workers


def cut(photo):
    photo.write_bytes(photo.read_bytes()[:500])


def shrink(photo):
    from PIL import Image

    Image.new('RGB', (9, 9)).save(photo)


@pytest.mark.parametrize('spoil', [cut, Path.unlink, shrink])
@pytest.mark.parametrize('workers', [0, 1, 2])
def test_an_image_that_is_spoilt_in_a_run_is_named(tmp_path, start, endless, photos, spoil, workers):
    endless['workers'] = workers
    process = start('run')
    wait_for(lambda: len(log_of(tmp_path)) > 1, process)
    spoil(photos / 'photo4.png')
    assert finish(process) == 2
    assert 'photo4' in error_of(tmp_path)
    assert checkpoint(tmp_path)['step'] >= 2 and not (tmp_path / 'save' / 'run' / 'lock').exists()


@needs_proc
def test_a_worker_that_the_system_kills(tmp_path, start, endless):
    process = start('run')
    wait_for(lambda: len(log_of(tmp_path)) > 1, process)
    (worker,) = children(process)
    os.kill(worker, signal.SIGKILL)
    assert finish(process) == 2
    assert f'process {worker}) was ended by SIGKILL' in error_of(tmp_path)
    assert checkpoint(tmp_path)['step'] >= 2


@needs_proc
@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_that_waits_for_a_worker(tmp_path, start, endless, signum):
    process = start('run')
    wait_for(lambda: len(log_of(tmp_path)) > 1, process)
    (worker,) = children(process)
    os.kill(worker, signal.SIGSTOP)
    time.sleep(1)
    os.kill(process.pid, signum)
    assert finish(process) == 1 and f'stopped by {signum.name}' in (tmp_path / 'output.txt').read_text()
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


class Broken:
    """Samples of which one cannot be made, by an error that `raise_` raises."""

    def __init__(self, raise_):
        self.raise_ = raise_

    def __getitem__(self, n):
        if n == 5:
            self.raise_()
        return {'n': n, 'threads': torch.get_num_threads()}


def raise_user_error():
    raise UserError('photo.png: broken')


def raise_memory_error():
    raise MemoryError


def raise_key_error():
    raise KeyError('a')


def leave_at_once():
    os._exit(3)


@pytest.mark.parametrize(
    'raise_, said',
    [
        (raise_user_error, '^photo.png: broken$'),
        (raise_memory_error, 'not enough memory'),
        (raise_key_error, "KeyError: 'a'"),
        (leave_at_once, 'ended with status 3'),
    ],
)
def test_each_error_of_a_worker_is_one_line_and_its_workers_end(raise_, said):
    with (
        pytest.raises(UserError, match=said) as error,
        Batches(Broken(raise_), Numbers(0, 9, 1, 0, 1, 1), 2, False) as b,
    ):
        assert [int(next(b).to('cpu')['n']) for _ in range(5)] == list(range(5))
        next(b)
    assert '\n' not in str(error.value) and len(b.workers) == 2
    assert not any(worker.is_alive() for worker in b.workers)


def test_torchs_handler_of_signals_does_not_hide_which_worker_ended(monkeypatch):
    """Another DataLoader of the program may have installed it; it raises wherever the program is when a worker ends."""
    wait, told = multiprocessing.connection.wait, []

    def interrupted(objects, timeout=None):
        if isinstance(objects[0], int) and not told:  # of processes, not of the queue
            told.append(True)
            raise RuntimeError('DataLoader worker exited unexpectedly')
        return wait(objects, timeout)

    with (
        pytest.raises(UserError, match='ended with status 3'),
        Batches(Broken(leave_at_once), Numbers(0, 9, 1, 0, 1, 1), 2, False) as batches,
    ):
        monkeypatch.setattr(multiprocessing.connection, 'wait', interrupted)
        list(batches)
    assert told


def test_workers_compute_in_one_thread():
    with Batches(Broken(raise_key_error), Numbers(0, 3, 1, 0, 1, 1), 1, False) as batches:
        assert [int(batch.to('cpu')['threads']) for batch in batches] == [1] * 3


def test_torchrun_ends_when_an_image_is_spoilt(tmp_path, endless, photos):
    (tmp_path / 'run.yaml').write_text(yaml.safe_dump(endless))
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', ROOT / 'train.py']
    with open(tmp_path / 'output.txt', 'w') as output:
        command += ['-config', 'run.yaml', '-device', 'cpu']
        process = subprocess.Popen(command, cwd=tmp_path, stdout=output, stderr=output)
        deadline = time.monotonic() + 120
        while len(log_of(tmp_path)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        ranks = children(process) if Path('/proc/self/task').is_dir() else []
        cut(photos / 'photo4.png')
        assert process.wait(60) != 0
    text = (tmp_path / 'output.txt').read_text()
    errors = [line for line in text.splitlines() if 'error: ' in line and 'photo4.png' in line]
    assert errors and 'exitcode  : 2' in text and len(ranks) in (0, 2)
    for number in ranks:
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)
    assert checkpoint(tmp_path)['step'] >= 2


# ---------------------------------------------------------------- the folder


def test_a_folder_has_one_run_at_a_time_and_a_killed_one_leaves_it_free(tmp_path, start, endless):
    process = start('run')
    wait_for(lambda: len(log_of(tmp_path)) > 1, process)
    for options in ((), ('-resume',)):
        assert finish(start('run', *options)) == 2
        assert f'process {process.pid} on ' in error_of(tmp_path)
        (tmp_path / 'output.txt').write_text('')
    process.kill()
    finish(process)
    assert finish(start('run', '-resume', '-time-limit', '0')) == 0


def test_a_lock_without_locks_of_the_system_looks_for_the_process(tmp_path):
    from models.training import lock

    with mock.patch.object(lock, 'fcntl', None):
        with lock.Lock(tmp_path / 'lock'):
            (tmp_path / 'lock').write_text(f'{os.getppid()} {lock.socket.gethostname()}\n')
            with pytest.raises(UserError, match=f'process {os.getppid()} on .* is training'):
                lock.Lock(tmp_path / 'lock').acquire()
        assert not (tmp_path / 'lock').exists()
        (tmp_path / 'lock').write_text(f'{2**22 + 1} {lock.socket.gethostname()}\n')
        lock.Lock(tmp_path / 'lock').acquire()


@pytest.fixture
def finished(tmp_path, config):
    """The folder of a run of a stage of six steps, finished, and `go_on(**changes of the config)`, which resumes it."""
    config['stages'].pop('stage2')
    folder = tmp_path / 'save' / 'run'
    with Run(config, folder, torch.device('cpu')) as run:
        run.start()
        assert run.train()

    def go_on(accept=False, **changes):
        with Run({**config, **changes}, folder, torch.device('cpu')) as run:
            run.resume(accept)
            return run.train()

    return folder, go_on


def test_a_run_without_its_state_is_not_begun_anew(finished):
    folder, go_on = finished
    best = (folder / 'best.pth').read_bytes()
    (folder / 'last.pth').unlink()
    with pytest.raises(UserError, match='last.pth is missing.* a copy of stage1-4.pth under this name goes on'):
        go_on()
    assert (folder / 'best.pth').read_bytes() == best
    shutil.copy(folder / 'stage1-4.pth', folder / 'last.pth')
    assert go_on()


@pytest.mark.parametrize('content', ['folder', 'link', 'empty', 'foreign', 'counters', 'optimizer'])
def test_a_state_of_another_kind_is_refused(finished, content):
    folder, go_on = finished
    last = folder / 'last.pth'
    state = torch.load(last, weights_only=True)
    last.unlink()
    if content == 'folder':
        last.mkdir()
    elif content == 'link':
        last.symlink_to('nowhere')
    elif content == 'empty':
        last.touch()
    else:
        spoilt = {'foreign': {'a': 1}, 'counters': {**state, 'step': 'two'}, 'optimizer': {**state, 'optimizer': {}}}
        torch.save(spoilt[content], last)
    with pytest.raises(UserError, match='last.pth: a link that leads to no file' if content == 'link' else 'last.pth'):
        go_on()


def test_what_a_stage_has_done_cannot_be_undone(finished, config):
    _, go_on = finished
    stage = config['stages']['stage1']
    with pytest.raises(UserError, match="6 steps of stage 'stage1' are done, of which the config has 5 only"):
        go_on(stages={'stage1': {**stage, 'steps': 5}})
    with pytest.raises(UserError, match="stage 'stage1' has begun with another rim"):
        go_on(stages={'stage1': {**stage, 'rim': True}})


def test_what_changed_is_told_and_logged(finished, config, capfd):
    folder, go_on = finished
    assert go_on(stages={'stage1': {**config['stages']['stage1'], 'steps': 8}}, precision='bf16')
    log = [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]
    entry = [entry for entry in log if 'start' in entry][1]
    assert entry['changed'] == {'stages.stage1.steps': [6, 8], 'precision': ['fp32', 'bf16']}
    assert (entry['stage'], entry['step']) == ('stage1', 6)
    assert 'stages.stage1.steps 6 -> 8' in capfd.readouterr().out


def test_precision_fp16_can_be_taken_up_on_the_way(finished, config):
    _, go_on = finished
    assert go_on(precision='fp16', stages={'stage1': {**config['stages']['stage1'], 'steps': 8}})


@pytest.mark.parametrize(
    'change, said',
    [
        (lambda photos: (photos / 'photo3.png').unlink(), r'1 no longer there \(photo3.png\)'),
        (lambda photos: shutil.copy(photos / 'photo3.png', photos / 'photo30.png'), r'1 new \(photo30.png\)'),
        (lambda photos: shutil.copy(photos / 'photo3.png', photos / 'photo1.png'), r'1 of another size \(photo1.png\)'),
    ],
)
def test_changed_images_are_told_and_have_to_be_accepted(finished, photos, change, said, capfd):
    folder, go_on = finished
    before = (folder / 'images.json').read_text()
    change(photos)
    with pytest.raises(UserError, match=f'training images have changed .*{said}.*-accept-changed-images'):
        go_on()
    assert (folder / 'images.json').read_text() == before
    assert go_on(accept=True) and 'training images have changed' in capfd.readouterr().out
    assert go_on()  # as they are now


def test_a_run_from_before_images_were_kept_goes_on(finished, photos):
    folder, go_on = finished
    (folder / 'images.json').unlink()
    (photos / 'photo3.png').unlink()
    assert go_on() and (folder / 'images.json').is_file()


def test_a_line_of_the_log_that_was_cut_is_removed(finished):
    folder, go_on = finished
    with open(folder / 'log.jsonl', 'a') as log:
        log.write('{"time": "2026')
    assert go_on()
    assert all(json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines())


def test_a_model_without_weights_cannot_be_trained(tmp_path, start, config):
    config['model'] = {'name': 'bicubic', 'args': {}}
    config['stages']['stage1']['rim'] = True
    assert finish(start('run')) == 2 and "'bicubic' has nothing to train" in error_of(tmp_path)


# ---------------------------------------------------------------- disks


def train_with_small_files(folder, *options, largest, once_there=None, **more):
    """As `processes.train`; once `once_there` is in the folder no file can grow beyond `largest` bytes."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))

    if once_there is None:
        limit()
    else:
        save = torch.save

        def save_and_limit(content, path):
            save(content, path)
            if once_there in str(path):
                limit()

        torch.save = save_and_limit
    processes.train(folder, *options, **more)


@pytest.mark.parametrize('largest, once_there', [(2000, None), (100, 'last'), (60000, 'best'), (500, 'stage1-4')])
def test_a_full_disk_stops_the_run_which_can_go_on_later(tmp_path, start, config, largest, once_there):
    process = start('run', function=train_with_small_files, largest=largest, once_there=once_there)
    status = finish(process)
    assert status == 2, (tmp_path / 'output.txt').read_text()
    text = error_of(tmp_path)
    assert 'save/run/' in text and 'cannot be written' in text
    folder = tmp_path / 'save' / 'run'
    assert not list(folder.glob('.*.partial*')) and not (folder / 'lock').exists()
    assert log_of(tmp_path) or once_there in (None, 'last')
    log = folder / 'log.jsonl'
    assert not log.exists() or not log.read_text() or log.read_text().endswith('\n')
    assert finish(start('run', '-resume')) == 0, (tmp_path / 'output.txt').read_text()


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() != 0, reason="mounting is root's")
def test_a_run_on_a_disk_that_is_full_or_read_only(tmp_path, start, config):
    disk = tmp_path / 'save'
    disk.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=400k', 'tmpfs', disk], capture_output=True).returncode:
        pytest.skip('mounting is not possible here')
    try:
        assert finish(start('run')) == 2 and 'cannot be written' in error_of(tmp_path)
        (tmp_path / 'output.txt').write_text('')
        subprocess.run(['mount', '-o', 'remount,ro', disk], check=True)
        for name, options in (('run', ['-resume']), ('other', [])):
            assert finish(start(name, *options)) == 2
            assert 'cannot be written (Read-only file system)' in error_of(tmp_path)
            (tmp_path / 'output.txt').write_text('')
        subprocess.run(['mount', '-o', 'remount,rw,size=40m', disk], check=True)
        assert finish(start('run', '-resume')) == 0
    finally:
        subprocess.run(['umount', disk], check=True)


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize('signum', [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU])
def test_a_closed_terminal_and_the_warning_of_a_queue_save_and_stop(tmp_path, start, endless, signum):
    process = start('run', group=True)
    wait_for(lambda: len(log_of(tmp_path)) > 1, process)
    os.killpg(process.pid, signum)
    assert finish(process) == 1 and f'stopped by {signum.name}' in (tmp_path / 'output.txt').read_text()
    assert checkpoint(tmp_path)['step'] >= 2


def test_handlers_are_restored_on_every_way_out(tmp_path, config, monkeypatch):
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU, signal.SIGCHLD)
    before = [signal.getsignal(signum) for signum in signals]
    config['workers'] = 1
    for name, spoil in (('good', None), ('bad', UserError('broken')), ('worse', ZeroDivisionError())):
        with Run(config, tmp_path / name, torch.device('cpu')) as run:
            run.start()
            if spoil:
                monkeypatch.setattr(run, 'train_step', mock.Mock(side_effect=spoil))
                with pytest.raises(type(spoil)):
                    run.train()
            else:
                run.train()
        assert [signal.getsignal(signum) for signum in signals] == before


def test_a_process_that_ignores_a_closed_terminal_goes_on(tmp_path, config):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = Run(config, tmp_path / 'run', torch.device('cpu'))
        run.start()
        step = run.train_step
        run.train_step = lambda batches: signal.raise_signal(signal.SIGHUP) or step(batches)
        assert run.train()
    finally:
        signal.signal(signal.SIGHUP, before)
