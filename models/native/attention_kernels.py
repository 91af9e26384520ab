"""The kernels of `models/native/attention.py`, in Triton.

Forward, a program computes some output pixels of an LR pixel, and some columns; backward, all of an LR pixel.
"""

from typing import Any

import torch
import triton
import triton.language as tl

ROWS = 64  # output pixels that are handled at a time
COLUMNS = 64  # columns of `hidden` and `shared` that are handled at a time
SMALLEST = 16  # the smallest side of matrices that Triton multiplies


class AttendAndAdd(torch.autograd.Function):
    """`attend_and_add` of `models/native/attention.py`, with its gradients."""

    @staticmethod
    def forward(context: Any, hidden: Any, query: Any, keys: Any, bias: Any, shared: Any) -> torch.Tensor:
        query, keys, bias, shared = (x.contiguous() for x in (query, keys, bias, shared))
        context.save_for_backward(query, keys, bias, shared)
        out = hidden.contiguous().clone()
        sizes, blocks = sizes_of(query, keys, shared)
        n, m, columns = out.shape
        grid = n, triton.cdiv(m, blocks['M']), triton.cdiv(columns, blocks['H'])
        _forward_kernel[grid](out, query, keys, bias, shared, *sizes, **blocks)
        return out

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = context.saved_tensors
        query, keys, bias, shared = given
        found = [torch.zeros_like(x, dtype=torch.float32) for x in given]
        sizes, blocks = sizes_of(query, keys, shared)
        _backward_kernel[len(query),](gradient.contiguous(), *given, *found, *sizes, **blocks)
        return gradient, *(x.to(like.dtype) for x, like in zip(found, given))


def sizes_of(query: torch.Tensor, keys: torch.Tensor, shared: torch.Tensor) -> tuple[tuple, dict[str, int]]:
    """`(N, m, K, d, hidden, scale of the logits)`, and the block sizes for m, K, d and hidden, powers of two."""
    (n, m, d), k, hidden = query.shape, len(keys), shared.shape[-1]
    sides = {name: max(SMALLEST, triton.next_power_of_2(size)) for name, size in (('K', k), ('D', d))}
    rows, columns = (max(SMALLEST, triton.next_power_of_2(min(x, y))) for x, y in ((m, ROWS), (hidden, COLUMNS)))
    return (n, m, k, d, hidden, d**-0.5), {'M': rows, 'H': columns, **sides}


@triton.jit
def _load(at, first, height, width, i, j, stride):
    """Load rows `i` and columns `j` of the matrix `height x width` that begins at `at + first`; zeros outside it."""
    inside = (i[:, None] < height) & (j[None, :] < width)
    return tl.load(at + first + i[:, None].to(tl.int64) * stride + j[None, :], mask=inside, other=0.0)


@triton.jit
def _store(at, first, height, width, i, j, stride, values):
    inside = (i[:, None] < height) & (j[None, :] < width)
    tl.store(at + first + i[:, None].to(tl.int64) * stride + j[None, :], values, mask=inside)


@triton.jit
def _weights_of(q, key, b, i, window, m, k, scale):
    """The softmax over the pixels of a window; zeros outside it."""
    logits = tl.dot(q, tl.trans(key), input_precision='ieee') * scale + b.to(tl.float32)
    logits = tl.where(window[None, :] < k, logits, float('-inf'))
    raised = tl.exp(logits - tl.max(logits, axis=1)[:, None])
    return tl.where(i[:, None] < m, raised / tl.sum(raised, axis=1)[:, None], 0.0)


@triton.jit
def _forward_kernel(
    out, query, keys, bias, shared, n, m, k, d, hidden, scale,
    M: tl.constexpr, H: tl.constexpr, K: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64)
    i, j = tl.program_id(1) * M + tl.arange(0, M), tl.program_id(2) * H + tl.arange(0, H)
    window, inner = tl.arange(0, K), tl.arange(0, D)
    q = _load(query, at * m * d, m, d, i, inner, d)
    key = _load(keys, at * d, k, d, window, inner, n * d)
    weights = _weights_of(q, key, _load(bias, at * m * k, m, k, i, window, k), i, window, m, k, scale)
    s = _load(shared, at * hidden, k, hidden, window, j, n * hidden)
    total = _load(out, at * m * hidden, m, hidden, i, j, hidden)
    total += tl.dot(weights.to(s.dtype), s, input_precision='ieee').to(total.dtype)
    _store(out, at * m * hidden, m, hidden, i, j, hidden, total)


@triton.jit
def _backward_kernel(
    gradient, query, keys, bias, shared, to_query, to_keys, to_bias, to_shared, n, m, k, d, hidden, scale,
    M: tl.constexpr, H: tl.constexpr, K: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64)
    window, inner = tl.arange(0, K), tl.arange(0, D)
    key = _load(keys, at * d, k, d, window, inner, n * d)
    of_keys = tl.zeros((K, D), tl.float32)
    for first in range(0, m, M):
        i = first + tl.arange(0, M)
        q = _load(query, at * m * d, m, d, i, inner, d)
        weights = _weights_of(q, key, _load(bias, at * m * k, m, k, i, window, k), i, window, m, k, scale)
        of_weights = tl.zeros((M, K), tl.float32)
        for column in range(0, hidden, H):
            j = column + tl.arange(0, H)
            g = _load(gradient, at * m * hidden, m, hidden, i, j, hidden)
            s = _load(shared, at * hidden, k, hidden, window, j, n * hidden)
            of_weights += tl.dot(g, tl.trans(s), input_precision='ieee')
            of_shared = _load(to_shared, at * hidden, k, hidden, window, j, n * hidden)
            of_shared += tl.dot(tl.trans(weights).to(g.dtype), g, input_precision='ieee')
            _store(to_shared, at * hidden, k, hidden, window, j, n * hidden, of_shared)
        tl.debug_barrier()  # the next rows read what other threads of this program may have written
        of_logits = weights * (of_weights - tl.sum(weights * of_weights, axis=1)[:, None])
        _store(to_bias, at * m * k, m, k, i, window, k, of_logits)
        of_logits = (of_logits * scale).to(q.dtype)
        _store(to_query, at * m * d, m, d, i, inner, d, tl.dot(of_logits, key, input_precision='ieee'))
        of_keys += tl.dot(tl.trans(of_logits), q, input_precision='ieee')
    _store(to_keys, at * d, k, d, window, inner, n * d, of_keys)
