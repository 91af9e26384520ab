"""Train a model from a config, stage by stage: `python train.py -config configs/train/train_edsr_light_MsIT.yaml -name light`."""
import json
import platform
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import timm
import torch
import yaml
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch.utils.data import DataLoader, Subset
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import datasets
import models
from models import grid
from models.checkpoint import fitted, read
from models.evaluation import evaluate
from utils import Parser, UserError, atomic_path, check_keys, choose_device, load_config, run_main

STAGE = {'rim': None, 'scales': None, 'steps': None, 'lr': None, 'warmup_steps': None, 'warmup_lr': None}
SCHEMA = {
    'model': {'name': None, 'args': None},
    'init': None,                       # weights that the first stage starts from
    'train_dataset': {'name': None, 'args': None},
    'patch': None, 'queries': None, 'draw': None, 'batch_size': None, 'workers': None, 'seed': None,
    'stages': None,                     # a mapping of names, in order, to stages with the keys of STAGE
    'precision': None, 'channels_last': None, 'clip_grad': None, 'ema_decay': None,
    'validation': {'dataset': {'name': None, 'args': None}, 'protocol': None, 'scales': None},
    'validate_every': None, 'save_every': None,
}
PRECISIONS = {'fp32': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}
LOG_EVERY = 100                         # steps
MAX_BAD_STEPS = 10                      # non-finite steps in a row that are skipped before the run stops


def read_config(path):
    """The config at `path`, its keys checked. Raises UserError for what is missing, unknown or makes no sense."""
    config = load_config(path, SCHEMA)
    for key in SCHEMA:
        if key not in config:
            raise UserError(f'{path}: the key {key!r} is missing')
    if not isinstance(config['stages'], dict) or not config['stages']:
        raise UserError(f'{path}: stages is a mapping with at least one stage')
    check_keys(config['stages'], dict.fromkeys(config['stages'], STAGE), f'{path}: stages')
    for name, stage in config['stages'].items():
        for key in STAGE:
            if key not in (stage or {}):
                raise UserError(f'{path}: stage {name!r}: the key {key!r} is missing')
        if not (isinstance(stage['scales'], list) and len(stage['scales']) == 2 and 0 < stage['scales'][0] <= stage['scales'][1]):
            raise UserError(f'{path}: stage {name!r}: scales is [smallest, largest], not {stage["scales"]!r}')
        if stage['steps'] < 1 or not 0 <= stage['warmup_steps'] < stage['steps'] or stage['lr'] <= 0:
            raise UserError(f'{path}: stage {name!r}: steps, warmup_steps or lr make no sense')
    for key in ('patch', 'queries', 'batch_size', 'validate_every', 'save_every'):
        if not isinstance(config[key], int) or config[key] < 1:
            raise UserError(f'{path}: {key} is a whole number from 1 up, not {config[key]!r}')
    if config['precision'] not in PRECISIONS:
        raise UserError(f'{path}: precision is one of {", ".join(PRECISIONS)}, not {config["precision"]!r}')
    return config


# ---------------------------------------------------------------- one stage's objects

def stage_model(config, stage, previous):
    """The model that `stage` starts from: the previous stage's result (or fresh weights), with or without RIM."""
    if previous is None:
        spec = config['model']
        return models.build({**spec, 'args': {**spec['args'], 'rim': True}} if stage['rim'] else spec)
    return models.next_stage(previous) if stage['rim'] else models.fold(previous)


def train_loader(config, stage, number, start):
    """Batches of stage `number` from step `start` on. A sample is a function of its number alone, so a resumed run
    sees what an uninterrupted one sees."""
    samples = datasets.make({'name': 'sr-training', 'args': {
        'dataset': config['train_dataset'], 'patch': config['patch'], 'scale_min': stage['scales'][0], 'scale_max': stage['scales'][1],
        'queries': config['queries'], 'draw': config['draw'], 'batch_size': config['batch_size'], 'steps': stage['steps'],
        'seed': config['seed'] + number}})
    rest = Subset(samples, range(start * config['batch_size'], len(samples)))
    return DataLoader(rest, config['batch_size'], num_workers=config['workers'], pin_memory=torch.cuda.is_available(),
                      persistent_workers=config['workers'] > 0)


def learning_rate(optimizer, stage):
    """Warm-up from `warmup_lr` to `lr`, then cosine to 0 at the last step: a function of the step."""
    return CosineLRScheduler(optimizer, t_initial=stage['steps'] - stage['warmup_steps'], warmup_t=stage['warmup_steps'],
                             warmup_lr_init=stage['warmup_lr'], warmup_prefix=True, t_in_epochs=False)


def predict(model, batch):
    """Colours and targets of a batch's queries, both `(B, Q, 3)` or `(B, P, m, 3)` in [0, 1].

    The batch's `index` counts HR pixels, or LR pixels all of whose HR pixels are taken (`draw`, see `datasets/wrappers.py`).
    """
    lr, hr, index = batch['lr'].to(next(model.parameters()).dtype) / 255, batch['hr'], batch['index']
    h, w = hr.shape[-2:]
    features = model.encode(lr)
    if batch['draw'] == 'pixel':
        colour = model.query(features, grid.pixel_centres(h, w, lr.device)[index], grid.cell_size(h, w).to(lr.device))
    else:
        height, width = lr.shape[-2:]
        rows, columns = grid.Blocks(height, h), grid.Blocks(width, w)
        y, x = index // width, index % width
        colour = model.query_blocks(features, model.plan(rows, columns, grid.relative_cell((height, width), (h, w))), y, x)
        index = rows.output.to(lr.device)[y][..., :, None] * w + columns.output.to(lr.device)[x][..., None, :]
        index = index.flatten(2)                                                 # (B, P, m)
    target = hr.flatten(2).transpose(1, 2)                                        # (B, h * w, 3)
    chosen = torch.gather(target, 1, index.flatten(1)[..., None].expand(-1, -1, 3))
    return colour, chosen.reshape(colour.shape).to(lr.dtype) / 255


# ---------------------------------------------------------------- the run

class Run:
    """A training run in `folder`: its state, and everything that is written."""

    def __init__(self, config, folder, device):
        self.config, self.folder, self.device = config, folder, device
        self.stage, self.step, self.best = 0, 0, float('-inf')
        self.previous = None                # the result of the stage before
        self.stopping = None                # why the run is to stop
        self.stages = [{'name': name, **stage} for name, stage in config['stages'].items()]
        images = datasets.make(config['validation']['dataset'])
        self.validation = {f'x{scale:g}': datasets.make({'name': 'sr-evaluation', 'args': {'dataset': images, 'scale': scale}})
                           for scale in config['validation']['scales']}

    def begin_stage(self, state=None):
        """Make the stage's model, EMA, optimizer and schedule; `state` is that of a checkpoint to resume from."""
        stage = self.stages[self.stage]
        model = fitted({k: state['model'][k] for k in ('name', 'args')}, state['model']['sd']) if state \
            else stage_model(self.config, stage, self.previous)
        self.model = model.to(self.device).train()
        if self.config['channels_last']:
            self.model = self.model.to(memory_format=torch.channels_last)
        decay = self.config['ema_decay']
        self.ema = ModelEmaV3(self.model, decay=decay, use_warmup=True) if decay else None
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(parameters, lr=stage['lr'], fused=self.device.type in ('cpu', 'cuda'))
        self.schedule = learning_rate(self.optimizer, stage)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.config['precision'] == 'fp16')
        if state:
            self.optimizer.load_state_dict(state['optimizer'])
            self.scaler.load_state_dict(state['scaler'])
            if self.ema:
                self.ema.module.load_state_dict(state['ema'])

    def result(self):
        """The weights that count: the average, if there is one."""
        return self.ema.module if self.ema else self.model

    def train_step(self, batch):
        """One optimizer step; returns the loss, a float. A step whose loss or gradient is not finite changes nothing."""
        self.schedule.step_update(self.step)
        dtype = PRECISIONS[self.config['precision']]
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            colour, target = predict(self.model, batch)
        loss = (colour.to(target.dtype) - target).abs().mean()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config['clip_grad'] or float('inf'))
        if norm.isfinite():
            self.scaler.step(self.optimizer)
            if self.ema:
                self.ema.update(self.model, step=self.step)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item() if norm.isfinite() else float('nan')

    def validate(self):
        """PSNR of the current result on every validation set, its mean as 'mean'; keeps the best result."""
        model = self.result()
        training = model.training
        model.eval()
        scores = {name: evaluate(model, dataset, self.config['validation']['protocol'], self.device, progress=False)['psnr']
                  for name, dataset in self.validation.items()}
        model.train(training)
        if scores:
            scores['mean'] = sum(scores.values()) / len(scores)
            if scores['mean'] > self.best:
                self.best = scores['mean']
                self.save_result('best.pth', scores)
        return scores

    def meta(self, scores):
        stage = self.stages[self.stage]
        return {'stage': stage['name'], 'step': self.step, 'scale_min': stage['scales'][0], 'scale_max': stage['scales'][1],
                **{f'psnr {name}': float(value) for name, value in scores.items()}}

    def save_result(self, name, scores):
        models.save(self.folder / name, self.result(), self.meta(scores))

    def save_checkpoint(self, name='last.pth'):
        """All that resuming needs, in one file that is whole or absent."""
        content = {
            'model': {**self.model.spec, 'sd': self.model.state_dict()}, 'meta': self.meta({}),
            'stage': self.stage, 'step': self.step, 'best': self.best,
            'optimizer': self.optimizer.state_dict(), 'scaler': self.scaler.state_dict(),
            'ema': self.ema.module.state_dict() if self.ema else None,
        }
        with atomic_path(self.folder / name) as temporary:
            torch.save(content, temporary)

    def resume(self):
        state = read(self.folder / 'last.pth')
        self.stage, self.step, self.best = state['stage'], state['step'], state['best']
        self.begin_stage(state)

    def log(self, **entry):
        with open(self.folder / 'log.jsonl', 'a', encoding='utf-8') as file:
            file.write(json.dumps({'time': time.strftime('%Y-%m-%dT%H:%M:%S'), **entry}) + '\n')

    def train(self, deadline):
        """Run the stages that are left. Returns True when all are done, False when stopped before."""
        writer = SummaryWriter(self.folder / 'tensorboard')
        for number in range(self.stage, len(self.stages)):
            if number > self.stage:
                self.stage, self.step, self.best = number, 0, float('-inf')
                self.begin_stage()
            if not self.train_stage(writer, deadline):
                return False
            self.previous = self.result()
        return True

    def train_stage(self, writer, deadline):
        config, stage = self.config, self.stages[self.stage]
        loader = train_loader(config, stage, self.stage, self.step)
        bar = tqdm(desc=stage['name'], initial=self.step, total=stage['steps'], unit='step', smoothing=0.05,
                   disable=not sys.stderr.isatty())
        bad, meter, batches = 0, Meter(), iter(loader)
        while self.step < stage['steps']:
            meter.waiting_begins()
            batch = next(batches)
            meter.waiting_ends()
            batch = {k: v.to(self.device, non_blocking=True) for k, v in batch.items()} | {'draw': config['draw']}
            loss = self.train_step(batch)
            meter.add(loss, config['batch_size'])
            bad = 0 if loss == loss else bad + 1
            if bad:
                self.log(stage=stage['name'], step=self.step, skipped='loss or gradient not finite')
            if bad > MAX_BAD_STEPS:
                with atomic_path(self.folder / 'bad-batch.pth') as temporary:
                    torch.save(batch, temporary)
                raise UserError(f'step {self.step}: the loss or its gradient was not finite {bad} times in a row; '
                                f'the batch is in {self.folder / "bad-batch.pth"}')
            self.step += 1
            bar.update()
            if self.step % LOG_EVERY == 0 or self.step == stage['steps']:
                numbers = {'loss': meter.loss(), 'lr': self.optimizer.param_groups[0]['lr'], **meter.rates()}
                bar.set_postfix({k: f'{v:.4g}' for k, v in numbers.items()})
                for name, value in numbers.items():
                    writer.add_scalar(f'{stage["name"]}/{name}', value, self.step)
                self.log(stage=stage['name'], step=self.step, **numbers)
                meter = Meter()
            last = self.step == stage['steps']
            if time.monotonic() > deadline:
                self.stopping = 'time limit'
            if last or self.stopping == 'time limit' or self.step % config['validate_every'] == 0:
                began = time.perf_counter()
                scores = self.validate()
                for name, value in scores.items():
                    writer.add_scalar(f'{stage["name"]}/PSNR {name}', value, self.step)
                self.log(stage=stage['name'], step=self.step, psnr=scores)
                bar.write(f'{stage["name"]} step {self.step}: ' + ', '.join(f'{k} {v:.3f} dB' for k, v in scores.items()))
                if last:
                    self.save_result(f'{stage["name"]}.pth', scores)
                meter.pause(began)
            if self.step % config['save_every'] == 0:
                self.save_checkpoint(f'{stage["name"]}-{self.step}.pth')
            if last or self.stopping or self.step % config['validate_every'] == 0:
                self.save_checkpoint()
            if self.stopping and not last:
                bar.close()
                return False
        bar.close()
        return True


class Meter:
    """Mean loss, images per second and the share of time spent waiting for data, since it was made."""

    def __init__(self):
        self.began, self.waited, self.images, self.losses = time.perf_counter(), 0., 0, []

    def waiting_begins(self):
        self.wait_began = time.perf_counter()

    def waiting_ends(self):
        self.waited += time.perf_counter() - self.wait_began

    def add(self, loss, images):
        self.images += images
        if loss == loss:
            self.losses.append(loss)

    def pause(self, began):
        """What has passed since `began` was no training."""
        self.began += time.perf_counter() - began

    def loss(self):
        return sum(self.losses) / len(self.losses) if self.losses else float('nan')

    def rates(self):
        seconds = time.perf_counter() - self.began
        return {'images/s': self.images / seconds, 'waiting': self.waited / seconds}


def provenance():
    """Where a run's code and libraries come from, for its log."""
    def git(*words):
        try:
            return subprocess.run(['git', *words], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10).stdout.strip()
        except OSError:
            return ''
    return {'git': git('rev-parse', 'HEAD'), 'modified': bool(git('status', '--porcelain', '-uno')), 'python': platform.python_version(),
            'torch': torch.__version__, 'timm': timm.__version__, 'numpy': np.__version__}


def parse():
    parser = Parser('Train a model from a config.')
    parser.add_argument('-config', required=True, help='YAML config, see configs/train')
    parser.add_argument('-name', help='name of the run, a folder in save/; the config\'s name if left out')
    parser.add_argument('-resume', action='store_true', help='go on where the run of this name stopped')
    parser.add_argument('-init', help='weights that the first stage starts from')
    parser.add_argument('-time-limit', type=float, metavar='MINUTES', help='validate, save and stop after so long')
    parser.add_argument('-device', help='cpu, cuda, cuda:1, mps; chosen by itself if left out')
    parser.add_argument('-debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args()


def main(args):
    config = read_config(args.config)
    if args.init:
        config['init'] = args.init
    device = choose_device(args.device)
    folder = Path('save') / (args.name or Path(args.config).stem)
    if args.resume and not folder.is_dir():
        raise UserError(f'{folder}: no such run to resume')
    if not args.resume and folder.exists():
        raise UserError(f'{folder} exists: -resume goes on with that run, -name gives this one another folder')
    random.seed(config['seed'])
    np.random.seed(config['seed'])
    torch.manual_seed(config['seed'])

    run = Run(config, folder, device)
    if (folder / 'last.pth').is_file():
        run.resume()
    else:
        run.previous = models.load(config['init']).requires_grad_(True) if config['init'] else None
        run.begin_stage()
        train_loader(config, run.stages[0], 0, 0)         # a data set that does not do is refused before the folder exists
        folder.mkdir(parents=True, exist_ok=True)
        run.save_checkpoint()
    with atomic_path(folder / 'config.yaml') as temporary:
        temporary.write_text(yaml.safe_dump(config, sort_keys=False), encoding='utf-8')
    run.log(start=provenance(), device=str(device), parameters=sum(p.numel() for p in run.model.parameters()))

    def stop(signum, _):
        run.stopping = signal.Signals(signum).name
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)
    deadline = float('inf') if args.time_limit is None else time.monotonic() + 60 * args.time_limit
    done = run.train(deadline)
    print(f'{"finished" if done else "stopped by " + run.stopping}: {folder}')
    return 0 if done or run.stopping == 'time limit' else 1


if __name__ == '__main__':
    arguments = parse()
    run_main(lambda: main(arguments), arguments.debug)
