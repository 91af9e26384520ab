"""MSIT's decoder as compiled code, for a CPU.

As in `models/rendering/first_layer.py`, the output pixels of an LR pixel share the first layer's work. From the
attention to the colours all of it stays in the cache.
"""

import ctypes
import functools
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from models.native import library
from models.native.library import SIZES, in_blocks, in_column_blocks, in_pairs, pointers


class Layers(NamedTuple):
    """The MLP, and what goes into its first layer, laid out for the compiled code; weights are `in_pairs`."""

    row_bias: torch.Tensor  # (heads, rows of blocks, my, K) filled up with -infinity to whole UNITs
    column_bias: torch.Tensor  # the same of the columns of blocks
    first: torch.Tensor  # the weight for a window's values: (heads, blocks of hidden, K, d or pairs of d, COLUMNS)
    constant: torch.Tensor  # (hidden,) in whole blocks
    weights: list  # of the layers after the first one, in blocks of columns
    biases: list  # (columns,) of each
    widths: list  # numbers that go into each of these, and what comes out of the last, filled up
    gelu: bool  # the activation: GELU or ReLU


def usable_for(imnet: Any, maps: torch.Tensor, factors: torch.dtype) -> bool:
    """Whether the compiled code can evaluate `imnet`, a `models.mlp.MLP` (not a subclass), on `maps (..., d)` with the
    factors of products in their dtype or, where they are in float32, in bfloat16."""
    if len(imnet.layers) < 2 or not library.usable_on(maps):
        return False
    if factors != maps.dtype and ((maps.dtype, factors) != (torch.float32, torch.bfloat16) or maps.shape[-1] % 2):
        return False
    return works(factors)


def code_for(factors: torch.dtype) -> ctypes.CDLL | None:
    """The compiled code for factors in a dtype; None where there is none."""
    return library.compiled_bf16() if factors == torch.bfloat16 else library.compiled(factors)


@functools.cache
@torch.no_grad()
def works(factors: torch.dtype) -> bool:
    """Whether there is compiled code for factors of a dtype and it decodes a small problem as torch's operations do, as
    the formulas state it. Asked once in a process."""
    if code_for(factors) is None:
        return False
    in_bf16 = factors == torch.bfloat16
    dtype = torch.float32 if in_bf16 else factors
    heads, d, side, n, my, mx, hidden = 2, 6, 3, 7, 2, 2, 70
    window, m = side**2, my * mx
    some = functools.partial(library.some_numbers, dtype=dtype)
    query_key, value = some(heads, 1, 6, 5, d), some(heads, 1, 5, 6, d)
    near, row_bias, column_bias = some(n, m, 9), some(heads, 3, my, window), some(heads, 4, mx, window)
    index = torch.arange(n) + torch.arange(window)[:, None]
    i, j = torch.arange(n) % 3, torch.arange(n) % 4
    weight, constant = some(heads, window, d, hidden), some(hidden)
    imnet = SimpleNamespace(layers=[None, nn.GELU(), SimpleNamespace(weight=some(3, hidden) / 8, bias=some(3))])
    plan = SimpleNamespace(
        row_weight=near[:, :my],
        column_weight=near[:, :mx],
        layer=layers(imnet, weight.to(factors), constant, row_bias, column_bias),
    )
    here = colours(plan, SimpleNamespace(query_key=query_key, value=value.to(factors)), near, index, i, j)

    keys, values = (maps.flatten(1, 3)[:, index] for maps in (query_key, value))  # (heads, K, n, d)
    query = (near[..., None] * keys.transpose(1, 2)[:, :, None]).sum(3)  # (heads, n, m, d): the window is 3 x 3
    bias = (row_bias[:, i, :, None] + column_bias[:, j, None]).flatten(2, 3)  # (heads, n, m, K)
    logits = (query[..., None, :] * keys.transpose(1, 2)[:, :, None]).sum(-1) / d**0.5 + bias
    latent = logits.softmax(-1)[..., None] * values.transpose(1, 2)[:, :, None]  # (heads, n, m, K, d)
    first = (latent[..., None] * weight[:, None, None]).sum((0, 3, 4)) + constant  # (n, m, hidden)
    expected = (F.gelu(first)[..., None, :] * imnet.layers[2].weight).sum(-1) + imnet.layers[2].bias
    return library.agree('decoding', here, expected, library.FURTHEST_BF16 if in_bf16 else library.FURTHEST)


def layers(
    imnet: Any, weight: torch.Tensor, constant: torch.Tensor, row_bias: torch.Tensor, column_bias: torch.Tensor
) -> Layers:
    """`Layers` of an MLP: `weight (heads, K, d, hidden)`, in the dtype of the factors, `constant (hidden,)`, and the
    bias of the attention along both axes, `(heads, rows or columns of blocks, my or mx, K)`."""
    first = filled(weight, SIZES['COLUMNS']).unflatten(-1, (-1, SIZES['COLUMNS'])).permute(0, 3, 1, 2, 4)
    first = in_pairs(first, -2).contiguous()
    constant = filled(constant, SIZES['COLUMNS'])
    row_bias, column_bias = (
        F.pad(bias, (0, -bias.shape[-1] % SIZES['UNIT']), value=-torch.inf).contiguous()
        for bias in (row_bias, column_bias)
    )
    weights: list[torch.Tensor] = []
    biases: list[torch.Tensor] = []
    widths = [len(constant)]
    for layer in imnet.layers[2::2]:
        inner = filled(layer.weight.to(weight.dtype), SIZES['UNIT'] if biases else SIZES['COLUMNS']).t()
        weights.append(in_column_blocks(in_pairs(filled(inner, SIZES['UNIT']), -2)))
        biases.append(filled(layer.bias.to(constant.dtype), SIZES['UNIT']).contiguous())
        widths.append(len(biases[-1]))
    return Layers(row_bias, column_bias, first, constant, weights, biases, widths, isinstance(imnet.layers[1], nn.GELU))


def filled(x: torch.Tensor, size: int) -> torch.Tensor:
    """`x` with zeros added to its last axis, so that its length is a multiple of `size`."""
    missing = -x.shape[-1] % size
    return F.pad(x, (0, missing)) if missing else x  # to pad is to copy


def wide(window: int, d: int) -> int:
    """How many numbers a row of logits, keys or queries takes."""
    return in_blocks(max(d, window))


def colours(
    plan: Any, features: Any, near: torch.Tensor, index: torch.Tensor, i: torch.Tensor, j: torch.Tensor
) -> torch.Tensor:
    """The MLP's output for the output pixels of `N` LR pixels, `(N, m, 3)`. All as in
    `models.rendering.first_layer.before_activation`, of a plan with `Layers`."""
    hidden = first_layer_in_blocks(plan, features, near, index, i, j)
    return perceptron(plan.layer, hidden, features.value.dtype)[..., :3]


def first_layer_in_blocks(
    plan: Any, features: Any, near: torch.Tensor, index: torch.Tensor, i: torch.Tensor, j: torch.Tensor
) -> torch.Tensor:
    """The first layer before its activation: `(blocks of hidden, N, m, COLUMNS)`."""
    layers = plan.layer
    (heads, blocks, window, _, columns), d = layers.first.shape, features.value.shape[-1]
    (n, m), my, mx = near.shape[:2], plan.row_weight.shape[1], plan.column_weight.shape[1]
    hidden, room = near.new_empty(blocks, n, m, columns), near.new_empty(room_for(n, m, window, d))
    near, index, i, j = (x.contiguous() for x in (near, index, i, j))
    arrays = (
        hidden,
        near,
        features.query_key,
        in_pairs(features.value, -1),
        index,
        layers.row_bias,
        i,
        layers.column_bias,
        j,
        layers.first,
        layers.constant,
        room,
    )
    sizes = (
        n,
        my,
        mx,
        heads,
        d,
        round(window**0.5),
        features.value[0].numel() // d,
        layers.row_bias.shape[1],
        layers.column_bias.shape[1],
        blocks * columns,
        wide(window, d),
    )
    code_for(features.value.dtype).first_layer(*pointers(*arrays), *sizes)
    return hidden


def room_for(n: int, m: int, window: int, d: int) -> int:
    """How many numbers `first_layer_in_blocks` needs room for."""
    attention = n * m * in_blocks(window, SIZES['UNIT'])
    shared = SIZES['GROUP'] * (window * SIZES['COLUMNS'] + d)
    return (18 + d + 2 * SIZES['ROWS']) * wide(window, d) + attention + shared


def perceptron(layers: Layers, hidden: torch.Tensor, factors: torch.dtype) -> torch.Tensor:
    """The layers after the first one, with the factors of products in a dtype: `(blocks of hidden, N, m, COLUMNS)` to
    `(N, m, 3 or more)`."""
    out = hidden.new_empty(*hidden.shape[1:3], layers.widths[-1])
    room = hidden.new_empty(3, SIZES['STRIP'], max(layers.widths))
    out_at, hidden_at, room_at, *arrays = pointers(out, hidden, room, *layers.weights, *layers.biases)
    many = len(layers.weights)
    addresses = ctypes.c_void_p * many
    code_for(factors).perceptron(
        out_at,
        hidden_at,
        addresses(*arrays[:many]),
        addresses(*arrays[many:]),
        (ctypes.c_long * (many + 1))(*layers.widths),
        many,
        layers.gelu,
        out[..., 0].numel(),
        room_at,
    )
    return out
