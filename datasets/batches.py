"""Which samples make a batch: a function of the step, the rank and the part, so nothing is to be remembered."""

import signal

from torch.utils.data import DataLoader


class Numbers:
    """The sample numbers of each batch that one of several ranks works through, from step `start` on.

    The `batch_size` samples of a step are shared equally among the `ranks`, and a rank's share among `parts` batches,
    one after the other: however they are shared, a step has the same samples.
    """

    def __init__(self, start, steps, batch_size, rank, ranks, parts):
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


def loader(samples, numbers, workers, pin_memory):
    """Batches of `samples`, a mapping of numbers to samples, by lists of `numbers`."""
    return DataLoader(
        samples, batch_sampler=numbers, num_workers=workers, pin_memory=pin_memory, worker_init_fn=ignore_signals
    )


def ignore_signals(_):
    """What stops a run may be sent to its workers as well; they go on until the run does not need them any more."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)
