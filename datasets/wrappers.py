"""Wrappers that make LR/HR pairs of images: for training at a random scale, for evaluation at a given one."""

import math
from typing import Any

import numpy as np
import torch

from datasets.degradations import Degradation, Degradations, case
from datasets.pictures.resize import FILTERS, pil_resize
from datasets.pictures.sizes import scale_pair
from datasets.reduction import reduced, sizes, whole_scale
from datasets.registry import make, register
from utils import UserError, check_numbers, check_whole, error_prefix, suggestion

DRAWS = ('pixel', 'block', 'patch')


def as_dataset(dataset: Any, pairs: bool = False) -> Any:
    """A dataset that may be given as its spec. Raises UserError if it is not one of single images, or of `pairs`."""
    dataset = dataset if hasattr(dataset, 'name') else make(dataset)
    if not hasattr(dataset, 'pairs' if pairs else 'size'):
        raise UserError(
            f'a dataset of {"pairs of images" if pairs else "single images"} is needed, '
            f'which {type(dataset).__name__} is not'
        )
    return dataset


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """`(H, W, 3)` uint8 array to `(3, H, W)` uint8 tensor."""
    return torch.from_numpy(image.transpose(2, 0, 1).copy())


def evaluation_item(
    name: str, hr: np.ndarray, scale: tuple[float, ...], degradation: Degradation = Degradation()
) -> dict:
    """What is evaluated of an image `hr (H, W, 3)` uint8 at `scale` (sy, sx), its LR image made as `reduced` says,
    between the steps of `degradation` before and after the reduction.

    `{'name': str, 'lr': (3, H, W), 'hr': (3, h, w), 'scale': (sy, sx)}`, both images float32 in [0, 1].
    Raises UserError as `reduced` does.
    """
    with error_prefix(name):
        height, width = sizes(hr.shape[:2], scale)[1]
        lr, _ = reduced(degradation.before_reduction(hr, scale), scale)
    lr, hr = degradation.after_reduction(lr), hr[:height, :width]
    return {'name': name, 'lr': to_tensor(lr).float() / 255, 'hr': to_tensor(hr).float() / 255, 'scale': scale}


@register('sr-evaluation')
class Evaluation:
    """HR images and their LR images at a fixed scale, made on the fly.

    `dataset`: a spec or dataset of single images; `scale`: a number or [sy, sx], fractional or not; `degrade`: one of
    `datasets.degradations.CASES`. An item is that of `evaluation_item`. Raises UserError for an unknown degradation.
    """

    def __init__(self, dataset: Any, scale: Any, degrade: str = 'clean'):
        self.dataset, self.scale = as_dataset(dataset), scale_pair(scale)
        self.degrade, self.degradation = degrade, case(degrade)

    def __len__(self) -> int:
        return len(self.dataset)

    def measure(self, i: int) -> tuple[str, tuple[int, ...], tuple[float, ...]]:
        """Name, HR size (h, w) and scale (sy, sx) of item `i`, without making its LR image."""
        name = self.dataset.name(i)
        with error_prefix(name):
            return name, sizes(self.dataset[i].shape[:2], self.scale)[1], self.scale

    def __getitem__(self, i: int) -> dict:
        return evaluation_item(self.dataset.name(i), self.dataset[i], self.scale, self.degradation)


@register('sr-evaluation-paired')
class PairedEvaluation:
    """HR images and LR images that someone has made; the scale is what the sizes say.

    `dataset`: a spec or dataset of pairs. An item is as in `Evaluation`; at a whole scale HR is cropped to a multiple
    of it. Raises UserError where LR is larger than HR or the sizes do not belong together.
    """

    def __init__(self, dataset: Any):
        self.dataset = as_dataset(dataset, pairs=True)

    def __len__(self) -> int:
        return len(self.dataset)

    def measure(self, i: int) -> tuple[str, tuple[int, ...], tuple[float, ...]]:
        """Name, HR size (h, w) and scale (sy, sx) of item `i`."""
        item = self[i]
        return item['name'], tuple(item['hr'].shape[-2:]), item['scale']

    def __getitem__(self, i: int) -> dict:
        lr, hr = self.dataset[i]
        whole = whole_scale(lr.shape[:2], hr.shape[:2])
        scale: list[float] = [whole, whole] if whole else []
        if not whole:
            scale = [n_hr / n_lr for n_hr, n_lr in zip(hr.shape[:2], lr.shape[:2])]
            if min(scale) < 1 or not 0.9 < scale[0] / scale[1] < 1.1:
                raise UserError(
                    f'{self.dataset.name(i)}: an LR image of {lr.shape[0]} x {lr.shape[1]} does not belong '
                    f'to an HR image of {hr.shape[0]} x {hr.shape[1]} pixels'
                )
        hr = hr[: round(lr.shape[0] * scale[0]), : round(lr.shape[1] * scale[1])]
        return {
            'name': self.dataset.name(i),
            'lr': to_tensor(lr).float() / 255,
            'hr': to_tensor(hr).float() / 255,
            'scale': tuple(float(s) for s in scale),
        }


def check_samples(
    what: str,
    scale_min: float,
    scale_max: float,
    batch_size: int,
    steps: int,
    patch: int,
    queries: int,
    draw: str,
    augment: bool,
    seed: int,
) -> None:
    """Raise UserError for arguments of a training's samples, `what`, that make no sense."""
    if draw not in DRAWS:
        raise UserError(f'{what}: draw is one of {", ".join(DRAWS)}, not {draw!r}')
    if not isinstance(augment, bool):
        raise UserError(f'{what}: augment is true or false, not {augment!r}')
    check_whole(what, batch_size=batch_size, steps=steps, patch=patch, queries=queries)
    if draw == 'patch' and math.isqrt(queries) ** 2 != queries:
        raise UserError(f'{what}: the draw patch needs queries that are a square number, not {queries}')
    check_whole(what, smallest=0, seed=seed)
    check_numbers(what, scale_min=scale_min, scale_max=scale_max)
    if not 1 <= scale_min <= scale_max:
        raise UserError(f'{what}: scales from {scale_min} to {scale_max} make no sense')


def augmented(random: np.random.Generator, *images: np.ndarray) -> tuple[np.ndarray, ...]:
    """The `images (H, W, 3)`, all flipped and transposed in the same way, at random."""
    if random.random() < 0.5:
        images = tuple(image[::-1] for image in images)
    if random.random() < 0.5:
        images = tuple(image[:, ::-1] for image in images)
    if random.random() < 0.5:
        images = tuple(image.transpose(1, 0, 2) for image in images)
    return images


def draw_index(random: np.random.Generator, draw: str, queries: int, patch: int, side: int) -> np.ndarray:
    """The `index` of a sample with LR and HR images of `patch` and `side` pixels to a side, see `Training`."""
    if draw == 'pixel':
        return random.choice(side * side, queries, replace=queries > side * side)
    if draw == 'patch':
        inner = np.arange(min(math.isqrt(queries), side))
        y, x = (int(random.integers(side - len(inner) + 1)) + inner for _ in range(2))
        return (y[:, None] * side + x).flatten()
    count = round(queries * (patch / side) ** 2)
    return random.choice(patch**2, min(max(count, 1), patch**2), replace=False)


@register('sr-training')
class Training:
    """Training samples, each a function of its number alone: workers and resuming need no random state.

    Sample `n` belongs to step `n // batch_size`; a step has one scale, uniform in [scale_min, scale_max]. A square of
    `round(patch * scale)` HR pixels is cropped at random from the epoch's next image, flipped and transposed at random
    (`augment`), and reduced to `patch x patch` by `filter`, one of `datasets.pictures.resize.FILTERS`, PIL's
    antialiased bicubic by default. Source: LIIF (arXiv 2012.09161, section 4), MSIT (arXiv 2403.06536).
    With `shrink` below 1 the crop of every second sample, at random, is a larger one of the image that is reduced to
    these HR pixels, to between `shrink` times its size (or what the image allows) and all of it: sharper images, with
    less of their compression. Source: FSRCNN (arXiv 1608.00367, section 4.1).
    With `degrade`, a mapping as in `datasets.degradations.Degradations`, LR images are made by degradations drawn at
    random, and not by Pillow's bicubic alone.

    An item: `{'lr': (3, patch, patch), 'hr': (3, h, h), 'index'}`, images uint8, `index` int64: with `draw` 'pixel'
    `(queries,)` HR pixels `y * h + x`, distinct as far as there are enough; with 'block' `(P,)` distinct LR pixels, all
    of whose HR pixels are meant, `P` such that these are about `queries`; with 'patch' the HR pixels of a square at a
    random place, row by row, `queries` of them, a square number, or all where there are fewer.
    Raises UserError for an image that is smaller than the largest crop, and for arguments that make no sense.
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
        shrink: float = 1,
        filter: str = 'bicubic',
        seed: int = 0,
        degrade: dict | None = None,
    ):
        check_samples('sr-training', scale_min, scale_max, batch_size, steps, patch, queries, draw, augment, seed)
        check_numbers('sr-training', shrink=shrink)
        if filter not in list(FILTERS):
            raise UserError(f'sr-training: unknown filter {filter!r}{suggestion(filter, FILTERS)}')
        if not 0 < shrink <= 1:
            raise UserError(f'sr-training: shrink is above 0 and at most 1, not {shrink}')
        self.degradations = None if degrade is None else Degradations(degrade)
        self.dataset = as_dataset(dataset)
        self.scales = (scale_min, scale_max)
        self.batch_size, self.steps, self.patch, self.queries = batch_size, steps, patch, queries
        self.draw, self.augment, self.shrink, self.filter, self.seed = draw, augment, shrink, filter, seed
        largest = round(patch * scale_max)
        for i in range(len(self.dataset)):
            height, width = self.dataset.size(i)
            if min(height, width) < largest:
                raise UserError(
                    f'{self.dataset.name(i)}: an image of {height} x {width} pixels is smaller than the '
                    f'{largest} x {largest} that a patch of {patch} takes at scale {scale_max:g}'
                )

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def random(self, *what: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, *what))

    def __getitem__(self, n: int) -> dict:
        scale = self.random(0, n // self.batch_size).uniform(*self.scales)
        epoch, place = divmod(n, len(self.dataset))
        i = int(self.random(2, epoch).permutation(len(self.dataset))[place])
        image = self.dataset[i]
        random = self.random(1, n)
        side = round(self.patch * scale)
        if min(image.shape[:2]) < side:
            raise UserError(f'{self.dataset.name(i)}: this image has become smaller than the crops of the training')
        crop = side
        if self.shrink < 1 and random.random() < 0.5:
            crop = round(side / random.uniform(max(self.shrink, side / min(image.shape[:2])), 1))
        top, left = (int(random.integers(extent - crop + 1)) for extent in image.shape[:2])
        hr = image[top : top + crop, left : left + crop]
        if crop > side:
            hr = pil_resize(hr, (side, side))
        if self.augment:
            (hr,) = augmented(random, hr)
        hr = np.ascontiguousarray(hr)
        index = draw_index(random, self.draw, self.queries, self.patch, side)
        degradation = self.degradations.draw(self.random(3, n)) if self.degradations else Degradation()
        lr = degradation.reduce(hr, (self.patch, self.patch), self.filter)
        return {'lr': to_tensor(lr), 'hr': to_tensor(hr), 'index': torch.from_numpy(index)}
