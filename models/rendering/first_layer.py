"""The first layer of MSIT's decoder for all output pixels of an LR pixel, which share most of its work."""

from typing import Any, NamedTuple

import torch

from models.layers.mssa import attend
from models.native import attention
from models.rendering.windows import middle_3x3, pick


class Layer(NamedTuple):
    """What the first layer needs of a plan."""

    row_bias: torch.Tensor  # (heads, rows of blocks, my, K), of the attention
    column_bias: torch.Tensor  # (heads, columns of blocks, mx, K)
    weight: torch.Tensor  # (heads, K, C / heads, hidden), for a window's values
    constant: torch.Tensor  # (hidden,): the layer's bias and what the relative cell adds to it


def before_activation(
    plan: Any, features: Any, near: torch.Tensor, index: torch.Tensor, i: torch.Tensor, j: torch.Tensor
) -> torch.Tensor:
    """The first layer of the MLP, before its activation, for the output pixels of `N` LR pixels: `(N, m, hidden)`.

    The layer is applied to a window's values once for each LR pixel and its results are weighed, instead of weighing
    the values once for each output pixel: the same sum in another order.

    `near (N, m, 9)`: the bilinear weights on the pixels around; `index (K, N)`: where the windows lie in the features'
    maps; `i`, `j` `(N,)`: which of the plan's rows and columns of blocks.
    """
    grad, layer = torch.is_grad_enabled(), plan.layer
    bias = layer.row_bias[:, i][:, :, :, None] + layer.column_bias[:, j][:, :, None]
    bias = bias.flatten(2, 3)  # (heads, N, m, K)
    hidden = layer.constant.repeat(*near.shape[:2], 1)
    shared = None if grad else near.new_empty(*index.shape, layer.weight.shape[-1])
    for head in range(len(layer.weight)):  # one at a time, so that what a head's pixels share stays in the cache
        keys, values = pick(features.query_key[head], index), pick(features.value[head], index)  # (K, N, d)
        query = torch.bmm(near, middle_3x3(keys).transpose(0, 1))  # (N, m, d)
        shared = torch.bmm(values, layer.weight[head], out=None if grad else shared)  # (K, N, hidden)
        if attention.usable_on(query):
            hidden = attention.attend_and_add(hidden, query, keys, bias[head], shared)
            continue
        weights = attend(query, keys.permute(1, 2, 0), bias[head])  # (N, m, K)
        hidden.baddbmm_(weights.to(near.dtype), shared.transpose(0, 1))
    return hidden
