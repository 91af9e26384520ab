"""Attention and its weighted sum in a single CUDA kernel: the attention step of MSIT's shared first layer.

In `models/rendering/first_layer.py` the attention weights of the output pixels are written to memory as logits and
again after the softmax, and read back to weight the terms that the pixels of a window share. Here they stay in
registers, and the backward kernel computes them again. Source: Dao et al., FlashAttention (arXiv 2205.14135, section
3.1); unlike there, a window is small enough for a softmax in one pass.

Written in Triton. It is off by default, since its speed has not been measured yet: `MSIT_TRITON=1` in the environment
switches it on, if Triton is installed and a test on the device gives the same result as torch.
"""

import functools
import importlib.util
import os

import torch

from models.device import exact_float32

INSTALLED = importlib.util.find_spec('triton') is not None  # not imported here: that is slow, and rarely needed
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}  # relative to the largest value


def usable_on(query: torch.Tensor) -> bool:
    """Whether to use the kernel: it is switched on and has passed its test for the device and dtype of `query`."""
    if not INSTALLED or os.environ.get('MSIT_TRITON') != '1' or query.device.type != 'cuda':
        return False
    return query.dtype in TOLERANCE and agrees(query.device, query.dtype)


def attend_and_add(
    hidden: torch.Tensor, query: torch.Tensor, keys: torch.Tensor, bias: torch.Tensor, shared: torch.Tensor
) -> torch.Tensor:
    """`hidden + softmax(query keys / sqrt(d) + bias) shared`: `(N, m, hidden)`, with gradients of all five.

    `hidden (N, m, hidden)`, `query (N, m, d)`, `keys (K, N, d)`, `bias (N, m, K)`, `shared (K, N, hidden)`.
    """
    from models.native.attention_kernels import AttendAndAdd

    return AttendAndAdd.apply(hidden, query, keys, bias, shared)


@functools.cache
def agrees(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel's result and gradients are those of torch, up to rounding; False if anything fails."""
    made, found = torch.Generator().manual_seed(0), []
    n, m, k, d, hidden = 2, 70, 49, 32, 80  # more of m and hidden than the kernel takes at a time
    shapes = (n, m, hidden), (n, m, d), (k, n, d), (n, m, k), (k, n, hidden)
    with (
        exact_float32(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        gradient, *given = (torch.randn(x, generator=made).to(device, dtype) for x in (shapes[0], *shapes))
        try:
            for function in (attend_and_add, by_torch):
                leaves = [x.clone().requires_grad_() for x in given]
                result = function(*leaves)
                found.append([result.detach(), *torch.autograd.grad(result, leaves, gradient)])
        except Exception:  # compilers and drivers raise anything; torch's operations are used instead
            return False
        return all((a - b).abs().max() <= TOLERANCE[dtype] * (1 + b.abs().max()) for a, b in zip(*found))


def by_torch(
    hidden: torch.Tensor, query: torch.Tensor, keys: torch.Tensor, bias: torch.Tensor, shared: torch.Tensor
) -> torch.Tensor:
    """The same as `attend_and_add`, in torch's operations."""
    logits = query.shape[-1] ** -0.5 * query @ keys.permute(1, 2, 0) + bias
    return hidden + logits.softmax(dim=-1).to(shared.dtype) @ shared.transpose(0, 1)
