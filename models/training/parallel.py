"""Training on several devices, one process (rank) each, started by torchrun. A process alone is rank 0 of 1."""

import contextlib
import datetime
import gc
import os
from collections.abc import Iterable, Iterator

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from models.device import choose_device
from models.rendering.implicit import ImplicitModel
from utils import UserError

TIMEOUT = datetime.timedelta(hours=2)  # for what one rank does while the others wait, as decoding a data set


def join(name: str | None = None) -> torch.device:
    """Join the other ranks, if torchrun started any, and return this rank's torch.device: `name`, or the best there is.

    Raises UserError if the device is absent, or there are more ranks than CUDA devices.
    """
    if int(os.environ.get('WORLD_SIZE', 1)) == 1:
        return choose_device(name)
    local = int(os.environ['LOCAL_RANK'])
    device = choose_device(name, local)
    if device.type == 'cuda':
        if device.index != local:
            raise UserError(
                f'torchrun gives each process a CUDA device of its own; there are {torch.cuda.device_count()} here'
            )
    elif device.type != 'cpu':
        raise UserError(f'training on several devices is for cuda and cpu, not for {device.type}')
    distributed.init_process_group('cpu:gloo,cuda:nccl' if device.type == 'cuda' else 'gloo', timeout=TIMEOUT)
    return device


def leave() -> None:
    """Destroy the process group of `join`; its threads have ended then, if nothing else holds it.

    A thread that is still about to free a tensor when Python ends would abort the process. After an error the exception
    holds the run and with it the threads: nobody waits for them, which may wait for another rank.
    """
    if distributed.is_initialized():
        gc.collect()  # modules that average gradients hold it in cycles
        distributed.destroy_process_group()


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def ranks() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def wrapped(module: nn.Module, device: torch.device) -> nn.Module:
    """`module` whose gradients are averaged over the ranks."""
    if ranks() == 1:
        return module
    return DistributedDataParallel(module, device_ids=[device] if device.type == 'cuda' else None)


def plain(module: nn.Module) -> nn.Module:
    """What `wrapped` was given."""
    return module.module if isinstance(module, DistributedDataParallel) else module


def with_synchronised_norm(model: ImplicitModel, device: torch.device) -> ImplicitModel:
    """`model` whose batch norm takes its statistics over all ranks, where the device can: on CUDA."""
    return nn.SyncBatchNorm.convert_sync_batchnorm(model) if ranks() > 1 and device.type == 'cuda' else model


def mean(values: torch.Tensor) -> torch.Tensor:
    """The mean of the ranks' tensors, on their device, the same on all of them."""
    if ranks() == 1:
        return values
    total = values.clone()
    distributed.all_reduce(total, distributed.ReduceOp.SUM)
    return total / ranks()


def largest(number: int) -> int:
    """The largest of the ranks' whole numbers, on all of them."""
    if ranks() == 1:
        return int(number)
    value = torch.tensor(int(number))
    distributed.all_reduce(value, distributed.ReduceOp.MAX)
    return int(value)


def gathered(value: object) -> list:
    """The values of all ranks, a list in their order, on all ranks."""
    if ranks() == 1:
        return [value]
    values: list = [None] * ranks()
    distributed.all_gather_object(values, value)
    return values


def take_from_first(tensors: Iterable[torch.Tensor]) -> None:
    """Fill `tensors` with rank 0's values."""
    if ranks() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, 0)


@contextlib.contextmanager
def first_alone() -> Iterator[None]:
    """Rank 0 runs the block before the others do, whether it succeeds or fails."""
    if rank() > 0:
        gathered(None)
    try:
        yield
    finally:
        if rank() == 0:
            gathered(None)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """A UserError that this block, which all ranks go through, raises on one of them is raised on all."""
    said = None
    try:
        yield
    except UserError as error:
        if ranks() == 1:
            raise
        said = str(error)
    for message in gathered(said):
        if message:
            raise UserError(message)


def lost_rank(error: Exception) -> bool:
    """Whether an exception says that another rank has ended."""
    return ranks() > 1 and (isinstance(error, distributed.DistError) or 'gloo' in str(error))
