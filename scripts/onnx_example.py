"""Enlarge a photo with exported ONNX files, in tiles, without torch: pip install numpy onnxruntime pillow

python scripts/onnx_example.py FOLDER photo.png 3.7 large.png
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

TILE, STRIP = 192, 8  # LR pixels to a side that are encoded at a time, and LR rows that are decoded


def blocks(axis, n_lr, n, first, last, origin):
    """Which output pixels of an axis, 'y' or 'x', belong to the LR pixels `first` to `last - 1`, counted from `origin`:
    the axis's three inputs of `decode`, and the output pixels as a slice, None if there are none."""
    doubled = (2 * np.arange(n, dtype=np.int64) + 1) * n_lr - n
    below, rest = np.divmod(doubled, 2 * n)
    lr = below + ((rest > n) | ((rest == n) & (below % 2 == 1)))  # a tie goes to the even pixel
    chosen = np.flatnonzero((lr >= first) & (lr < last))
    pixels, start, count = np.unique(lr[chosen], return_index=True, return_counts=True)
    most = count.max(initial=0)
    row = np.repeat(np.arange(len(pixels)), count)
    place = np.arange(len(chosen)) - np.repeat(start, count)
    offset = np.zeros((len(pixels), most), np.float32)
    offset[row, place] = (doubled[chosen] - 2 * n * lr[chosen]) / (2 * n)
    inputs = {axis: pixels - origin, f'{axis}_offset': offset, f'{axis}_slot': row * most + place}
    return inputs, slice(chosen[0], chosen[-1] + 1) if len(chosen) else None


def render(folder, lr, size):
    """`lr (H, W, 3)` in 0..1, float32, at `size` (h, w): `(h, w, 3)`, not clamped."""
    told = json.loads((folder / 'model.json').read_text())
    encode, decode = (onnxruntime.InferenceSession(str(folder / f'{name}.onnx')) for name in ('encode', 'decode'))
    tile = max(lr.shape) if told['whole_image_only'] else TILE
    margin, out = told['receptive_field'], np.empty((*size, 3), np.float32)
    cell = np.array([2 * n_lr / n for n_lr, n in zip(lr.shape, size)], np.float32)
    for top in range(0, lr.shape[0], tile):
        for left in range(0, lr.shape[1], tile):
            up, aside = max(top - margin, 0), max(left - margin, 0)
            part = lr[up : top + tile + margin, aside : left + tile + margin].transpose(2, 0, 1)[None]
            features = encode.run(None, {'lr': np.ascontiguousarray(part)})[0]
            x, columns = blocks('x', lr.shape[1], size[1], left, left + tile, aside)
            for row in range(top, min(top + tile, lr.shape[0]), STRIP):
                y, rows = blocks('y', lr.shape[0], size[0], row, min(row + STRIP, top + tile), up)
                if rows and columns:
                    out[rows, columns] = decode.run(None, {'features': features, **y, **x, 'relative_cell': cell})[0]
    return out


if __name__ == '__main__':
    folder, source, scale, target = sys.argv[1:]
    photo = np.asarray(Image.open(source).convert('RGB'), np.float32) / 255
    large = render(Path(folder), photo, [round(n * float(scale)) for n in photo.shape[:2]])
    Image.fromarray((large.clip(0, 1) * 255).round().astype(np.uint8)).save(target)
