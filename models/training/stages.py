"""Stages of a training: each has scales, a length and a learning rate of its own, and starts from the result of the
stage before. Here are their keys in a config, their length in steps and their learning rate.
"""

import torch
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler

from datasets.degradations import Degradations
from models.training import losses
from utils import UserError, is_number, is_whole, suggestion

REQUIRED = ('rim', 'scales', 'lr')
UNITS = ('steps', 'epochs')
SCHEDULES = ('cosine', 'multi-step')
KEYS = (
    *REQUIRED,
    *UNITS,
    'schedule',
    'milestones',
    'gamma',
    'warmup_steps',
    'warmup_epochs',
    'warmup_lr',
    'loss',
    'blocks',
    'shrink',
    'degrade',
    'freeze',
)


def check_stage(stage: object) -> None:
    """Raise UserError if the keys of a stage, a mapping with some of `KEYS`, do not fit together.

    A key that is null is absent.
    """
    if not isinstance(stage, dict):
        raise UserError(f'a mapping of {", ".join(KEYS)}, not {stage!r}')
    given = {key for key in KEYS if stage.get(key) is not None}
    for key in REQUIRED:
        if key not in given:
            raise UserError(f'the key {key!r} is missing')
    if len(given.intersection(UNITS)) != 1:
        raise UserError('its length is given in steps or in epochs, as one of them')
    (other,) = set(UNITS) - given
    if f'warmup_{other}' in given:
        raise UserError(f'a length in {unit(stage)} goes with warmup_{unit(stage)}, not with warmup_{other}')
    name = stage.get('schedule', 'cosine')
    if name not in SCHEDULES:
        raise UserError(f'unknown schedule {name!r}{suggestion(name, SCHEDULES)}')
    for key in ('milestones', 'gamma'):
        if (key in given) != (name == 'multi-step'):
            raise UserError(f'{key} belongs to the schedule multi-step, and has to be given there')
    if not isinstance(stage['rim'], bool):
        raise UserError(f'rim is true or false, not {stage["rim"]!r}')
    scales = stage['scales']
    pair = isinstance(scales, list) and len(scales) == 2 and all(map(is_number, scales))
    if not pair or not 1 <= scales[0] <= scales[1]:
        raise UserError(f'scales is [smallest, largest], from 1 up, not {scales!r}')
    for key in ('lr', 'gamma', *UNITS):
        if key in given and not (is_number(stage[key]) and stage[key] > 0):
            raise UserError(f'{key} is a positive number, not {stage[key]!r}')
    for key in ('warmup_lr', 'warmup_steps', 'warmup_epochs'):
        if key in given and not (is_number(stage[key]) and stage[key] >= 0):
            raise UserError(f'{key} is a number from 0 up, not {stage[key]!r}')
    losses.loss_weights(stage.get('loss') or 'l1')
    if 'blocks' in given and not is_whole(stage['blocks']):
        raise UserError(f'blocks is a whole number from 1 up, not {stage["blocks"]!r}')
    if 'shrink' in given and not (is_number(stage['shrink']) and 0 < stage['shrink'] <= 1):
        raise UserError(f'shrink is above 0 and at most 1, not {stage["shrink"]!r}')
    if 'degrade' in given:
        Degradations(stage['degrade'])  # which checks it
    freeze = stage.get('freeze') or {}
    if not isinstance(freeze, dict) or not all(is_number(length) and length > 0 for length in freeze.values()):
        raise UserError(f'freeze is parts of the model with numbers of {unit(stage)} above 0, not {freeze!r}')
    milestones = stage.get('milestones') or []
    if not isinstance(milestones, list) or not all(map(is_number, milestones)) or milestones != sorted(milestones):
        raise UserError(f'milestones is an ascending list of {unit(stage)}, not {milestones!r}')


def unit(stage: dict) -> str:
    """The unit of the lengths of a stage."""
    return 'epochs' if stage.get('epochs') is not None else 'steps'


def in_steps(stage: dict, steps_per_epoch: float) -> dict:
    """The checked `stage` with all its keys, and with all its lengths in whole steps.

    Raises UserError if the warm-up leaves no steps.
    """

    def steps(length):
        return round((length or 0) * (steps_per_epoch if unit(stage) == 'epochs' else 1))

    planned = {
        'rim': stage['rim'],
        'scales': stage['scales'],
        'lr': stage['lr'],
        'steps': max(1, steps(stage[unit(stage)])),
        'schedule': stage.get('schedule') or 'cosine',
        'milestones': [steps(at) for at in stage.get('milestones') or []],
        'gamma': stage.get('gamma'),
        'warmup_steps': steps(stage.get(f'warmup_{unit(stage)}')),
        'warmup_lr': stage.get('warmup_lr') or 0,
        'loss': stage.get('loss') or 'l1',
        'blocks': stage.get('blocks'),
        'shrink': stage.get('shrink') or 1,
        'degrade': stage.get('degrade'),
        'freeze': {str(part): steps(length) for part, length in (stage.get('freeze') or {}).items()},
    }
    if planned['warmup_steps'] >= planned['steps']:
        raise UserError(f'{planned["steps"]} steps leave none after a warm-up of {planned["warmup_steps"]} steps')
    return planned


def schedule(optimizer: torch.optim.Optimizer, stage: dict) -> CosineLRScheduler | MultiStepLRScheduler:
    """The learning rate of a stage of `in_steps`: `.step_update(step)` sets that of any step, whatever was set before.

    Warm-up from `warmup_lr` to `lr`; then 'cosine' to 0 at the last step, or 'multi-step', `gamma` times as much from
    each of `milestones` on, which count from the stage's first step.
    """
    warmup = {'warmup_t': stage['warmup_steps'], 'warmup_lr_init': stage['warmup_lr'], 't_in_epochs': False}
    if stage['schedule'] == 'cosine':
        return CosineLRScheduler(
            optimizer, t_initial=stage['steps'] - stage['warmup_steps'], warmup_prefix=True, **warmup
        )
    return MultiStepLRScheduler(
        optimizer,
        decay_t=[at + 1 for at in stage['milestones']],  # timm's m means m - 1
        decay_rate=stage['gamma'],
        warmup_prefix=False,
        **warmup,
    )
