"""Models, specs and comparisons that several test files use."""

import copy
from unittest import mock

import torch
from conftest import TINY
from hypothesis import strategies as st

import models
from models.native import library
from models.rendering import grid

TOLERANCE = 1e-9
ENCODER = {'name': 'edsr-baseline', 'args': {'n_resblocks': 1, 'n_feats': 4}}
IMNET = {'name': 'mlp', 'args': {'out_dim': 3, 'hidden_list': [6, 5]}}
LIIF = {'name': 'liif', 'args': {'encoder_spec': ENCODER, 'imnet_spec': IMNET}}
LTE = {'name': 'lte', 'args': {'encoder_spec': ENCODER, 'imnet_spec': IMNET, 'hidden_dim': 6}}
LTE_FAST = {'name': 'lte-fast', 'args': {'encoder_spec': ENCODER, 'num_layer': 1, 'hidden_dim': 6}}
MODULATED = {
    'imnet_spec': {'name': 'lmmlp', 'args': {'hidden_dim': 4, 'hidden_depth': 2}},
    'hypernet_spec': {'name': 'mlp', 'args': {'hidden_list': [5]}},
}
LMLIIF = {'name': 'lmliif', 'args': {'encoder_spec': ENCODER, **MODULATED}}
LMLTE = {'name': 'lmlte', 'args': {'encoder_spec': ENCODER, **MODULATED, 'hidden_dim': 6}}
BICUBIC = {'name': 'bicubic', 'args': {}}

# Small ones of every kind that is registered.
ENCODERS = {
    'edsr-baseline': {'n_resblocks': 1, 'n_feats': 5},
    'edsr': {'n_resblocks': 2, 'n_feats': 4},
    'rdn': {'n_blocks': 2, 'n_convs': 3, 'growth': 2, 'n_feats': 4},
    'light': {'n_blocks': 2, 'n_feats': 4, 'hidden': 5},
    'rcan': {'n_resgroups': 2, 'n_resblocks': 1, 'n_feats': 4, 'reduction': 2},
    'swinir': {'embed_dim': 4, 'depths': [2, 1], 'num_heads': [2, 1], 'window_size': 4},
}
MLP = {'name': 'mlp', 'args': {'out_dim': 3, 'hidden_list': [8, 8], 'act': 'gelu'}}
DECODERS = {
    'msit': {key: value for key, value in TINY['args'].items() if key != 'encoder_spec'},
    'liif': {'imnet_spec': MLP},
    'lte': {'imnet_spec': MLP, 'hidden_dim': 6},
    'lte-fast': {'num_layer': 1, 'hidden_dim': 6},
    'lmliif': MODULATED,
    'lmlte': {**MODULATED, 'hidden_dim': 6},
}


def spec_of(decoder, encoder='edsr-baseline', **args):
    return {
        'name': decoder,
        'args': {'encoder_spec': {'name': encoder, 'args': ENCODERS[encoder]}, **DECODERS[decoder], **args},
    }


def close(a, b):
    assert a.shape == b.shape and a.dtype == b.dtype == torch.float64
    assert (a - b).abs().max() <= TOLERANCE


@st.composite
def specs(draw):
    """A random small configuration of MSIT."""
    heads = draw(st.sampled_from([1, 2, 4]))
    return {
        'name': 'msit',
        'args': {
            'encoder_spec': draw(
                st.sampled_from(
                    [
                        {'name': 'edsr-baseline', 'args': {'n_resblocks': 1, 'n_feats': 4}},
                        {'name': 'rdn', 'args': {'n_blocks': 2, 'n_convs': 2, 'growth': 4, 'n_feats': 4}},
                    ]
                )
            ),
            'imnet_spec': {
                'name': 'mlp',
                'args': {
                    'out_dim': 3,
                    'hidden_list': draw(st.lists(st.integers(1, 9), max_size=3)),
                    'act': draw(st.sampled_from(['relu', 'gelu'])),
                },
            },
            'channels': 8 * draw(st.integers(1, 2)),
            'heads': heads,
            'radius': draw(st.integers(1, 3)),
            'msno_kernels': draw(st.sampled_from([[3], [3, 5], [3, 5, 7, 9], [1, 3]])),
            'mssa_kernels': draw(st.sampled_from([[3], [3, 5]])),
            'fem': draw(st.sampled_from(['replicate', 'circular', None])),
            'position_bias_spec': draw(st.sampled_from([None, {'name': 'sinusoid', 'args': {'features': 16}}])),
            'rim': draw(st.booleans()),
        },
    }


def built(spec, seed=0, dtype=torch.float64):
    """A model with random weights, RIM and batch norm included, which are neutral when new."""
    torch.manual_seed(seed)
    model = models.build(spec)
    for name, value in model.state_dict().items():
        if name.endswith('gain') or 'running_mean' in name:
            value.normal_(std=0.3)
        elif 'running_var' in name:
            value.uniform_(0.5, 2)
    return model.eval().requires_grad_(False).to(dtype)


def by_query(model, lr, size, dtype=torch.float64):
    """All pixels, point by point: `(B, 3, h, w)`."""
    coord = grid.pixel_centres(*size).to(dtype).expand(len(lr), -1, -1)
    rgb = model.query(model.encode(lr), coord, grid.cell_size(*size).to(dtype))
    return rgb.transpose(1, 2).reshape(len(lr), 3, *size)


def in_torch():
    """A context in which compiled code is not used, as on a system without it."""
    return mock.patch.object(library, 'usable_on', return_value=False)


def places(value, path=()):
    """The paths to all values in nested dicts and lists."""
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def replaced(spec, path, value):
    if not path:
        return value
    spec = copy.copy(spec)
    spec[path[0]] = replaced(spec[path[0]], path[1:], value)
    return spec


words = st.sampled_from(['', 'x', 'gelu', 'rdn', 'mlp', 'circular'])
plain = st.none() | st.booleans() | st.integers(-3, 12) | st.floats(-9, 9) | words
anything = st.recursive(
    plain,
    lambda part: (
        st.lists(part, max_size=3)
        | st.dictionaries(st.sampled_from(['name', 'args', 'features', 'out_dim', 'rim']), part, max_size=3)
    ),
    max_leaves=4,
)
