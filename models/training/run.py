"""A training run: its state, its steps, and everything that it writes."""

import contextlib
import copy
import functools
import json
import math
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import yaml
from timm.utils import ModelEmaV3
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import datasets
from datasets.batches import Batch, Batches, Numbers
from datasets.paired import OfScale
from datasets.pictures.figures import strip
from models.device import PRECISIONS, described, exact_float32, set_tf32, widest
from models.evaluation.loop import evaluate_image
from models.evaluation.sets import make_set
from models.registry import build
from models.rendering.implicit import ImplicitModel
from models.training import losses, parallel, stages
from models.training.config import FIXED, GRAPHS, OPTIONAL, changes, optional
from models.training.freezing import Freezing
from models.training.lock import Lock
from models.training.objective import Objective, compile_parts
from models.training.optimizers import make_optimizer, step_if
from models.training.page import write_page, write_strips
from models.training.records import Log, describe, difference, provenance, prune, writing
from models.training.report import Report, tensorboard, weights_and_biases
from models.training.stopping import Stopped, handled
from models.weights import files
from models.weights.parts import fill_parts
from models.weights.surgery import deepened, fitted, fold, next_stage
from utils import UserError, atomic_path, error_prefix, is_out_of_memory, load_config, write_json

COUNTERS = ('stage', 'step', 'validated', 'bad', 'best')  # what a run counts
READ_EVERY = 10  # steps, on a device that the CPU runs ahead of; a divisor of LOG_EVERY
TIME_LIMIT = 1  # a reason to stop; signals are others, their numbers and 1


class Taken(NamedTuple):
    """A step that the device may still be at work on."""

    step: int
    batches: list[dict]
    values: torch.Tensor  # what `Run.train_step` returned
    lr: float


class Run:
    """A training run in `folder` on `device`, by a config whose keys are checked (`models.training.config`).

    `start` or `resume` takes the folder, `train` trains, `close` (or the end of a `with` block) gives the folder back;
    `rehearsal` takes steps without touching the folder.
    With several ranks (`models/training/parallel.py`) each has its own run, and takes the same steps with its share of
    the samples; rank 0 writes. Raises UserError for stages, images and validation sets that cannot be used.
    """

    def __init__(self, config: dict, folder: Path, device: torch.device):
        self.config, self.folder, self.device = config, folder, device
        self.lock, self.log = Lock(folder / 'lock'), Log(folder / 'log.jsonl')
        self.stage, self.step = 0, 0
        self.unread: list[Taken] = []  # steps whose losses are not read yet
        self.validated = 0  # the step of the stage after which the result was last validated
        self.bad = 0  # steps in a row that were skipped
        self.best = -math.inf
        self.previous: ImplicitModel | None = None  # the result of the stage before
        self.signal = 0  # the number of a signal that this process has received
        self.stopping = 0  # why all ranks are to stop: a signal's number and 1, or TIME_LIMIT
        self.may_leave = False  # whether a signal may raise Stopped
        shares = parallel.ranks() * config['accumulate']
        if config['batch_size'] % shares:
            raise UserError(
                f'batch_size {config["batch_size"]} cannot be shared among {parallel.ranks()} devices '
                f'and accumulate {config["accumulate"]}'
            )
        if config['compile'] == GRAPHS and parallel.ranks() > 1:
            raise UserError(f'compile: {GRAPHS} is for one device, not for {parallel.ranks()}')
        self.images = images = datasets.make(config['train_dataset'])
        self.stages, self.samples, planned = [], [], None
        for number, (name, stage) in enumerate(config['stages'].items()):
            with error_prefix(f'stage {name!r}'):
                self.stages.append({'name': name, **stages.in_steps(stage, len(images) / config['batch_size'])})
                losses.check_loss(self.stages[-1]['loss'], config['draw'])
                with torch.device('meta'):  # a model that cannot be built is reported first
                    planned = first_model(config['model'], self.stages[-1], planned)
                    Freezing(planned, self.stages[-1]['freeze'])
                self.samples.append(self.stage_samples(images, number))
        images = datasets.make(config['validation']['dataset'])
        with error_prefix('validation'):
            sets = {
                f'x{scale:g}' + f'-{case}' * (case != 'clean'): validation_set(images, scale, case)
                for case in config['validation'].get('degrade') or ['clean']
                for scale in config['validation']['scales']
            }
        self.validation = {name: make_set(spec, config['validation']['protocol']) for name, spec in sets.items()}

    # ------------------------------------------------------------ its folder

    def start(self) -> None:
        """Begin the run in its folder. Raises UserError if it is there already, or cannot be written."""
        self.begin_stage()
        with parallel.together():
            if parallel.rank() == 0:
                check_is_free(self.folder)
                with writing(self.folder):
                    try:
                        self.folder.mkdir(parents=True)
                    except FileExistsError:
                        check_is_free(self.folder)  # tells what it is: another one has just made it
                        raise
                self.lock.acquire()
        self.write_beginning()

    def resume(self, accept_changed_images: bool = False) -> None:
        """Go on where the run in the folder stopped; what its config changes is told and logged.

        Raises UserError if there is no run, or one that cannot go on: another process trains it, its state is missing
        or damaged, the config is that of another run, or (unless accepted) the training images have changed.
        """
        with parallel.together():
            if parallel.rank() == 0:
                check_is_run(self.folder)
                self.lock.acquire()
                with writing(self.folder):
                    for leftover in self.folder.glob('.*.partial*'):  # of files being written when the run was killed
                        leftover.unlink()
        with parallel.together():
            before = check_same_run(self.folder, self.config)
            self.config['init'] = self.config['init'] or before.get('init')
            changed = {key: [old, new] for key, old, new in changes(before, self.config)} if before else {}
            images = self.changed_images()
            if images and not accept_changed_images:
                raise UserError(
                    f'{self.folder}: the training images have changed since the run stopped: {images}; '
                    f'-accept-changed-images goes on with them as they are'
                )
            state = self.read_state(before)
        with parallel.together():
            self.begin_from(state)
        self.log.mend()
        if changed:
            say('changed since the run stopped: ' + ', '.join(f'{k} {a} -> {b}' for k, (a, b) in changed.items()))
        if images:
            say(f'the training images have changed since the run stopped: {images}')
        resumed = {'stage': self.stages[self.stage]['name'], 'step': self.step} if state else {}
        self.write_beginning(
            **resumed, **({'changed': changed} if changed else {}), **({'changed images': images} if images else {})
        )

    def changed_images(self) -> str:
        """How the training images differ from those that the run began with, in words; '' if they do not."""
        path = self.folder / 'images.json'
        if not path.is_file():  # a run that began before they were kept
            return ''
        try:
            return difference(json.loads(path.read_text(encoding='utf-8')), describe(self.images))
        except OSError as error:
            raise UserError(f'{path}: cannot be read ({error.strerror})') from error
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f'{path}: damaged; without this file the images are not compared') from error

    def write_beginning(self, **entry: Any) -> None:
        """Write what a run consists of to its folder, before the first step or going on with a later one."""
        versions = provenance()
        with parallel.together():
            if parallel.rank() == 0:
                with writing(self.folder / 'config.yaml'), atomic_path(self.folder / 'config.yaml') as temporary:
                    temporary.write_text(yaml.safe_dump(self.config, sort_keys=False), encoding='utf-8')
                write_json(self.folder / 'versions.json', versions)
                write_json(self.folder / 'images.json', describe(self.images))
        self.save_checkpoint()
        self.log.add(
            start=versions,
            device=described(self.device),
            ranks=parallel.ranks(),
            parameters=sum(p.numel() for p in self.model.parameters()),
            **entry,
        )

    def close(self) -> None:
        """Give the folder back."""
        self.lock.release()

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()

    # ------------------------------------------------------------ a stage's objects

    def stage_samples(self, images: Any, number: int) -> Any:
        config, stage = self.config, self.stages[number]
        args = {
            'dataset': images,
            'scale_min': stage['scales'][0],
            'scale_max': stage['scales'][1],
            'steps': stage['steps'],
            'seed': config['seed'] + number,
            **{key: config[key] for key in ('patch', 'queries', 'draw', 'batch_size')},
        }
        making = {'shrink': stage['shrink'], 'filter': optional(config, 'filter'), 'degrade': stage['degrade']}
        if not hasattr(images, 'pairs'):
            return datasets.make({'name': 'sr-training', 'args': args | making})
        for key, usual in (('shrink', 1), ('filter', OPTIONAL['filter']), ('degrade', None)):
            if making[key] != usual:
                raise UserError(f'{key} says how LR images are made, which pairs of images have already')
        return datasets.make({'name': 'sr-training-paired', 'args': args})

    def set_cuda(self) -> None:
        """What the config says of how CUDA computes, for all of this process."""
        torch.backends.cudnn.benchmark = optional(self.config, 'cudnn_benchmark')
        set_tf32(self.config.get('tf32'))

    def batches(self) -> Batches:
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
        return Batches(self.samples[self.stage], numbers, config['workers'], self.device.type == 'cuda')

    def begin_stage(self, state: dict | None = None) -> None:
        """Make the stage's model, EMA, optimizer and schedule; `state` is that of a checkpoint to resume from."""
        config, stage = self.config, self.stages[self.stage]
        first = state is None and self.stage == 0 and self.previous is None
        init = config['init'] if first else None
        if isinstance(init, str):
            self.previous = initial(config)
        seed(config['seed'], self.stage)
        self.set_cuda()
        model = (
            fitted({k: state['model'][k] for k in ('name', 'args')}, state['model']['sd'])
            if state
            else first_model(config['model'], stage, self.previous, init if isinstance(init, dict) else None)
        )
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise UserError(f'the model {model.spec["name"]!r} has nothing to train')
        model = parallel.with_synchronised_norm(model.to(self.device).train(), self.device)
        self.model = model.to(memory_format=torch.channels_last) if config['channels_last'] else model
        self.statistics = [
            buffer for module in model.modules() if isinstance(module, _BatchNorm) for buffer in module.buffers()
        ]
        if config['compile']:
            compile_parts(self.model, None if config['compile'] is True else config['compile'])
        self.ema = ModelEmaV3(self.model, decay=config['ema_decay'], use_warmup=True) if config['ema_decay'] else None
        self.optimizer = make_optimizer(self.model, optional(config, 'optimizer'), stage['lr'])
        self.schedule = stages.schedule(self.optimizer, stage)
        self.freezing = Freezing(self.model, stage['freeze'])
        self.freezing.at(self.step)
        self.objective = parallel.wrapped(Objective(self.model, config['draw'], stage['loss']), self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config['precision'] == 'fp16')
        if state:
            self.optimizer.load_state_dict(state['optimizer'])
            if state['scaler']:  # empty without fp16
                self.scaler.load_state_dict(state['scaler'])
            if self.ema:
                self.ema.module.load_state_dict(state['ema'])

    def begin_from(self, state: dict | None) -> None:
        """`begin_stage`. Raises UserError if the state in the folder does not go with the config."""
        try:
            self.begin_stage(state)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            if state is None or is_out_of_memory(error):
                raise
            what = f'{type(error).__name__}: {error}'
            raise UserError(f'{self.folder}/last.pth: its state does not go with the config ({what})') from error

    def result(self) -> ImplicitModel:
        """The weights that count: the average, if there is one."""
        return cast(ImplicitModel, self.ema.module) if self.ema else self.model

    # ------------------------------------------------------------ a step

    def train_step(self, batches: list[dict], part: Callable = contextlib.nullcontext) -> torch.Tensor:
        """One optimizer step on the list `batches`, the same on all ranks; returns what `read` reads.

        A step whose loss or gradient is not finite changes nothing; nothing here waits for the device to tell whether
        it is. All random numbers are functions of the step, so no generator state needs saving. `part(name)` gives a
        context for each part of the step, for profiling.
        """
        seed(self.config['seed'], self.stage, self.step, parallel.rank())
        if self.config['compile'] == GRAPHS:
            torch.compiler.cudagraph_mark_step_begin()  # they may write where those of the step before did
        self.schedule.step_update(self.step)
        if self.freezing.at(self.step):
            self.objective = parallel.wrapped(parallel.plain(self.objective), self.device)
        statistics = [buffer.clone() for buffer in self.statistics]
        parts = [self.backward(batch, batch is batches[-1], part) for batch in batches]
        with part('optimizer'):
            found = parallel.mean(functools.reduce(torch.add, parts))
            self.scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config['clip_grad'] or math.inf)
            finite = found.sum().isfinite() & norm.isfinite()
            step_if(finite, self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
            restore_unless(finite, self.statistics, statistics)
        if self.ema:
            with part('ema'):
                averages = list(self.ema.module.state_dict().values())
                before = [average.clone() for average in averages]
                self.ema.update(self.model, step=self.step)
                restore_unless(finite, averages, before)
        return torch.cat([found, finite[None].to(found.dtype)])

    def read(self, values: list[torch.Tensor]) -> list[dict[str, float] | None]:
        """The losses by name of steps, by what `train_step` returned of each; None of one that was skipped. Waits for
        the device."""
        names = list(losses.loss_weights(self.stages[self.stage]['loss']))
        rows = torch.stack(values).cpu().tolist() if values else []
        return [dict(zip(names, found)) if finite else None for *found, finite in rows]

    def backward(self, batch: dict, last: bool, part: Callable) -> torch.Tensor:
        """Add a batch's part to the step's gradient, which is averaged over the ranks with the `last` one.

        Returns the batch's part of the losses, in the order of their names.
        """
        dtype = PRECISIONS[self.config['precision']]
        apart = contextlib.nullcontext() if last or parallel.ranks() == 1 else self.objective.no_sync()
        with apart:
            with part('forward'), torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
                found = {k: loss / self.config['accumulate'] for k, loss in self.objective(batch).items()}
            with part('backward'):
                self.scaler.scale(sum(found.values())).backward()
        return torch.stack([loss.detach() for loss in found.values()]).to(widest(self.device))

    def next_batches(self, batches: Iterator[Batch]) -> list[dict]:
        """The batches of a step, on the device."""
        return [next(batches).to(self.device) for _ in range(self.config['accumulate'])]

    def fetch(self, batches: Iterator[Batch]) -> list[dict] | None:
        """As `next_batches`; None, on all ranks, if a signal stops the run. Raises UserError on all ranks."""
        parts = failure = None
        try:
            with self.leaving():
                parts = self.next_batches(batches)
        except Stopped:
            pass
        except UserError as error:
            failure = error
        if parallel.largest(parts is None):
            with parallel.together():
                if failure:
                    raise failure
            return None
        return parts

    def settle(self, report: Report) -> None:
        """Read the losses of the steps since the last call, report them, and count those that were skipped.

        Raises UserError if too many in a row were, and if the report cannot be written.
        """
        for found in self.read([taken.values for taken in self.unread]):
            taken = self.unread.pop(0)
            self.check_bad_steps(found, taken.step, taken.batches)
            with self.saving_after_an_error(report):
                report.took_step(taken.step + 1, found, taken.lr)

    def check_bad_steps(self, found: dict[str, float] | None, step: int, batches: list[dict]) -> None:
        """Count steps in a row that were skipped.

        Raises UserError if they are too many; all ranks' `batches` are in a file then.
        """
        self.bad = self.bad + 1 if found is None else 0
        if self.bad <= self.config['max_bad_steps']:
            return
        where = self.folder / 'bad-batch.pth'
        parts: list[dict] = sum(parallel.gathered([{k: v.cpu() for k, v in batch.items()} for batch in batches]), [])
        if parallel.rank() == 0:
            content = {
                'stage': self.stages[self.stage]['name'],
                'step': step,
                'batch': {k: torch.cat([part[k] for part in parts]) for k in parts[0]},
            }
            with writing(where), atomic_path(where) as temporary:
                torch.save(content, temporary)
        raise UserError(
            f'stage {self.stages[self.stage]["name"]!r}, step {step}: the loss or its gradient was '
            f'not finite, {self.bad} times in a row; the batch is in {where}'
        )

    # ------------------------------------------------------------ validation

    def validate(self, show: Callable[[str, torch.Tensor], object]) -> dict[str, float] | None:
        """PSNR of the result on every validation set, and their mean as 'mean'; None if a signal stops the run.

        The images are shared among the ranks. `show(name, image)` receives a `strip` of each set's first image.
        Raises UserError, on all ranks, for an image that cannot be read any more.
        """
        model, own, stopped = copy.deepcopy(self.result()).eval(), [], False
        parallel.take_from_first(model.buffers())
        with parallel.together():
            try:
                with self.leaving(), exact_float32():
                    for name, dataset in self.validation.items():
                        for i in range(parallel.rank(), len(dataset), parallel.ranks()):
                            item = dataset[i]
                            protocol = self.config['validation']['protocol']
                            image, sr = evaluate_image(model, item, protocol, self.device)
                            own.append((name, i, image['psnr']))
                            if i == 0:
                                show(name, strip(item['lr'], sr, item['hr']))
            except Stopped:
                stopped = True
        everything = parallel.gathered(None if stopped else own)
        if None in everything:
            return None
        values = {name: [psnr for of, _, psnr in sorted(sum(everything, [])) if of == name] for name in self.validation}
        scores = {name: sum(of_images) / len(of_images) for name, of_images in values.items()}
        return {**scores, 'mean': sum(scores.values()) / len(scores)} if scores else {}

    def validation_is_due(self) -> bool:
        """Whether the result is to be validated now: regularly, at the stage's end, and when the time is over."""
        stage = self.stages[self.stage]
        regular = self.step % self.config['validate_every'] == 0 or self.step == stage['steps']
        return self.validated < self.step and (self.stopping == TIME_LIMIT or (regular and not self.stopping))

    def reading_is_due(self) -> bool:
        """Whether steps are to be read now: on a CPU, which has nothing to wait for, after each; elsewhere regularly,
        and before anything is written."""
        every = 1 if self.device.type == 'cpu' else READ_EVERY
        saving = self.step % self.config['save_every'] == 0
        return self.step % every == 0 or saving or bool(self.stopping) or self.validation_is_due()

    def validate_and_keep(self, report: Report) -> None:
        """Validate, unless a signal stops the run; keep the result if it is the best, or the stage's last."""
        images: dict[str, torch.Tensor] = {}
        scores = self.validate(images.__setitem__)
        if scores is None:
            return
        report.validated(self.step, scores, images)
        self.validated = self.step
        if scores and scores['mean'] > self.best:
            self.best = scores['mean']
            self.save_result('best.pth', scores)
        stage = self.stages[self.stage]
        if self.step == stage['steps']:
            self.save_result(f'{stage["name"]}.pth', scores)
            self.write_page(images)

    # ------------------------------------------------------------ files

    def write_page(self, images: dict[str, torch.Tensor]) -> None:
        """Write the run's page, with the images of the stage that has ended. If that cannot be, it is told, and the run
        goes on."""
        if parallel.rank() == 0:
            try:
                write_strips(self.folder, self.stages[self.stage]['name'], images)
                write_page(self.folder)
            except UserError as error:
                say(f'note: the page of the run cannot be written: {error}')

    def meta(self, scores: dict[str, float]) -> dict:
        """The card of a weight file: stage, step, trained scales, and `scores`, PSNR by validation set."""
        smallest, largest = zip(*(stage['scales'] for stage in self.stages[: self.stage + 1]))
        return {
            'stage': self.stages[self.stage]['name'],
            'step': self.step,
            'scale_min': min(smallest),
            'scale_max': max(largest),
            **{f'psnr {name}': float(value) for name, value in scores.items()},
        }

    def save_result(self, name: str, scores: dict[str, float]) -> None:
        """Raises UserError, on all ranks, if it cannot be written."""
        with parallel.together():
            if parallel.rank() == 0:
                with writing(self.folder / name):
                    files.save(self.folder / name, self.result(), self.meta(scores))

    def save_checkpoint(self, name: str = 'last.pth') -> None:
        """All that resuming needs, in one file that is whole or absent. Raises UserError, on all ranks, if it cannot be
        written."""
        with parallel.together():
            if parallel.rank() == 0:
                self.write_state(self.folder / name)

    def prune(self) -> None:
        """Remove old checkpoints as the config says. Raises UserError, on all ranks, if that cannot be done."""
        keep = optional(self.config, 'keep')
        with parallel.together():
            if keep and parallel.rank() == 0:
                prune(self.folder, [stage['name'] for stage in self.stages], keep)

    def write_state(self, path: Path) -> None:
        content = {
            'model': {**self.model.spec, 'sd': self.model.state_dict()},
            'meta': self.meta({}),
            **{key: getattr(self, key) for key in COUNTERS},
            'optimizer': self.optimizer.state_dict(),
            'scaler': self.scaler.state_dict(),
            'ema': self.ema.module.state_dict() if self.ema else None,
        }
        with writing(path), atomic_path(path) as temporary:
            torch.save(content, temporary)

    def read_state(self, before: dict) -> dict | None:
        """The state in `last.pth`, its counters taken over; None if the run has done nothing yet.

        `before`: the config that the run had, {} if it is not known. Raises UserError if the state is missing, not
        whole, or one that does not go with the config.
        """
        path = self.folder / 'last.pth'
        if not os.path.lexists(path):
            check_has_done_nothing(self.folder)
            return None
        state = files.read(path)
        if not is_run_state(state):
            raise UserError(f'{path}: holds no state of a run that could be resumed')
        number, step, name, names = state['stage'], state['step'], state['meta']['stage'], list(self.config['stages'])
        if number >= len(names) or names[number] != name:
            raise UserError(
                f'{path}: stopped in stage {number + 1}, {name!r}; the config has the stages {", ".join(names)}'
            )
        if bool(state['ema']) != bool(self.config['ema_decay']):
            raise UserError(f'{path}: was made {"with" if state["ema"] else "without"} ema_decay, unlike the config')
        steps, was = self.stages[number]['steps'], (before.get('stages') or {}).get(name, {})
        if step > steps:
            raise UserError(f'{path}: {step} steps of stage {name!r} are done, of which the config has {steps} only')
        for key in ('rim', 'blocks'):
            if was and was.get(key) != self.config['stages'][name].get(key):
                raise UserError(f'{path}: stage {name!r} has begun with another {key} than that of the config')
        for key in COUNTERS:
            setattr(self, key, state[key])
        return state

    # ------------------------------------------------------------ the run

    def receive(self, signum: int, _: object) -> None:
        """Handler of signals: finish the step, save and stop; a validation or a wait for data is left at once."""
        self.signal = signum
        if self.may_leave:
            self.may_leave = False
            raise Stopped

    @contextlib.contextmanager
    def leaving(self) -> Iterator[None]:
        """A signal, including one already received, raises Stopped in this block."""
        self.may_leave = True
        try:
            if self.signal:
                raise Stopped
            yield
        finally:
            self.may_leave = False

    def agree_to_stop(self, late: bool = False) -> None:
        """Stop on all ranks if one has received a signal or is late."""
        self.stopping = parallel.largest(self.signal + 1 if self.signal else TIME_LIMIT * late)

    def why_stopping(self) -> str:
        """What stops the run, in words: 'time limit', or the name of a signal, as 'SIGTERM'."""
        return 'time limit' if self.stopping == TIME_LIMIT else signal.Signals(self.stopping - 1).name

    def train(self, deadline: float = math.inf) -> bool:
        """Run the stages that are left, until `deadline` of `time.monotonic`. Returns whether all are done.

        Signals stop the run; they are handled as before when it has ended, however it ends. Raises UserError for an
        image that cannot be read any more, for a data worker that was killed, for files that cannot be written, and for
        too many steps that are not finite; the run can be resumed then.
        """
        told = weights_and_biases(self.folder, optional(self.config, 'wandb'), self.config)
        with handled(self.receive), told, tensorboard(self.folder / 'tensorboard') as writer:
            while self.train_stage(writer, deadline):
                if self.stage + 1 == len(self.stages):
                    return True
                self.freezing.end()
                self.previous = self.result()
                self.stage, self.step, self.validated, self.bad, self.best = self.stage + 1, 0, 0, 0, -math.inf
                self.begin_stage()
        return False

    def train_stage(self, writer: SummaryWriter | None, deadline: float) -> bool:
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
        report = Report(stage['name'], stage['steps'], config['batch_size'], self.log, writer, bar)
        with contextlib.closing(bar), self.batches() as batches:
            while True:
                ended = self.step == stage['steps']
                if self.reading_is_due():
                    self.settle(report)
                if self.validation_is_due():
                    with self.saving_after_an_error(report), report.meter.pause():
                        self.validate_and_keep(report)
                    self.agree_to_stop(self.stopping == TIME_LIMIT)
                if self.step and self.step % config['save_every'] == 0:
                    self.save_checkpoint(f'{stage["name"]}-{self.step}.pth')
                    self.prune()
                if self.stopping or self.validated == self.step:
                    self.save_checkpoint()
                if ended and self.validated == self.step:
                    return True
                if self.stopping:
                    return False
                with self.saving_after_an_error(report), report.meter.waiting():
                    parts = self.fetch(batches)
                if parts is None:
                    self.agree_to_stop()
                    continue
                values = self.train_step(parts)
                self.unread.append(Taken(self.step, parts, values, self.optimizer.param_groups[0]['lr']))
                self.step += 1
                self.agree_to_stop(time.monotonic() > deadline)

    @contextlib.contextmanager
    def rehearsal(self, resume: bool = False) -> Iterator[tuple[ImplicitModel, int, Callable[..., None]]]:
        """Train a stage from its first step without writing anything, to see how long steps take.

        Gives the model, the number of steps of the stage, and a function that takes the next step; its argument is
        `part` of `train_step`. The stage is the first one or, with `resume`, the one in which the run in the folder
        stopped, with the weights it had then. Raises UserError as `resume` does for a state that cannot be used.
        """
        self.begin_from(self.read_state({}) if resume else None)
        self.step = 0

        def take_step(part: Callable = contextlib.nullcontext) -> None:
            with part('waiting for data'):
                samples = self.next_batches(batches)
            self.train_step(samples, part)
            self.step += 1

        with self.batches() as batches:
            yield self.model, self.stages[self.stage]['steps'], take_step

    @contextlib.contextmanager
    def saving_after_an_error(self, report: Report) -> Iterator[None]:
        """After a UserError between two steps the steps that are done are saved, if that can be."""
        try:
            yield
        except UserError:
            with contextlib.suppress(UserError):
                self.settle(report)
            with contextlib.suppress(UserError):
                self.save_checkpoint()
            raise


def seed(*numbers: int) -> None:
    """Seed the generators of Python, NumPy and torch, on all devices, by whole numbers from 0 up."""
    state = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(state)
    np.random.seed(state)
    torch.manual_seed(state)


def restore_unless(finite: torch.Tensor, tensors: Sequence[torch.Tensor], before: Sequence[torch.Tensor]) -> None:
    """Where `finite`, a bool `()`, is false, give `tensors` the values that they had `before`."""
    for tensor, value in zip(tensors, before):
        tensor.copy_(torch.where(finite, tensor, value))


def is_run_state(content: object) -> bool:
    """Whether the content of a file is what `Run.write_state` writes, as far as its keys and numbers tell."""
    return (
        isinstance(content, dict)
        and {*COUNTERS, 'meta', 'model', 'optimizer', 'scaler', 'ema'} <= content.keys()
        and all(isinstance(content[key], int) and content[key] >= 0 for key in COUNTERS if key != 'best')
        and isinstance(content['best'], float)
        and content['best'] < math.inf  # -inf: nothing yet; nothing would ever be better than nan
        and isinstance(content['meta'], dict)
        and isinstance(content['meta'].get('stage'), str)
    )


def initial(config: dict) -> ImplicitModel:
    """The model of the file that `init` of a config names. Raises UserError if it is of another architecture."""
    model = files.load(config['init'])
    with error_prefix(config['init']):
        return fitted(config['model'], model.state_dict())


def validation_set(images: Any, scale: float, case: str) -> dict:
    """The spec of the set that images, degraded as `case` says, or pairs are validated on at a scale. Raises UserError
    if no pairs are of it, and for pairs that are to be degraded."""
    if not hasattr(images, 'pairs'):
        return {'name': 'sr-evaluation', 'args': {'dataset': images, 'scale': scale, 'degrade': case}}
    if case != 'clean':
        raise UserError('degrade says how LR images are made, which pairs of images have already')
    return {'name': 'sr-evaluation-paired', 'args': {'dataset': OfScale(images, scale)}}


def first_model(
    spec: dict, stage: dict, previous: ImplicitModel | None, init: Mapping[str, str] | None = None
) -> ImplicitModel:
    """The model that a stage starts from, with RIM and of a depth as the stage says: it computes what the result of the
    stage before does, or has (None) fresh weights, but in parts of it those of the files that `init` maps them to."""
    if previous is None:
        previous = build(spec)
        if not any(True for _ in previous.parameters()):
            raise UserError(f'the model {spec["name"]!r} has nothing to train')
        fill_parts(previous, init or {})
    if stage['blocks']:
        previous = deepened(previous, stage['blocks'])
    return next_stage(previous) if stage['rim'] else fold(previous)


# ---------------------------------------------------------------- what a folder holds


def check_folder_of_run(folder: Path, config: dict, resume: bool) -> None:
    """Raise UserError, before any work, if a run of this config cannot be started or resumed in `folder`.

    What changes while the work is done, `Run.start` and `Run.resume` see again.
    """
    if resume:
        check_is_run(folder)
        check_same_run(folder, config)
        if not os.path.lexists(folder / 'last.pth'):
            check_has_done_nothing(folder)
    else:
        check_is_free(folder)


def check_is_free(folder: Path) -> None:
    """Raise UserError if there is something at `folder`, whose lock tells whether a process is training there."""
    if os.path.lexists(folder):
        if (folder / 'lock').is_file():
            with Lock(folder / 'lock'):
                pass
        raise UserError(f'{folder} exists: -resume goes on with that run, -name gives this one another folder')


def check_is_run(folder: Path) -> None:
    """Raise UserError if there is no folder of a run."""
    if not folder.is_dir():
        raise UserError(f'{folder}: no such run to resume')


def check_same_run(folder: Path, config: dict) -> dict:
    """The config that the run in `folder` had, {} if there is none. Raises UserError if `config` is that of another."""
    if not (folder / 'config.yaml').is_file():
        return {}
    before = load_config(folder / 'config.yaml')
    for key in FIXED:
        if optional(before, key) != optional(config, key):
            raise UserError(f'{folder}: the run has another {key} than this config, and cannot be resumed with it')
    return before


def check_has_done_nothing(folder: Path) -> None:
    """Raise UserError if the run in `folder`, which has no `last.pth`, has made progress, which starting
    again would overwrite."""
    kept = sorted(folder.glob('[!.]*.pth'), key=lambda path: path.stat().st_mtime)
    if not kept and not (folder / 'log.jsonl').exists():
        return
    earlier = [path.name for path in kept if path.stem.rpartition('-')[2].isdecimal()]
    way_out = f'a copy of {earlier[-1]} under this name goes on from there; ' if earlier else ''
    results = [path for path in kept if path.name not in earlier]
    start = f', -init {results[-1]} starts it from that result' if results else ''
    raise UserError(f'{folder}/last.pth is missing, which resuming needs; {way_out}-name begins a new run{start}')


def say(text: str) -> None:
    """Print a line on rank 0; drop it if stdout is closed."""
    if parallel.rank() == 0:
        with contextlib.suppress(OSError):
            print(text, flush=True)
