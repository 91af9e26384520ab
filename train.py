"""Train a model from a config, stage by stage: `python train.py -config configs/train/train_edsr_light_MsIT.yaml`."""

import math
import platform
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import timm
import torch
import yaml

import models
from models.device import PRECISIONS
from models.training import parallel, stages
from models.training.profile import profile
from models.training.run import TIME_LIMIT, Run
from utils import (
    Parser,
    UserError,
    about,
    atomic_path,
    check_complete,
    check_keys,
    is_number,
    is_whole,
    load_config,
    run_main,
    write_json,
)

SCHEMA = {
    'model': {'name': None, 'args': None},
    'init': None,  # weights that the first stage starts from
    'train_dataset': {'name': None, 'args': None},
    'patch': None,
    'queries': None,
    'draw': None,
    'batch_size': None,
    'accumulate': None,
    'workers': None,
    'seed': None,
    'stages': None,  # names, in order, to stages with the keys of models/training/stages.py
    'precision': None,
    'channels_last': None,
    'compile': None,
    'clip_grad': None,
    'ema_decay': None,
    'max_bad_steps': None,  # steps in a row that may be skipped
    'validation': {'dataset': {'name': None, 'args': None}, 'protocol': None, 'scales': None},
    'validate_every': None,
    'save_every': None,
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
DEFAULTS = Path(__file__).resolve().parent / 'configs' / 'train' / 'base.yaml'
FIXED = ('model', 'patch', 'queries', 'draw', 'batch_size', 'seed')  # what a run that is resumed cannot change


def read_config(path):
    """The config at `path`, its keys checked. Raises UserError for what is missing, unknown or makes no sense."""
    config = load_config(path, SCHEMA)
    check_complete(config, SCHEMA, path, DEFAULTS)
    with about(path):
        for key, smallest in WHOLE.items():
            if not is_whole(config[key], smallest):
                raise UserError(f'{key} is a whole number from {smallest} up, not {config[key]!r}')
        for key in ('channels_last', 'compile'):
            if not isinstance(config[key], bool):
                raise UserError(f'{key} is true or false, not {config[key]!r}')
        if config['precision'] not in tuple(PRECISIONS):
            raise UserError(f'precision is one of {", ".join(PRECISIONS)}, not {config["precision"]!r}')
        if not isinstance(config['init'], (str, type(None))):
            raise UserError(f'init is a weight file or null, not {config["init"]!r}')
        for key, largest in (('clip_grad', math.inf), ('ema_decay', 1)):
            value = config[key]
            if value is not None and not (is_number(value) and 0 < value < largest):
                raise UserError(f'{key} is a number between 0 and {largest} or null, not {value!r}')
        if isinstance(config['stages'], dict):  # null takes a stage of the base away
            config['stages'] = {name: stage for name, stage in config['stages'].items() if stage is not None}
        check_stages(config['stages'])
        check_validation(config['validation'])
    return config


def check_stages(named):
    if not isinstance(named, dict) or not named:
        raise UserError('stages is a mapping with at least one stage')
    check_keys(named, dict.fromkeys(named, dict.fromkeys(stages.KEYS)), 'stages')
    for name, stage in named.items():
        with about(f'stage {name!r}'):
            if not isinstance(name, str) or not re.fullmatch(r'[\w-]+', name) or name in ('best', 'last'):
                raise UserError('its name is that of a file: letters, digits, _ and -, and neither best nor last')
            stages.check(stage)


def check_validation(validation):
    for key in SCHEMA['validation']:
        if not validation or validation.get(key) is None:
            raise UserError(f'validation: the key {key!r} is missing')
    scales = validation['scales']
    if not isinstance(scales, list) or not all(is_number(scale) and scale > 0 for scale in scales):
        raise UserError(f'validation: scales is a list of numbers above 0, not {scales!r}')


def provenance():
    """Where a run's code and libraries come from; `git` is None outside a repository."""

    def git(*words):
        try:
            done = subprocess.run(
                ['git', *words], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    return {
        'git': git('rev-parse', 'HEAD'),
        'modified': bool(git('status', '--porcelain', '-uno')),
        'python': platform.python_version(),
        'torch': torch.__version__,
        'timm': timm.__version__,
        'numpy': np.__version__,
    }


def parse():
    parser = Parser('Train a model from a config.')
    parser.add_argument('-config', required=True, help='YAML config, see configs/train')
    parser.add_argument('-name', help="name of the run, a folder in save/; the config's name if left out")
    parser.add_argument('-resume', action='store_true', help='go on where the run of this name stopped')
    parser.add_argument('-init', help='weights that the first stage starts from')
    parser.add_argument('-time-limit', type=float, metavar='MINUTES', help='validate, save and stop after so long')
    parser.add_argument('-device', help='cpu, cuda, cuda:1, mps; chosen by itself if left out')
    parser.add_argument('-profile', action='store_true', help='show where some first steps go, and write nothing')
    parser.add_argument('-debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args()


def check_run(folder, config, resume):
    """Raise UserError if a run of this config cannot be begun, or gone on with, in `folder`."""
    if not resume:
        if folder.exists():
            raise UserError(f'{folder} exists: -resume goes on with that run, -name gives this one another folder')
        return
    if not folder.is_dir():
        raise UserError(f'{folder}: no such run to resume')
    if (folder / 'config.yaml').is_file():
        before = load_config(folder / 'config.yaml')
        for key in FIXED:
            if before.get(key) != config[key]:
                raise UserError(f'{folder}: the run has another {key} than this config, and cannot go on with it')


def main(args):
    config = read_config(args.config)
    if args.init:
        config['init'] = args.init
    device = parallel.join(args.device)
    try:
        return train(config, device, args)
    finally:
        parallel.leave()


def train(config, device, args):
    """Run what is left of a config's stages; returns the exit status. Nothing holds the run then."""
    folder = Path('save') / (args.name or Path(args.config).stem)
    if not args.profile:
        check_run(folder, config, args.resume)
    with parallel.first_alone():  # which decodes the images, if they are to be cached
        run = Run(config, folder, device)
    if args.resume and (folder / 'last.pth').is_file():
        run.resume()
    else:
        run.previous = initial(config) if config['init'] else None
        run.begin_stage()
    if args.profile:
        table = profile(run)
        if parallel.rank() == 0:
            print(table)
        return 0
    begin(run)
    handlers = {signum: signal.signal(signum, run.receive) for signum in (signal.SIGTERM, signal.SIGINT)}
    done = run.train(float('inf') if args.time_limit is None else time.monotonic() + 60 * args.time_limit)
    if parallel.rank() == 0:
        print(f'{"finished" if done else "stopped by " + run.why_stopping()}: {folder}')
    for signum, handler in handlers.items():
        signal.signal(signum, handler)
    return 0 if done or run.stopping == TIME_LIMIT else 1


def initial(config):
    """The model that `init` of a config names. Raises UserError if it is not of the config's architecture."""
    model = models.load(config['init'])
    with about(config['init']):
        return models.fitted(config['model'], model.state_dict())


def begin(run):
    """Write what a run consists of to its folder, before the first step or going on with a later one."""
    versions = provenance()
    if parallel.rank() == 0:
        run.folder.mkdir(parents=True, exist_ok=True)
        for leftover in run.folder.glob('.*.partial*'):  # of files in whose writing the run was killed
            leftover.unlink()
        with atomic_path(run.folder / 'config.yaml') as temporary:
            temporary.write_text(yaml.safe_dump(run.config, sort_keys=False), encoding='utf-8')
        write_json(run.folder / 'versions.json', versions)
        run.save_checkpoint()
    run.log(
        start=versions,
        device=str(run.device),
        ranks=parallel.ranks(),
        parameters=sum(p.numel() for p in run.model.parameters()),
    )


if __name__ == '__main__':
    arguments = parse()
    run_main(lambda: main(arguments), arguments.debug)
