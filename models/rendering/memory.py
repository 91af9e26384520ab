"""How many numbers a computation holds at its peak, counted on tensors without data."""

import copy
import weakref

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SIDE = 32  # of the image that is used for counting, in pixels


def peak_floats(module: nn.Module, method: str = 'forward') -> float:
    """About how many numbers per pixel `method` of `module` holds at its peak for an image `(1, 3, H, W)`, at least
    those of the image. Nothing is computed: the method runs on a copy on torch's `meta` device."""
    counted = copy.deepcopy(module).to('meta')
    dtype = next((parameter.dtype for parameter in counted.parameters()), None)
    with torch.inference_mode(), Counter() as counter:
        getattr(counted, method)(torch.empty(1, 3, SIDE, SIDE, dtype=dtype, device='meta'))
    return counter.peak / SIDE**2


class Counter(TorchDispatchMode):
    """Counts the numbers of all tensors that operations have made and that still exist: `peak` is the most of them."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor)
        return result

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self.known:
            return
        many = storage.nbytes() // tensor.element_size()
        self.known.add(storage._cdata)
        self.held += many
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self.forget, storage._cdata, many)

    def forget(self, key: int, many: int) -> None:
        self.known.discard(key)
        self.held -= many
