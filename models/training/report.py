"""What a training run reports as it goes: the progress bar, `log.jsonl`, TensorBoard."""

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from models.training import parallel
from models.training.records import Log, writing
from utils import UserError

LOG_EVERY = 100  # steps


class Meter:
    """Mean losses, images per second and the share of time spent waiting for data, since it was made."""

    def __init__(self) -> None:
        self.began, self.waited, self.images = time.perf_counter(), 0.0, 0
        self.losses: list[dict[str, float]] = []

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time that this block takes as waiting for data."""
        began = time.perf_counter()
        yield
        self.waited += time.perf_counter() - began

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leave out the time that this block takes."""
        began = time.perf_counter()
        yield
        self.began += time.perf_counter() - began

    def add(self, losses: dict[str, float] | None, images: int) -> None:
        """A step's losses by name, None for one that was skipped, and how many images it took."""
        self.images += images
        if losses is not None:
            self.losses.append(losses)

    def numbers(self) -> dict[str, float]:
        seconds = time.perf_counter() - self.began
        loss = {}
        if self.losses:
            parts = {name: sum(of[name] for of in self.losses) / len(self.losses) for name in self.losses[0]}
            apart = {f'loss {name}': value for name, value in parts.items()} if len(parts) > 1 else {}
            loss = {'loss': sum(parts.values()), **apart}
        return {**loss, 'images/s': self.images / seconds, 'waiting': self.waited / seconds}


class Report:
    """The report of the stage `stage`, of `steps` steps of `batch_size` images; all ranks make one, rank 0 shows it.

    `log`: where lines go; `writer`: TensorBoard's, None where nothing is to be written; `bar`: tqdm's.
    Raises UserError, on all ranks, if something cannot be written.
    """

    def __init__(self, stage: str, steps: int, batch_size: int, log: Log, writer: SummaryWriter | None, bar: tqdm):
        self.stage, self.steps, self.batch_size = stage, steps, batch_size
        self.log, self.writer, self.bar = log, writer, bar
        self.meter = Meter()

    def took_step(self, step: int, losses: dict[str, float] | None, lr: float) -> None:
        """`step` steps are done; the last one had these losses, or was skipped (None), and this learning rate."""
        self.meter.add(losses, self.batch_size)
        if losses is None:
            self.log.add(stage=self.stage, step=step - 1, skipped='loss or gradient not finite')
        self.bar.update()
        if step % LOG_EVERY == 0 or step == self.steps:
            numbers = {**self.meter.numbers(), 'lr': lr}
            self.bar.set_postfix({k: f'{v:.4g}' for k, v in numbers.items()})
            self.add_scalars(step, numbers)
            self.log.add(stage=self.stage, step=step, **numbers)
            self.meter = Meter()

    def validated(self, step: int, scores: dict[str, float], images: dict[str, torch.Tensor]) -> None:
        """Log the PSNR of each validation set after `step` steps, and show `images (3, h, w)`, in [0, 1]."""
        with parallel.together():
            if self.writer:
                with writing(Path(self.writer.log_dir)):
                    for name, image in images.items():
                        self.writer.add_image(f'{self.stage}/{name}', image, step)
        self.add_scalars(step, {f'PSNR {name}': value for name, value in scores.items()})
        self.log.add(stage=self.stage, step=step, psnr=scores)
        if self.writer:
            with contextlib.suppress(OSError):  # a pipe whose reader has gone
                self.bar.write(f'{self.stage} step {step}: ' + ', '.join(f'{k} {v:.3f} dB' for k, v in scores.items()))

    def add_scalars(self, step: int, numbers: dict[str, float]) -> None:
        with parallel.together():
            if self.writer:
                with writing(Path(self.writer.log_dir)):
                    for name, value in numbers.items():
                        self.writer.add_scalar(f'{self.stage}/{name}', value, step)


@contextlib.contextmanager
def weights_and_biases(folder: Path, project: str | None, config: dict) -> Iterator[None]:
    """In this context Weights & Biases is told what TensorBoard's writers, made within it, are told of the run in
    `folder`, as a run of `project` that goes on where it stopped; on rank 0, if there is a project. Raises UserError on
    all ranks, at the beginning."""
    run = None
    with parallel.together():
        if project and parallel.rank() == 0:
            import wandb

            name = hashlib.sha256(str(folder.resolve()).encode(errors='surrogateescape')).hexdigest()[:16]
            told = {'name': folder.name, 'id': name, 'resume': 'allow', 'dir': str(folder), 'config': config}
            try:
                run = wandb.init(project=project, sync_tensorboard=True, **told)
            except (wandb.Error, OSError) as error:
                raise UserError(f'wandb: the run cannot be told ({error})') from error
    try:
        yield
    finally:
        if run:
            run.finish()


@contextlib.contextmanager
def tensorboard(folder: Path) -> Iterator[SummaryWriter | None]:
    """TensorBoard's writer to `folder` on rank 0, None on the others.

    If its thread cannot write something, the next call of the writer raises the error, and the thread prints nothing.
    Raises UserError, on all ranks, if the folder cannot be written at the beginning.
    """
    writer, show = None, threading.excepthook
    with parallel.together():
        if parallel.rank() == 0:
            with writing(folder):
                writer = SummaryWriter(str(folder))
    threading.excepthook = lambda thread: None if issubclass(thread.exc_type, OSError) else show(thread)
    try:
        yield writer
    finally:
        with contextlib.suppress(OSError):
            if writer:
                writer.close()
        threading.excepthook = show
