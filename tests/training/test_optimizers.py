"""Optimizers by config: the default to the last bit, timm's by name, numbers for parts, what is refused."""

from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import TINY, refused

import models
from models.training import stages
from models.training.config import read_training_config
from models.training.optimizers import DEFAULT, check_optimizer, make_optimizer
from models.training.run import Run
from utils import UserError


def model():
    torch.manual_seed(0)
    return models.build(TINY)


def steps(optimizer, module, n=3):
    """The parameters after `n` steps on gradients that depend on the parameters and are never 0."""
    for k in range(n):
        for parameter in module.parameters():
            parameter.grad = (parameter.detach() * (k + 1)).cos()
        optimizer.step()
    return [p.detach().clone() for p in module.parameters()]


def scheduled(optimizer, lr):
    """Set the learning rates to those of a step in the warm-up."""
    stage = {'rim': False, 'scales': [1, 2], 'steps': 90, 'lr': lr, 'warmup_steps': 20, 'warmup_lr': lr}
    stages.schedule(optimizer, stages.in_steps(stage, 1)).step_update(10)


def test_the_default_is_torchs_adam_to_the_last_bit():
    ours, plain = model(), model()
    optimizer = make_optimizer(ours, DEFAULT, 1e-3)
    adam = torch.optim.Adam([p for p in plain.parameters() if p.requires_grad], lr=1e-3, fused=True)
    assert type(optimizer) is torch.optim.Adam
    assert all(map(torch.equal, steps(optimizer, ours), steps(adam, plain)))
    mine, other = optimizer.state_dict(), adam.state_dict()
    assert mine['param_groups'] == other['param_groups'] and mine['state'].keys() == other['state'].keys()
    adam.load_state_dict(mine)  # a run that was begun before goes on
    optimizer.load_state_dict(other)


@pytest.mark.parametrize('name', ['adam', 'adamw', 'nadamw', 'lion', 'muon', 'sgd', 'adan', 'lamb', 'rmsprop'])
def test_timms_optimizers_take_steps(name):
    check_optimizer({'name': name})
    module = model()
    before = [p.detach().clone() for p in module.parameters()]
    after = steps(make_optimizer(module, {'name': name, 'weight_decay': 0.01}, 1e-3), module)
    assert all(p.isfinite().all() for p in after) and not any(map(torch.equal, before, after))


def test_arguments_reach_the_optimizer():
    optimizer = make_optimizer(model(), {'name': 'adamw', 'args': {'betas': [0.8, 0.9], 'eps': 1e-6}}, 1e-3)
    assert [tuple(g['betas']) + (g['eps'],) for g in optimizer.param_groups] == [(0.8, 0.9, 1e-6)]


def test_parts_have_their_own_learning_rate_and_weight_decay():
    module = model()
    spec = {
        'name': 'adamw',
        'lr': {'encoder': 0.1, 'encoder.body': 0.5},
        'weight_decay': {'imnet': 0.02, 'mssa': 0},
    }
    check_optimizer(spec)
    optimizer = make_optimizer(module, spec, 1e-3)
    scheduled(optimizer, 1e-3)
    found = {id(p): (g['lr'], g['weight_decay']) for g in optimizer.param_groups for p in g['params']}
    assert len(found) == len(list(module.parameters()))
    for name, parameter in module.named_parameters():
        lr = 5e-4 if name.startswith('encoder.body.') else 1e-4 if name.startswith('encoder.') else 1e-3
        decay = 0.02 if name.startswith('imnet.') else 0
        assert found[id(parameter)] == pytest.approx((lr, decay)), name
    everywhere = make_optimizer(module, {'name': 'adamw', 'weight_decay': 0.03}, 1e-3)
    assert [group['weight_decay'] for group in everywhere.param_groups] == [0.03]


def test_a_part_whose_rate_is_0_stays():
    module = model()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer = make_optimizer(module, {'name': 'adam', 'lr': {'encoder': 0}}, 1e-3)
    scheduled(optimizer, 1e-3)
    steps(optimizer, module)
    for name, parameter in module.named_parameters():
        assert torch.equal(before[name], parameter) == name.startswith('encoder.'), name


@pytest.mark.parametrize(
    'spec, said',
    [
        ('adam', 'optimizer is a mapping of name, args, lr, weight_decay'),
        ({'name': 'lionn'}, "unknown optimizer 'lionn', did you mean 'lion'"),
        ({'name': 3}, 'unknown optimizer 3'),
        ({}, 'unknown optimizer None'),
        ({'name': 'adam', 'betas': [0, 1]}, "unknown key 'betas'"),
        ({'name': 'adam', 'args': {'lr': 1}}, 'args is a mapping without lr and weight_decay'),
        ({'name': 'adam', 'args': 3}, 'args is a mapping'),
        ({'name': 'adam', 'lr': 0.1}, 'lr is a mapping of parts of the model to factors, not 0.1'),
        ({'name': 'adam', 'lr': {'encoder': -1}}, 'lr of a part is a number from 0 up, not -1'),
        ({'name': 'adam', 'weight_decay': 'x'}, "weight_decay of a part is a number from 0 up, not 'x'"),
        ({'name': 'adahessian'}, 'needs second derivatives'),
    ],
)
def test_what_describes_no_optimizer(spec, said):
    with pytest.raises(UserError, match=said):
        check_optimizer(spec)


@pytest.mark.parametrize(
    'spec, said',
    [
        ({'name': 'adam', 'lr': {'encodr': 0.1}}, "lr: the model has no part 'encodr', did you mean 'encoder'"),
        ({'name': 'adam', 'weight_decay': {'tail': 0.1}}, "weight_decay: the model has no part 'tail'"),
        ({'name': 'adam', 'args': {'momentun': 0.1}}, "optimizer 'adam' cannot be made .TypeError"),
        ({'name': 'adam', 'args': {'betas': [2, 2]}}, "optimizer 'adam' cannot be made .ValueError"),
    ],
)
def test_what_does_not_suit_the_model(spec, said):
    with pytest.raises(UserError, match=said):
        make_optimizer(model(), spec, 1e-3)


def test_the_config_says_which_optimizer_a_run_has(program, config, tmp_path):
    stage = {**config['stages']['stage1'], 'steps': 4}
    config.update(stages={'stage1': stage}, optimizer={'name': 'lion', 'lr': {'encoder': 0}, 'weight_decay': 0.1})
    (tmp_path / 'run.yaml').write_text(yaml.safe_dump(config))
    assert program('train.py', '-config', 'run.yaml', '-device', 'cpu')[0] == 0
    state = torch.load(tmp_path / 'save/run/last.pth', weights_only=True)
    groups = state['optimizer']['param_groups']
    assert [group['weight_decay'] for group in groups] == [0.1, 0.1] and groups[1]['lr'] == 0
    run = Run(read_training_config(tmp_path / 'run.yaml'), tmp_path, torch.device('cpu'))
    run.begin_stage()
    for name, value in run.model.named_parameters():
        assert torch.equal(value, state['model']['sd'][name]) == name.startswith('encoder.'), name
    config['optimizer']['name'] = 'adamw'
    (tmp_path / 'run.yaml').write_text(yaml.safe_dump(config))
    refused(program('train.py', '-config', 'run.yaml', '-device', 'cpu', '-resume'), 'another optimizer')


@pytest.mark.parametrize('tf32, benchmark', [(True, True), (False, False), (None, None)])
def test_cuda_computes_as_the_config_says(config, tmp_path, monkeypatch, tf32, benchmark):
    run = Run({**config, 'tf32': tf32, 'cudnn_benchmark': benchmark}, tmp_path, torch.device('cpu'))
    cudnn, matmul = SimpleNamespace(allow_tf32='as it is'), SimpleNamespace(allow_tf32='as it is')
    backends = SimpleNamespace(cudnn=cudnn, cuda=SimpleNamespace(matmul=matmul))
    monkeypatch.setattr(torch, 'backends', backends)
    run.set_cuda()
    assert (matmul.allow_tf32, cudnn.allow_tf32) == (bool(tf32), tf32 is not False)  # None: torch's own defaults
    assert cudnn.benchmark == bool(benchmark)


@pytest.mark.parametrize(
    'setting, said',
    [
        ('optimizer={name: lionn}', "did you mean 'lion'"),
        ('optimizer={name: lion, lr: {encodr: 1}}', "has no part 'encodr', did you mean 'encoder'"),
        ('tf32=3', 'tf32 is true, false or null, not 3'),
        ('cudnn_benchmark=yess', "cudnn_benchmark is true or false, not 'yess'"),
    ],
)
def test_a_run_refuses_them_in_one_line(program, config, tmp_path, setting, said):
    (tmp_path / 'run.yaml').write_text(yaml.safe_dump(config))
    refused(program('train.py', '-config', 'run.yaml', '-device', 'cpu', '-set', setting), said)
    assert not (tmp_path / 'save').exists()
