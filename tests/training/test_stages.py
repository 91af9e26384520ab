"""Stages: their lengths in steps or epochs, their learning rate as a function of the step, what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.training import stages
from utils import UserError

COSINE = {'rim': False, 'scales': [1, 4], 'steps': 100, 'lr': 1e-3, 'warmup_steps': 10, 'warmup_lr': 1e-5}
MULTI_STEP = {**COSINE, 'schedule': 'multi-step', 'milestones': [40, 70], 'gamma': 0.5}


def rates(stage, steps):
    """The learning rates at `steps`, visited in this order."""
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=stage['lr'])
    schedule = stages.schedule(optimizer, stages.in_steps(stage, 1))
    found = []
    for step in steps:
        schedule.step_update(step)
        found.append(optimizer.param_groups[0]['lr'])
    return found


@pytest.mark.parametrize('stage', [COSINE, MULTI_STEP])
def test_warm_up_rises_linearly(stage):
    assert rates(stage, [0, 5, 10]) == pytest.approx([1e-5, (1e-5 + 1e-3) / 2, 1e-3])


def test_cosine_falls_to_zero_at_the_last_step():
    assert rates(COSINE, [10, 55, 100]) == pytest.approx([1e-3, 5e-4, 0], abs=1e-12)


def test_multi_step_falls_at_its_milestones():
    assert rates(MULTI_STEP, [39, 40, 69, 70, 99]) == pytest.approx([1e-3, 5e-4, 5e-4, 2.5e-4, 2.5e-4])


@given(steps=st.lists(st.integers(0, 99), min_size=1), stage=st.sampled_from([COSINE, MULTI_STEP]))
def test_the_rate_is_a_function_of_the_step(steps, stage):
    assert rates(stage, steps)[-1] == rates(stage, steps[-1:])[0]


def test_epochs_are_passes_over_the_images():
    stage = {
        **MULTI_STEP,
        'steps': None,
        'epochs': 10,
        'warmup_steps': None,
        'warmup_epochs': 1,
        'milestones': [4, 7.5],
    }
    stages.check_stage(stage)
    planned = stages.in_steps(stage, 800 / 32)
    assert (planned['steps'], planned['warmup_steps'], planned['milestones']) == (250, 25, [100, 188])


def test_a_stage_needs_no_warm_up():
    stage = {key: COSINE[key] for key in ('rim', 'scales', 'steps', 'lr')}
    stages.check_stage(stage)
    assert rates(stage, [0, 50]) == pytest.approx([1e-3, 5e-4])


@pytest.mark.parametrize(
    'change, said',
    [
        ({'rim': None}, "'rim' is missing"),
        ({'rim': 'no'}, 'true or false'),
        ({'lr': '1e'}, 'lr is a positive number'),
        ({'steps': None}, 'in steps or in epochs'),
        ({'epochs': 3}, 'in steps or in epochs'),
        ({'steps': 0}, 'steps is a positive'),
        ({'scales': [4, 1]}, 'scales'),
        ({'scales': 4}, 'scales'),
        ({'warmup_epochs': 1}, 'not with warmup_epochs'),
        ({'warmup_lr': -1}, 'warmup_lr'),
        ({'schedule': 'cosin'}, "did you mean 'cosine'"),
        ({'milestones': [3]}, 'milestones belongs to'),
        ({'schedule': 'multi-step', 'gamma': 0.5}, 'milestones belongs to'),
        ({'schedule': 'multi-step', 'milestones': [5, 3], 'gamma': 0.5}, 'ascending'),
        ({'blocks': 2.5}, 'blocks is a whole number'),
        ({'blocks': 0}, 'blocks is a whole number'),
        ({'loss': 'l3'}, "unknown loss 'l3' .known: charbonnier, fft, l1, lpips, rmse"),
        ({'loss': ['l1']}, 'loss is a name or a mapping of names to weights'),
        ({'loss': {'l1': 0}}, "the weight of the loss 'l1' is a positive number, not 0"),
        ({'shrink': 0}, 'shrink is above 0'),
        ({'shrink': 2}, 'shrink is above 0'),
    ],
)
def test_what_does_not_fit_together_is_refused(change, said):
    with pytest.raises(UserError, match=said):
        stages.check_stage({**COSINE, **change})


def test_a_warm_up_leaves_steps():
    with pytest.raises(UserError, match='leave none'):
        stages.in_steps({**COSINE, 'warmup_steps': 100}, 1)
