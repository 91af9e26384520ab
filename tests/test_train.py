"""Training: what is resumed, staged and stopped ends as if it had run through; what is wrong is refused before it starts."""
import copy
import json
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml

import models
import train
from conftest import ROOT, TINY, refused
from models import grid


@pytest.fixture
def config(photos):
    """A training that takes seconds: two stages of six steps."""
    folder = {'name': 'image-folder', 'args': {'root_path': str(photos), 'cache': 'in_memory'}}
    stage = {'rim': False, 'scales': [1, 2], 'steps': 6, 'lr': 1e-3, 'warmup_steps': 2, 'warmup_lr': 1e-5}
    return {
        'model': TINY, 'init': None, 'train_dataset': folder, 'patch': 12, 'queries': 32, 'draw': 'pixel', 'batch_size': 2, 'workers': 0,
        'seed': 3, 'stages': {'stage1': stage, 'stage2': {**stage, 'rim': True, 'scales': [1, 3]}}, 'precision': 'fp32',
        'channels_last': False, 'clip_grad': 1.0, 'ema_decay': 0.9,
        'validation': {'dataset': {**folder, 'args': {**folder['args'], 'first_k': 2}}, 'protocol': 'benchmark', 'scales': [2]},
        'validate_every': 2, 'save_every': 4,
    }


@pytest.fixture
def start(tmp_path, program):
    """`start(config, name, *options)` runs train.py with the config."""
    def run(config, name, *options):
        path = tmp_path / f'{name}.yaml'
        path.write_text(yaml.safe_dump(config))
        return program('train.py', '-config', path, '-name', name, '-device', 'cpu', *options)
    return run


def command(tmp_path, config, name, *options):
    path = tmp_path / f'{name}.yaml'
    path.write_text(yaml.safe_dump(config))
    return [sys.executable, str(ROOT / 'train.py'), '-config', str(path), '-name', name, '-device', 'cpu', *options]


def checkpoint(tmp_path, name, file='last.pth'):
    return torch.load(tmp_path / 'save' / name / file, weights_only=True)


def equal(a, b):
    """Whether two nests of dicts, lists, tensors and numbers are the same to the last bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


# ---------------------------------------------------------------- a whole run

def test_a_run_leaves_results_checkpoints_and_a_log(tmp_path, start, config):
    status, out, _ = start(config, 'run')
    assert status == 0 and 'finished' in out
    folder = tmp_path / 'save' / 'run'
    names = {path.name for path in folder.iterdir()}
    assert {'stage1.pth', 'stage2.pth', 'best.pth', 'last.pth', 'stage1-4.pth', 'stage2-4.pth', 'config.yaml', 'log.jsonl', 'tensorboard'} == names
    assert yaml.safe_load((folder / 'config.yaml').read_text()) == config
    log = [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]
    assert len(log[0]['start']['git']) in (0, 40) and log[0]['start']['torch'] == torch.__version__
    assert [entry['step'] for entry in log if 'psnr' in entry] == [2, 4, 6] * 2
    model = models.load(folder / 'stage2.pth')
    assert model.meta['stage'] == 'stage2' and model.meta['step'] == 6
    assert model.meta['psnr x2'] == pytest.approx([entry for entry in log if 'psnr' in entry][-1]['psnr']['x2'])


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
    start(config, 'run')
    lr = torch.rand(1, 3, 9, 8)
    run = train.Run(train.read_config(tmp_path / 'run.yaml'), tmp_path, torch.device('cpu'))
    for number, name in enumerate(('stage1', 'stage2'), start=1):
        ended = models.load(tmp_path / 'save' / 'run' / f'{name}.pth')
        run.stage, run.previous = number, ended
        run.begin_stage()
        assert run.model.spec['args']['rim']
        assert torch.equal(run.result().eval().render(lr, (21, 17)), ended.render(lr, (21, 17)))


def test_init_starts_from_weights(tmp_path, start, config):
    start(config, 'first')
    config['stages'] = {'again': {**config['stages']['stage2'], 'lr': 1e-30, 'warmup_lr': 0.}}
    config['ema_decay'] = None
    status, _, _ = start(config, 'second', '-init', 'save/first/stage2.pth')
    assert status == 0
    a, b = models.load('save/first/stage2.pth'), models.load('save/second/again.pth')
    for (name, x), y in zip(a.named_parameters(), b.parameters()):
        assert torch.equal(x, y), name


# ---------------------------------------------------------------- resuming

@pytest.mark.parametrize('workers', [0, 2])
def test_killed_at_any_moment_and_resumed_ends_the_same(tmp_path, start, config, workers):
    config['workers'] = workers
    config['validate_every'] = 1                    # a checkpoint at every step, so that kills fall into saving too
    assert start(config, 'whole')[0] == 0
    for attempt in range(60):
        process = subprocess.Popen(command(tmp_path, config, 'broken', *(['-resume'] if attempt else [])), cwd=tmp_path,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        folder = tmp_path / 'save' / 'broken'
        before = (folder / 'last.pth').stat().st_mtime_ns if attempt else 0
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if (folder / 'last.pth').is_file() and (folder / 'last.pth').stat().st_mtime_ns != before and attempt < 3:
                time.sleep(0.02 * attempt)
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        status = process.wait()
        checkpoint(tmp_path, 'broken')              # whole, whatever happened
        if status == 0:
            break
    assert attempt >= 1 and status == 0
    assert equal(checkpoint(tmp_path, 'whole'), checkpoint(tmp_path, 'broken'))
    for file in ('stage1.pth', 'stage2.pth', 'best.pth'):
        assert equal(checkpoint(tmp_path, 'whole', file), checkpoint(tmp_path, 'broken', file)), file


def test_time_limit_validates_saves_and_resumes(tmp_path, start, config):
    start(config, 'whole')
    status, out, _ = start(config, 'limited', '-time-limit', '0')
    assert status == 0 and 'time limit' in out and checkpoint(tmp_path, 'limited')['step'] == 1
    assert start(config, 'limited', '--resume')[0] == 0
    assert equal(checkpoint(tmp_path, 'whole')['model'], checkpoint(tmp_path, 'limited')['model'])


def test_sigterm_saves_and_resumes(tmp_path, start, config):
    start(config, 'whole')
    process = subprocess.Popen(command(tmp_path, config, 'stopped'), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / 'save' / 'stopped' / 'log.jsonl').is_file() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert 'Traceback' not in err
    assert start(config, 'stopped', '-resume')[0] == 0
    assert equal(checkpoint(tmp_path, 'whole')['model'], checkpoint(tmp_path, 'stopped')['model'])


def test_an_existing_run_is_left_alone(tmp_path, start, config):
    start(config, 'run')
    before = checkpoint(tmp_path, 'run')
    refused(start(config, 'run'), 'run', '-resume')
    assert equal(checkpoint(tmp_path, 'run'), before)


# ---------------------------------------------------------------- a step

def test_both_draws_give_the_gradient_of_the_same_pixels(config):
    torch.manual_seed(0)
    model = models.build(TINY).double()
    lr, hr = (torch.randint(0, 256, (2, 3, n, n), dtype=torch.uint8) for n in (8, 20))
    everything = {'lr': lr, 'hr': hr}
    gradients = []
    for draw, count in (('pixel', 400), ('block', 64)):
        batch = {**everything, 'index': torch.arange(count).expand(2, -1), 'draw': draw}
        colour, target = train.predict(model, batch)
        if draw == 'block':                         # x2.5: blocks of two pixels are filled up with their last one
            rows = grid.Blocks(8, 20).output
            fresh = torch.cat([torch.ones(8, 1, dtype=torch.bool), rows.diff(dim=1) > 0], dim=1)
            keep = (fresh[:, None, :, None] & fresh[None, :, None, :]).reshape(1, 64, -1, 1)
            loss = ((colour - target).abs() * keep).sum() / (2 * 400 * 3)
        else:
            loss = (colour - target).abs().mean()
        model.zero_grad()
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert (gradients[0] - gradients[1]).norm() <= 1e-6 * gradients[0].norm()


def test_a_step_that_is_not_finite_changes_nothing(config, tmp_path, monkeypatch):
    run = train.Run(config, tmp_path, torch.device('cpu'))
    run.begin_stage()
    batch = next(iter(train.train_loader(config, run.stages[0], 0, 0))) | {'draw': 'pixel'}
    run.train_step(batch)
    before = copy.deepcopy(run.model.state_dict())
    predict = train.predict
    monkeypatch.setattr(train, 'predict', lambda model, batch: (predict(model, batch)[0] * float('nan'), predict(model, batch)[1]))
    loss = run.train_step(batch)
    after = run.model.state_dict()
    assert loss != loss
    assert all(torch.equal(before[k], after[k]) for k, _ in run.model.named_parameters())


def test_losses_that_stay_not_finite_stop_the_run(start, config, tmp_path):
    config['stages']['stage1'].update(steps=40, lr=1e30, warmup_lr=1e30)
    refused_result = start(config, 'run')
    assert refused_result[0] == 2 and 'not finite' in refused_result[2].splitlines()[-1]
    assert (tmp_path / 'save' / 'run' / 'bad-batch.pth').is_file()


def test_learning_rate_is_a_function_of_the_step():
    stage = {'steps': 100, 'lr': 1e-3, 'warmup_steps': 10, 'warmup_lr': 1e-5}
    parameter = torch.nn.Parameter(torch.zeros(1))

    def rate(step):
        optimizer = torch.optim.Adam([parameter], lr=stage['lr'])
        train.learning_rate(optimizer, stage).step_update(step)
        return optimizer.param_groups[0]['lr']
    assert rate(0) == pytest.approx(1e-5) and rate(10) == pytest.approx(1e-3)
    assert rate(5) == pytest.approx(1e-5 + (1e-3 - 1e-5) / 2)
    assert rate(55) == pytest.approx(5e-4) and rate(100) == pytest.approx(0, abs=1e-12)


# ---------------------------------------------------------------- mistakes

@pytest.mark.parametrize('change, said', [
    (lambda c: c.update(lerning=1), ["'lerning'", 'known']),
    (lambda c: c.update(batchsize=1), ["did you mean 'batch_size'"]),
    (lambda c: c.pop('patch'), ["'patch' is missing"]),
    (lambda c: c['stages']['stage1'].update(stepz=3), ["did you mean 'steps'"]),
    (lambda c: c['stages']['stage1'].update(scales=[4, 1]), ['scales']),
    (lambda c: c['stages']['stage1'].update(scales=[1, 20]), ['photo', 'smaller than']),
    (lambda c: c.update(precision='int4'), ['precision']),
    (lambda c: c.update(batch_size=0), ['batch_size']),
    (lambda c: c.update(patch=4000), ['photo', 'smaller than']),
    (lambda c: c['train_dataset']['args'].update(root_path='nowhere'), ['nowhere: no such folder']),
    (lambda c: c['model'].update(name='mist'), ["unknown model 'mist'", "'msit'"]),
    (lambda c: c['model']['args'].update(head=2), ["did you mean 'heads'"]),
    (lambda c: c['model']['args'].update(channels=9), ['9 channels']),
    (lambda c: c.update(init='nothing.pth'), ['nothing.pth: no such file']),
])
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


def test_debug_shows_the_traceback(tmp_path, config):
    config['precision'] = 'int4'
    result = subprocess.run(command(tmp_path, config, 'run', '-debug'), cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1 and 'Traceback' in result.stderr and 'precision' in result.stderr
