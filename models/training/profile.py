"""Where the time of a training step goes."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from models.device import synchronize
from models.training.run import Run

WARM_UP, STEPS = 3, 10


def profile(run: Run) -> str:
    """Take some steps of the run's present stage and return a table of where their time went, lines of text."""
    clock = Clock(run.device)
    part: Callable = contextlib.nullcontext
    steps = min(WARM_UP + STEPS, run.stages[run.stage]['steps'])
    with run.batches() as batches:
        for run.step in range(steps):
            if run.step == min(WARM_UP, steps - 1):
                if not run.config['compile']:  # a compiled part is no sum of its children
                    clock.watch(run.model)
                part = clock.part
            with part('waiting for data'):
                parts = run.next_batches(batches)
            run.train_step(parts, part)
    if not run.config['compile']:
        clock.seconds['decoding, loss'] = clock.seconds.pop('forward')
    return clock.table(steps - min(WARM_UP, steps - 1))


class Clock:
    """Seconds spent in named parts of a program; what a part inside another takes is the inner one's alone."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = {}
        self.open: list[str] = []
        self.booked = 0.0

    def enter(self, name: str) -> None:
        self.book()
        self.open.append(name)

    def leave(self) -> None:
        self.book()
        self.open.pop()

    def book(self) -> None:
        """Count the time since the last call as the innermost open part's."""
        synchronize(self.device)
        now = time.perf_counter()
        if self.open:
            self.seconds[self.open[-1]] = self.seconds.get(self.open[-1], 0) + now - self.booked
        self.booked = now

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.enter(name)
        yield
        self.leave()

    def watch(self, model: Any) -> None:
        """Make parts of the children of `model`, by their names; the MLP, which belongs to the decoding, is none."""
        for name, child in model.named_children():
            if name != 'imnet':
                child.register_forward_pre_hook(lambda *_, name=name: self.enter(name))
                child.register_forward_hook(lambda *_: self.leave())

    def table(self, steps: int) -> str:
        """Each part with its milliseconds a step and its share, in the order of their first end."""
        total = sum(self.seconds.values())
        rows = [*self.seconds.items(), ('all', total)]
        return '\n'.join(
            [
                f'{"part of a step":<20}{"ms":>10}{"share":>9}',
                *(f'{name:<20}{1000 * seconds / steps:>10.2f}{seconds / total:>9.1%}' for name, seconds in rows),
            ]
        )
