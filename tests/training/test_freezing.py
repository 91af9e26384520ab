"""Parts that are frozen for some steps: what moves when, after resuming, on two ranks, and in the next stage."""

import copy

import pytest
import torch
import yaml
from conftest import TINY, refused
from test_parallel import start_ranks, statuses

import models
from models.training import parallel
from models.training.freezing import Freezing
from models.training.run import Run
from utils import UserError

MODEL = {'name': 'liif', 'args': {key: TINY['args'][key] for key in ('encoder_spec', 'imnet_spec')}}


def frozen(config, **parts):
    config = {**copy.deepcopy(config), 'model': MODEL}
    config['stages']['stage2']['rim'] = False
    config['stages']['stage1']['freeze'] = parts
    return config


def weights(run):
    return {name: p.detach().clone() for name, p in run.model.named_parameters()}


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_a_part_moves_from_its_step_on(config, tmp_path):
    run = Run(frozen(config, **{'encoder': 2, 'encoder.head': 3, 'imnet.layers.0': 1}), tmp_path, torch.device('cpu'))
    run.begin_stage()
    batches = run.batches()
    for run.step in range(4):
        before = weights(run)
        run.train_step(run.next_batches(batches))
        still = {'encoder.head.': run.step < 3, 'encoder.body.': run.step < 2, 'imnet.layers.0.': run.step < 1}
        for name in before:
            part = next((part for part in still if name.startswith(part)), None)
            assert (name in moved(before, weights(run))) != (part is not None and still[part]), (run.step, name)


def test_of_a_frozen_part_no_gradient_is_computed(config, tmp_path):
    run = Run(frozen(config, encoder=1), tmp_path, torch.device('cpu'))
    run.begin_stage()
    sum(run.objective(next(run.batches()).to('cpu')).values()).backward()
    for name, parameter in run.model.named_parameters():
        assert (parameter.grad is None) == name.startswith('encoder.'), name


@pytest.mark.parametrize('stop', [1, 2, 3])
def test_resuming_changes_nothing(config, tmp_path, stop):
    config = frozen(config, encoder=2)
    states = []
    for cut in (None, stop):
        run = Run(config, tmp_path, torch.device('cpu'))
        run.begin_stage()
        batches = run.batches()
        for step in range(4):
            if step == cut:
                run.step = step
                run.save_checkpoint()
                run = Run(config, tmp_path, torch.device('cpu'))
                run.begin_stage(run.read_state(config))
                batches = run.batches()
            run.step = step
            run.train_step(run.next_batches(batches))
        states.append((run.model.state_dict(), run.ema.module.state_dict()))
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


@pytest.mark.parametrize('ema_decay', [None, 0.9])
def test_the_next_stage_trains_everything(config, tmp_path, ema_decay):
    config = frozen(config, encoder=6)  # all of the first stage
    config['ema_decay'] = ema_decay
    run = Run(config, tmp_path, torch.device('cpu'))
    tmp_path.joinpath('tensorboard').mkdir()
    run.begin_stage()
    before = weights(run)
    assert run.train()
    after = weights(run)
    assert moved(before, after) == set(before)
    first = models.load(tmp_path / 'stage1.pth').state_dict()
    assert all(torch.equal(first[name], value) for name, value in before.items() if name.startswith('encoder.'))


def three_steps(config, folder):
    run = Run(config, folder, parallel.join('cpu'))
    run.begin_stage()
    batches = run.batches()
    kept = [weights(run)]
    for run.step in range(3):
        run.train_step(run.next_batches(batches))
        kept.append(weights(run))
    torch.save(kept, folder / f'{parallel.ranks()}-{parallel.rank()}.pth')
    if parallel.ranks() > 1:
        parallel.leave()


def test_two_ranks_freeze_alike(config, tmp_path):
    config = frozen(config, encoder=1)
    config['stages'] = {'stage1': config['stages']['stage1']}
    ranks = start_ranks(2, three_steps, config, tmp_path)
    three_steps(config, tmp_path)
    assert statuses(ranks) == [0, 0]
    alone, first, second = (torch.load(tmp_path / f'{name}.pth', weights_only=True) for name in ('1-0', '2-0', '2-1'))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(alone, first, rtol=1e-3, atol=1e-5)
    in_encoder = {name for name in alone[0] if name.startswith('encoder.')}
    assert moved(alone[0], alone[1]) == set(alone[0]) - in_encoder and moved(alone[1], alone[2]) == set(alone[0])


@pytest.mark.parametrize(
    'steps, said',
    [
        ({'encodr': 3}, "freeze: the model has no part 'encodr', did you mean 'encoder'"),
        ({name: 3 for name in ('encoder', 'imnet')}, 'freeze: nothing is left to train'),
    ],
)
def test_what_cannot_be_frozen(steps, said):
    with pytest.raises(UserError, match=said):
        Freezing(models.build(MODEL), steps)


@pytest.mark.parametrize(
    'freeze, said',
    [
        ('[encoder]', "stage 'stage2': freeze is parts of the model with numbers of steps above 0, not"),
        ('{encoder: 0}', 'numbers of steps above 0'),
        ('{encodr: 4}', "stage 'stage2': freeze: the model has no part 'encodr'"),
    ],
)
def test_a_run_refuses_in_one_line(program, config, tmp_path, freeze, said):
    (tmp_path / 'run.yaml').write_text(yaml.safe_dump(config))
    refused(
        program('train.py', '-config', 'run.yaml', '-device', 'cpu', '-set', f'stages.stage2.freeze={freeze}'), said
    )
    assert not (tmp_path / 'save').exists()
