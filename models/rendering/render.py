"""Render a whole image in bounded memory: tile by tile (they are cut in `tiles.py`), and LR pixel by LR pixel."""

import contextlib
import functools
import math
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

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
LARGEST_WORK = 4 * 2**30  # bytes that encoding a tile may take on a CPU, however much is free
USEFUL, USEFUL_MARGINS = 256, 28  # sides of tiles on a CPU, in pixels and in margins: larger ones save little work
PARTS = 100  # that a block of output pixels counts in the progress that is shown
STRIP, STRIP_CPU = 2**20, 2**15  # pixels that are encoded at a time where memory allows
FAR_ABOVE = 4  # of [0, 1]: an image that reaches so high is not meant in these units, not even an HDR one
DELAY = 2  # seconds of work before its progress is shown


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
    or as large a region of it as memory allows, in strips (`models.rendering.strips`), and tiles are cut from its
    features; one whose features depend on the whole image encodes it as a whole, once. `tile`: side of a tile's inner
    part in LR pixels; None: as large as fits into free memory. A tile that does not fit is cut into four. `precision`:
    'fp32' (the model's own), 'bf16' or 'fp16'; an output that is not finite is rendered again in the model's own
    precision, with a warning. float32 is not rounded to TF32. `progress`: a bar when it takes more than two seconds, or
    lines in a log. `part`: a range of the rows and one of the columns that are rendered, all others left out; a step of
    k makes pixels k times as large: rows `range(1, 3 * h, 3)` of `3 * h` are those of an image of height h.

    Raises UserError for a size or tile that is not positive, a part that is not inside the output, an unknown
    precision, and when there is not enough memory for the smallest tile.
    """
    lr = check_input(model, lr)
    check_options(lr, size, tile, precision, part)
    (height, width), (h, w) = lr.shape[-2:], map(int, size)
    part = part or (range(h), range(w))
    axes = [grid.Blocks(*axis, FULLEST) for axis in zip((height, width), (h, w), part)]
    cells = grid.relative_cell((height, width), (h, w), lr.device)
    relative_cell = torch.stack([cell * chosen.step for cell, chosen in zip(cells, part)])
    try:
        out = lr.new_empty(lr.shape[0], 3, *map(len, part))
    except RuntimeError as error:
        raise UserError(f'an output of {h} x {w} pixels needs more memory than there is on {lr.device}') from error
    total = math.prod(len(blocks.pixels) for blocks in axes)
    exact = exact_float32() if lr.device.type == 'cuda' else contextlib.nullcontext()
    with exact, progress_bar(PARTS * total, progress) as bar:
        rendering = Rendering(model, lr, axes, relative_cell, precision, out, bar)
        regions = rendering.regions(tile)
        while regions:
            region, done = regions.pop(0), bar.n
            try:
                rendering.render_region(region, tile)
            except (RuntimeError, MemoryError) as error:
                bar.n = done
                if not is_out_of_memory(error):
                    raise
                quarters = cut_in_four(region)
                if not quarters:
                    raise UserError(
                        f'a tile of {SMALLEST_TILE} x {SMALLEST_TILE} pixels needs more memory than '
                        f'there is on {lr.device}'
                    ) from error
                regions = quarters + regions
    return out


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


class Rendering:
    """An image while it is rendered: what all regions and tiles of it share.

    The arguments are those of `render`; `axes`: the output pixels of both axes; `bar` counts `PARTS` for each of their
    blocks.
    """

    def __init__(
        self,
        model: Any,
        lr: torch.Tensor,
        axes: Sequence[grid.Blocks],
        relative_cell: torch.Tensor,
        precision: str,
        out: torch.Tensor,
        bar: tqdm,
    ):
        self.model, self.lr, self.axes, self.relative_cell = model, lr, axes, relative_cell
        self.precision, self.out, self.bar = precision, out, bar
        self.on_cpu = lr.device.type == 'cpu'
        half = PRECISIONS[precision]
        self.half = half if half and model.decodes_in(half, lr) else None  # what decoding is in, encoding is not
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
        work = min(max(free - self.out.nbytes, free / 4) / 2, LARGEST_WORK) if self.on_cpu else free / 2
        return work / (self.lr.element_size() * len(self.lr))

    def regions(self, tile: int | None) -> list[Region]:
        """The parts of the LR image that are encoded one after the other: `tile` pixels to a side, or as large as
        memory allows."""
        (top, bottom), (left, right) = ((int(blocks.pixels[0]), int(blocks.pixels[-1]) + 1) for blocks in self.axes)
        extent = bottom - top, right - left
        size = (tile, tile) if tile else (self.region_size if self.stages else self.tile_size)(extent)
        return tiles((top, bottom, left, right), *size)

    def region_size(self, extent: Sequence[int]) -> tuple[int, int]:
        """Height and width of the largest regions that can be encoded in strips; the features take at most half of what
        may be held."""
        floats, channels = self.floats(), self.model.encoder.out_dim

        def fits(h, w):
            rows = strips.rows_per_strip(self.stages, w, self.strip, floats / 2)
            held = h * w * channels
            return held <= floats / 2 and held + w * strips.floats_per_column(self.stages, rows) <= floats

        return largest_tile(extent[0], extent[1], self.model.receptive_field, fits)

    @property
    def strip(self) -> int:
        return STRIP_CPU if self.on_cpu else STRIP

    def tile_size(self, extent: Sequence[int]) -> tuple[int, int]:
        """Height and width of a tile's inner part in a region of `extent`. On a CPU it is no larger than is useful:
        what is small stays in caches and is not taken from the system anew all the time."""
        floats, each = self.floats(), self.model.floats_per_pixel
        if self.stages:
            floats -= self.model.encoder.out_dim * math.prod(extent)
            each -= self.model.encoder_floats()
        most = floats / max(each, 3)
        if self.on_cpu:
            most = min(most, max(USEFUL, (USEFUL_MARGINS + 2) * self.margin) ** 2)
        return largest_tile(extent[0], extent[1], self.margin, lambda h, w: h * w <= most)

    # ------------------------------------------------------------ a region

    def render_region(self, region: Region, tile: int | None) -> None:
        """Write the output pixels that belong to the LR pixels of `region` to `out`, and count them in `bar`."""
        top, bottom, left, right = region
        extent = bottom - top, right - left
        if not self.stages:
            return self.render_tile(region, self.whole_maps)
        maps_in = functools.cache(functools.partial(self.strip_maps, region))
        for part in tiles(region, *(extent if tile else self.tile_size(extent))):
            self.render_tile(part, maps_in)

    def strip_maps(self, region: Region, precision: str) -> Known:
        """The encoder's features of a region and around it, as far as its tiles need them, encoded in strips."""
        top, bottom, left, right = region
        margin = self.model.receptive_field + math.lcm(self.model.window, 2) - 1  # a tile starts at such a multiple
        y, x = (with_margin(*ends, margin, self.model.window) for ends in ((top, bottom), (left, right)))
        blocks = [blocks_between(axis, *ends, 0) for axis, ends in zip(self.axes, ((top, bottom), (left, right)))]
        shares, begun = self.shares * math.prod(len(axis.pixels) for axis in blocks), self.bar.n
        height, width = self.lr[0, 0, y, x].shape

        def done(rows):
            if self.half or precision == self.precision:
                self.bar.update(begun + shares * rows // height - self.bar.n)

        rows = strips.rows_per_strip(self.stages, width, self.strip, self.floats() / 2)
        with autocast(self.lr, precision):
            maps = self.model.strip_maps(self.lr, y, x, rows, done)
        if height > rows:
            return_memory()
        return maps

    # ------------------------------------------------------------ a tile

    def render_tile(self, region: Region, maps_in: Callable[[str], Known | None]) -> None:
        """As `render_region`; `maps_in(precision)` gives the encoder's features, where they are not the tile's own."""
        top, bottom, left, right = region
        y, x = (with_margin(*ends, self.margin, self.model.window) for ends in ((top, bottom), (left, right)))
        rows = blocks_between(self.axes[0], top, bottom, y.start)
        columns = blocks_between(self.axes[1], left, right, x.start)
        if not len(rows.pixels) or not len(columns.pixels):
            return
        maps = maps_in('fp32' if self.half else self.precision)
        begun = self.bar.n
        finite = self.decode((y, x), rows, columns, maps, self.precision)
        if not finite and PRECISIONS[self.precision]:
            better = str(self.lr.dtype).removeprefix('torch.')
            said = f'in {self.precision} the output is not finite: it is made in {better}'
            warnings.warn(said, stacklevel=4)
            self.bar.n = begun
            self.decode((y, x), rows, columns, maps_in('fp32'), 'fp32')

    def decode(
        self, part: tuple[slice, slice], rows: grid.Blocks, columns: grid.Blocks, maps: Known | None, precision: str
    ) -> bool:
        """Encode a part of the LR image, `lr[:, :, y, x]`, from `maps` where they are known, and write the output
        pixels of its blocks, `rows` and `columns`, to `out (B, 3, h, w)`, a few blocks at a time.

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
            finite = decode_blocks(model, features, plan, (rows, columns), (top, bottom, left, right), self.out)
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
) -> torch.Tensor:
    """Write the output pixels of a `region` of the plan's blocks, which are `axes` on the CPU, to `out (B, 3, h, w)`.
    Returns whether they are finite, a bool `()`."""
    top, bottom, left, right = region
    rows, columns = axes[0].part(top, bottom), axes[1].part(left, right)
    pairs = torch.cartesian_prod(*(torch.arange(*ends, device=out.device) for ends in ((top, bottom), (left, right))))
    colour = model.query_blocks(features, plan, pairs[None, :, 0], pairs[None, :, 1])
    colour = colour.reshape(len(out), len(rows.pixels), len(columns.pixels), rows.size, columns.size, 3)
    colour = colour.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)  # (B, 3, rows * my, columns * mx)
    colour = colour[:, :, rows.slots().to(out.device)][..., columns.slots().to(out.device)]
    y, x = int(rows.output[0, 0]), int(columns.output[0, 0])
    out[:, :, y : y + colour.shape[2], x : x + colour.shape[3]] = colour
    return colour.isfinite().all()
