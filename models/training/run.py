"""A training run: its state, its steps, and everything that it writes."""

import contextlib
import copy
import json
import math
import random
import signal
import sys
import time

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import datasets
from datasets.batches import Numbers, loader
from datasets.pictures.figures import strip
from models.device import PRECISIONS
from models.evaluation.loop import evaluate_image
from models.evaluation.sets import make_set
from models.registry import build
from models.training import parallel, stages
from models.training.objective import Objective, compile_parts
from models.training.report import Report
from models.weights import files
from models.weights.surgery import deepened, fitted, fold, next_stage
from utils import UserError, about, atomic_path

COUNTERS = ('stage', 'step', 'validated', 'bad', 'best')  # what a run counts
TIME_LIMIT = 1  # a reason to stop, as signal numbers from 2 up are


class Stopped(Exception):
    """Raised out of a validation when a signal stops the run."""


class Run:
    """A training run in `folder` on `device`, by a config whose keys are checked (`train.read_config`).

    With several ranks (`models/training/parallel.py`) each has its own run, and takes the same steps with its share of
    the samples; rank 0 writes. Raises UserError for stages, images and validation sets that do not do.
    """

    def __init__(self, config, folder, device):
        self.config, self.folder, self.device = config, folder, device
        self.stage, self.step = 0, 0
        self.validated = 0  # the step of the stage after which the result was last validated
        self.bad = 0  # steps in a row that were skipped
        self.best = -math.inf
        self.previous = None  # the result of the stage before
        self.signal = 0  # the number of a signal that this process has received
        self.stopping = 0  # why all ranks are to stop: a signal's number, or TIME_LIMIT
        self.validating = False
        self.part = contextlib.nullcontext  # takes the name of a part of the step; replaced by who measures them
        shares = parallel.ranks() * config['accumulate']
        if config['batch_size'] % shares:
            raise UserError(
                f'batch_size {config["batch_size"]} cannot be shared among {parallel.ranks()} devices '
                f'and accumulate {config["accumulate"]}'
            )
        images = datasets.make(config['train_dataset'])
        self.stages, self.samples, planned = [], [], None
        for number, (name, stage) in enumerate(config['stages'].items()):
            with about(f'stage {name!r}'):
                self.stages.append({'name': name, **stages.in_steps(stage, len(images) / config['batch_size'])})
                with torch.device('meta'):  # what no stage can make is told before the first one
                    planned = first_model(config['model'], self.stages[-1], planned)
                self.samples.append(self.stage_samples(images, number))
        images = datasets.make(config['validation']['dataset'])
        sets = {
            f'x{scale:g}': {'name': 'sr-evaluation', 'args': {'dataset': images, 'scale': scale}}
            for scale in config['validation']['scales']
        }
        self.validation = {name: make_set(spec, config['validation']['protocol']) for name, spec in sets.items()}

    # ------------------------------------------------------------ a stage's objects

    def stage_samples(self, images, number):
        config, stage = self.config, self.stages[number]
        return datasets.make(
            {
                'name': 'sr-training',
                'args': {
                    'dataset': images,
                    'scale_min': stage['scales'][0],
                    'scale_max': stage['scales'][1],
                    'steps': stage['steps'],
                    'seed': config['seed'] + number,
                    'shrink': stage['shrink'],
                    **{key: config[key] for key in ('patch', 'queries', 'draw', 'batch_size')},
                },
            }
        )

    def batches(self):
        """The batches of this stage from this step on, those of this rank."""
        config = self.config
        numbers = Numbers(
            self.step,
            self.stages[self.stage]['steps'],
            config['batch_size'],
            parallel.rank(),
            parallel.ranks(),
            config['accumulate'],
        )
        return iter(loader(self.samples[self.stage], numbers, config['workers'], self.device.type == 'cuda'))

    def begin_stage(self, state=None):
        """Make the stage's model, EMA, optimizer and schedule; `state` is that of a checkpoint to resume from."""
        config, stage = self.config, self.stages[self.stage]
        seed(config['seed'], self.stage)
        model = (
            fitted({k: state['model'][k] for k in ('name', 'args')}, state['model']['sd'])
            if state
            else first_model(config['model'], stage, self.previous)
        )
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise UserError(f'the model {model.spec["name"]!r} has nothing to train')
        model = parallel.with_synchronised_norm(model.to(self.device).train(), self.device)
        self.model = model.to(memory_format=torch.channels_last) if config['channels_last'] else model
        self.statistics = [
            buffer for module in model.modules() if isinstance(module, _BatchNorm) for buffer in module.buffers()
        ]
        if config['compile']:
            compile_parts(self.model)
        self.objective = parallel.wrapped(Objective(self.model, config['draw'], stage['loss']), self.device)
        self.ema = ModelEmaV3(self.model, decay=config['ema_decay'], use_warmup=True) if config['ema_decay'] else None
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(parameters, lr=stage['lr'], fused=self.device.type in ('cpu', 'cuda'))
        self.schedule = stages.schedule(self.optimizer, stage)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config['precision'] == 'fp16')
        if state:
            self.optimizer.load_state_dict(state['optimizer'])
            self.scaler.load_state_dict(state['scaler'])
            if self.ema:
                self.ema.module.load_state_dict(state['ema'])

    def result(self):
        """The weights that count: the average, if there is one."""
        return self.ema.module if self.ema else self.model

    # ------------------------------------------------------------ a step

    def train_step(self, batches):
        """One optimizer step on the list `batches`, the same on all ranks; returns the loss.

        A step whose loss or gradient is not finite changes nothing, and None is returned. All random numbers are
        functions of the step, so that nothing of them is to be remembered.
        """
        seed(self.config['seed'], self.stage, self.step, parallel.rank())
        self.schedule.step_update(self.step)
        statistics = [buffer.clone() for buffer in self.statistics]
        loss = sum(self.backward(batch, last=batch is batches[-1]) for batch in batches)
        with self.part('optimizer'):
            loss = parallel.mean(loss)
            self.scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config['clip_grad'] or math.inf)
            finite = math.isfinite(loss) and math.isfinite(norm)
            if finite:
                self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
        if not finite:
            for buffer, before in zip(self.statistics, statistics):
                buffer.copy_(before)
            return None
        if self.ema:
            with self.part('ema'):
                self.ema.update(self.model, step=self.step)
        return loss

    def backward(self, batch, last):
        """Add a batch's part to the step's gradient, which is averaged over the ranks with the `last` one.

        Returns the batch's part of the loss.
        """
        dtype = PRECISIONS[self.config['precision']]
        apart = contextlib.nullcontext() if last or parallel.ranks() == 1 else self.objective.no_sync()
        with apart:
            with self.part('forward'), torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
                loss = self.objective(batch) / self.config['accumulate']
            with self.part('backward'):
                self.scaler.scale(loss).backward()
        return loss.item()

    def next_batches(self, batches):
        """The batches of a step, on the device."""
        parts = [next(batches) for _ in range(self.config['accumulate'])]
        return [{k: v.to(self.device, non_blocking=True) for k, v in part.items()} for part in parts]

    def check_bad_steps(self, loss, batches):
        """Count steps in a row that were skipped.

        Raises UserError if they are too many; all ranks' `batches` are in a file then.
        """
        self.bad = self.bad + 1 if loss is None else 0
        if self.bad <= self.config['max_bad_steps']:
            return
        where = self.folder / 'bad-batch.pth'
        parts = sum(parallel.gathered([{k: v.cpu() for k, v in batch.items()} for batch in batches]), [])
        if parallel.rank() == 0:
            content = {
                'stage': self.stages[self.stage]['name'],
                'step': self.step,
                'batch': {k: torch.cat([part[k] for part in parts]) for k in parts[0]},
            }
            with atomic_path(where) as temporary:
                torch.save(content, temporary)
        raise UserError(
            f'stage {self.stages[self.stage]["name"]!r}, step {self.step}: the loss or its gradient was '
            f'not finite, {self.bad} times in a row; the batch is in {where}'
        )

    # ------------------------------------------------------------ validation

    def validate(self, show):
        """PSNR of the result on every validation set, and their mean as 'mean'; None if a signal stops the run.

        The images are shared among the ranks. `show(name, picture)` receives a `strip` of each set's first image.
        """
        model, own = copy.deepcopy(self.result()).eval(), []
        parallel.take_from_first(model.buffers())
        self.validating = True
        try:
            if self.signal:
                raise Stopped
            for name, dataset in self.validation.items():
                for i in range(parallel.rank(), len(dataset), parallel.ranks()):
                    item = dataset[i]
                    image, sr = evaluate_image(model, item, self.config['validation']['protocol'], self.device)
                    own.append((name, i, image['psnr']))
                    if i == 0:
                        show(name, strip(item['lr'], sr, item['hr']))
        except Stopped:
            own = None
        finally:
            self.validating = False
        everything = parallel.gathered(own)
        if None in everything:
            return None
        values = {name: [psnr for of, _, psnr in sorted(sum(everything, [])) if of == name] for name in self.validation}
        scores = {name: sum(of_images) / len(of_images) for name, of_images in values.items()}
        return {**scores, 'mean': sum(scores.values()) / len(scores)} if scores else {}

    def validation_is_due(self):
        """Whether the result is to be validated now: regularly, at the stage's end, and when the time is over."""
        stage = self.stages[self.stage]
        regular = self.step % self.config['validate_every'] == 0 or self.step == stage['steps']
        return self.validated < self.step and (self.stopping == TIME_LIMIT or (regular and not self.stopping))

    def validate_and_keep(self, report):
        """Validate, unless a signal stops the run; keep the result if it is the best, or the stage's last."""
        scores = self.validate(report.add_picture)
        if scores is None:
            return
        self.validated = self.step
        report.validated(scores)
        if scores and scores['mean'] > self.best:
            self.best = scores['mean']
            self.save_result('best.pth', scores)
        stage = self.stages[self.stage]
        if self.step == stage['steps']:
            self.save_result(f'{stage["name"]}.pth', scores)

    # ------------------------------------------------------------ files

    def meta(self, scores):
        smallest, largest = zip(*(stage['scales'] for stage in self.stages[: self.stage + 1]))
        return {
            'stage': self.stages[self.stage]['name'],
            'step': self.step,
            'scale_min': min(smallest),
            'scale_max': max(largest),
            **{f'psnr {name}': float(value) for name, value in scores.items()},
        }

    def save_result(self, name, scores):
        if parallel.rank() == 0:
            files.save(self.folder / name, self.result(), self.meta(scores))

    def save_checkpoint(self, name='last.pth'):
        """All that resuming needs, in one file that is whole or absent."""
        if parallel.rank() > 0:
            return
        content = {
            'model': {**self.model.spec, 'sd': self.model.state_dict()},
            'meta': self.meta({}),
            **{key: getattr(self, key) for key in COUNTERS},
            'optimizer': self.optimizer.state_dict(),
            'scaler': self.scaler.state_dict(),
            'ema': self.ema.module.state_dict() if self.ema else None,
        }
        with atomic_path(self.folder / name) as temporary:
            torch.save(content, temporary)

    def resume(self):
        """Go on from `last.pth`. Raises UserError if it is not whole, no state of a run, or one of another config."""
        path = self.folder / 'last.pth'
        state = files.read(path)
        if not isinstance(state, dict) or not {*COUNTERS, 'model', 'optimizer', 'scaler', 'ema'} <= state.keys():
            raise UserError(f'{path}: holds no state of a run to go on with')
        for key in COUNTERS:
            setattr(self, key, state[key])
        names = [stage['name'] for stage in self.stages]
        if self.stage >= len(names) or names[self.stage] != state['meta']['stage']:
            raise UserError(
                f'{path}: stopped in stage {self.stage + 1}, {state["meta"]["stage"]!r}; '
                f'the config has the stages {", ".join(names)}'
            )
        if bool(state['ema']) != bool(self.config['ema_decay']):
            raise UserError(f'{path}: was made {"with" if state["ema"] else "without"} ema_decay, unlike the config')
        self.begin_stage(state)

    def log(self, **entry):
        if parallel.rank() == 0:
            with open(self.folder / 'log.jsonl', 'a', encoding='utf-8') as file:
                file.write(json.dumps({'time': time.strftime('%Y-%m-%dT%H:%M:%S'), **entry}) + '\n')

    # ------------------------------------------------------------ the run

    def receive(self, signum, _):
        """Handler of signals: finish the step, save and stop; a validation is left at once."""
        self.signal = signum
        if self.validating:
            raise Stopped

    def agree_to_stop(self, late=False):
        """Stop on all ranks if one has received a signal or is late."""
        self.stopping = parallel.largest(self.signal or TIME_LIMIT * late)

    def why_stopping(self):
        return 'time limit' if self.stopping == TIME_LIMIT else signal.Signals(self.stopping).name

    def train(self, deadline):
        """Run the stages that are left, until `deadline` of `time.monotonic`. Returns whether all are done."""
        with SummaryWriter(self.folder / 'tensorboard') if parallel.rank() == 0 else contextlib.nullcontext() as writer:
            while self.train_stage(writer, deadline):
                if self.stage + 1 == len(self.stages):
                    return True
                self.previous = self.result()
                self.stage, self.step, self.validated, self.bad, self.best = self.stage + 1, 0, 0, 0, -math.inf
                self.begin_stage()
        return False

    def train_stage(self, writer, deadline):
        """Train this stage to its end, or until the run is to stop. Returns whether the end was reached."""
        config, stage = self.config, self.stages[self.stage]
        bar = tqdm(
            desc=stage['name'],
            initial=self.step,
            total=stage['steps'],
            unit='step',
            smoothing=0.05,
            disable=parallel.rank() > 0 or not sys.stderr.isatty(),
        )
        report = Report(self, writer, bar)
        batches = self.batches()
        try:
            while True:
                ended = self.step == stage['steps']
                if self.validation_is_due():
                    with report.meter.pause():
                        self.validate_and_keep(report)
                    self.agree_to_stop(self.stopping == TIME_LIMIT)
                if self.step and self.step % config['save_every'] == 0:
                    self.save_checkpoint(f'{stage["name"]}-{self.step}.pth')
                if self.stopping or self.validated == self.step:
                    self.save_checkpoint()
                if ended and self.validated == self.step:
                    return True
                if self.stopping:
                    return False
                with report.meter.waiting():
                    parts = self.next_batches(batches)
                loss = self.train_step(parts)
                self.check_bad_steps(loss, parts)
                self.step += 1
                report.took_step(loss)
                self.agree_to_stop(time.monotonic() > deadline)
        finally:
            bar.close()
            del batches  # ends the workers


def seed(*numbers):
    """Seed the generators of Python, NumPy and torch, on all devices, by whole numbers from 0 up."""
    state = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(state)
    np.random.seed(state)
    torch.manual_seed(state)


def first_model(spec, stage, previous):
    """The model that a stage starts from, with RIM and of a depth as the stage says: it computes what the result of the
    stage before does, or has (None) fresh weights."""
    if previous is None:
        previous = build(spec)
    if stage['blocks']:
        previous = deepened(previous, stage['blocks'])
    return next_stage(previous) if stage['rim'] else fold(previous)
