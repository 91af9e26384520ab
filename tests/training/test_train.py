"""train.py: what a run leaves behind, how its stages follow each other, and what is refused before it starts."""

import copy
import json
import math
import os
import runpy
import shutil
import sys

import pytest
import torch
import yaml
from conftest import ROOT, refused
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import models
import train
from utils import UserError


@pytest.fixture
def start(tmp_path, program):
    """`start(config, name, *options)` runs train.py with the config."""

    def run(config, name, *options):
        path = tmp_path / f'{name}.yaml'
        path.write_text(yaml.safe_dump(config))
        return program('train.py', '-config', path, '-name', name, '-device', 'cpu', *options)

    return run


def checkpoint(tmp_path, name, file='last.pth'):
    return torch.load(tmp_path / 'save' / name / file, weights_only=True)


# ---------------------------------------------------------------- a whole run


def test_a_run_leaves_results_checkpoints_and_a_log(tmp_path, start, config):
    status, out, _ = start(config, 'run')
    assert status == 0 and 'finished' in out
    folder = tmp_path / 'save' / 'run'
    names = {path.name for path in folder.iterdir()}
    assert names == {
        'stage1.pth',
        'stage2.pth',
        'best.pth',
        'last.pth',
        'stage1-4.pth',
        'stage2-4.pth',
        'config.yaml',
        'versions.json',
        'images.json',
        'log.jsonl',
        'tensorboard',
        'report.html',
        'strips',
    }
    assert yaml.safe_load((folder / 'config.yaml').read_text()) == config
    versions = json.loads((folder / 'versions.json').read_text())
    assert versions['torch'] == torch.__version__ and (versions['git'] is None or len(versions['git']) == 40)
    log = [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]
    assert log[0]['start'] == versions
    assert [entry['step'] for entry in log if 'psnr' in entry] == [2, 4, 6] * 2
    model = models.load(folder / 'stage2.pth')
    assert model.meta['stage'] == 'stage2' and model.meta['step'] == 6
    assert model.meta['psnr x2'] == pytest.approx([entry for entry in log if 'psnr' in entry][-1]['psnr']['x2'])


def test_tensorboard_shows_the_first_image_of_each_set(tmp_path, start, config):
    config['validation']['scales'] = [2, 3.5]
    start(config, 'run')
    events = EventAccumulator(str(tmp_path / 'save' / 'run' / 'tensorboard'))
    events.Reload()
    assert {'stage1/x2', 'stage1/x3.5', 'stage2/x2', 'stage2/x3.5'} == set(events.Tags()['images'])
    assert [event.step for event in events.Images('stage1/x2')] == [2, 4, 6]
    scalars = {f'stage1/{name}' for name in ('loss', 'lr', 'images/s', 'waiting', 'PSNR x2')}
    assert scalars <= set(events.Tags()['scalars'])


def test_profile_shows_where_a_step_goes_and_writes_nothing(tmp_path, start, config):
    status, out, _ = start(config, 'run', '-profile')
    lines = {line[:20].strip(): line[20:].split() for line in out.splitlines()}
    assert status == 0 and not (tmp_path / 'save').exists()
    parts = ['waiting for data', 'encoder', 'project', 'msno', 'mssa', 'decoding, loss', 'backward', 'optimizer', 'ema']
    assert set(lines) == {'part of a step', *parts, 'all'}
    assert sum(float(lines[part][-1].rstrip('%')) for part in parts) == pytest.approx(100, abs=1)


def test_profile_of_a_run_that_has_ended_leaves_it_as_it_is(tmp_path, start, config):
    start(config, 'run')
    folder = tmp_path / 'save' / 'run'
    before = {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}
    status, out, _ = start(config, 'run', '-profile', '-resume')
    assert status == 0 and out.splitlines()[-1].startswith('all')
    assert before == {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def test_training_fits_the_images(start, config, tmp_path):
    config['stages'] = {'stage1': {**config['stages']['stage1'], 'steps': 150, 'lr': 5e-3}}
    config.update(validate_every=150, ema_decay=None, draw='block')
    start(config, 'run')
    log = [json.loads(line) for line in (tmp_path / 'save' / 'run' / 'log.jsonl').read_text().splitlines()]
    losses = [entry['loss'] for entry in log if 'loss' in entry]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_reduced_precision_and_channels_last(start, config, tmp_path, precision):
    config.update(precision=precision, channels_last=True)
    assert start(config, 'run')[0] == 0
    state = checkpoint(tmp_path, 'run')['model']['sd']
    assert all(value.isfinite().all() for value in state.values())
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}


# ---------------------------------------------------------------- stages


def test_a_stage_starts_where_the_last_one_ended(tmp_path, start, config):
    config['stages']['stage3'] = copy.deepcopy(config['stages']['stage2'])
    config['stages']['stage3'].update(blocks=3, shrink=0.9)
    config['stages']['stage4'] = {**config['stages']['stage1'], 'scales': [1.5, 2]}
    start(config, 'run')
    meta = models.load(tmp_path / 'save' / 'run' / 'stage4.pth').meta
    assert (meta['scale_min'], meta['scale_max']) == (1, 3)  # of all stages
    log = [json.loads(line) for line in (tmp_path / 'save' / 'run' / 'log.jsonl').read_text().splitlines()]
    psnr = {entry['stage']: entry['psnr'] for entry in log if 'psnr' in entry}  # the last ones of each stage
    run = train.Run(train.read_training_config(tmp_path / 'run.yaml'), tmp_path, torch.device('cpu'))
    for number, (name, ended) in enumerate(psnr.items()):
        result = models.load(tmp_path / 'save' / 'run' / f'{name}.pth')
        run.stage, run.previous = number + 1, result.requires_grad_(True)
        assert run.previous.meta['stage'] == name
        if number + 1 < len(psnr):
            run.begin_stage()
            assert run.model.spec['args'].get('rim', False) == run.stages[number + 1]['rim']
            assert run.validate(lambda *_: None) == ended


def test_init_starts_from_weights(tmp_path, start, config):
    start(config, 'first')
    config['stages'] = {'again': {**config['stages']['stage2'], 'lr': 1e-30, 'warmup_lr': 0.0}}
    config['ema_decay'] = None
    status, _, _ = start(config, 'second', '-init', 'save/first/stage2.pth')
    assert status == 0
    a, b = models.load('save/first/stage2.pth'), models.load('save/second/again.pth')
    for (name, x), y in zip(a.named_parameters(), b.parameters()):
        assert torch.equal(x, y), name


def test_init_of_another_architecture_is_refused(tmp_path, start, config):
    start(config, 'first')
    config['model'] = {**config['model'], 'args': {**config['model']['args'], 'channels': 16}}
    refused(start(config, 'second', '-init', 'save/first/stage1.pth'), 'stage1.pth', 'another architecture')
    assert not (tmp_path / 'save' / 'second').exists()


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    'change, said',
    [
        (lambda c: c.update(lerning=1), ["'lerning'", 'known']),
        (lambda c: c.update(batchsize=1), ["did you mean 'batch_size'"]),
        (lambda c: c.pop('patch'), ["'patch' is missing"]),
        (lambda c: c['stages']['stage1'].update(stepz=3), ["did you mean 'steps'"]),
        (lambda c: c['stages']['stage1'].update(scales=[4, 1]), ['scales']),
        (lambda c: c['stages']['stage1'].update(scales=[1, 20]), ['photo', 'smaller than']),
        (lambda c: c.update(precision='int4'), ['precision']),
        (lambda c: c.update(batch_size=0), ['batch_size']),
        (lambda c: c.update(accumulate=3), ['batch_size 4 cannot be shared', 'accumulate 3']),
        (lambda c: c.update(compile='yes'), ['compile is true, false or reduce-overhead']),
        (lambda c: c.update(compile=1), ['compile is true, false or reduce-overhead']),
        (lambda c: c.update(compile='reduce-overhead', accumulate=2), ['reduce-overhead', 'accumulate: 1']),
        (lambda c: c['stages']['stage2'].update(scales=[1, 20]), ["stage 'stage2'", 'photo', 'smaller than']),
        (lambda c: c['stages']['stage2'].update(warmup_steps=6), ["stage 'stage2'", 'leave none']),
        (lambda c: c['validation'].update(scales=[20]), ['photo0', 'too small']),
        (lambda c: c.update(patch=4000), ['photo', 'smaller than']),
        (lambda c: c['train_dataset']['args'].update(root_path='nowhere'), ['nowhere: no such folder']),
        (lambda c: c['model'].update(name='mist'), ["unknown model 'mist'", "'msit'"]),
        (lambda c: c['model']['args'].update(head=2), ["did you mean 'heads'"]),
        (lambda c: c['model']['args'].update(channels=9), ['9 channels']),
        (
            lambda c: c['stages']['stage1'].update(blocks=3) or c['stages']['stage2'].update(blocks=2),
            ["stage 'stage2'", 'has 3 residual blocks already'],
        ),
        (
            lambda c: c.update(
                model={'name': 'liif', 'args': {key: c['model']['args'][key] for key in ('encoder_spec', 'imnet_spec')}}
            ),
            ["stage 'stage2'", 'rim'],
        ),
        (lambda c: c.update(init='nothing.pth'), ['nothing.pth: no such file']),
    ],
)
def test_mistakes_are_told_in_one_line_before_anything_is_made(tmp_path, start, config, change, said):
    config = copy.deepcopy(config)
    change(config)
    refused(start(config, 'run'), *said)
    assert not (tmp_path / 'save').exists()


def test_resuming_what_is_not_there(start, config):
    refused(start(config, 'nothing', '-resume'), 'no such run')


def test_a_truncated_checkpoint_is_refused_and_kept(tmp_path, start, config):
    start(config, 'run')
    last = tmp_path / 'save' / 'run' / 'last.pth'
    last.write_bytes(last.read_bytes()[:-1000])
    damaged = last.read_bytes()
    refused(start(config, 'run', '-resume'), 'last.pth', 'not a whole weight file')
    assert last.read_bytes() == damaged


def test_weights_are_no_run_to_go_on_with(tmp_path, start, config):
    start(config, 'run')
    shutil.copy(tmp_path / 'save' / 'run' / 'stage1.pth', tmp_path / 'save' / 'run' / 'last.pth')
    refused(start(config, 'run', '-resume'), 'last.pth', 'no state of a run')


@pytest.mark.parametrize(
    'counter, value', [('best', math.nan), ('best', math.inf), ('best', 31), ('step', -1), ('bad', 0.5)]
)
def test_counters_that_no_run_has_are_refused(tmp_path, start, config, counter, value):
    start(config, 'run')
    last = tmp_path / 'save' / 'run' / 'last.pth'
    torch.save({**torch.load(last, weights_only=True), counter: value}, last)
    refused(start(config, 'run', '-resume'), 'last.pth', 'no state of a run')


def test_a_run_cannot_become_another_one(start, config):
    start(config, 'run')
    refused(start({**config, 'ema_decay': None if config.get('ema_decay') else 0.9}, 'run', '-resume'), 'ema_decay')
    refused(start({**config, 'batch_size': 2}, 'run', '-resume'), 'another batch_size')
    stages = {'first': config['stages']['stage1'], 'second': config['stages']['stage2']}
    refused(start({**config, 'stages': stages}, 'run', '-resume'), "stopped in stage 2, 'stage2'", 'first, second')


def test_an_existing_run_is_left_alone(tmp_path, start, config):
    start(config, 'run')
    before = (tmp_path / 'save' / 'run' / 'last.pth').read_bytes()
    refused(start(config, 'run'), 'run', '-resume')
    assert (tmp_path / 'save' / 'run' / 'last.pth').read_bytes() == before


def test_debug_shows_the_traceback(tmp_path, config, monkeypatch):
    path = tmp_path / 'run.yaml'
    path.write_text(yaml.safe_dump({**config, 'precision': 'int4'}))
    monkeypatch.setattr(sys, 'argv', ['train.py', '-config', str(path), '-debug'])
    with pytest.raises(UserError, match='precision'):
        runpy.run_path(str(ROOT / 'train.py'), run_name='__main__')


def test_a_busy_machine_is_told(monkeypatch, capsys):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 2)
    monkeypatch.setattr(os, 'cpu_count', lambda: 2)
    for load in (0.3, 3.0):
        monkeypatch.setattr(os, 'getloadavg', lambda: (load, load, load))
        train.say_if_busy(torch.device('cpu'))
    assert capsys.readouterr().out.startswith('note: this machine is busy (load 3.0 on 2 processors); 2 threads')
