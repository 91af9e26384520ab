"""Devices: which one to compute on, its clock, its free memory, and the precisions that a computation may have."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

import torch

from utils import UserError

T = TypeVar('T')
# Name to the dtype of autocast, None for that of the model.
PRECISIONS = {'fp32': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}


def choose_device(name: str | None = None) -> torch.device:
    """torch.device: the one named, else CUDA, MPS or CPU, the first that is available; UserError if the one named is
    not."""
    mps = getattr(torch.backends, 'mps', None)
    if name is None:
        name = 'cuda' if torch.cuda.is_available() else 'mps' if mps and mps.is_available() else 'cpu'
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        raise UserError(f'device {name!r} is not available here') from error
    return device


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
    """Bytes that are free on `device`, as far as is known; 2 GiB where nothing is."""
    if device.type == 'cuda':
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    try:
        with open('/proc/meminfo', encoding='ascii') as file:
            return 1024 * next(int(line.split()[1]) for line in file if line.startswith('MemAvailable'))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    except (AttributeError, OSError, ValueError):
        return 2 * 2**30
