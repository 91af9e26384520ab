"""The optimizer of a stage: one of timm, by name, with learning rates and weight decays for parts of the model."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers
from torch import nn

from models.weights.parts import check_parts, longest_part
from utils import UserError, check_keys, suggestion

DEFAULT = {'name': 'adam'}
KEYS = ('name', 'args', 'lr', 'weight_decay')
FUSED = ('adam', 'adamw')  # whose steps torch takes in one go on these devices
FUSED_ON = ('cpu', 'cuda')


def make_optimizer(model: nn.Module, spec: Mapping, lr: float) -> torch.optim.Optimizer:
    """The optimizer that `spec`, already checked (`check_optimizer`), describes, with the learning rate `lr`.

    `spec`: `name`, one of timm's; `args`, its own; `lr`: parts of the model to factors of the learning rate, as
    `{encoder: 0.1}`; `weight_decay`: a number, or parts of the model to numbers. A part is the beginning of parameters'
    names; the longest one counts. Raises UserError for parts that the model does not have and arguments that cannot
    be used.
    """
    name, parameters = spec['name'], dict(model.named_parameters())
    factors, decays = (by_part(spec.get(key), parameters, key) for key in ('lr', 'weight_decay'))
    groups: dict[tuple, dict] = {}
    for key, parameter in parameters.items():
        if parameter.requires_grad:
            setting = part_of(key, factors, 1), part_of(key, decays, 0)
            scale = {'lr_scale': setting[0]} if setting[0] != 1 else {}  # which timm's schedules multiply with
            group = {'params': [], 'weight_decay': setting[1], **scale}
            groups.setdefault(setting, group)['params'].append(parameter)
    ordered = sorted(groups.values(), key=lambda group: 'lr_scale' in group)
    args = dict(spec.get('args') or {})
    if name in FUSED and next(iter(parameters.values())).device.type in FUSED_ON:
        args.setdefault('fused', True)
    try:
        return create_optimizer_v2(ordered, name, lr=lr, **args)
    except (TypeError, ValueError, RuntimeError, AssertionError, ImportError) as error:
        raise UserError(f'optimizer {name!r} cannot be made ({type(error).__name__}: {error})') from error


def step_if(finite: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Take a step of the optimizer if `finite`, a bool `()` on the device, is true.

    Fused optimizers look at it on the device, where gradient scaling leaves the same for them. For any other it is
    read here, and the CPU waits.
    """
    if all(group.get('fused') for group in optimizer.param_groups):
        fused: Any = optimizer
        fused.grad_scale, fused.found_inf = None, (~finite).float()
        optimizer.step()
        del fused.grad_scale, fused.found_inf
    elif finite:
        optimizer.step()


def by_part(setting: Mapping | float | None, parameters: Mapping, key: str) -> dict[str, float]:
    """Parts of a model to their numbers; a single number is that of the part '', all of it."""
    if not isinstance(setting, Mapping):
        return {} if setting is None else {'': setting}
    check_parts(setting, parameters, f'optimizer: {key}')
    return dict(setting)


def part_of(name: str, numbers: Mapping[str, float], otherwise: float) -> float:
    """The number of the longest part that holds the parameter `name`."""
    part = longest_part(name, numbers)
    return otherwise if part is None else numbers[part]


def check_optimizer(spec: Mapping) -> None:
    """Raise UserError if `spec` describes no optimizer, whatever the model."""
    if not isinstance(spec, Mapping):
        raise UserError(f'optimizer is a mapping of {", ".join(KEYS)}, not {spec!r}')
    check_keys(dict(spec), dict.fromkeys(KEYS), 'optimizer')
    name = spec.get('name')
    if not isinstance(name, str) or name not in list_optimizers():
        raise UserError(f'unknown optimizer {name!r}{suggestion(name, list_optimizers())}')
    if get_optimizer_info(name).second_order:
        raise UserError(f'optimizer {name!r} needs second derivatives, which are not computed')
    args = spec.get('args') or {}
    if not isinstance(args, Mapping) or not {'lr', 'weight_decay'}.isdisjoint(args):
        raise UserError(f'optimizer: args is a mapping without lr and weight_decay, which stand apart, not {args!r}')
    for key in ('lr', 'weight_decay'):
        setting = spec.get(key)
        if key == 'lr' and not isinstance(setting, (Mapping, type(None))):
            raise UserError(f'optimizer: lr is a mapping of parts of the model to factors, not {setting!r}')
        for number in setting.values() if isinstance(setting, Mapping) else () if setting is None else (setting,):
            if type(number) not in (int, float) or not 0 <= number < math.inf:
                raise UserError(f'optimizer: {key} of a part is a number from 0 up, not {number!r}')
