"""A decoding problem of random numbers, solved by torch and by compiled code, and forgetting what is compiled."""

from types import SimpleNamespace

import torch
from hypothesis import strategies as st

from models.mlp import MLP
from models.native import library, msit_decoder, winograd
from models.rendering import first_layer

few = st.integers(1, 4)
# of `problem`, but for d; and of the layers after the first
SIZES = dict(
    heads=few,
    radius=st.integers(1, 4),
    hidden=st.integers(1, 150),
    rows=few,
    columns=few,
    my=few,
    mx=few,
    seed=st.integers(0, 99),
)
LAYERS = dict(hidden_list=st.lists(st.integers(1, 150), max_size=3), act=st.sampled_from(['gelu', 'relu']))


def forget():
    """Have compiled code made, or looked for, and checked anew."""
    for function in (library.compiled, library.compiled_bf16, library.tell, winograd.works, msit_decoder.works):
        function.cache_clear()


def problem(heads, d, radius, hidden, rows, columns, my, mx, dtype, seed):
    """Random features, plan, bilinear weights and windows of all LR pixels of `rows` x `columns`, in two images."""
    make = torch.Generator().manual_seed(seed)
    side = 2 * radius + 1

    def random(*shape):
        return torch.randn(*shape, dtype=dtype, generator=make)

    maps = [random(heads, 2, rows + side - 1, columns + side - 1, d) for _ in range(2)]
    features = SimpleNamespace(query_key=maps[0], value=maps[1])
    layer = first_layer.Layer(
        random(heads, rows, my, side**2),
        random(heads, columns, mx, side**2),
        random(heads, side**2, d, hidden) / side,
        random(hidden),
    )
    plan = SimpleNamespace(row_weight=random(rows, my, 3), column_weight=random(columns, mx, 3), layer=layer)
    batch, i, j = torch.cartesian_prod(torch.arange(2), torch.arange(rows), torch.arange(columns)).t()
    corner = (batch * (rows + side - 1) + i) * (columns + side - 1) + j
    index = corner + (torch.arange(side)[:, None] * (columns + side - 1) + torch.arange(side)).reshape(-1, 1)
    return plan, features, random(len(i), my * mx, 9), index, i, j


def both(plan, features, *rest, hidden_list=(9, 70), act='gelu', factors=None):
    """The first layer and the colours of a problem, by torch and compiled; `factors`: the dtype in which compiled code
    multiplies, if not that of the problem."""
    torch.manual_seed(0)
    layer = plan.layer
    imnet = MLP(1, 3, [len(layer.constant), *hidden_list], act).to(layer.weight.dtype)
    with torch.no_grad():
        hidden = first_layer.before_activation(plan, features, *rest)
        there = hidden, imnet.after_first(hidden)
        factors = factors or layer.weight.dtype
        weight = layer.weight.to(factors)
        layers = msit_decoder.layers(imnet, weight, layer.constant, layer.row_bias, layer.column_bias)
        rest = SimpleNamespace(query_key=features.query_key, value=features.value.to(factors)), *rest
        plan = SimpleNamespace(row_weight=plan.row_weight, column_weight=plan.column_weight, layer=layers)
        blocks = msit_decoder.first_layer_in_blocks(plan, *rest)
        here = blocks.permute(1, 2, 0, 3).flatten(2)[..., : len(layer.constant)], msit_decoder.colours(plan, *rest)
    return there, here
