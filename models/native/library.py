"""Compiled code for a CPU: MSIT's decoder, and convolutions of small kernels.

Both consist of products of matrices that are too small for torch's libraries to be fast at, between steps that take
little if what they work on stays in a core's cache. The code is compiled when it is first needed and kept for later;
where it cannot be compiled, torch's operations do the same.
"""

import ctypes
import functools
import hashlib
import math
import os
import platform
import shlex
import shutil
import subprocess
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from models.native import store
from utils import Note

SOURCES = [Path(__file__).with_name(name) for name in ('msit_decoder.c', 'winograd.c', 'product.h', 'tiles.h')]
SIZES = {
    'ROWS': 6,
    'COLUMNS': 64,  # of the products that the code is made of
    'UNIT': 16,  # columns come in multiples of it
    'GROUP': 12,  # LR pixels whose shared products are held at a time
    'STRIP': 96,  # output pixels that go through the MLP at a time
    'TILES': 24,  # tiles of 4 x 4 pixels that are convolved at a time
}
DEFINED = [f'-D{name}={size}' for name, size in SIZES.items()]
ARM = platform.machine() in ('aarch64', 'arm64')
FLAGS = '-x', 'c', '-O3', '-mcpu=native' if ARM else '-march=native', '-shared', '-fPIC', *DEFINED
SYSTEMS = 'Linux', 'Darwin'
MACHINES = 'x86_64', 'aarch64', 'arm64'
KINDS = 'vendor_id', 'cpu family', 'model', 'flags', 'CPU ', 'Features'  # lines of /proc/cpuinfo: x86-64's, ARM's
ONE_AT_A_TIME = threading.Lock()
REAL = {torch.float32: ['-DREAL=float'], torch.float64: ['-DREAL=double']}
BF16 = ['-DREAL=float', '-DBF16']  # factors of the decoder's products in bfloat16, all else in float32
AMX = [*BF16, '-DAMX']  # in tiles
ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA = 158, 0x1023, 18  # of Linux on x86-64
# The farthest from torch's results: code that is farther off is not used.
FURTHEST = 1e-4
FURTHEST_BF16 = 2e-2


@functools.cache
def compiled(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The compiled code for `dtype`. None where there is none: in half precision; without a C compiler (`$CC` or `cc`)
    that compiles it, or a safe place to keep it, which a note says; and on systems and processors that it was not
    written for."""
    return compiled_with(REAL[dtype]) if dtype in REAL else None


@functools.cache
def compiled_bf16() -> ctypes.CDLL | None:
    """The compiled code for float32 that multiplies in bfloat16; with MSIT_AMX=1 in tiles, where there are any. None as
    for `compiled`, and where the processor does not multiply so."""
    try:
        features = processor().split()
    except OSError:
        return None
    if 'avx512_bf16' not in features:
        return None
    in_tiles = os.environ.get('MSIT_AMX') == '1' and 'amx_bf16' in features and may_use_tiles()
    return compiled_with(AMX if in_tiles else BF16)


def may_use_tiles() -> bool:
    """Ask the system for AMX's tiles, which a process may not use otherwise; whether it grants them."""
    if platform.system() != 'Linux' or platform.machine() != 'x86_64':
        return False
    call = ctypes.CDLL(None).syscall
    call.argtypes, call.restype = [ctypes.c_long] * 3, ctypes.c_long
    return call(ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0


def compiled_with(flags: Sequence[str]) -> ctypes.CDLL | None:
    """The code compiled with these flags; None where there is none."""
    if platform.system() not in SYSTEMS or platform.machine() not in MACHINES:
        return None
    try:
        compiler = shlex.split(os.environ.get('CC') or 'cc')
        if compiler == ['false'] or (compiler == ['cc'] and not shutil.which('cc')):
            return None
        with ONE_AT_A_TIME:
            command = [*compiler, *FLAGS, *flags]
            path = build(command)
            try:
                return loaded(path)
            except OSError:  # whole, and yet not to be loaded: made on a system with other libraries, say
                path.unlink()
                return loaded(build(command))
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: no home directory
        tell(str(error))
    return None


@functools.cache
def tell(reason: str) -> None:
    """Say, once for each reason, why compiled code is not used."""
    warnings.warn(f'torch computes what compiled code would, more slowly: {reason}', Note, stacklevel=2)


def loaded(path: Path) -> ctypes.CDLL:
    """The compiled code at `path`. Raises OSError if it cannot be loaded."""
    code = ctypes.CDLL(str(path))
    try:
        code.first_layer.argtypes = [ctypes.c_void_p] * 12 + [ctypes.c_long] * 11
        code.perceptron.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_long] * 3 + [ctypes.c_void_p]
        code.lanes.restype = ctypes.c_long
        code.convolve.argtypes = [ctypes.c_void_p] * 6 + [ctypes.c_long] * 10
        code.convolve_weight.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_long] * 12
    except AttributeError as error:
        raise OSError(f'{path} is not the code that was compiled') from error
    return code


def build(command: Sequence[str]) -> Path:
    """The path of what `command` compiles from the sources; compiled once per command, sources and kind of processor,
    with OpenMP where the compiler has it. Raises OSError if that fails, RuntimeError without a home directory."""
    texts = [path.read_text(encoding='utf-8') for path in SOURCES]
    key = hashlib.sha256('\0'.join([*command, processor(), *texts]).encode()).hexdigest()[:16]

    def make(path):
        files = [str(path) for path in SOURCES if path.suffix == '.c']
        said = []
        for threads in ['-fopenmp'], []:
            try:
                run = [*command, *threads, *files, '-o', str(path), '-lm']
                done = subprocess.run(run, capture_output=True, text=True, errors='replace', timeout=60)
            except subprocess.TimeoutExpired:
                raise OSError(f'{command[0]} takes longer than a minute to compile it') from None
            if done.returncode == 0 and path.is_file():
                return
            said.append(f'{shlex.join(run)}\n{done.stdout}{done.stderr}exit status {done.returncode}\n')
        log = path.parent.parent / f'{key}.log'
        log.write_text('\n'.join(said), encoding='utf-8')
        raise OSError(f'{command[0]} does not compile it, see {log}')

    return store.kept(key, make)


def processor() -> str:
    """What tells kinds of processors apart. Raises OSError if that is not known."""
    if platform.system() == 'Darwin':
        return subprocess.run(['sysctl', 'machdep.cpu', 'hw.optional'], capture_output=True, text=True).stdout
    lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    kinds = sorted({line for line in lines if line.startswith(KINDS)})
    if not any(line.startswith(('flags', 'Features')) for line in kinds):
        raise OSError('the kind of processor is not known')
    return '\n'.join(kinds)


def some_numbers(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """The same numbers between -1 and 1 every time, without torch's generator."""
    numbers = torch.arange(1, 1 + math.prod(shape), dtype=torch.float64)
    return (numbers * numbers).sin().reshape(shape).to(dtype)


def agree(what: str, here: torch.Tensor, expected: torch.Tensor, furthest: float = FURTHEST) -> bool:
    """Whether compiled code's results, numbers around 1, are at most `furthest` from torch's; otherwise a note says
    that they are not."""
    difference = float((here - expected).abs().max())
    if difference <= furthest:
        return True
    tell(f'{what} by compiled code differs from that by torch by {difference:.1g}')
    return False


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


def in_column_blocks(weight: torch.Tensor) -> torch.Tensor:
    """`weight (..., inner, columns)`, the columns a multiple of UNIT, in the blocks of COLUMNS that the compiled code
    reads one after the other: `(..., inner * columns)`."""
    return torch.cat([block.flatten(-2) for block in weight.split(SIZES['COLUMNS'], dim=-1)], dim=-1)


def in_pairs(factors: torch.Tensor, axis: int) -> torch.Tensor:
    """Factors of products as the compiled code reads them. In bfloat16, two that follow each other along `axis`, the
    inner dimension, counted from the last axis, -1, share the place of one float32, so the axis is half as long."""
    if factors.dtype != torch.bfloat16:
        return factors
    return factors.unflatten(axis, (-1, 2)).movedim(axis, -1).contiguous().view(torch.float32).squeeze(-1)


def pointers(first: torch.Tensor, *others: torch.Tensor) -> list[int]:
    """The addresses of tensors, which have to be contiguous and of the first one's dtype, or int64."""
    for tensor in (first, *others):
        if not tensor.is_contiguous() or tensor.dtype not in (first.dtype, torch.int64):
            raise TypeError(f'the compiled code cannot read {tensor.dtype} {tuple(tensor.shape)} {tensor.stride()}')
    return [tensor.data_ptr() for tensor in (first, *others)]
