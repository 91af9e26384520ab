"""Which samples make a batch: a function of the step, the rank and the part, so there is no state to keep."""

import contextlib
import dataclasses
import math
import multiprocessing
import multiprocessing.connection
import signal
import threading
import traceback
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, default_collate

from utils import UserError, is_out_of_memory


class Samples(Protocol):
    """What gives a sample, a dict of arrays or tensors, for a number."""

    def __getitem__(self, i: int, /) -> dict: ...


class Numbers:
    """The numbers of the samples in each batch of one rank, from step `start` on.

    The `batch_size` samples of a step are divided equally among the `ranks`, and a rank's share is divided among
    `parts` batches, one after the other. However they are divided, a step has the same samples.
    """

    def __init__(self, start: int, steps: int, batch_size: int, rank: int, ranks: int, parts: int):
        self.steps, self.batch_size = range(start, steps), batch_size
        self.share = batch_size // (ranks * parts)
        self.parts = range(rank * parts, (rank + 1) * parts)

    def __len__(self):
        return len(self.steps) * len(self.parts)

    def __iter__(self):
        for step in self.steps:
            for part in self.parts:
                first = step * self.batch_size + part * self.share
                yield range(first, first + self.share)


class Batch:
    """Tensors by name in one piece of memory: a device gets them in one copy, for which the memory is pinned once."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]):
        self.names = list(tensors)
        # The widest numbers come first, so that all begin at multiples of their size.
        ordered = sorted(tensors.items(), key=lambda named: -named[1].element_size())
        self.kinds = {name: (tensor.dtype, tensor.shape) for name, tensor in ordered}
        self.memory = torch.cat([tensor.flatten().view(torch.uint8) for _, tensor in ordered])

    def pin_memory(self) -> 'Batch':
        """Called by `DataLoader`."""
        self.memory = self.memory.pin_memory()
        return self

    def to(self, device: torch.device | str) -> dict[str, torch.Tensor]:
        """The tensors on a device, which nothing waits for where the memory is pinned."""
        memory = self.memory.to(device, non_blocking=True)
        pieces = memory.split([dtype.itemsize * math.prod(shape) for dtype, shape in self.kinds.values()])
        found = {
            name: piece.view(dtype).view(shape) for piece, (name, (dtype, shape)) in zip(pieces, self.kinds.items())
        }
        return {name: found[name] for name in self.names}


class Batches:
    """An iterator over `Batch`es of `samples`; each holds the samples with the next list of `numbers`.

    `workers` processes make the batches. At the end of a `with` block they have all ended, whatever happened to them.
    Raises UserError for a sample that cannot be made and for a worker that was killed.
    """

    def __init__(self, samples: Samples, numbers: Numbers, workers: int, pin_memory: bool):
        loader: DataLoader = DataLoader(
            WholeBatches(samples, in_worker=workers > 0),  # type: ignore[arg-type]
            sampler=numbers,  # type: ignore[arg-type]
            batch_size=None,  # an item of `WholeBatches` is a batch
            num_workers=workers,
            pin_memory=pin_memory,
            collate_fn=unchanged,
            worker_init_fn=ignore_signals,
        )
        others = set(multiprocessing.active_children())
        handler = signal.getsignal(signal.SIGCHLD) if hasattr(signal, 'SIGCHLD') else None
        try:
            self.iterator: Any = iter(loader)
        except OSError as error:
            raise UserError(f'{workers} data workers cannot be started ({error.strerror}): take fewer') from error
        finally:
            self.workers = set(multiprocessing.active_children()) - others
            if handler is not None and threading.current_thread() is threading.main_thread():
                signal.signal(
                    signal.SIGCHLD, handler
                )  # torch's handler would raise an error at any point of the program

    def __iter__(self):
        return self

    def __next__(self) -> Batch:
        try:
            batch = next(self.iterator)
        except (RuntimeError, OSError, EOFError):
            ended = self.ended()
            if not ended:
                raise
            batch = Failure(told(next(worker for worker in self.workers if worker.sentinel in ended)))
        if isinstance(batch, Failure):
            raise UserError(batch.message) from (RuntimeError(batch.traceback) if batch.traceback else None)
        return batch

    def ended(self) -> list:
        """The sentinels of workers that have ended, for which a second is waited. Where another DataLoader of the
        program has installed torch's handler of SIGCHLD, it raises here for a worker that ends just now."""
        while True:
            with contextlib.suppress(RuntimeError):
                return multiprocessing.connection.wait([worker.sentinel for worker in self.workers], timeout=1)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.iterator = None  # torch tells the workers to end and waits some seconds for each
        for worker in self.workers:
            worker.kill()
            worker.join(5)


class WholeBatches:
    """Batches of `samples` by lists of their numbers. In a worker, a batch that cannot be made is a `Failure`, because
    an exception would reach the run as an exception of another kind, with the traceback as its message.
    """

    def __init__(self, samples: Samples, in_worker: bool):
        self.samples, self.in_worker = samples, in_worker

    def __getitem__(self, numbers) -> 'Batch | Failure':
        try:
            return Batch(default_collate([self.samples[n] for n in numbers]))
        except Exception as error:
            if not self.in_worker:
                raise
            if isinstance(error, UserError):
                return Failure(str(error))
            what = 'there is not enough memory' if is_out_of_memory(error) else f'{type(error).__name__}: {error}'
            return Failure(f'a data worker failed ({what})', traceback.format_exc())


@dataclasses.dataclass
class Failure:
    """Why there is no batch: a message of one line, and the traceback of an error other than a UserError."""

    message: str
    traceback: str = ''


def unchanged(batch: Any) -> Any:
    return batch


def told(worker: BaseProcess) -> str:
    """How a worker ended, in words."""
    worker.join()
    if worker.exitcode is not None and worker.exitcode < 0:
        how = f'was ended by {signal.Signals(-worker.exitcode).name}'
    else:
        how = f'ended with status {worker.exitcode}'
    return f'a data worker (process {worker.pid}) {how}; if memory or shared memory ran out, take fewer workers'


def ignore_signals(_: int) -> None:
    """Ignore the signals that stop a run, which its workers may receive too: the run ends them when it has finished."""
    for name in ('SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGXCPU'):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
