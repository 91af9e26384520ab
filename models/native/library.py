"""Compiled code for a CPU: MSIT's decoder, and convolutions of small kernels.

Both consist of products of matrices that are too small for torch's libraries to be fast at, between steps that take
little if what they work on stays in a core's cache. The code is compiled when it is first needed and kept for later;
where it cannot be compiled, torch's operations do the same.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

import torch

from utils import atomic_path

SOURCES = [Path(__file__).with_name(name) for name in ('msit_decoder.c', 'winograd.c', 'product.h')]
SIZES = {
    'ROWS': 6,
    'COLUMNS': 64,  # of the products that the code is made of
    'UNIT': 16,  # columns come in multiples of it
    'GROUP': 12,  # LR pixels whose shared products are held at a time
    'STRIP': 96,  # output pixels that go through the MLP at a time
    'TILES': 24,  # tiles of 4 x 4 pixels that are convolved at a time
}
DEFINED = [f'-D{name}={size}' for name, size in SIZES.items()]
FLAGS = '-x', 'c', '-O3', '-march=native', '-shared', '-fPIC', *DEFINED
ONE_AT_A_TIME = threading.Lock()
REAL = {torch.float32: 'float', torch.float64: 'double'}


@functools.cache
def compiled(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The compiled code for `dtype`. None where there is none: in half precision; without a C compiler ($CC or `cc`)
    that compiles it, or a place to keep it; and on systems other than Linux on x86-64, where it was never tried."""
    if dtype not in REAL or (platform.system(), platform.machine()) != ('Linux', 'x86_64'):
        return None
    with ONE_AT_A_TIME:
        for threads in ['-fopenmp'], []:  # not every compiler has OpenMP
            try:
                compiler = shlex.split(os.environ.get('CC') or 'cc')
                return loaded(build([*compiler, *FLAGS, *threads, f'-DREAL={REAL[dtype]}']))
            except (OSError, RuntimeError, ValueError, subprocess.SubprocessError):  # RuntimeError: no home directory
                pass
    return None


def loaded(path: Path) -> ctypes.CDLL:
    """The compiled code at `path`. Raises OSError if it is damaged: it is compiled again the next time."""
    try:
        code = ctypes.CDLL(str(path))
        code.first_layer.argtypes = [ctypes.c_void_p] * 12 + [ctypes.c_long] * 11
        code.perceptron.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_long] * 3 + [ctypes.c_void_p]
        code.convolve.argtypes = [ctypes.c_void_p] * 6 + [ctypes.c_long] * 10
        code.convolve_weight.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_long] * 12
        return code
    except (OSError, AttributeError) as error:
        path.unlink()
        raise OSError(f'{path} is damaged') from error


def build(command: Sequence[str]) -> Path:
    """The path of what `command` compiles from the sources; compiled once per command, sources and kind of
    processor."""
    lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    processor = next((line for line in lines if line.startswith('flags')), None)
    if processor is None:
        raise OSError('the kind of processor is not known')
    texts = [path.read_text(encoding='utf-8') for path in SOURCES]
    key = hashlib.sha256('\0'.join([*command, processor, *texts]).encode()).hexdigest()
    path = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'msit' / f'{key[:16]}.so'
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as made:
            files = [str(path) for path in SOURCES if path.suffix == '.c']
            subprocess.run([*command, *files, '-o', str(made), '-lm'], check=True, capture_output=True, timeout=60)
    return path


def usable_on(maps: torch.Tensor) -> bool:
    """Whether the compiled code can work on `maps`: on a CPU, where there is `compiled` code, without gradients, and
    not while torch's operations are recorded."""
    if type(maps) is not torch.Tensor or maps.device.type != 'cpu' or torch.is_grad_enabled():
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return compiled(maps.dtype) is not None


def in_blocks(n: int, size: int = SIZES['COLUMNS']) -> int:
    """The smallest multiple of `size` that is at least n."""
    return -(-n // size) * size


def packed(weight: torch.Tensor) -> torch.Tensor:
    """`weight (..., inner, columns)`, the columns a multiple of UNIT, in the blocks of COLUMNS that the compiled code
    reads one after the other: `(..., inner * columns)`."""
    return torch.cat([block.flatten(-2) for block in weight.split(SIZES['COLUMNS'], dim=-1)], dim=-1)


def pointers(first: torch.Tensor, *others: torch.Tensor) -> list[int]:
    """The addresses of tensors, which have to be contiguous and of the first one's dtype, or int64."""
    for tensor in (first, *others):
        if not tensor.is_contiguous() or tensor.dtype not in (first.dtype, torch.int64):
            raise TypeError(f'the compiled code cannot read {tensor.dtype} {tuple(tensor.shape)} {tensor.stride()}')
    return [tensor.data_ptr() for tensor in (first, *others)]
