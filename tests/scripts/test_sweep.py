"""scripts/sweep.py: its runs, what it leaves out when it is started again, and what is no sweep."""

import subprocess
import threading
from pathlib import Path

import pytest
import yaml
from conftest import refused

from models.training.summary import summarise

PROGRAM = 'scripts/sweep.py'


@pytest.fixture
def sweep(program, config, tmp_path):
    """`sweep(*options)` runs the program with the config of a training of one short stage."""
    config['stages'] = {'stage1': {**config['stages']['stage1'], 'steps': 3}}
    (tmp_path / 'run.yaml').write_text(yaml.safe_dump(config))

    def run(*options):
        return program(PROGRAM, '-config', 'run.yaml', '-name', 'lr', '-devices', 'cpu', *options)

    return run


def test_a_sweep_trains_every_combination_and_goes_on(sweep):
    grid = ['-grid', 'stages.stage1.lr=[1e-3, 2e-3]', '-runs', 'seed=1 batch_size=2']
    status, out, err = sweep(*grid)
    assert (status, err) == (0, '')
    names = ['seed=1,batch_size=2,lr=0.001', 'seed=1,batch_size=2,lr=0.002']
    folders = [Path('save/lr') / name for name in names]
    runs = [summarise(folder) for folder in folders]
    assert all(run.finished and run.steps == 3 for run in runs)
    assert [run.config['stages']['stage1']['lr'] for run in runs] == [1e-3, 2e-3]
    assert {(run.config['seed'], run.config['batch_size']) for run in runs} == {(1, 2)}
    told = Path('save/lr/summary.md').read_text()
    assert out.endswith(told) and all(name in told for name in names)
    before = [folder.joinpath('last.pth').stat().st_mtime_ns for folder in folders]
    folders[1].joinpath('stage1.pth').unlink()  # as if it had been stopped
    assert sweep(*grid)[0] == 0
    after = [folder.joinpath('last.pth').stat().st_mtime_ns for folder in folders]
    assert after[0] == before[0] and after[1] > before[1]


def test_each_device_trains_a_run_at_a_time(sweep, monkeypatch):
    together, devices = threading.Barrier(2, timeout=60), []

    class Training:
        """One that ends when another one is there as well."""

        def __init__(self, command, **_):
            devices.append(command[command.index('-device') + 1])

        def poll(self):
            return 0

        def wait(self):
            return together.wait() * 0

    monkeypatch.setattr(subprocess, 'Popen', Training)
    status, out, _ = sweep('-grid', 'seed=[0,1,2,3]', '-devices', 'cuda:0', 'cuda:1')
    assert status == 0 and sorted(devices) == ['cuda:0'] * 2 + ['cuda:1'] * 2
    assert all(f'save/lr/seed={seed}: seed={seed}' in out for seed in range(4))


def test_a_run_that_fails_is_told(sweep):
    status, out, _ = sweep('-grid', 'train_dataset.args.first_k=[-1]')
    assert status == 1
    assert 'first_k=-1: failed, error: ' in out


@pytest.mark.parametrize(
    'options, said',
    [
        (['-grid', 'seed=1'], "-grid takes key=[value, ...], as seed=[0,1], not 'seed=1'"),
        (['-grid', 'seed=[]'], '-grid takes key=[value, ...]'),
        (['-grid', 'sed=[1]'], "unknown key 'sed', did you mean 'seed'"),
        (['-grid', 'batch_size=[0]'], 'batch_size is a whole number from 1 up, not 0'),
        (['-runs', 'seed=1', 'seed=1'], 'two runs of this sweep would have the folder'),
        (['-runs', 'seed'], '-set takes key=value'),
    ],
)
def test_what_is_no_sweep_is_refused_before_anything_is_trained(sweep, options, said):
    refused(sweep(*options), said)
    assert not Path('save').exists()
