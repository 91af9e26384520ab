"""Animations: GIF, and MP4 where imageio-ffmpeg is installed."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch

from utils import UserError, atomic_path, suggestion

FORMATS = ('.gif', '.mp4')
FPS, REST = 20, 20  # frames per second, and how many of them the last one lasts


def check_animation(path: Path) -> None:
    """Raise UserError, before any work, if an animation cannot be written to `path`."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f'{path}: no animation has the extension {path.suffix!r}{suggestion(suffix, FORMATS)}')
    if not path.parent.is_dir():
        raise UserError(f'{path}: there is no folder {path.parent}')
    if suffix == '.mp4' and importlib.util.find_spec('imageio_ffmpeg') is None:
        raise UserError(f'{path}: MP4 needs the package imageio-ffmpeg (pip install imageio-ffmpeg); GIF does not')


def write_animation(path: Path, frames: Iterable[torch.Tensor]) -> None:
    """Write `frames (3, h, w)`, clamped to [0, 1], to `path`, completely or not at all. The animation plays at `FPS`
    and rests on the last frame; a GIF then starts again.

    Raises UserError if it cannot be written.
    """
    check_animation(path)
    arrays = [frame.clamp(0, 1).mul(255).round().permute(1, 2, 0).byte().cpu().numpy() for frame in frames]
    try:
        with atomic_path(path) as temporary:
            if Path(path).suffix.lower() == '.gif':
                durations = [1000 / FPS] * (len(arrays) - 1) + [1000 * REST / FPS]
                imageio.imwrite(temporary, arrays, plugin='pillow', duration=durations, loop=0)
            else:
                film = np.stack(arrays + arrays[-1:] * REST)
                imageio.imwrite(temporary, film, plugin='FFMPEG', fps=FPS, macro_block_size=2, quality=8)
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror or error})') from error
