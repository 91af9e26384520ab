"""Training on LR/HR pairs that exist already, of one or several integer scales."""

from typing import Any

import numpy as np
import torch

from datasets.reduction import whole_scale
from datasets.registry import register
from datasets.wrappers import as_dataset, augmented, check_samples, draw_index, to_tensor
from utils import UserError


@register('paired-sets')
class PairedSets:
    """Several datasets of pairs (such as one for each scale) as a single one. `datasets`: their specs."""

    def __init__(self, datasets: Any):
        if not isinstance(datasets, (list, tuple)) or not datasets:
            raise UserError(f'paired-sets: datasets is a list of specs, not {datasets!r}')
        self.sets = [as_dataset(dataset, pairs=True) for dataset in datasets]
        self.pairs = [(of, i) for of in self.sets for i in range(len(of))]

    @property
    def folders(self) -> dict:
        """The folders of all datasets, by name."""
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


def pairs_by_scale(dataset: Any) -> dict[int, list[int]]:
    """The numbers of a dataset's pairs, grouped by scale. Raises UserError for a pair whose scale is not an integer."""
    found: dict[int, list[int]] = {}
    for i in range(len(dataset)):
        lr, hr = dataset.pair_size(i)
        scale = whole_scale(lr, hr)
        if scale is None:
            raise UserError(
                f'{dataset.name(i)}: an LR image of {lr[0]} x {lr[1]} and an HR image of {hr[0]} x {hr[1]} pixels '
                f'are of no integer scale'
            )
        found.setdefault(scale, []).append(i)
    return dict(sorted(found.items()))


class OfScale:
    """Those pairs of a dataset of pairs that are of `scale`. Raises UserError if there are none."""

    def __init__(self, dataset: Any, scale: float):
        self.dataset, found = dataset, pairs_by_scale(dataset)
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
    """Training samples like those of `datasets.wrappers.Training`, but from LR images that exist already.

    `dataset`: a spec or dataset of pairs; those with an integer scale from `scale_min` to `scale_max` are used. Each
    step has one of these scales, all equally likely. A random square of `patch x patch` LR pixels is cropped from the
    epoch's next pair of that scale, with the corresponding HR pixels; both are flipped and transposed alike
    (`augment`). The other arguments and the items are those of `Training`.
    Raises UserError for pairs of no integer scale, if no pair is in range, for an LR image that is smaller than a
    patch, and for arguments that make no sense.
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
        self.dataset = as_dataset(dataset, pairs=True)
        self.batch_size, self.steps, self.patch, self.queries = batch_size, steps, patch, queries
        self.draw, self.augment, self.seed = draw, augment, seed
        found = pairs_by_scale(self.dataset)
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
            lr, hr = augmented(random, lr, hr)
        index = draw_index(random, self.draw, self.queries, patch, side)
        return {'lr': to_tensor(lr), 'hr': to_tensor(hr), 'index': torch.from_numpy(index)}
