"""Encoders of published super-resolution networks that enlarge by one factor: EDSR, RDN, RCAN and SwinIR, whose tail,
which enlarges, is left out.

These networks were trained on other colours: on `u = range * (colour - mean)` of a colour in [0, 1], with a range of
255 or 1, where an encoder here is given `x` in [-1, 1]. So `u = half * (x + shift)` with `half = range / 2` and
`shift = 1 - 2 * mean`, and the weights are converted: the encoder makes of `x` what the published one makes of `u`,
divided by `half` where the range is 255, so that the features are on the scale of the colours. Convolutions and ReLU
allow that: once their biases are divided as well, they divide the output as the input. Only towards the image's border
the features differ, as zero padding stands for another colour there.

Sources: the names and colours of the networks' published code, EDSR (arXiv 1707.02921), RDN (1802.08797), RCAN
(1807.02758), SwinIR (2108.10257).
"""

import re
from typing import NamedTuple

import torch

from models.weights.published import ENCODER_NAMES, rename

MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K's colours
TAIL = re.compile(r'^(tail|UPNet|upsample|conv_last|conv_up\d|conv_hr)\.')
FIRST = {'SwinIR': 'conv_first', 'RDN': 'SFENet1', 'RCAN': 'head.0', 'EDSR': 'head.0'}  # a network's first convolution


class Encoder(NamedTuple):
    """What is taken from a file, and the names of what is left in it."""

    network: str  # a key of `FIRST`
    state: dict[str, torch.Tensor]  # under this project's names, `encoder.*`
    left: list[str]


def from_fixed_scale(state: dict[str, torch.Tensor]) -> Encoder | None:
    """The encoder of the published weights `state`, or None if they are of none of these networks."""
    network = recognised(state)
    if network is None:
        return None
    body = {key: value for key, value in state.items() if not TAIL.match(key)}
    converted = (of_swinir if network == 'SwinIR' else of_residual_network)(body, FIRST[network], network)
    left = list(dict.fromkeys(key.split('.')[0] for key in state if TAIL.match(key) or re.match('(sub|add)_mean', key)))
    return Encoder(network, rename({f'encoder.{key}': value for key, value in converted.items()}, ENCODER_NAMES), left)


def recognised(state: dict[str, torch.Tensor]) -> str | None:
    """The network whose names the weights have."""
    if 'SFENet1.weight' in state:
        return 'RDN'
    if 'conv_first.weight' in state and any(key.startswith('layers.0.residual_group.') for key in state):
        return 'SwinIR'
    if 'head.0.weight' not in state:
        return None
    if any('.conv_du.' in key for key in state):
        return 'RCAN'
    return 'EDSR' if 'body.0.body.0.weight' in state else None


def of_residual_network(state: dict, first: str, network: str) -> dict:
    """EDSR, RCAN and RDN. `sub_mean`, where the file has it, tells range and mean: `u = weight v + bias` for `v` in
    [0, range]. RDN subtracts no mean."""
    weight = state.get('sub_mean.weight', torch.eye(3)).flatten(1).double()
    default = torch.zeros(3) if network == 'RDN' else -255 * torch.tensor(MEAN)
    bias = state.get('sub_mean.bias', default).double()
    half = (1 if 0 < bias.abs().max() <= 1 else 255) / 2
    converted = {key: value / half if key.endswith('.bias') else value for key, value in state.items()}
    for key in state:
        if '.conv_du.' in key:  # channel attention: what it makes of the means stays as it is
            converted[key] = state[key] * half if key.endswith('.conv_du.0.weight') else state[key]
    shift = weight.sum(1) + bias / half
    return converted | first_convolution(converted, first, weight, shift)


def of_swinir(state: dict, first: str, network: str) -> dict:
    """SwinIR, of range 1. Layer norm makes its features those of any scale, so that these are not divided."""
    shift = 1 - 2 * torch.tensor(MEAN, dtype=torch.float64)
    return state | first_convolution(state, first, torch.eye(3, dtype=torch.float64) / 2, shift / 2)


def first_convolution(state: dict, name: str, matrix: torch.Tensor, shift: torch.Tensor) -> dict:
    """The convolution that makes of `x` what the one called `name` makes of `matrix x + shift`."""
    weight, bias = state[f'{name}.weight'], state[f'{name}.bias']
    added = torch.einsum('oihw,i->o', weight.double(), shift)
    return {
        f'{name}.weight': torch.einsum('oihw,ij->ojhw', weight.double(), matrix).to(weight.dtype),
        f'{name}.bias': (bias.double() + added).to(bias.dtype),
    }
