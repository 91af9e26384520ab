"""Where the time of a training step goes."""

import contextlib
import time
from collections.abc import Iterator

import torch
from torch import nn

from models.device import synchronize
from models.training.run import Run

WARM_UP, STEPS = 3, 10


def profile(run: Run, resume: bool = False) -> str:
    """Take some steps of the run's first stage, or with `resume` of the stage in which the run in its folder stopped,
    and return a table of where their time went, lines of text. Nothing is written."""
    clock = Clock(run.device)
    with run.rehearsal(resume) as (model, steps, take_step):
        warm_up = min(WARM_UP, steps - 1)
        counted = min(STEPS, steps - warm_up)
        for _ in range(warm_up):
            take_step()
        if not run.config['compile']:  # compiled children are not called one by one
            clock.watch(model)
        for _ in range(counted):
            take_step(clock.part)
    if not run.config['compile']:
        clock.seconds['decoding, loss'] = clock.seconds.pop('forward')
    return clock.table(counted)


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

    def watch(self, model: nn.Module) -> None:
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
