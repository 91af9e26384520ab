"""Runs that are killed or stopped, and resumed, end as if never interrupted, to the last bit."""

import json
import os
import random
import signal
import time

import processes
import pytest
import torch
import yaml
from conftest import TINY

import models
from models.training.run import Run


def checkpoint(tmp_path, name, file='last.pth'):
    return torch.load(tmp_path / 'save' / name / file, weights_only=True)


def equal(a, b):
    """Whether two nested structures of dicts, lists, tensors and numbers are the same to the last bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def assert_equal_runs(tmp_path, a, b):
    """Assert that checkpoint, best result and the results of the stages are the same."""
    for file in ('last.pth', 'best.pth', 'stage1.pth', 'stage2.pth'):
        assert equal(checkpoint(tmp_path, a, file), checkpoint(tmp_path, b, file)), file


@pytest.fixture
def start(tmp_path, config):
    """`start(name, *options)` starts train.py in a process."""

    def run(name, *options, **more):
        path = tmp_path / f'{name}.yaml'
        path.write_text(yaml.safe_dump(config))
        return processes.start(processes.train, tmp_path, '-config', path, '-name', name, *options, **more)

    return run


def finish(process, timeout=60):
    process.join(timeout)
    assert not process.is_alive()
    return process.exitcode


def finish_run(tmp_path, start, name, *options):
    assert finish(start(name, *options)) == 0, (tmp_path / 'output.txt').read_text()


@pytest.mark.parametrize('workers', [0, 2])
def test_killed_at_random_moments(tmp_path, start, config, workers):
    config['workers'] = workers
    finish(processes.start(time.monotonic))  # the server from which processes are forked is there now
    began = time.monotonic()
    finish_run(tmp_path, start, 'whole')
    seconds, chance, kills = time.monotonic() - began, random.Random(workers), 0
    for _ in range(5):
        folder = tmp_path / 'save' / 'broken'
        process = start('broken', *(['-resume'] if folder.is_dir() else []))
        process.join(seconds * chance.uniform(0.1, 0.6))
        kills += process.is_alive()
        process.kill()
        finish(process)
        if (folder / 'last.pth').exists():
            checkpoint(tmp_path, 'broken')  # whole, whatever happened
    finish_run(tmp_path, start, 'broken', *(['-resume'] if folder.is_dir() else []))
    assert kills
    assert_equal_runs(tmp_path, 'whole', 'broken')


@pytest.mark.parametrize('workers', [0, 2])
def test_killed_while_saving(tmp_path, start, config, workers):
    config['workers'] = workers
    models.save(tmp_path / 'init.pth', models.build(TINY), {})
    options = ('-init', tmp_path / 'init.pth')
    config['stages']['stage1']['rim'] = True  # fresh weights in each stage, the same ones after resuming
    finish_run(tmp_path, start, 'whole', *options)
    folder = tmp_path / 'save' / 'broken'
    for number in (1, 1, 2, 3, 5):
        before = (folder / 'last.pth').read_bytes() if (folder / 'last.pth').exists() else None
        resume = ['-resume'] if folder.is_dir() else []
        assert finish(start('broken', *options, *resume, die_in_save=number)) == -signal.SIGKILL
        if number == 1:
            assert before == ((folder / 'last.pth').read_bytes() if before else None)
        assert list(folder.glob('.*.partial*'))
        for file in folder.glob('[!.]*.pth'):
            checkpoint(tmp_path, 'broken', file.name)
    finish_run(tmp_path, start, 'broken', *options, '-resume')
    assert_equal_runs(tmp_path, 'whole', 'broken')
    assert not list(folder.glob('.*.partial*'))


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_run_and_workers_saves_and_stops(tmp_path, start, config, signum):
    config['workers'] = 2
    config['stages']['stage1']['steps'] = 10**6
    process = start('stopped', group=True)
    wait_for(lambda: len(log_of(tmp_path, 'stopped')) > 2, process)
    os.killpg(process.pid, signum)
    assert finish(process) == 1
    output = (tmp_path / 'output.txt').read_text()
    assert f'stopped by {signum.name}' in output and 'Traceback' not in output
    assert checkpoint(tmp_path, 'stopped')['step'] >= log_of(tmp_path, 'stopped')[-1]['step'] >= 2


def test_stopped_in_a_step_and_resumed(tmp_path, config):
    """Stopped in a step, in a validation, in the last step of a stage, in its last validation."""
    config['save_every'] = 10**6
    scores = {}
    for name, moments in (('whole', ()), ('stopped', ('step 3', 'validation 4', 'step 6', 'validation 6'))):
        run, left = Run(config, tmp_path / 'save' / name, torch.device('cpu')), list(moments)
        run.folder.mkdir(parents=True)
        run.begin_stage()
        while True:
            interrupt(run, left)
            if run.train(float('inf')):
                break
            assert left.pop(0) and checkpoint(tmp_path, name)['step'] == run.step
            run = Run(config, run.folder, torch.device('cpu'))
            run.resume()
        scores[name] = [
            (entry['stage'], entry['step'], entry['psnr']) for entry in log_of(tmp_path, name) if 'psnr' in entry
        ]
        assert not left
    assert scores['whole'] == scores['stopped']
    assert_equal_runs(tmp_path, 'whole', 'stopped')


def interrupt(run, moments):
    """Send a signal to `run` at the first of the `moments`."""
    if not moments:
        return
    what, step = moments[0].split()
    interrupted = run.validation['x2'] if what == 'validation' else run.samples[run.stage]
    at = int(step) if what == 'validation' else int(step) - 1

    class Interrupting:
        def __len__(self):
            return len(interrupted)

        def __getitem__(self, i):
            if run.step == at:
                run.receive(signal.SIGTERM, None)
            return interrupted[i]

    if what == 'validation':
        run.validation['x2'] = Interrupting()
    else:
        run.samples[run.stage] = Interrupting()


def test_time_limit_validates_saves_and_resumes(tmp_path, start, config):
    finish_run(tmp_path, start, 'whole')
    finish_run(tmp_path, start, 'limited', '-time-limit', '0')
    assert 'time limit' in (tmp_path / 'output.txt').read_text() and checkpoint(tmp_path, 'limited')['step'] == 1
    assert [entry['step'] for entry in log_of(tmp_path, 'limited') if 'psnr' in entry] == [1]
    finish_run(tmp_path, start, 'limited', '--resume')
    assert_equal_runs(tmp_path, 'whole', 'limited')


def log_of(tmp_path, name):
    """The entries of a run's log, without a last line that is incomplete."""
    file = tmp_path / 'save' / name / 'log.jsonl'
    return [json.loads(line) for line in (file.read_text().split('\n')[:-1] if file.is_file() else [])]


def wait_for(condition, process, timeout=60):
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
