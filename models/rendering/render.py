"""Rendering a whole image, LR pixel by LR pixel and tile by tile, in bounded memory."""

import contextlib
import functools
import math
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from tqdm import tqdm

from models.device import PRECISIONS, free_memory
from models.rendering import grid
from utils import UserError, is_out_of_memory

CHUNK = 50e6  # numbers that decoding holds at a time
CHUNK_CPU = 1.4e6  # the same on each thread of a CPU, so few that they stay in its cache
FULLEST = 32  # output pixels of one LR pixel that are decoded at once, along an axis
LARGEST_WORK = 4 * 2**30  # bytes that encoding a tile may take on a CPU, however much is free
DELAY = 2  # seconds of work before its progress is shown
SMALLEST_TILE = 16  # LR pixels to a side; below it, running out of memory is final
Region = tuple[int, int, int, int]  # of pixels or blocks: top, bottom, left, right, the latter of each pair exclusive


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
    as if the image were encoded whole, and decoded a few LR pixels at a time. An encoder whose features depend on the
    whole image encodes it as a whole, once. `tile`: side of a tile's inner part in LR pixels; None: as large as fits
    into free memory. A tile that does not fit is cut into four. `precision`: 'fp32' (the model's own), 'bf16' or
    'fp16'; an output that is not finite is rendered again in the model's own precision, with a warning. `progress`: a
    bar when it takes more than two seconds. `part`: a range of the rows and one of the columns that are rendered, all
    others left out; a step of k makes pixels k times as large: rows `range(1, 3 * h, 3)` of `3 * h` are those of an
    image of height h.

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
    maps_in = functools.cache(functools.partial(whole_maps, model, lr))
    (top, bottom), (left, right) = ((int(blocks.pixels[0]), int(blocks.pixels[-1]) + 1) for blocks in axes)
    high, wide = tile_size(model, lr) if tile is None else (tile, tile)
    regions = tiles((top, bottom, left, right), high, wide)
    with progress_bar(math.prod(len(blocks.pixels) for blocks in axes), progress) as bar:
        while regions:
            region, done = regions.pop(0), bar.n
            try:
                render_tile(model, lr, region, axes, relative_cell, maps_in, precision, out, bar)
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
    """A bar for `total` blocks of output pixels that appears after two seconds, even if none is done by then."""
    with tqdm(total=total, unit='pixel', unit_scale=True, delay=DELAY, leave=False, disable=not shown) as bar:
        appear = threading.Timer(DELAY, bar.update, [0])
        appear.daemon = True
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
    if not lr.isfinite().all():
        raise UserError('the LR image has values that are not finite')
    return lr.to(like.dtype)


def check_image(lr: torch.Tensor, like: torch.Tensor) -> None:
    """Raise UserError if `lr` is no batch of LR images on the device of `like`."""
    if not isinstance(lr, torch.Tensor) or lr.ndim != 4 or lr.shape[1] != 3 or min(lr.shape) < 1:
        shape = tuple(lr.shape) if isinstance(lr, torch.Tensor) else type(lr).__name__
        raise UserError(f'an LR image is a tensor (B, 3, H, W), not {shape}')
    if not lr.is_floating_point():
        raise UserError(f'an LR image is floating point in [0, 1], not {lr.dtype}: divide 8-bit values by 255')
    if lr.device.type != like.device.type:
        raise UserError(f'the LR image is on {lr.device}, the model on {like.device}')


def check_options(
    lr: torch.Tensor, size: Sequence[int], tile: int | None, precision: str, part: Sequence[range] | None = None
) -> None:
    """Raise UserError if an option of `render` makes no sense for `lr`."""
    if len(size) != 2 or any(int(n) != n or n < 1 for n in size):
        raise UserError(f'the output size is two whole numbers from 1 up, not {tuple(size)}')
    if tile is not None and (int(tile) != tile or tile < 1):
        raise UserError(f'the tile is a whole number of LR pixels from 1 up, not {tile}')
    if part and not all(
        chosen and chosen.step > 0 and 0 <= chosen[0] <= chosen[-1] < n for chosen, n in zip(part, size)
    ):
        raise UserError(f'the part is two ranges within {tuple(size)}, not {part}')
    if precision not in PRECISIONS or (precision == 'fp16' and lr.device.type != 'cuda'):
        raise UserError(f'the precision is fp32 or bf16, on CUDA also fp16, not {precision} on {lr.device.type}')


# ---------------------------------------------------------------- tiles


def tile_size(model: Any, lr: torch.Tensor) -> tuple[int, int]:
    """Height and width of a tile's inner part, so that encoding it with its margin takes half of the free memory."""
    work = free_memory(lr.device) / 2
    if lr.device.type == 'cpu':
        work = min(work, LARGEST_WORK)
    pixels = work / (lr.shape[0] * model.floats_per_pixel * lr.element_size())
    height, width = lr.shape[-2:]
    margin = 2 * model.receptive_field
    wide = min(width, max(int(math.sqrt(pixels)) - margin, SMALLEST_TILE))
    high = int(pixels / min(wide + margin, width)) - margin
    return max(high, SMALLEST_TILE), wide


def tiles(region: Region, high: int, wide: int) -> list[Region]:
    """`region` in tiles, each at most `high` and `wide`, row by row."""
    top, bottom, left, right = region
    return [
        (y, min(y + high, bottom), x, min(x + wide, right))
        for y in range(top, bottom, high)
        for x in range(left, right, wide)
    ]


def cut_in_four(region: Region) -> list[Region]:
    """The quarters of a tile, or none if it is too small to be cut."""
    top, bottom, left, right = region
    if max(bottom - top, right - left) <= SMALLEST_TILE:
        return []
    high, wide = -(-(bottom - top) // 2), -(-(right - left) // 2)
    return tiles(region, high, wide)


# ---------------------------------------------------------------- a tile


def render_tile(
    model: Any,
    lr: torch.Tensor,
    region: Region,
    axes: Sequence[grid.Blocks],
    relative_cell: torch.Tensor,
    maps_in: Callable[[str], torch.Tensor | None],
    precision: str,
    out: torch.Tensor,
    bar: tqdm,
) -> None:
    """Write the output pixels that belong to the LR pixels of `region` to `out`, and count the blocks in `bar`."""
    top, bottom, left, right = region
    y, x = (with_margin(*ends, model.receptive_field, model.window) for ends in ((top, bottom), (left, right)))
    rows, columns = blocks_between(axes[0], top, bottom, y.start), blocks_between(axes[1], left, right, x.start)
    if not len(rows.pixels) or not len(columns.pixels):
        return
    where, done = ((y, x), rows, columns, relative_cell), bar.n
    finite = decode(model, lr, *where, maps_in, precision, out, bar)
    if not finite and PRECISIONS[precision]:
        better = str(lr.dtype).removeprefix('torch.')
        warnings.warn(f'in {precision} the output is not finite: it is made in {better}', stacklevel=4)
        bar.n = done
        decode(model, lr, *where, maps_in, 'fp32', out, bar)


def with_margin(first: int, last: int, margin: int, window: int) -> slice:
    """The LR pixels `first` to `last - 1` of an axis with a margin on both sides, which starts and ends at multiples of
    `window` (or with the image, whose end a slice may exceed).

    It starts at an even pixel, because a point between two LR pixels belongs to the even one (`grid.nearest_index`).
    """
    step = math.lcm(window, 2)
    return slice(max(first - margin, 0) // step * step, -(-(last + margin) // window) * window)


def blocks_between(blocks: grid.Blocks, first: int, last: int, origin: int) -> grid.Blocks:
    """The blocks of the LR pixels `first` to `last - 1`, these counted from `origin`."""
    at = torch.searchsorted(blocks.pixels, torch.tensor([first, last]))
    return blocks.part(int(at[0]), int(at[1]), origin)


def decode(
    model: Any,
    lr: torch.Tensor,
    part: tuple[slice, slice],
    rows: grid.Blocks,
    columns: grid.Blocks,
    relative_cell: torch.Tensor,
    maps_in: Callable[[str], torch.Tensor | None],
    precision: str,
    out: torch.Tensor,
    bar: tqdm,
) -> bool:
    """Encode a part of the LR image, `lr[:, :, y, x]`, and write the output pixels of its blocks, `rows` and `columns`,
    to `out (B, 3, h, w)`, a few blocks at a time. `maps_in(precision)`: `whole_maps`.

    On a CPU every thread decodes blocks of its own, so that what it works on stays in its core's cache.
    Returns whether all of the output is finite.
    """

    maps = maps_in(precision)
    with autocast(lr, precision):
        features = model.encode_part(lr, *part) if maps is None else model.encode_part(lr, *part, maps)
    with torch.autocast(lr.device.type, enabled=False):  # whatever the caller set: the position bias is exact
        plan = model.plan(features, rows.to(lr.device), columns.to(lr.device), relative_cell)
    on_cpu = lr.device.type == 'cpu'
    size = (CHUNK_CPU if on_cpu else CHUNK) / (model.floats_per_block(plan) * len(lr))
    todo = iter(chunks(len(rows.pixels), len(columns.pixels), max(1, size)))
    one_at_a_time = threading.Lock()

    def decoded(top, bottom, left, right):
        finite = decode_blocks(model, features, plan, (rows, columns), (top, bottom, left, right), out)
        with one_at_a_time:
            bar.update((bottom - top) * (right - left))
        return finite

    def work():
        with torch.inference_mode(), autocast(lr, precision):
            finite = [decoded(*blocks) for blocks in todo]
            return bool(torch.stack(finite).all()) if finite else True  # what waits for the device comes last

    return all(on_each_thread(work) if on_cpu else [work()])


def whole_maps(model: Any, lr: torch.Tensor, precision: str) -> torch.Tensor | None:
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


def on_each_thread(work: Callable[[], bool]) -> list[bool]:
    """Run `work()` once on each of as many threads as torch uses, torch itself on one thread in each; the results."""
    threads = torch.get_num_threads()
    if threads == 1:
        return [work()]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return [future.result() for future in [pool.submit(work) for _ in range(threads)]]
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
