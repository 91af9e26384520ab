"""Devices: which one to compute on, its clock, its free memory, and the precisions that a computation may have."""

import contextlib
import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from utils import UserError

T = TypeVar('T')
# In the files of a control group: its limit, what it takes, and of that what the system may take back; version 2, 1.
GROUPS = (
    ('memory.max', 'memory.current', 'inactive_file'),
    ('memory.limit_in_bytes', 'memory.usage_in_bytes', 'total_inactive_file'),
)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
LARGEST_KEPT, MOST_KEPT = 2**24, 2**30  # bytes, of an array, and of what is kept unused

# Name to the dtype of autocast, None for that of the model.
PRECISIONS = {'fp32': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}
WIDEST = {'mps': torch.float32}  # of devices that have no float64


def choose_device(name: str | None = None, local_rank: int | None = None) -> torch.device:
    """torch.device: the one named, else CUDA, MPS or CPU, the first that is available. float32 is exact there
    (`set_tf32`).

    `local_rank`: the number of this process among those that share a machine. Where `name` names no CUDA device in
    particular, each takes the next one, and holds nothing on any other. Raises UserError if the device is not
    available.
    """
    mps = getattr(torch.backends, 'mps', None)
    if name is None:
        name = 'cuda' if torch.cuda.is_available() else 'mps' if mps and mps.is_available() else 'cpu'
    try:
        device = torch.device(name)
        if device.type == 'cuda' and device.index is None and local_rank is not None and torch.cuda.device_count():
            device = torch.device('cuda', local_rank % torch.cuda.device_count())
        if device.type == 'cuda' and device.index is not None:
            torch.cuda.set_device(device)  # before anything is allocated, which would be on the first device
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        raise UserError(f'device {name!r} is not available here') from error
    set_tf32(False)
    return device


def set_tf32(allowed: bool | None) -> None:
    """Say, for all of this process, whether float32 products on CUDA are rounded to TF32, which has 10 bits of mantissa
    instead of 23. None: those of convolutions are, as torch does by itself."""
    torch.backends.cuda.matmul.allow_tf32 = bool(allowed)
    torch.backends.cudnn.allow_tf32 = allowed is not False


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """A context in which float32 is not rounded to TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    set_tf32(False)
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def described(device: torch.device) -> str:
    """The device and how it computes float32, for captions and logs: `cpu`, or `cuda (NAME, float32 without TF32)`."""
    if device.type != 'cuda':
        return str(device)
    matmul, convolution = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    tf32 = 'as TF32' if matmul else 'in convolutions as TF32' if convolution else 'without TF32'
    return f'{device} ({torch.cuda.get_device_name(device)}, float32 {tf32})'


def widest(device: torch.device | str) -> torch.dtype:
    """The most precise type of floating point that `device` has: float64, or what it has instead."""
    return WIDEST.get(torch.device(device).type, torch.float64)


def numbers(values: Sequence[float], device: torch.device | str, dtype: torch.dtype) -> torch.Tensor:
    """A few `values` as a tensor `(n,)` that is made on `device`, so that none is copied to it from memory that is not
    pinned, as `torch.tensor` does."""
    return torch.stack([torch.full((), value, dtype=dtype, device=device) for value in values])


def synchronize(device: torch.device) -> None:
    """Wait until `device` has finished its work, so that it can be timed."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    elif device.type == 'mps':
        torch.mps.synchronize()


def timed(work: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """What `work()` returns and the seconds it took on `device`."""
    synchronize(device)
    began = time.perf_counter()
    result = work()
    synchronize(device)
    return result, time.perf_counter() - began


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take on `device`, as far as is known; 2 GiB where nothing is."""
    if device.type == 'cuda':
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return max(0, min([system_memory(), *group_memory()]))


def system_memory() -> int:
    """Bytes that are free in the whole system."""
    try:
        with open('/proc/meminfo', encoding='ascii') as file:
            return 1024 * next(int(line.split()[1]) for line in file if line.startswith('MemAvailable'))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        import psutil  # here, as Linux does without

        return psutil.virtual_memory().available
    except ImportError:
        return 2 * 2**30


def group_memory(root: Path = Path('/')) -> list[int]:
    """Bytes that each of the control groups that this process is in leaves it, on Linux: containers and batch systems
    limit memory so. `root`: of the file system."""
    left = []
    with contextlib.suppress(OSError):
        for line in (root / 'proc/self/cgroup').read_text(encoding='utf-8').splitlines():
            _, controllers, path = line.split(':', 2)
            if controllers and 'memory' not in controllers.split(','):
                continue
            mounted = root / 'sys/fs/cgroup' / ('memory' if controllers else '')
            limit, used, reclaimable = GROUPS[bool(controllers)]
            folder = mounted / path.strip('/')
            for group in (folder, *folder.parents):  # the limits of all hold
                with contextlib.suppress(OSError, ValueError, KeyError):  # not there, or without a limit
                    facts = dict(fact.split() for fact in (group / 'memory.stat').read_text().splitlines())
                    taken = int((group / used).read_text()) - int(facts[reclaimable])
                    left.append(int((group / limit).read_text()) - taken)
                if group == mounted:
                    break
    return left


def keep_memory() -> None:
    """Tell the C library, where it is glibc, to keep freed memory for what is to come. By itself it takes every large
    array from the system anew, and with many of them the system's work on fresh pages takes longer than ours. Called
    by programs when they start."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        if hasattr(library, 'gnu_get_libc_version'):
            library.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
            library.mallopt(M_TRIM_THRESHOLD, MOST_KEPT)


def return_memory() -> None:
    """Let the C library, where it is glibc, give freed memory back to the system: arrays of other sizes come next, for
    which what lies between others cannot be used."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
