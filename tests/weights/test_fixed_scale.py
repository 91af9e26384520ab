"""Encoders of published networks for one scale: the same features on this project's colours, and what is left out."""

import pytest
import torch
from torch.nn import functional as F

import models
from models.weights import fixed_scale
from models.weights.fixed_scale import from_fixed_scale

SIZES = {  # of small encoders, and how many pixels from the border their features are those of the published ones
    'edsr-baseline': {'n_resblocks': 2, 'n_feats': 4},
    'rdn': {'n_blocks': 2, 'n_convs': 2, 'growth': 3, 'n_feats': 4},
    'rcan': {'n_resgroups': 2, 'n_resblocks': 1, 'n_feats': 4, 'reduction': 2},
    'swinir': {'embed_dim': 4, 'depths': [2, 1], 'num_heads': [2, 1], 'window_size': 4},
}


def conv(state, name, x):
    weight = state[f'{name}.weight']
    return F.conv2d(x, weight, state[f'{name}.bias'], padding=weight.shape[-1] // 2)


def published_edsr(state, u):
    first = x = conv(state, 'head.0', u)
    for k in range(2):
        x = x + conv(state, f'body.{k}.body.2', conv(state, f'body.{k}.body.0', x).relu())
    return first + conv(state, 'body.2', x)


def published_rcan(state, u):
    first = x = conv(state, 'head.0', u)
    for g in range(2):
        block = f'body.{g}.body.0.body'
        y = conv(state, f'{block}.2', conv(state, f'{block}.0', x).relu())
        mean = y.mean(dim=(2, 3), keepdim=True)
        y = y * conv(state, f'{block}.3.conv_du.2', conv(state, f'{block}.3.conv_du.0', mean).relu()).sigmoid()
        x = x + conv(state, f'body.{g}.body.1', x + y)
    return first + conv(state, 'body.2', x)


def published_rdn(state, u):
    first = conv(state, 'SFENet1', u)
    x, outputs = conv(state, 'SFENet2', first), []
    for k in range(2):
        dense = x
        for j in range(2):
            dense = torch.cat([dense, conv(state, f'RDBs.{k}.convs.{j}.conv.0', dense).relu()], dim=1)
        x = x + conv(state, f'RDBs.{k}.LFF', dense)
        outputs.append(x)
    return first + conv(state, 'GFF.1', conv(state, 'GFF.0', torch.cat(outputs, dim=1)))


def published_state(name, mean=fixed_scale.MEAN):
    """Random weights under the published names, with those of a tail for x2."""
    torch.manual_seed(0)
    shapes = {key: value.shape for key, value in own(name).state_dict().items()}
    if name == 'rdn':
        renamed = {}
        for key, shape in shapes.items():
            for old, new in (
                ('shallow.0', 'SFENet1'),
                ('shallow.1', 'SFENet2'),
                *((f'blocks.{k}.fuse', f'RDBs.{k}.LFF') for k in range(2)),
                *((f'blocks.{k}.convs.{j}', f'RDBs.{k}.convs.{j}.conv.0') for k in range(2) for j in range(2)),
            ):
                key = key.replace(old, new)
            renamed[key.replace('fuse.', 'GFF.') if key.startswith('fuse.') else key] = shape
        shapes = renamed
    state = {key: torch.randn(shape, dtype=torch.float64) / 3 for key, shape in shapes.items()}
    tails = {
        'rdn': ['UPNet.0', 'UPNet.2'],
        'swinir': ['upsample.0', 'conv_last'],
    }
    for tail in tails.get(name, ['tail.0.0', 'tail.1']):
        state |= {f'{tail}.weight': torch.zeros(3, 3, 1, 1), f'{tail}.bias': torch.zeros(3)}
    if name in ('edsr-baseline', 'rcan'):
        for layer, sign in (('sub_mean', -1), ('add_mean', 1)):
            state[f'{layer}.weight'] = torch.eye(3)[:, :, None, None]
            state[f'{layer}.bias'] = sign * 255 * torch.tensor(mean, dtype=torch.float64)
    if name == 'swinir':
        state['layers.0.residual_group.blocks.0.attn.relative_position_index'] = torch.zeros(16, 16).long()
        state['layers.0.residual_group.blocks.1.attn_mask'] = torch.zeros(4, 16, 16)
    return state


def own(name):
    return models.make({'name': name, 'args': SIZES[name]}).double()


def converted(name, state):
    """This project's encoder with published weights, all of which it takes."""
    found = from_fixed_scale(state)
    encoder = own(name)
    encoder.load_state_dict({key.removeprefix('encoder.'): value for key, value in found.state.items()})
    return encoder, found


@pytest.mark.parametrize(
    'name, network, reference, mean, margin',
    [
        ('edsr-baseline', 'EDSR', published_edsr, fixed_scale.MEAN, 6),
        ('edsr-baseline', 'EDSR', published_edsr, (0.5, 0.5, 0.5), 0),  # then zeros are the same colour
        ('rcan', 'RCAN', published_rcan, (0.5, 0.5, 0.5), 0),
        ('rdn', 'RDN', published_rdn, (0, 0, 0), 7),
    ],
)
def test_features_are_the_published_ones(name, network, reference, mean, margin):
    state = published_state(name, mean)
    encoder, found = converted(name, state)
    assert found.network == network
    assert found.left == (['UPNet'] if name == 'rdn' else ['tail', 'sub_mean', 'add_mean'])
    colours = torch.rand(2, 3, 17, 19, dtype=torch.float64)
    expected = reference(state, 255 * (colours - torch.tensor(mean).double()[:, None, None])) / 127.5
    difference = encoder(2 * colours - 1) - expected
    inner = difference[:, :, margin : 17 - margin, margin : 19 - margin]
    assert inner.numel() and inner.abs().max() < 1e-6 * expected.abs().max()
    assert margin == 0 or difference.abs().max() > 1e-3  # the border tells


def test_features_of_swinir_are_the_published_ones(monkeypatch):
    monkeypatch.setattr(fixed_scale, 'MEAN', (0.5, 0.5, 0.5))
    state = published_state('swinir')
    encoder, found = converted('swinir', state)
    assert found.network == 'SwinIR' and found.left == ['upsample', 'conv_last']
    raw = own('swinir')
    raw.load_state_dict({key: value for key, value in state.items() if key in raw.state_dict()})
    colours = torch.rand(1, 3, 9, 10, dtype=torch.float64)
    assert (encoder(2 * colours - 1) - raw(colours - 0.5)).abs().max() < 1e-9


def test_the_first_convolution_of_swinir_subtracts_the_mean():
    state = published_state('swinir')
    encoder, _ = converted('swinir', state)
    colours = torch.rand(1, 3, 9, 10, dtype=torch.float64)
    mean = torch.tensor(fixed_scale.MEAN).double()[:, None, None]
    difference = encoder.conv_first(2 * colours - 1) - conv(state, 'conv_first', colours - mean)
    assert difference[:, :, 1:-1, 1:-1].abs().max() < 1e-6


def test_a_range_of_1_is_told_from_the_file():
    state = published_state('edsr-baseline', (0.5, 0.5, 0.5))
    state['sub_mean.bias'] = -0.5 * torch.ones(3)
    encoder, _ = converted('edsr-baseline', state)
    colours = torch.rand(1, 3, 9, 10, dtype=torch.float64)
    assert (encoder(2 * colours - 1) - published_edsr(state, colours - 0.5) / 0.5).abs().max() < 1e-9


@pytest.mark.parametrize('names', [[], ['layers.0.weight'], ['head.0.weight'], ['conv_first.weight']])
def test_other_weights_are_none_of_these(names):
    assert from_fixed_scale({name: torch.zeros(1) for name in names}) is None
