"""Render a whole image in bounded memory: tile by tile (they are cut in `tiles.py`), and LR pixel by LR pixel."""

import contextlib
import functools
import itertools
import math
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from models.device import PRECISIONS, exact_float32, free_memory, return_memory
from models.rendering import grid, strips
from models.rendering.strips import Known
from models.rendering.tiles import SMALLEST_TILE, Region, cut_in_four, largest_tile, tiles, with_margin
from utils import Note, UserError, in_a_log, is_out_of_memory

CHUNK = 50e6  # numbers that decoding holds at a time
CHUNK_CPU = 1.4e6  # the same on each thread of a CPU, so few that they stay in its cache
FULLEST = 32  # output pixels of one LR pixel that are decoded at once, along an axis
SHARE = 0.55  # of free memory that encoding a tile may take on a CPU
LARGEST_WORK = 4 * 2**30  # bytes that encoding a tile may take on a CPU, however much is free
USEFUL, USEFUL_MARGINS = 224, 28  # sides of tiles on a CPU, in pixels and in margins: larger ones save little work
HIGH, HIGH_MARGINS = 128, 17  # the same for their height alone: low ones make low bands
PARTS = 100  # that a block of output pixels counts in the progress that is shown
STRIP, STRIP_CPU = 2**20, 2**15  # pixels that are encoded at a time where memory allows
FAR_ABOVE = 4  # of [0, 1]: an image that reaches so high is not meant in these units, not even an HDR one
DELAY = 2  # seconds of work before its progress is shown
WRITTEN = 20  # numbers that a pixel of a band takes until it is written: copies of its colour and alpha


@torch.no_grad()
def render(
    model: Any,
    lr: torch.Tensor,
    size: Sequence[int],
    tile: int | None = None,
    precision: str = 'fp32',
    progress: bool = False,
    part: Sequence[range] | None = None,
) -> torch.Tensor:
    """Render `lr (B, 3, H, W)` in [0, 1] at `size = (h, w)`: `(B, 3, h, w)`, not clamped.

    The LR image is encoded in tiles with a margin as wide as the model's receptive field, so that every pixel comes out
    as if the image were encoded whole, and decoded a few LR pixels at a time. An encoder with `stages` reads the image,
    or as wide a region of it as memory allows, in strips (`models.rendering.strips`), and tiles are cut from its
    features; one whose features depend on the whole image encodes it as a whole, once. `tile`: side of a tile's inner
    part in LR pixels; None: as large as fits into free memory. A row of tiles that does not fit is cut into four.
    `precision`: 'fp32' (the model's own), 'bf16' or 'fp16'; an output that is not finite is rendered again in the
    model's own precision, with a warning. float32 is not rounded to TF32. `progress`: a bar when it takes more than two
    seconds, or lines in a log. `part`: a range of the rows and one of the columns that are rendered, all others left
    out; a step of k makes pixels k times as large: rows `range(1, 3 * h, 3)` of `3 * h` are those of an image of height
    h.

    Raises UserError for a size or tile that is not positive, a part that is not inside the output, an unknown
    precision, and when there is not enough memory for the smallest tile.
    """
    check_options(lr := check_input(model, lr), size, tile, precision, part)
    height, width = map(len, part or map(range, map(int, size)))
    out = empty(lr, height, width)

    def room(rows):
        return out[:, :, rows.start : rows.stop]

    for _ in rendered_bands(model, lr, size, tile, precision, progress, room, part, out.nbytes):
        pass
    return out


@torch.no_grad()
def render_bands(
    model: Any,
    lr: torch.Tensor,
    size: Sequence[int],
    tile: int | None = None,
    precision: str = 'fp32',
    progress: bool = False,
) -> Iterator[torch.Tensor]:
    """The image that `render` makes, in bands from top to bottom, each `(B, 3, rows, w)` and made when it is asked for,
    so that an output may be larger than memory. Arguments and errors as in `render`."""
    check_options(lr := check_input(model, lr), size, tile, precision)

    def room(rows):
        return empty(lr, len(rows), int(size[1]))

    yield from rendered_bands(model, lr, size, tile, precision, progress, room)


def empty(lr: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Room for an output `(B, 3, height, width)` of `lr`. Raises UserError if there is not enough memory."""
    try:
        return lr.new_empty(lr.shape[0], 3, height, width)
    except RuntimeError as error:
        said = f'an output of {height} x {width} pixels needs more memory than there is on {lr.device}'
        raise UserError(said) from error


def rendered_bands(
    model: Any,
    lr: torch.Tensor,
    size: Sequence[int],
    tile: int | None,
    precision: str,
    progress: bool,
    room: Callable[[range], torch.Tensor],
    part: Sequence[range] | None = None,
    held: int | None = None,
) -> Iterator[torch.Tensor]:
    """The bands of an output from top to bottom, each in a tensor `(B, 3, rows, w)` that `room(rows)` gives for its
    rows. `held`: the bytes of the whole output; None: it is not held. Other arguments as in `render`, checked."""
    (height, width), (h, w) = lr.shape[-2:], map(int, size)
    part = part or (range(h), range(w))
    axes = [grid.Blocks(*axis, FULLEST) for axis in zip((height, width), (h, w), part)]
    cells = grid.relative_cell((height, width), (h, w), lr.device)
    relative_cell = torch.stack([cell * chosen.step for cell, chosen in zip(cells, part)])
    total = math.prod(len(blocks.pixels) for blocks in axes)
    with progress_bar(PARTS * total, progress) as bar:
        rendering = Rendering(model, lr, axes, relative_cell, precision, tile, held, bar)
        for band in rendering.bands():
            blocks = blocks_between(axes[0], *band.rows, 0)
            if len(blocks.pixels):
                out = room(range(int(blocks.output[0, 0]), int(blocks.output[-1].max()) + 1))
                with exact_float32() if lr.device.type == 'cuda' else contextlib.nullcontext():
                    rendering.render_band(band, out, int(blocks.output[0, 0]))
                yield out
                del out  # which the caller may have written and dropped


@contextlib.contextmanager
def progress_bar(total: int, shown: bool) -> Iterator[tqdm]:
    """Progress towards `total`: on a terminal a bar, which appears after two seconds even if nothing is done by then;
    elsewhere a line from time to time."""
    on_terminal = sys.stderr.isatty()
    if on_terminal:
        look: dict[str, Any] = {'bar_format': '{percentage:3.0f}%|{bar}| {elapsed}<{remaining}', 'delay': DELAY}
    else:
        look = in_a_log() | {'bar_format': '{percentage:.0f}% rendered, {remaining} left', 'ncols': None}
    with tqdm(total=total, disable=not shown, **look | {'leave': False}) as bar:
        appear = threading.Timer(DELAY, bar.update, [0])
        appear.daemon = True
        if shown and on_terminal:
            appear.start()
        try:
            yield bar
        finally:
            appear.cancel()


def check_input(model: Any, lr: torch.Tensor) -> torch.Tensor:
    """`lr` in the precision of the model. Raises UserError if it is no LR image that the model can render."""
    like = next(model.parameters(), lr)
    check_image(lr, like)
    if like is not lr and any(part.training for part in model.modules()):
        raise UserError(
            'the model is in training mode, in which batch norm takes statistics of what it sees: call .eval()'
        )
    largest = float(lr.abs().max())  # which waits for the device; not finite if any value is not
    if not math.isfinite(largest):
        raise UserError('the LR image has values that are not finite')
    if largest > FAR_ABOVE:
        warnings.warn(f'an LR image is in [0, 1], this one reaches {largest:.5g}', Note, stacklevel=3)
    return lr.to(like.dtype)


def check_image(lr: torch.Tensor, like: torch.Tensor) -> None:
    """Raise UserError if `lr` is no batch of LR images on the device of `like`."""
    if not isinstance(lr, torch.Tensor) or lr.ndim != 4 or lr.shape[1] != 3 or min(lr.shape) < 1:
        shape = tuple(lr.shape) if isinstance(lr, torch.Tensor) else type(lr).__name__
        raise UserError(f'an LR image is a tensor (B, 3, H, W), not {shape}')
    if lr.layout != torch.strided:
        raise UserError(f'an LR image is a dense tensor, not one of layout {lr.layout}')
    if not lr.is_floating_point():
        raise UserError(f'an LR image is floating point in [0, 1], not {lr.dtype}: divide 8-bit values by 255')
    if lr.device.type != like.device.type:
        raise UserError(f'the LR image is on {lr.device}, the model on {like.device}')


def check_options(
    lr: torch.Tensor, size: Sequence[int], tile: int | None, precision: str, part: Sequence[range] | None = None
) -> None:
    """Raise UserError if an option of `render` makes no sense for `lr`."""
    try:
        good = len(size) == 2 and all(int(n) == n and n >= 1 for n in size)
    except (TypeError, ValueError):
        good = False
    if not good:
        raise UserError(f'the output size is two whole numbers from 1 up, not {size!r}')
    if tile is not None and (int(tile) != tile or tile < 1):
        raise UserError(f'the tile is a whole number of LR pixels from 1 up, not {tile}')
    if part and not all(
        chosen and chosen.step > 0 and 0 <= chosen[0] <= chosen[-1] < n for chosen, n in zip(part, size)
    ):
        raise UserError(f'the part is two ranges within {tuple(size)}, not {part}')
    if precision not in PRECISIONS or (precision == 'fp16' and lr.device.type != 'cuda'):
        raise UserError(f'the precision is fp32 or bf16, on CUDA also fp16, not {precision} on {lr.device.type}')


# ---------------------------------------------------------------- an image


MapsOf = Callable[[slice, str, Callable[[float], object]], Known | None]  # see `Rendering.maps_of`


class Band(NamedTuple):
    """A part of the LR image that is as wide as the image, and rendered at a time."""

    rows: tuple[int, int]  # of the LR image; the second is exclusive
    parts: list[tuple[list[Region], MapsOf]]  # rows of tiles, and what gives the encoder's features for each


class Rendering:
    """An image while it is rendered: what all of its bands and tiles share.

    The arguments are those of `rendered_bands`; `axes`: the output pixels of both axes; `bar` counts `PARTS` for each
    of their blocks.
    """

    def __init__(
        self,
        model: Any,
        lr: torch.Tensor,
        axes: Sequence[grid.Blocks],
        relative_cell: torch.Tensor,
        precision: str,
        tile: int | None,
        held: int | None,
        bar: tqdm,
    ):
        self.model, self.lr, self.axes, self.relative_cell = model, lr, axes, relative_cell
        self.precision, self.tile, self.held, self.bar = precision, tile, held, bar
        self.on_cpu = lr.device.type == 'cpu'
        half = PRECISIONS[precision]
        self.half = half if half and model.decodes_in(half, lr) else None  # what decoding is in, encoding is not
        self.encodes_in = 'fp32' if self.half else precision
        self.stages = model.stages()
        self.whole_maps = functools.cache(functools.partial(whole_maps, model, lr))
        self.margin, self.shares = model.receptive_field, 0  # `shares` of the PARTS are for encoding in strips
        if self.stages:
            self.margin -= model.encoder.receptive_field
            count, of_encoder = (sum(map(torch.numel, each.parameters())) for each in (model, model.encoder))
            self.shares = PARTS * of_encoder // count

    # ------------------------------------------------------------ how much at a time

    def floats(self) -> float:
        """How many numbers an image may hold beside its output, which takes no memory before it is written."""
        free = free_memory(self.lr.device)
        work = min(max(free - (self.held or 0), free / 4) * SHARE, LARGEST_WORK) if self.on_cpu else free / 2
        return work / (self.lr.element_size() * len(self.lr))

    def region_size(self, extent: Sequence[int]) -> tuple[int, int]:
        """Height and width of the largest regions that can be encoded in strips."""
        floats, kept = self.floats(), self.model.encoder.out_dim * self.model.wraps

        def fits(h, w):
            rows = strips.rows_per_strip(self.stages, w, self.strip, floats / 2)
            return w * (strips.floats_per_column(self.stages, rows) + kept * h) <= floats

        return largest_tile(extent[0], extent[1], self.model.receptive_field, fits)

    @property
    def strip(self) -> int:
        return STRIP_CPU if self.on_cpu else STRIP

    def tile_size(self, extent: Sequence[int]) -> tuple[int, int]:
        """Height and width of a tile's inner part in a region of `extent`. On a CPU it is no larger than is useful:
        what is small stays in caches and is not taken from the system anew all the time."""
        floats, each, row = self.floats(), self.model.floats_per_pixel, 0
        most = high = math.inf
        if self.on_cpu:
            most = max(USEFUL, (USEFUL_MARGINS + 2) * self.margin) ** 2
            high = max(HIGH, HIGH_MARGINS * self.margin)
        if self.stages:
            each -= self.model.encoder_floats()
            row = self.model.encoder.out_dim * extent[1]  # of a row's features
            floats -= strips.floats_per_column(self.stages, 0) * extent[1]
            if self.model.wraps:
                floats, row = floats - row * extent[0], 0

        def fits(h, w):
            return h <= high and h * w <= most and h * (w * max(each, 3) + row) <= floats

        return largest_tile(extent[0], extent[1], self.margin, fits)

    def not_too_high(self, rows: int) -> int:
        """As many `rows` of the LR image as a band may have, for its output to fit into memory until it is written; at
        least one."""
        if self.held is not None:
            return rows
        top, bottom = self.extent(0)
        pixels = math.prod(int(blocks.output.max()) + 1 for blocks in self.axes) / (bottom - top)
        host = free_memory(torch.device('cpu')) / 2 / (4 * len(self.lr))  # where the output is written from
        return max(1, min(rows, int(min(self.floats(), host) / 2 / (WRITTEN * pixels))))

    def extent(self, axis: int) -> tuple[int, int]:
        """The first LR pixel of an axis that has output pixels, and the one after the last."""
        pixels = self.axes[axis].pixels
        return int(pixels[0]), int(pixels[-1]) + 1

    # ------------------------------------------------------------ from top to bottom

    def bands(self) -> Iterator[Band]:
        """The image from top to bottom: every row of tiles of a region as wide as the image, or regions side by side
        with all of their tiles."""
        for rows, regions in itertools.groupby(self.regions(), lambda region: region[:2]):
            first, *others = regions
            if others:
                yield Band(rows, [part for region in (first, *others) for part in self.rows_of_tiles(region)])
            else:
                yield from (Band(row[0][:2], [(row, maps_of)]) for row, maps_of in self.rows_of_tiles(first))

    def regions(self) -> list[Region]:
        """The parts of the LR image that are encoded one after the other: `tile` pixels to a side, or as large as
        memory allows."""
        (top, bottom), (left, right) = self.extent(0), self.extent(1)
        extent = bottom - top, right - left
        size = self.region_size if self.stages else self.tile_size
        high, wide = (self.tile, self.tile) if self.tile else size(extent)
        if not self.stages or wide < extent[1]:
            high = self.not_too_high(high)
        return tiles((top, bottom, left, right), high, wide)

    def rows_of_tiles(self, region: Region) -> list[tuple[list[Region], MapsOf]]:
        """The tiles of a region, row by row, and what gives the encoder's features for them."""
        top, bottom, left, right = region
        extent = bottom - top, right - left
        high, wide = self.tile_size(extent) if self.stages and not self.tile else extent
        cut, maps_of = tiles(region, self.not_too_high(high), wide), self.maps_of(region)
        return [(list(row), maps_of) for _, row in itertools.groupby(cut, lambda part: part[:2])]

    def render_band(self, band: Band, out: torch.Tensor, above: int) -> None:
        """Write the output pixels of a band to `out (B, 3, rows, w)`, and count them in `bar`; `above`: the rows of the
        output above it."""
        while band.parts:  # taken out, so that the features of a region are freed before those of the next are made
            self.render_row(*band.parts.pop(0), out, above)

    def render_row(self, row: list[Region], maps_of: MapsOf, out: torch.Tensor, above: int) -> None:
        """The same for a row of tiles. If it does not fit into memory, it is cut into four."""
        region = top, bottom, left, right = (*row[0][:3], row[-1][3])
        count = len(blocks_between(self.axes[0], top, bottom, 0).pixels)
        count *= len(blocks_between(self.axes[1], left, right, 0).pixels)
        begun, quarters, maps = self.bar.n, [], None

        def encoded(share):
            self.bar.update(begun + int(share * self.shares * count) - self.bar.n)
            if share < 1:
                return_memory()

        try:
            if count:
                maps = maps_of(self.with_margin(top, bottom), self.encodes_in, encoded)
            encoded(1)
            if len(row) > 1:
                return_memory()
            for part in row:
                self.render_tile(part, maps, maps_of, out, above)
                if len(row) > 1:
                    return_memory()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self.bar.n, maps = begun, None
            quarters = cut_in_four(region)
            if not quarters:
                raise UserError(
                    f'a tile of {SMALLEST_TILE} x {SMALLEST_TILE} pixels needs more memory than there is on '
                    f'{self.lr.device}'
                ) from error
        for quarter in quarters:  # only here, as the error holds what did not fit
            for smaller, own in self.rows_of_tiles(quarter):
                self.render_row(smaller, own, out, above)

    def maps_of(self, region: Region) -> MapsOf:
        """What gives the encoder's features for the tiles of a region, row by row: `maps(rows, precision, done)`, None
        where tiles are encoded by themselves. `done(share)` is told how much of what was missing is encoded."""
        begun: dict[str, strips.Strips] = {}

        def maps(rows, precision, done):
            if not self.stages:
                return self.whole_maps(precision)
            if self.model.wraps:
                rows = self.with_margin(*region[:2])
            try:
                with autocast(self.lr, precision):
                    if precision not in begun:
                        begun[precision] = self.strips_from(rows.start, region)
                    return begun[precision].between(rows.start, rows.stop, done)
            except BaseException:
                begun.pop(precision, None)  # where it was interrupted it cannot go on
                raise

        return maps

    def strips_from(self, first: int, region: Region) -> strips.Strips:
        """The encoder's features that the tiles of a region need, from a row of the LR image on."""
        _, bottom, left, right = region
        columns = self.with_margin(left, right)
        depth, window = self.model.encoder.receptive_field, self.model.window
        y = with_margin(first, self.with_margin(0, bottom).stop, depth, window)
        x = with_margin(columns.start, columns.stop, depth, window)
        rows = strips.rows_per_strip(self.stages, self.lr[0, 0, 0, x].numel(), self.strip, self.floats() / 2)
        return self.model.strip_maps(self.lr, y, x, rows)

    def with_margin(self, first: int, last: int) -> slice:
        """The LR pixels `first` to `last - 1` of an axis with the margin of a tile."""
        return with_margin(first, last, self.margin, self.model.window)

    # ------------------------------------------------------------ a tile

    def render_tile(self, region: Region, maps: Known | None, maps_of: MapsOf, out: torch.Tensor, above: int) -> None:
        """The same for a tile, from the encoder's features `maps` where they are known."""
        top, bottom, left, right = region
        y, x = self.with_margin(top, bottom), self.with_margin(left, right)
        rows = blocks_between(self.axes[0], top, bottom, y.start)
        columns = blocks_between(self.axes[1], left, right, x.start)
        if not len(rows.pixels) or not len(columns.pixels):
            return
        begun = self.bar.n
        finite = self.decode((y, x), rows, columns, maps, self.precision, out, above)
        if not finite and PRECISIONS[self.precision]:
            better = str(self.lr.dtype).removeprefix('torch.')
            said = f'in {self.precision} the output is not finite: it is made in {better}'
            warnings.warn(said, stacklevel=2)
            self.bar.n = begun
            if self.encodes_in != 'fp32':
                maps = maps_of(y, 'fp32', lambda share: None)
            self.decode((y, x), rows, columns, maps, 'fp32', out, above)

    def decode(
        self,
        part: tuple[slice, slice],
        rows: grid.Blocks,
        columns: grid.Blocks,
        maps: Known | None,
        precision: str,
        out: torch.Tensor,
        above: int,
    ) -> bool:
        """Encode a part of the LR image, `lr[:, :, y, x]`, from `maps` where they are known, and write the output
        pixels of its blocks, `rows` and `columns`, to `out`, a few blocks at a time.

        On a CPU every thread decodes blocks of its own, so that what it works on stays in its core's cache.
        Returns whether all of the output is finite.
        """
        model, lr = self.model, self.lr
        half = None if precision == 'fp32' else self.half
        precision = 'fp32' if half else precision
        with autocast(lr, precision):
            features = model.encode_part(lr, *part) if maps is None else model.encode_part(lr, *part, maps)
        if half:
            features = model.for_decoding_in(half, features)
        with torch.autocast(lr.device.type, enabled=False):  # whatever the caller set: the position bias is exact
            plan = model.plan(features, rows.to(lr.device), columns.to(lr.device), self.relative_cell)
        size = (CHUNK_CPU if self.on_cpu else CHUNK) / (model.floats_per_block(plan) * len(lr))
        todo = iter(chunks(len(rows.pixels), len(columns.pixels), max(1, size)))
        one_at_a_time, stop = threading.Lock(), threading.Event()

        def decoded(top, bottom, left, right):
            finite = decode_blocks(model, features, plan, (rows, columns), (top, bottom, left, right), out, above)
            with one_at_a_time:
                self.bar.update((PARTS - self.shares) * (bottom - top) * (right - left))
            return finite

        def work():
            with torch.inference_mode(), autocast(lr, precision):
                finite = [decoded(*blocks) for blocks in todo if not stop.is_set()]
                return bool(torch.stack(finite).all()) if finite else True  # what waits for the device comes last

        return all(on_each_thread(work, stop) if self.on_cpu else [work()])


def blocks_between(blocks: grid.Blocks, first: int, last: int, origin: int) -> grid.Blocks:
    """The blocks of the LR pixels `first` to `last - 1`, these counted from `origin`."""
    at = torch.searchsorted(blocks.pixels, torch.tensor([first, last]))
    return blocks.part(int(at[0]), int(at[1]), origin)


def whole_maps(model: Any, lr: torch.Tensor, precision: str) -> Known | None:
    """The encoder's features of the whole image if it has to encode images whole, otherwise None. Raises UserError if
    they do not fit into memory."""
    try:
        with autocast(lr, precision):
            return model.whole_maps(lr)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        height, width = lr.shape[-2:]
        raise UserError(
            f'encoding the image of {height} x {width} pixels, as a whole as this encoder needs it, takes more memory '
            f'than there is on {lr.device}'
        ) from error


def autocast(lr: torch.Tensor, precision: str) -> torch.autocast:
    """A context in which `precision` is computed in."""
    return torch.autocast(lr.device.type, dtype=PRECISIONS[precision], enabled=PRECISIONS[precision] is not None)


def chunks(n_rows: int, n_columns: int, size: float) -> list[Region]:
    """The blocks in rectangles of about `size`, equally large and wide rather than high: (top, bottom, left, right)."""
    wide = -(-n_columns // max(1, round(n_columns / size)))
    high = max(1, round(size / wide))
    high = -(-n_rows // -(-n_rows // high))
    return tiles((0, n_rows, 0, n_columns), high, wide)


def on_each_thread(work: Callable[[], bool], stop: threading.Event) -> list[bool]:
    """Run `work()` once on each of as many threads as torch uses, torch itself on one thread in each; the results.
    Where one fails, or this thread is interrupted, `stop` is set, at which the others return soon."""
    threads = torch.get_num_threads()
    if threads == 1:
        return [work()]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                return [future.result() for future in [pool.submit(work) for _ in range(threads)]]
            except BaseException:
                stop.set()
                raise
    finally:
        torch.set_num_threads(threads)


def decode_blocks(
    model: Any,
    features: Any,
    plan: Any,
    axes: Sequence[grid.Blocks],
    region: Region,
    out: torch.Tensor,
    above: int,
) -> torch.Tensor:
    """Write the output pixels of a `region` of the plan's blocks, which are `axes` on the CPU, to `out (B, 3, h, w)`,
    above which there are so many rows of the output. Returns whether they are finite, a bool `()`."""
    top, bottom, left, right = region
    rows, columns = axes[0].part(top, bottom), axes[1].part(left, right)
    pairs = torch.cartesian_prod(*(torch.arange(*ends, device=out.device) for ends in ((top, bottom), (left, right))))
    colour = model.query_blocks(features, plan, pairs[None, :, 0], pairs[None, :, 1])
    colour = colour.reshape(len(out), len(rows.pixels), len(columns.pixels), rows.size, columns.size, 3)
    colour = colour.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)  # (B, 3, rows * my, columns * mx)
    colour = colour[:, :, rows.slots().to(out.device)][..., columns.slots().to(out.device)]
    y, x = int(rows.output[0, 0]) - above, int(columns.output[0, 0])
    out[:, :, y : y + colour.shape[2], x : x + colour.shape[3]] = colour
    return colour.isfinite().all()
