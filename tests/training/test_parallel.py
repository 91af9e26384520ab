"""Two processes train like one: the same gradients, one folder; and one process resumes where two stopped."""

import functools
import json
import signal
import socket
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

from datasets.batches import Numbers
from models.training import parallel
from models.training.run import Run


def start_ranks(count, function, *arguments):
    """Run `function(*arguments)` in `count` processes, with ranks as torchrun sets them."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    common = {'WORLD_SIZE': str(count), 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port}
    return [
        processes.start(function, *arguments, environment={**common, 'RANK': str(rank), 'LOCAL_RANK': str(rank)})
        for rank in range(count)
    ]


def statuses(ranks):
    for process in ranks:
        process.join(90)
    return [process.exitcode for process in ranks]


@pytest.mark.parametrize('ranks, parts', [(1, 1), (2, 1), (1, 3), (3, 2)])
def test_every_sample_of_a_step_is_seen_once(ranks, parts):
    shares = [list(Numbers(5, 7, 12, rank, ranks, parts)) for rank in range(ranks)]
    for step in (5, 6):
        seen = [n for share in shares for part in share[(step - 5) * parts :][:parts] for n in part]
        assert seen == list(range(12 * step, 12 * step + 12))


def gradients(config, folder):
    """Save the gradients of a step, and the weights after two more, in float64 with frozen batch norm."""
    torch.set_default_dtype(torch.float64)
    torch.compile = functools.partial(torch.compile, backend='eager')  # where the config says so; no code is generated
    run = Run(config, folder, parallel.join('cpu'))
    run.begin_stage()
    for module in run.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    batches, kept = run.batches(), {}
    step = run.optimizer.step

    def keep_and_step(*arguments, **options):
        kept.setdefault('gradient', torch.cat([p.grad.flatten() for p in run.model.parameters()]))
        return step(*arguments, **options)

    run.optimizer.step = keep_and_step
    steps = [run.train_step(run.next_batches(batches)) for run.step in range(3)]
    kept['losses'] = [found['l1'] for found in run.read(steps)]
    kept['weights'] = torch.cat([p.detach().flatten() for p in run.model.parameters()])
    if parallel.rank() == 0:
        torch.save(kept, folder / f'{parallel.ranks()}-{config["accumulate"]}.pth')
    parallel.leave()


@pytest.mark.parametrize('draw', ['pixel', 'block'])
def test_gradients_equal_those_of_one_process_with_the_double_batch(tmp_path, config, draw):
    config.update(draw=draw, clip_grad=None)
    groups = [
        start_ranks(ranks, gradients, {**config, 'accumulate': parts}, tmp_path)
        for ranks, parts in ((1, 1), (1, 2), (2, 1), (2, 2))
    ]
    folder = tmp_path / 'compiled'
    folder.mkdir()
    groups.append(start_ranks(2, gradients, {**config, 'compile': draw == 'block', 'accumulate': 1}, folder))
    assert [statuses(group) for group in groups] == [[0], [0], [0, 0], [0, 0], [0, 0]]
    names = '1-1', '1-2', '2-1', '2-2', 'compiled/2-1'
    alone, *others = [torch.load(tmp_path / f'{name}.pth', weights_only=True) for name in names]
    assert alone['gradient'].dtype == torch.float64 and alone['gradient'].norm() > 0
    for other in others:
        for key in ('gradient', 'weights'):
            assert (other[key] - alone[key]).norm() <= 1e-6 * alone[key].norm()
        assert other['losses'] == pytest.approx(alone['losses'], rel=1e-9)


@pytest.fixture
def arguments(tmp_path, config):
    """`arguments(name, *options)`: the arguments of `processes.train`."""

    def of(name, *options):
        (tmp_path / f'{name}.yaml').write_text(yaml.safe_dump(config))
        return processes.train, tmp_path, '-config', tmp_path / f'{name}.yaml', '-name', name, *options

    return of


def log_of(tmp_path, name):
    file = tmp_path / 'save' / name / 'log.jsonl'
    return [json.loads(line) for line in (file.read_text().split('\n')[:-1] if file.is_file() else [])]


def test_one_rank_writes_and_validation_is_shared(tmp_path, arguments):
    assert statuses(start_ranks(2, *arguments('two'))) == [0, 0]
    assert statuses(start_ranks(1, *arguments('one'))) == [0]
    two, one = ([entry for entry in log_of(tmp_path, name) if 'psnr' in entry] for name in ('two', 'one'))
    assert [entry['step'] for entry in two] == [2, 4, 6] * 2
    for a, b in zip(two, one):  # not the same: each rank's batch norm takes its own statistics
        assert a['psnr'] == pytest.approx(b['psnr'], abs=0.1)
    assert log_of(tmp_path, 'two')[0]['ranks'] == 2
    two, one = ({file.name for file in (tmp_path / 'save' / name).iterdir()} for name in ('two', 'one'))
    assert two == one


def test_a_signal_to_one_rank_stops_both_and_another_number_of_ranks_goes_on(tmp_path, arguments, config):
    config['stages']['stage1'].update(steps=10**6, warmup_steps=0)
    ranks = start_ranks(2, *arguments('run'))
    deadline = time.monotonic() + 60
    while len(log_of(tmp_path, 'run')) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    ranks[1].terminate()
    assert statuses(ranks) == [1, 1]
    output = (tmp_path / 'output.txt').read_text()
    assert f'stopped by {signal.SIGTERM.name}' in output and 'Traceback' not in output
    stopped = torch.load(tmp_path / 'save' / 'run' / 'last.pth', weights_only=True)['step']
    assert stopped >= 2
    assert statuses(start_ranks(1, *arguments('run', '-resume', '-time-limit', '0'))) == [0]
    assert torch.load(tmp_path / 'save' / 'run' / 'last.pth', weights_only=True)['step'] == stopped + 1


def test_torchrun(tmp_path, config):
    config['stages'].pop('stage2')
    (tmp_path / 'run.yaml').write_text(yaml.safe_dump(config))
    command = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--standalone',
        '--nproc_per_node=2',
        str(ROOT / 'train.py'),
        '-config',
        'run.yaml',
        '-device',
        'cpu',
    ]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0 and result.stdout.count('finished: save/run') == 1, result.stderr


def train_and_leave(*arguments):
    """The threads that `parallel.join` starts exist before `parallel.leave` and have ended after it."""
    join, leave, started = parallel.join, parallel.leave, set()

    def threads():
        return {task.name for task in Path('/proc/self/task').iterdir()}

    def join_and_look(*options):
        before = threads()
        device = join(*options)
        started.update(threads() - before)
        return device

    def leave_and_look():
        assert started & threads()
        leave()
        assert not started & threads()
        raise SystemExit(9)

    with mock.patch.object(parallel, 'join', join_and_look), mock.patch.object(parallel, 'leave', leave_and_look):
        processes.train(*arguments)


@pytest.mark.skipif(not Path('/proc/self/task').is_dir(), reason='no list of threads')
def test_no_thread_is_left_that_could_abort_a_run_at_its_end(arguments):
    _, *others = arguments('run')
    assert statuses(start_ranks(2, train_and_leave, *others)) == [9, 9]


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path, arguments, config):
    config['batch_size'] = 3
    assert statuses(start_ranks(2, *arguments('run'))) == [2, 2]
    output = (tmp_path / 'output.txt').read_text()
    assert 'batch_size 3 cannot be shared among 2 devices' in output and not (tmp_path / 'save').exists()
