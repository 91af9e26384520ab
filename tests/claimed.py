"""A device that is not there: tensors that say they are on CUDA, and compute on the CPU.

In a block of `claimed()`, tensors made on `cuda` or moved to it hold their numbers in a CPU tensor. An operation on
tensors of both devices is an error, as it is on CUDA. What makes a program wait for the device, and what is copied to
it, is recorded. With `float64=False` the device is like MPS: any float64 is an error. Tensors that say they are on MPS
itself can do nothing where torch is built without it.
"""

import contextlib
import sys
from collections import Counter
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch._dynamo  # before anything is replaced
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from models.device import WIDEST

ROOT = f'{Path(__file__).resolve().parent.parent}/'
# Operations whose result, or its size, the CPU has to know, and for which it therefore waits.
WAITING = {
    *('_local_scalar_dense', 'is_nonzero', 'nonzero', 'equal', 'masked_select', 'bincount', 'allclose'),
    *('unique_consecutive', 'unique_dim', '_unique', '_unique2', 'repeat_interleave'),
}
INDEXING = {'index', 'index_put', 'index_put_', '_index_put_impl_'}
# Operations that launch nothing: they give another view of a tensor, or its memory.
FREE = {
    *('view', '_unsafe_view', 'reshape', 'expand', 'permute', 't', 'transpose', 'slice', 'select', 'unsqueeze'),
    *('squeeze', 'unbind', 'split', 'split_with_sizes', 'alias', 'detach', 'as_strided', 'unfold', 'diagonal'),
    *('empty', 'empty_like', 'new_empty', 'empty_strided', 'new_empty_strided', 'view_as_real', 'lift_fresh'),
}


class There(torch.Tensor):
    """A tensor that says it is on `device`; `held` has its numbers."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held, device):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=device,
            requires_grad=held.requires_grad,
        )
        made.held = held
        return made

    def __repr__(self):
        return f'There({tuple(self.shape)}, {self.dtype}, {self.device})'

    def __deepcopy__(self, memo):
        made = self.detach().clone().requires_grad_(self.requires_grad)
        made._is_param = getattr(self, '_is_param', False)
        return memo.setdefault(id(self), made)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError(f'{function} of a tensor on {next(iter(types))} outside of its block')


CUDA = {  # what torch.cuda says of the device
    '_lazy_init': None,
    'is_available': True,
    'is_bf16_supported': True,
    'synchronize': None,
    'mem_get_info': (2**30, 2**30),
    'memory_reserved': 0,
    'memory_allocated': 0,
    'max_memory_allocated': 0,
    'reset_peak_memory_stats': None,
    'get_device_name': 'a device that is not there',
}


@contextlib.contextmanager
def claimed(float64=True):
    """A context in which `cuda` is there: a `Claimed`. Nothing is known of streams and memory."""
    if not hasattr(torch._C, '_ensureCUDADeviceGuardSet'):
        pytest.skip('this version of torch cannot work as if a device were there')
    torch._C._ensureCUDADeviceGuardSet()
    with contextlib.ExitStack() as patches:
        for name, value in CUDA.items():
            patches.enter_context(mock.patch(f'torch.cuda.{name}', return_value=value))
        patches.enter_context(mock.patch('torch.inference_mode', torch.no_grad))  # whose tensors cannot be held
        patches.enter_context(mock.patch('torch.Generator', Generator))
        patches.enter_context(mock.patch('torch.Tensor.backward', backward))
        patches.enter_context(torch.backends.cudnn.flags(enabled=False))
        if not float64:
            patches.enter_context(mock.patch.dict(WIDEST, cuda=torch.float32))
        overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
        patches.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrites)
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # `model.to` makes new parameters
        yield patches.enter_context(Claimed(float64))


class Claimed(TorchDispatchMode):
    """Computes in place of a device.

    `launched`, `waits` and `copies` count operations on the device, those that wait for it, and those that copy to it,
    each with the line of the project that is its cause.
    """

    def __init__(self, float64):
        super().__init__()
        self.device, self.float64 = torch.device('cuda:0'), float64
        self.clear()

    def clear(self):
        self.launched, self.waits, self.copies = Counter(), Counter(), Counter()

    def there(self, held):
        if not self.float64 and held.dtype == torch.float64:
            raise TypeError(f'a float64 on a device without: {cause("")}')
        return There(held, self.device)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), function._schema.name.split('::')[1]
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        there = [x for x in given if isinstance(x, There)]
        asked = kwargs.get('device')
        if asked is not None and torch.device(asked).type == self.device.type:
            on_device, kwargs['device'] = True, torch.device('cpu')
        else:
            on_device = bool(there) and asked is None
        self.record(function, name, args, given, there, on_device)
        out = function(*tree_map(held_of, args), **tree_map(held_of, kwargs))
        known = {id(x.held): x for x in there}

        def told(x):
            if not isinstance(x, torch.Tensor):
                return x
            if id(x) in known:
                return known[id(x)]
            return self.there(x) if on_device else x

        return tree_map(told, out)

    def record(self, function, name, args, given, there, on_device):
        if not there and not on_device:
            return
        copied = name in ('_to_copy', 'copy_')
        elsewhere = [x for x in given if not isinstance(x, There) and x.dim()]
        if elsewhere and not copied:
            raise RuntimeError(f'{name}: a tensor on the CPU, {tuple(elsewhere[0].shape)}, among those on the device')
        if copied and there and (not on_device or (name == 'copy_' and not isinstance(args[0], There))):
            self.waits[cause(name)] += 1
        elif copied and len(there) < len(given):
            self.copies[cause(name)] += 1
        if there and (name in WAITING or (name in INDEXING and any(is_mask(x) for x in args[1]))):
            self.waits[cause(name)] += 1
        if name not in FREE:
            self.launched[cause(name)] += 1


class Generator(torch.Generator):
    """One of the CPU in place of one of the device."""

    def __new__(cls, device=None):
        return super().__new__(cls)


@torch.no_grad()
def backward(loss):
    """`loss.backward()`, as torch's own engine asks CUDA for its streams: nodes of the graph from the last to the
    first, and what the engine does between them."""
    given = {loss.grad_fn: {0: torch.ones_like(loss)}}  # gradients of the outputs of nodes that are to come
    while given:
        node = max(given, key=lambda node: node._sequence_nr())
        gradients = given.pop(node)
        found = node(*(gradients.get(i) for i in range(len(node._input_metadata))))
        for gradient, (above, i) in zip(found if isinstance(found, tuple) else (found,), node.next_functions):
            if above is None or gradient is None:
                continue
            told = above._input_metadata[i]
            gradient = gradient.sum_to_size(told.shape).to(told.dtype)
            if hasattr(above, 'variable'):  # a leaf
                before = above.variable.grad
                above.variable.grad = gradient if before is None else before + gradient
            else:
                to_come = given.setdefault(above, {})
                to_come[i] = to_come[i] + gradient if i in to_come else gradient


def held_of(x):
    return x.held if isinstance(x, There) else x


def is_mask(x):
    return isinstance(x, torch.Tensor) and x.dtype in (torch.bool, torch.uint8)


def is_of_the_project(file):
    """Whether code is of the project, and neither of this file nor of an environment inside the project's folder."""
    return file.startswith(ROOT) and 'site-packages' not in file and file != __file__


def cause(name):
    """The operation `name` and the innermost line of the project that it comes from."""
    frame = sys._getframe(1)
    while not is_of_the_project(frame.f_code.co_filename):
        frame = frame.f_back
    return f'{name} at {frame.f_code.co_filename.removeprefix(ROOT)}:{frame.f_lineno}'
