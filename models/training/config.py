"""The config of a training: its keys, what they may be, and what a run that is resumed cannot change."""

import math
import re
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from models.device import PRECISIONS
from models.training import optimizers, stages
from models.training.overrides import overridden
from utils import UserError, check_complete, check_keys, error_prefix, is_number, is_whole, load_config

SCHEMA: dict[str, Any] = {
    'model': {'name': None, 'args': None},
    'init': None,  # weights that the first stage starts from: of the model, or {part: file}
    'train_dataset': {'name': None, 'args': None},
    'patch': None,
    'queries': None,
    'draw': None,
    'filter': None,  # that LR images are made with
    'batch_size': None,
    'accumulate': None,
    'workers': None,
    'seed': None,
    'stages': None,  # names, in order, to stages with the keys of models/training/stages.py
    'precision': None,
    'channels_last': None,
    'compile': None,
    'optimizer': dict.fromkeys(optimizers.KEYS),
    'cudnn_benchmark': None,  # whether cuDNN tries which of its ways is fastest for each size
    'tf32': None,  # whether float32 products on CUDA are rounded to TF32; null: as torch does by itself
    'clip_grad': None,
    'ema_decay': None,
    'max_bad_steps': None,  # steps in a row that may be skipped
    'validation': {'dataset': {'name': None, 'args': None}, 'protocol': None, 'scales': None, 'degrade': None},
    'validate_every': None,
    'save_every': None,
    'keep': None,  # how many of these checkpoints are kept; null: all
    'wandb': None,  # a project of Weights & Biases that is told what TensorBoard is
}
WHOLE = {
    'patch': 1,
    'queries': 1,
    'batch_size': 1,
    'accumulate': 1,
    'validate_every': 1,
    'save_every': 1,
    'workers': 0,
    'seed': 0,
    'max_bad_steps': 0,
}  # the smallest that makes sense
GRAPHS = 'reduce-overhead'  # the mode of torch.compile that records CUDA graphs
DEFAULTS = Path(__file__).resolve().parents[2] / 'configs' / 'train' / 'base.yaml'
OPTIONAL = {
    'optimizer': optimizers.DEFAULT,
    'filter': 'bicubic',
    'cudnn_benchmark': False,
    'tf32': None,
    'keep': None,
    'wandb': None,
}  # what they are if left out
# What a run that is resumed cannot change.
FIXED = ('model', 'patch', 'queries', 'draw', 'filter', 'batch_size', 'seed', 'optimizer')


def read_training_config(path: str | Path, settings: Iterable[str] = ()) -> dict:
    """The config at `path`, with `settings` laid over it (`models.training.overrides`), its keys checked.

    Raises UserError for what is missing, unknown or makes no sense.
    """
    config = load_config(path, SCHEMA)
    check_complete(config, [key for key in SCHEMA if key not in OPTIONAL], path, DEFAULTS)
    with error_prefix(path):
        config = overridden(config, settings, SCHEMA)
        for key, smallest in WHOLE.items():
            if not is_whole(config[key], smallest):
                raise UserError(f'{key} is a whole number from {smallest} up, not {config[key]!r}')
        if not isinstance(config['compile'], bool) and config['compile'] != GRAPHS:
            raise UserError(f'compile is true, false or {GRAPHS}, not {config["compile"]!r}')
        if config['compile'] == GRAPHS and config['accumulate'] > 1:
            raise UserError(
                f'compile: {GRAPHS} needs accumulate: 1, not {config["accumulate"]}: a graph overwrites gradients'
            )
        for key in ('channels_last', 'cudnn_benchmark'):
            if not isinstance(config.get(key, False), bool):
                raise UserError(f'{key} is true or false, not {config[key]!r}')
        if not isinstance(config.get('tf32'), (bool, type(None))):
            raise UserError(f'tf32 is true, false or null, not {config["tf32"]!r}')
        if config.get('keep') is not None and not is_whole(config['keep']):
            raise UserError(f'keep is a whole number from 1 up or null, not {config["keep"]!r}')
        if not isinstance(config.get('wandb'), (str, type(None))):
            raise UserError(f'wandb is the name of a project or null, not {config["wandb"]!r}')
        if config.get('wandb') and find_spec('wandb') is None:
            raise UserError('wandb needs a package that is not installed: pip install wandb')
        optimizers.check_optimizer(optional(config, 'optimizer'))
        if config['precision'] not in tuple(PRECISIONS):
            raise UserError(f'precision is one of {", ".join(PRECISIONS)}, not {config["precision"]!r}')
        check_init(config['init'])
        for key, largest in (('clip_grad', math.inf), ('ema_decay', 1)):
            value = config[key]
            if value is not None and not (is_number(value) and 0 < value < largest):
                raise UserError(f'{key} is a number between 0 and {largest} or null, not {value!r}')
        if isinstance(config['stages'], dict):  # null takes a stage of the base away
            config['stages'] = {name: stage for name, stage in config['stages'].items() if stage is not None}
        check_stages(config['stages'])
        check_validation(config['validation'])
    return config


def optional(config: dict, key: str) -> Any:
    """The value of a key; if it is left out or null, that of `OPTIONAL`."""
    return OPTIONAL.get(key) if config.get(key) is None else config[key]


def check_init(init: object) -> None:
    """Raise UserError if `init` is no weight file, no mapping of parts of the model to weight files, and not null."""
    files = init.values() if isinstance(init, dict) else () if init is None else (init,)
    if not all(isinstance(name, str) for name in (*files, *(init if isinstance(init, dict) else ()))):
        raise UserError(
            f'init is a weight file, parts of the model with one each as {{encoder: FILE}}, or null, not {init!r}'
        )


def check_stages(named: object) -> None:
    """Raise UserError if `named` is no mapping of names to stages."""
    if not isinstance(named, dict) or not named:
        raise UserError('stages is a mapping with at least one stage')
    check_keys(named, dict.fromkeys(named, dict.fromkeys(stages.KEYS)), 'stages')
    for name, stage in named.items():
        with error_prefix(f'stage {name!r}'):
            if not isinstance(name, str) or not re.fullmatch(r'[\w-]+', name) or name in ('best', 'last'):
                raise UserError('its name is that of a file: letters, digits, _ and -, and neither best nor last')
            stages.check_stage(stage)


def check_validation(validation: dict) -> None:
    """Raise UserError if a key of `validation` is missing or makes no sense."""
    for key in SCHEMA['validation']:
        if not validation or (key != 'degrade' and validation.get(key) is None):
            raise UserError(f'validation: the key {key!r} is missing')
    scales = validation['scales']
    if not isinstance(scales, list) or not all(is_number(scale) and scale > 0 for scale in scales):
        raise UserError(f'validation: scales is a list of numbers above 0, not {scales!r}')
    cases = validation.get('degrade')
    if cases is not None and not (isinstance(cases, list) and cases):
        raise UserError(f'validation: degrade is a list of degradations, not {cases!r}')


def changes(before: dict, after: dict, above: str = '') -> Iterator[tuple[str, object, object]]:
    """What differs between two configs: the key, with those above it (`stages.stage1.lr`), and both values.

    A key that one of them lacks is None there.
    """
    for key in {**before, **after}:
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from changes(old, new, f'{above}{key}.')
        elif old != new:
            yield f'{above}{key}', old, new
