"""Training on LR/HR pairs that someone has made, of one whole scale or of several."""

from typing import Any

import numpy as np
import torch

from datasets.reduction import whole_scale
from datasets.registry import register
from datasets.wrappers import built, check_samples, drawn, to_tensor, turned
from utils import UserError


@register('paired-sets')
class PairedSets:
    """Several datasets of pairs as one, as folders of several scales. `datasets`: their specs."""

    def __init__(self, datasets: Any):
        if not isinstance(datasets, (list, tuple)) or not datasets:
            raise UserError(f'paired-sets: datasets is a list of specs, not {datasets!r}')
        self.sets = [built(dataset, pairs=True) for dataset in datasets]
        self.pairs = [(of, i) for of in self.sets for i in range(len(of))]

    @property
    def folders(self) -> dict:
        """What the pairs are made of, by name."""
        return {f'{k} {name}': part for k, of in enumerate(self.sets, 1) for name, part in of.folders.items()}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        of, k = self.pairs[i]
        return of[k]

    def name(self, i: int) -> str:
        of, k = self.pairs[i]
        return of.name(k)

    def pair_size(self, i: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """(h, w) of the LR and of the HR image of pair `i`."""
        of, k = self.pairs[i]
        return of.pair_size(k)


def by_scale(dataset: Any) -> dict[int, list[int]]:
    """The pairs of a dataset, their numbers, by their scale. Raises UserError for a pair that is of no whole one."""
    found: dict[int, list[int]] = {}
    for i in range(len(dataset)):
        lr, hr = dataset.pair_size(i)
        scale = whole_scale(lr, hr)
        if scale is None:
            raise UserError(
                f'{dataset.name(i)}: an LR image of {lr[0]} x {lr[1]} and an HR image of {hr[0]} x {hr[1]} pixels '
                f'are of no whole scale'
            )
        found.setdefault(scale, []).append(i)
    return dict(sorted(found.items()))


class OfScale:
    """The pairs of `dataset`, one of pairs, that are of a scale. Raises UserError if there are none."""

    def __init__(self, dataset: Any, scale: float):
        self.dataset, found = dataset, by_scale(dataset)
        if scale not in found:
            raise UserError(f'no pairs are of scale {scale:g}, but of {", ".join(map(str, found))}')
        self.pairs = found[int(scale)]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        return self.dataset[self.pairs[i]]

    def name(self, i: int) -> str:
        return self.dataset.name(self.pairs[i])


@register('sr-training-paired')
class PairedTraining:
    """Training samples as those of `datasets.wrappers.Training`, of LR images that are there.

    `dataset`: a spec or dataset of pairs, of which those count whose scale, a whole number, is from `scale_min` to
    `scale_max`. A step has one of these scales, each with the same probability. A square of `patch` LR pixels of the
    epoch's next pair of that scale is cropped at random, and the HR pixels that belong to it; both are flipped and
    transposed alike (`augment`). The other arguments, and what an item is: see there.
    Raises UserError for pairs of no whole scale, if none is in range, for an LR image that is smaller than a patch, and
    for arguments that make no sense.
    """

    def __init__(
        self,
        dataset: Any,
        scale_min: float,
        scale_max: float,
        batch_size: int,
        steps: int,
        patch: int = 48,
        queries: int = 2304,
        draw: str = 'block',
        augment: bool = True,
        seed: int = 0,
    ):
        what = 'sr-training-paired'
        check_samples(what, scale_min, scale_max, batch_size, steps, patch, queries, draw, augment, seed)
        self.dataset = built(dataset, pairs=True)
        self.batch_size, self.steps, self.patch, self.queries = batch_size, steps, patch, queries
        self.draw, self.augment, self.seed = draw, augment, seed
        found = by_scale(self.dataset)
        self.scales = [scale for scale in found if scale_min <= scale <= scale_max]
        self.numbers = {scale: found[scale] for scale in self.scales}
        if not self.scales:
            raise UserError(
                f'{what}: no pairs are of a scale from {scale_min:g} to {scale_max:g}, but of '
                f'{", ".join(map(str, found))}'
            )
        for i in sum(self.numbers.values(), []):
            self.check_size(i, *self.dataset.pair_size(i)[0])

    def check_size(self, i: int, height: int, width: int) -> None:
        if min(height, width) < self.patch:
            raise UserError(
                f'{self.dataset.name(i)}: an LR image of {height} x {width} pixels is smaller than a patch of '
                f'{self.patch}'
            )

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def random(self, *what: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, *what))

    def __getitem__(self, n: int) -> dict:
        scale = self.scales[int(self.random(0, n // self.batch_size).integers(len(self.scales)))]
        numbers = self.numbers[scale]
        epoch, place = divmod(n, len(numbers))
        i = numbers[int(self.random(2, epoch).permutation(len(numbers))[place])]
        lr, hr = self.dataset[i]
        self.check_size(i, *lr.shape[:2])
        random, patch, side = self.random(1, n), self.patch, self.patch * scale
        top, left = (int(random.integers(extent - patch + 1)) for extent in lr.shape[:2])
        lr = lr[top : top + patch, left : left + patch]
        hr = hr[scale * top : scale * top + side, scale * left : scale * left + side]
        if self.augment:
            lr, hr = turned(random, lr, hr)
        index = drawn(random, self.draw, self.queries, patch, side)
        return {'lr': to_tensor(lr), 'hr': to_tensor(hr), 'index': torch.from_numpy(index)}
