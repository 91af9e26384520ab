"""The first layer of MSIT's decoder as compiled code, for a CPU.

What the output pixels of an LR pixel share is too little for the matrix products of torch's libraries to be fast at,
and too much for a core's cache. `native.c` works on parts that stay in the cache. It is compiled when it is first
needed and kept for later; where that cannot be, `models/shared.py` does the same with torch's operations.
"""
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import subprocess
from pathlib import Path

import torch
from torch.nn import functional as F

from utils import atomic_path

SOURCE = Path(__file__).with_suffix('.c')
COLUMNS, ROWS = 64, 6                   # of the products that native.c is made of
GROUP = 24                              # LR pixels whose products are held at a time
SIZES = f'-DCOLUMNS={COLUMNS}', f'-DROWS={ROWS}', f'-DGROUP={GROUP}'
FLAGS = '-x', 'c', '-O3', '-march=native', '-shared', '-fPIC', *SIZES
REAL = {torch.float32: ('float', ctypes.c_float), torch.float64: ('double', ctypes.c_double)}


@functools.cache
def library(dtype):
    """The compiled code for `dtype`. None where there is none: in half precision; without a C compiler ($CC or `cc`)
    that compiles it, or a place to keep it; and on systems other than Linux on x86-64, where it was never tried."""
    if dtype not in REAL or (platform.system(), platform.machine()) != ('Linux', 'x86_64'):
        return None
    name, real = REAL[dtype]
    try:
        path = build([*shlex.split(os.environ.get('CC') or 'cc'), *FLAGS, f'-DREAL={name}'])
        try:
            code = ctypes.CDLL(str(path))
            code.find_logits.argtypes = [ctypes.c_void_p] * 9 + [real] + [ctypes.c_long] * 6
            code.add_shared.argtypes = [ctypes.c_void_p] * 6 + [ctypes.c_long] * 5
            return code
        except (OSError, AttributeError):           # damaged: it is made anew the next time
            path.unlink()
    except (OSError, RuntimeError, ValueError, subprocess.SubprocessError):         # RuntimeError: there is no home
        pass
    return None


def build(command):
    """The path of what `command` makes of the source; made once for a command, a source and a kind of processor."""
    lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    processor = next((line for line in lines if line.startswith('flags')), None)
    if processor is None:
        raise OSError('the kind of processor is not known')
    key = hashlib.sha256('\0'.join([*command, processor, SOURCE.read_text(encoding='utf-8')]).encode()).hexdigest()
    path = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'msit' / f'{key[:16]}.so'
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as made:
            subprocess.run([*command, str(SOURCE), '-o', str(made)], check=True, capture_output=True, timeout=60)
    return path


def serves(maps):
    """Whether the compiled code can evaluate a decoder on `maps`: on a CPU, where there is a `library`, and without
    gradients."""
    return maps.device.type == 'cpu' and not torch.is_grad_enabled() and library(maps.dtype) is not None


def packed(weight):
    """`weight (heads, K, d, hidden)` laid out for `first_layer`: `(heads, blocks, K, d, COLUMNS)`, the last block
    filled up with zeros."""
    missing = -weight.shape[-1] % COLUMNS
    weight = F.pad(weight, (0, missing)) if missing else weight         # to pad is to copy
    return weight.unflatten(-1, (-1, COLUMNS)).permute(0, 3, 1, 2, 4).contiguous()


def first_layer(plan, features, near, index, i, j):
    """As `models.shared.first_layer`, for a plan that is `compiled`."""
    code = library(near.dtype)
    heads, blocks, window, d, _ = plan.weight.shape
    n, m, hidden = len(i), near.shape[1], len(plan.constant)
    my, mx = plan.row_weight.shape[1], plan.column_weight.shape[1]
    near, index, i, j = (x.contiguous() for x in (near, index, i, j))
    wide = in_blocks(max(d, window))
    room = near.new_empty(room_for(window, d))
    logits = near.new_empty(n, m, window)
    out = F.pad(plan.constant, (0, blocks * COLUMNS - hidden)).repeat(n, m, 1)
    for head in range(heads):           # one at a time, so that its logits stay in the cache
        along = plan.row_bias[head], i, plan.column_bias[head], j
        code.find_logits(*pointers(logits, near, features.query_key[head], index, *along, room), d ** -0.5,
                         n, my, mx, d, round(window ** 0.5), wide)
        attention = logits.softmax(dim=-1)
        code.add_shared(*pointers(out, attention, features.value[head], index, plan.weight[head], room),
                        n, m, d, window, out.shape[-1])
    return out[..., :hidden]


def in_blocks(n):
    """The least multiple of COLUMNS from n up."""
    return -(-n // COLUMNS) * COLUMNS


def room_for(window, d):
    """How many numbers the compiled code needs room for."""
    return max(GROUP * window * COLUMNS, (18 + d + 2 * ROWS) * in_blocks(max(d, window)))


def pointers(first, *others):
    """The addresses of tensors, which have to be contiguous and of the first one's dtype, or int64."""
    for tensor in others:
        if not tensor.is_contiguous() or tensor.dtype not in (first.dtype, torch.int64):
            raise TypeError(f'the compiled code cannot read {tensor.dtype} {tuple(tensor.shape)} {tensor.stride()}')
    return [tensor.data_ptr() for tensor in (first, *others)]
