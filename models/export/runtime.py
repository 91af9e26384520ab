"""Rendering by exported graphs in onnxruntime: what checks and times them."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.rendering import grid
from models.rendering.render import FULLEST, blocks_between, chunks, tiles
from utils import UserError

TILE = 256  # LR pixels to a side that are encoded at a time, besides the margin
FLOATS = 4e6  # numbers that decoding holds at a time


def needs(*modules: str) -> None:
    """Raise UserError if one of the modules, which are called like their packages, cannot be imported."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(
                f'this needs the package {module}, which is not installed: pip install onnx onnxscript onnxruntime'
            ) from error


def session(graph: Path | bytes) -> Any:
    """An onnxruntime session of a graph, on the CPU, with as many threads as torch uses. Raises UserError without
    onnxruntime."""
    needs('onnxruntime')
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    given = str(graph) if isinstance(graph, Path) else graph
    return onnxruntime.InferenceSession(given, options, providers=['CPUExecutionProvider'])


def axes(rows: grid.Blocks, columns: grid.Blocks, lr_size: Sequence[int], size: Sequence[int]) -> dict[str, np.ndarray]:
    """What `decode` is given besides features: numpy arrays by name, of the `grid.Blocks` of both axes."""
    told = {'relative_cell': grid.relative_cell(lr_size, size).float()}
    for axis, blocks in (('y', rows), ('x', columns)):
        told |= {axis: blocks.pixels, f'{axis}_offset': blocks.offset.float(), f'{axis}_slot': blocks.slots()}
    return {name: values.numpy() for name, values in told.items()}


class Runtime:
    """`encode` and `decode`, paths or the bytes of files, in onnxruntime on the CPU with as many threads as torch uses.

    `description` is that of `models.export.export`. Raises UserError if onnxruntime is not installed.
    """

    def __init__(self, encode: Path | bytes, decode: Path | bytes, description: dict[str, Any]):
        self.encoder, self.decoder = session(encode), session(decode)
        self.description = description

    def render(self, lr: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """`lr (1, 3, H, W)`, a tensor in [0, 1], at `size = (h, w)`: `(1, 3, h, w)`, not clamped."""
        lr_size, told = lr.shape[-2:], self.description
        blocks = [grid.Blocks(*axis, fullest=FULLEST) for axis in zip(lr_size, size)]
        side = max(lr_size) if told['whole_image_only'] else TILE
        margin, out = told['receptive_field'], np.empty((*size, 3), np.float32)
        for top, bottom, left, right in tiles((0, lr_size[0], 0, lr_size[1]), side, side):
            y, x = (slice(max(first - margin, 0), last + margin) for first, last in ((top, bottom), (left, right)))
            (features,) = self.encoder.run(None, {'lr': np.ascontiguousarray(lr[:, :, y, x].numpy())})
            rows, columns = (
                blocks_between(blocks[0], top, bottom, y.start),
                blocks_between(blocks[1], left, right, x.start),
            )
            pixels = rows.size * columns.size
            each = told['floats_per_block'] + pixels * told['floats_per_output_pixel']
            for part in chunks(len(rows.pixels), len(columns.pixels), max(1, FLOATS / each)):
                inner = rows.part(*part[:2]), columns.part(*part[2:])
                at = [slice(int(axis.output[0, 0]), int(axis.output[-1, -1]) + 1) for axis in inner]
                (out[at[0], at[1]],) = self.decoder.run(None, {'features': features, **axes(*inner, lr_size, size)})
        return torch.from_numpy(out).permute(2, 0, 1)[None]
