"""Degradations: what photographs have gone through before they are enlarged.

A photo is slightly blurred, may have been resized, is noisy, was sharpened by the camera, and was compressed with loss.
These steps are those of the degradation models of BSRGAN (arXiv 2103.14006, section 3) and Real-ESRGAN (arXiv
2107.10833, section 3), but milder, and always in this order, which is that of cameras and web pages.

Images are `(H, W, 3)` arrays, uint8, RGB in 0..255, before and after each step.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import scipy  # which loads its submodules when they are first used: programs start a second sooner
from PIL import Image

from datasets.pictures.resize import FILTERS, resized
from utils import UserError, is_number, suggestion

BLURS = ('isotropic', 'anisotropic', 'defocus', 'motion')
NOISES = ('gaussian', 'grey', 'poisson', 'demosaic')
SUBSAMPLINGS = ('4:4:4', '4:2:0')
CODECS = ('jpeg', 'webp')
BLOCK = 16  # side of a codec's blocks in pixels: 8, twice as large for subsampled colour


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Round and clip to 0..255."""
    return image.round().clip(0, 255).astype(np.uint8)


# ---------------------------------------------------------------- the steps


@dataclass(frozen=True)
class Blur:
    """Convolution of the HR image with a kernel, mirrored at the borders.

    `sigma`: the kernel's standard deviation along its long axis, in LR pixels, the pixels of the photo to be enlarged;
    `ratio`: the standard deviation along the short axis divided by `sigma`, for 'anisotropic'; `angle`: direction of
    the long axis, in degrees. 'isotropic' and 'anisotropic' are Gaussians, 'defocus' is a disc, 'motion' is a line.
    """

    kind: str
    sigma: float
    ratio: float = 1
    angle: float = 0

    def kernel(self, scale: Sequence[float]) -> np.ndarray:
        """The kernel `(k, l)` in HR pixels at `scale` (sy, sx); `k` and `l` are odd, and its sum is 1."""
        radius = [max(1, math.ceil(4 * self.sigma * s)) for s in scale]
        y, x = (np.arange(-r, r + 1) / s for r, s in zip(radius, scale))  # in LR pixels
        angle = math.radians(self.angle)
        along = x * math.cos(angle) + y[:, None] * math.sin(angle)
        across = y[:, None] * math.cos(angle) - x * math.sin(angle)
        pixel = 1 / math.sqrt(scale[0] * scale[1])  # an HR pixel in LR pixels: disc and line fade to zero over one
        if self.kind == 'defocus':
            kernel = (0.5 + (2 * self.sigma - np.hypot(along, across)) / pixel).clip(0, 1)
        elif self.kind == 'motion':
            beyond = np.maximum(np.abs(along) - math.sqrt(3) * self.sigma, 0)
            kernel = (1 - np.hypot(beyond, across) / pixel).clip(0, 1)
        else:
            kernel = np.exp(-((along / self.sigma) ** 2 + (across / (self.sigma * self.ratio)) ** 2) / 2)
        return kernel / kernel.sum()

    def __call__(self, image: np.ndarray, scale: Sequence[float]) -> np.ndarray:
        kernel = self.kernel(scale).astype(np.float32)
        margins = [(n // 2, n // 2) for n in kernel.shape]
        padded = np.pad(image.astype(np.float32), (*margins, (0, 0)), 'symmetric')
        return to_uint8(scipy.signal.fftconvolve(padded, kernel[..., None], 'valid', axes=(0, 1)))


@dataclass(frozen=True)
class Reduction:
    """Resizing, directly or via an intermediate size: `middle` times the LR size, but at most the HR size."""

    filters: tuple[str, str] = ('bicubic', 'bicubic')  # to the intermediate size, and from there
    middle: float | None = None

    def __call__(self, image: np.ndarray, size: Sequence[int]) -> np.ndarray:
        if self.middle is not None:
            between = [min(max(1, round(n * self.middle)), m) for n, m in zip(size, image.shape[:2])]
            image = resized(image, between, self.filters[0])
        return resized(image, size, self.filters[1])


@dataclass(frozen=True)
class Noise:
    """Gaussian noise of standard deviation `sigma` (images are in 0..255), drawn from `seed`.

    'gaussian': independent in every channel; 'grey': the same in all channels; 'poisson': with a variance proportional
    to the signal, `sigma` being the standard deviation at 128; 'demosaic': noise of a sensor behind a Bayer mosaic,
    interpolated as the missing colours are, and so correlated between neighbouring pixels.
    """

    kind: str
    sigma: float
    seed: int = 0

    def __call__(self, image: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(self.seed).standard_normal(image.shape, np.float32) * np.float32(self.sigma)
        if self.kind == 'grey':
            noise = noise[..., :1]
        elif self.kind == 'poisson':
            noise = noise * np.sqrt(image / np.float32(128))
        elif self.kind == 'demosaic':
            noise = demosaiced(noise)
        return to_uint8(image + noise)


def demosaiced(image: np.ndarray) -> np.ndarray:
    """The image behind a Bayer mosaic (RGGB), which keeps one channel of each pixel; the others are interpolated
    bilinearly."""
    cross = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]], np.float32) / 4
    square = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32) / 4
    y, x = np.ogrid[: image.shape[0], : image.shape[1]]
    there = [(y % 2 == 0) & (x % 2 == 0), (y + x) % 2 == 1, (y % 2 == 1) & (x % 2 == 1)]
    channels = [
        scipy.ndimage.convolve(image[..., k] * there[k], kernel, mode='mirror')
        for k, kernel in enumerate((square, cross, square))
    ]
    return np.stack(channels, axis=-1)


@dataclass(frozen=True)
class Sharpening:
    """An unsharp mask: `amount` times the difference between the image and its Gaussian blur (standard deviation
    `radius`, in pixels) is added, which leaves halos at edges."""

    amount: float
    radius: float

    def __call__(self, image: np.ndarray) -> np.ndarray:
        sharp = image.astype(np.float32)
        blurred = scipy.ndimage.gaussian_filter(sharp, (self.radius, self.radius, 0))
        return to_uint8(sharp + self.amount * (sharp - blurred))


@dataclass(frozen=True)
class Compression:
    """Saved by Pillow as JPEG or WebP of `quality` and read again.

    `offset`: how many (rows, columns) before the image the codec's first block begins; they are filled by reflection.
    """

    codec: str
    quality: int
    subsampling: str = '4:2:0'  # of JPEG
    offset: tuple[int, int] = (0, 0)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        rows, columns = self.offset
        padded = np.pad(image, ((rows, 0), (columns, 0), (0, 0)), 'symmetric')
        options = {'subsampling': SUBSAMPLINGS.index(self.subsampling) * 2} if self.codec == 'jpeg' else {}
        file = io.BytesIO()
        Image.fromarray(padded).save(file, self.codec, quality=self.quality, **options)
        with Image.open(file) as read:
            return np.asarray(read.convert('RGB'))[rows:, columns:]


@dataclass(frozen=True)
class Degradation:
    """The steps that one image goes through: `blur` of the HR image, `reduction`, and then the steps `after` it, on the
    LR image. None: there is no such step.
    """

    blur: Blur | None = None
    reduction: Reduction | None = None
    after: tuple[Noise | Sharpening | Compression, ...] = ()

    def reduce(self, hr: np.ndarray, size: Sequence[int], filter: str = 'bicubic') -> np.ndarray:
        """Reduce an HR image to an LR image of `size` (h, w) and degrade it. `filter`, one of
        `datasets.pictures.resize.FILTERS`, reduces it if the degradation has no `reduction` of its own."""
        soft = self.before_reduction(hr, [n / m for n, m in zip(hr.shape[:2], size)])
        return self.after_reduction(self.reduction(soft, size) if self.reduction else resized(soft, size, filter))

    def before_reduction(self, hr: np.ndarray, scale: Sequence[float]) -> np.ndarray:
        """Apply the step that comes before the reduction by `scale` (sy, sx) to an HR image."""
        return self.blur(hr, scale) if self.blur else hr

    def after_reduction(self, lr: np.ndarray) -> np.ndarray:
        """Apply the steps that come after the reduction to an LR image."""
        for step in self.after:
            lr = step(lr)
        return lr

    def __str__(self) -> str:
        steps = [step for step in (self.blur, self.reduction, *self.after) if step]
        return '; '.join(in_words(step) for step in steps) or 'clean'


def in_words(step: Any) -> str:
    """A step with its settings, such as 'noise (kind grey, sigma 5.2)'; defaults and seeds are left out."""
    given = [(field.name, getattr(step, field.name)) for field in fields(step) if field.name != 'seed']
    facts = [(name, value) for name, value in given if value != getattr(type(step), name, None)]
    texts = [f'{name} {value:.3g}' if isinstance(value, float) else f'{name} {value}' for name, value in facts]
    return f'{type(step).__name__.lower()} ({", ".join(texts)})'


# The degradations of `scripts/evaluate.py -degrade`, by name; their seeds are fixed.
CASES = {
    'clean': Degradation(),
    'jpeg40': Degradation(after=(Compression('jpeg', 40),)),
    'jpeg60': Degradation(after=(Compression('jpeg', 60),)),
    'jpeg80': Degradation(after=(Compression('jpeg', 80),)),
    'noise8': Degradation(after=(Noise('gaussian', 8),)),
    'noise5+jpeg70': Degradation(after=(Noise('gaussian', 5), Compression('jpeg', 70))),
    'blur1+jpeg75': Degradation(blur=Blur('isotropic', 1), after=(Compression('jpeg', 75),)),
    'twice-jpeg': Degradation(after=(Compression('jpeg', 60, offset=(3, 5)), Compression('jpeg', 75))),
    'webp60': Degradation(after=(Compression('webp', 60),)),
}


def case(name: str) -> Degradation:
    """The degradation of that name in `CASES`. Raises UserError for an unknown name."""
    if name not in list(CASES):
        raise UserError(f'unknown degradation {name!r}{suggestion(name, CASES)}')
    return CASES[name]


# ---------------------------------------------------------------- drawing them at random

# The steps that a config may name, and their settings: (smallest, largest) value, or the names to choose from.
KNOWN: dict[str, dict[str, Any]] = {
    'blur': {'sigma': (0.05, 10), 'kinds': BLURS},
    'resize': {'middle': (0.1, 10), 'filters': tuple(FILTERS)},
    'noise': {'sigma': (0, 128), 'kinds': NOISES},
    'sharpen': {'amount': (0, 10), 'radius': (0.1, 10)},
    'jpeg': {'quality': (1, 100), 'subsampling': SUBSAMPLINGS, 'twice': None},
    'webp': {'quality': (1, 100)},
}


class Degradations:
    """Draws degradations at random, as a mapping says for each step.

        clean: 0.25                # probability of no degradation at all; 0 if left out
        blur: {probability: 0.4, sigma: [0.2, 1.0], kinds: [isotropic, anisotropic, defocus, motion]}
        resize: {probability: 0.3, middle: [0.8, 1.5], filters: [bicubic, bilinear, lanczos, area, hamming]}
        noise: {probability: 0.5, sigma: [0, 15], kinds: [gaussian, grey, poisson, demosaic]}
        sharpen: {probability: 0.2, amount: [0.2, 1.0], radius: [0.5, 1.5]}
        jpeg: {probability: 0.7, quality: [30, 95], subsampling: ['4:4:4', '4:2:0'], twice: 0.2}
        webp: {probability: 0.1, quality: [40, 95]}

    Each step is applied with its `probability`. Its numbers are drawn uniformly from their ranges, and names from their
    lists. A step that is left out is never applied. `resize` goes, with probability 1/2, via an intermediate size
    (`middle` times that of the LR image), and otherwise directly to the LR size. With probability `twice` (0 if left
    out) JPEG is applied a second time. The offset of a codec's blocks is random.
    Raises UserError for unknown or missing steps and settings, and for numbers out of range.
    """

    def __init__(self, spec: Any):
        if not isinstance(spec, Mapping) or not spec:
            raise UserError(f'degrade is a mapping of {", ".join(("clean", *KNOWN))}, not {spec!r}')
        for name in spec:
            if name != 'clean' and name not in list(KNOWN):
                raise UserError(f'degrade: unknown key {name!r}{suggestion(name, ["clean", *KNOWN])}')
        self.clean = probability('clean', spec.get('clean', 0))
        self.steps = {name: step(name, spec[name]) for name in KNOWN if spec.get(name) is not None}

    def draw(self, random: np.random.Generator) -> Degradation:
        """Draw a degradation. The number of random numbers that this takes varies."""

        def number(name, key):
            return float(random.uniform(*self.steps[name][key]))

        def one(name, key):
            return str(random.choice(self.steps[name][key]))

        def taken(name):
            return name in self.steps and random.random() < self.steps[name]['probability']

        def offset():
            rows, columns = random.integers(BLOCK, size=2)
            return int(rows), int(columns)

        def jpeg():
            return Compression('jpeg', round(number('jpeg', 'quality')), one('jpeg', 'subsampling'), offset())

        if random.random() < self.clean:
            return Degradation()
        blur, reduction = None, None
        after: list[Noise | Sharpening | Compression] = []
        if taken('blur'):
            kind = one('blur', 'kinds')
            ratio = float(random.uniform(0.3, 1)) if kind == 'anisotropic' else 1
            turned = kind in ('anisotropic', 'motion')
            blur = Blur(kind, number('blur', 'sigma'), ratio, float(random.uniform(0, 180)) if turned else 0)
        if taken('resize'):
            middle = number('resize', 'middle') if random.random() < 0.5 else None
            reduction = Reduction((one('resize', 'filters'), one('resize', 'filters')), middle)
        if taken('noise'):
            after.append(Noise(one('noise', 'kinds'), number('noise', 'sigma'), int(random.integers(2**32))))
        if taken('sharpen'):
            after.append(Sharpening(number('sharpen', 'amount'), number('sharpen', 'radius')))
        if taken('jpeg'):
            after.append(jpeg())
            if random.random() < self.steps['jpeg']['twice']:
                after.append(jpeg())
        if taken('webp'):
            after.append(Compression('webp', round(number('webp', 'quality')), offset=offset()))
        return Degradation(blur, reduction, tuple(after))


def probability(where: str, value: Any) -> float:
    """Return `value` if it is a probability. Raises UserError otherwise."""
    if not is_number(value) or not 0 <= value <= 1:
        raise UserError(f'degrade: {where}: a probability is a number from 0 to 1, not {value!r}')
    return value


def step(name: str, given: Any) -> dict[str, Any]:
    """Return the settings of a step as a dict. Raises UserError if any is unknown, missing or out of range."""
    known, where = KNOWN[name], f'degrade: {name}'
    if not isinstance(given, Mapping):
        raise UserError(f'{where}: a mapping of {", ".join(("probability", *known))}, not {given!r}')
    for key in given:
        if key != 'probability' and key not in list(known):
            raise UserError(f'{where}: unknown key {key!r}{suggestion(key, ["probability", *known])}')
    given = {'twice': 0} | dict(given) if 'twice' in known else given
    for key in ('probability', *known):
        if given.get(key) is None:
            raise UserError(f'{where}: the key {key!r} is missing')
        value = given[key]
        if key in ('probability', 'twice'):
            probability(f'{name}: {key}', value)
        elif isinstance(known[key][0], str):
            if not isinstance(value, list) or not value:
                raise UserError(f'{where}: {key} is a list of some of {", ".join(known[key])}, not {value!r}')
            for one in value:
                if one not in list(known[key]):
                    raise UserError(f'{where}: {key}: unknown {one!r}{suggestion(one, known[key])}')
        else:
            low, high = known[key]
            pair = isinstance(value, list) and len(value) == 2 and all(map(is_number, value))
            if not pair or not low <= value[0] <= value[1] <= high:
                raise UserError(f'{where}: {key} is [smallest, largest], from {low:g} to {high:g}, not {value!r}')
    return dict(given)
