"""Published weight files of every encoder with every decoder: their names and arguments there and back."""

import re

import pytest
import torch

import models
from models.registry import models as registry
from models.weights.published import from_published
from utils import UserError

ENCODERS = {  # the published arguments, and the project's own
    'edsr-baseline': ({'n_resblocks': 2, 'n_feats': 8}, {'n_resblocks': 2, 'n_feats': 8}),
    'edsr': ({'n_resblocks': 2, 'n_feats': 8}, {'n_resblocks': 2, 'n_feats': 8}),
    'rdn': (
        {'G0': 8, 'RDNkSize': 3, 'RDNconfig': 'A'},
        {'n_blocks': 20, 'n_convs': 6, 'growth': 32, 'n_feats': 8},
    ),
    'rcan': ({'n_resgroups': 1, 'n_resblocks': 2}, {'n_resgroups': 1, 'n_resblocks': 2}),
    'swinir': ({}, {}),
}
MLP = {'out_dim': 3, 'hidden_list': [8, 8], 'act': 'relu'}
IMNET = {'name': 'mlp', 'args': MLP}
BIAS = {'name': 'sinusoid', 'args': {'features': 64, 'max_exponent': 10}}
LMF = {
    'imnet_spec': {
        'name': 'lmmlp',
        'args': {'out_dim': 3, 'hidden_dim': 16, 'hidden_depth': 2, 'mod_scale': True, 'mod_shift': True},
    },
    'hypernet_spec': {'name': 'mlp', 'args': {'out_dim': 48, 'hidden_list': [20]}},
    'local_ensemble': True,
    'cell_decode': True,
    'mod_input': True,
}
OWN_LMF = {
    'imnet_spec': {'name': 'lmmlp', 'args': {'hidden_dim': 16, 'hidden_depth': 2}},
    'hypernet_spec': {'name': 'mlp', 'args': {'hidden_list': [20]}},
}
MSIT = {'channels': 16, 'heads': 8, 'radius': 3, 'msno_kernels': [3, 5], 'mssa_kernels': [3, 5], 'fem': 'circular'}
DECODERS = {  # the published name and arguments, and the project's own
    'msit': (
        'amsit',
        {
            'imnet_spec': IMNET,
            'base_dim': 16,
            'MsC_heads': 2,
            'MsSA_q': 2,
            'pb_spec': {'name': 'pb', 'args': {'enc_dims': 64, 'posenc_scale': 10}},
        },
        {'imnet_spec': IMNET, **MSIT, 'position_bias_spec': BIAS, 'rim': False},
    ),
    'liif': ('liif', {'imnet_spec': IMNET, 'feat_unfold': True}, {'imnet_spec': IMNET}),
    'lte': ('lte', {'imnet_spec': IMNET, 'hidden_dim': 8}, {'imnet_spec': IMNET, 'hidden_dim': 8}),
    'lte-fast': (
        'lte-fast',
        {'num_layer': 2, 'hidden_dim': 8, 'out_dim': 3},
        {'num_layer': 2, 'hidden_dim': 8},
    ),
    'lmliif': ('lmliif', {**LMF, 'feat_unfold': True}, OWN_LMF),
    'lmlte': ('lmlte', {**LMF, 'hidden_dim': 8, 'cmsr_spec': None}, {**OWN_LMF, 'hidden_dim': 8}),
}
# Own name to published name.
NAMES = {
    'msit': (
        (r'^project\.', 'conv_ch.'),
        (r'^msno\.msc\.convs\.(\d+)\.', lambda m: f'amsno.Ms_conv_{int(m[1]) + 1}.'),
        (r'^msno\.value\.', 'amsno.v.'),
        (r'^msno\.scales\.', 'amsno.s.'),
        (r'^msno\.project\.', 'amsno.proj.'),
        (r'^msno\.sim\.expand\.', 'amsno.sim0.'),
        (r'^msno\.sim\.norm\.', 'amsno.bn.'),
        (r'^msno\.sim\.project\.', 'amsno.sim1.'),
        (r'^mssa\.msc\.convs\.(\d+)\.', lambda m: f'multi_conv_qs.0.local_conv_{int(m[1]) + 1}.'),
        (r'^mssa\.inner\.', 'multi_conv_qs.0.proj0.'),
        (r'^mssa\.sim\.expand\.', 'multi_conv_qs.0.proj1.'),
        (r'^mssa\.sim\.norm\.', 'multi_conv_qs.0.bn.'),
        (r'^mssa\.sim\.project\.', 'multi_conv_qs.0.proj2.'),
        (r'^mssa\.value\.', 'conv_vs.0.'),
        (r'^mssa\.position_bias\.', 'pb_encoder.'),
        (r'^imnet\.', 'imnets.0.'),
    ),
    'lte-fast': ((r'^imnet\.', ''),),
    'rdn': (
        (r'^encoder\.shallow\.(\d)\.', lambda m: f'encoder.SFENet{int(m[1]) + 1}.'),
        (r'^encoder\.blocks\.(\d+)\.convs\.(\d+)\.', r'encoder.RDBs.\1.convs.\2.conv.0.'),
        (r'^encoder\.blocks\.(\d+)\.fuse\.', r'encoder.RDBs.\1.LFF.'),
        (r'^encoder\.fuse\.', 'encoder.GFF.'),
    ),
}
BUFFERS = {
    'edsr': ['sub_mean.weight', 'add_mean.bias'],
    'rcan': ['sub_mean.weight', 'add_mean.bias'],
    'swinir': [
        'layers.0.residual_group.blocks.0.attn.relative_position_index',
        'layers.0.residual_group.blocks.1.attn_mask',
    ],
}


def published(decoder, encoder):
    """A published file's name, arguments and weights, and the spec and weights that are to be made of it."""
    with torch.device('meta'):  # the names and shapes count
        spec = {
            'name': decoder,
            'args': {'encoder_spec': {'name': encoder, 'args': ENCODERS[encoder][1]}, **DECODERS[decoder][2]},
        }
        own = models.build(spec).state_dict()
        state = {f'encoder.{name}': torch.zeros(3) for name in BUFFERS.get(encoder, ())}
        for key, value in own.items():
            for pattern, replacement in (*NAMES.get(decoder, ()), *NAMES.get(encoder, ())):
                key = re.sub(pattern, replacement, key)
            linear = decoder == 'lte-fast' and key.startswith('layers.') and value.ndim == 2
            state[key] = value[:, :, None, None] if linear else value
    name, args, _ = DECODERS[decoder]
    encoder_spec = {'name': encoder, 'args': {**ENCODERS[encoder][0], 'no_upsampling': True}}
    return name, {'encoder_spec': encoder_spec, **args}, state, spec, own


OWN = 'bicubic', 'light', 'mlp', 'lmmlp', 'sinusoid'  # models that nobody else has published, and parts


def test_everything_published_is_tried():
    known = {name for name, made in registry.entries.items() if name not in OWN}
    assert known == {*ENCODERS, *DECODERS}


@pytest.mark.parametrize('encoder', ENCODERS)
@pytest.mark.parametrize('decoder', DECODERS)
def test_every_encoder_with_every_decoder(decoder, encoder):
    name, args, state, spec, own = published(decoder, encoder)
    made, renamed = from_published(name, args, state)
    assert made == spec
    assert {key: value.shape for key, value in renamed.items()} == {key: value.shape for key, value in own.items()}


@pytest.mark.parametrize(
    'decoder, change, said',
    [
        ('lte-fast', {'out_dim': 4}, 'out_dim = 4'),
        ('lmliif', {'feat_unfold': False}, 'feat_unfold = False'),
        ('lmliif', {'local_ensemble': False}, 'local_ensemble = False'),
        ('lmlte', {'mod_input': False}, 'mod_input = False'),
        ('lmlte', {'cmsr_spec': {'name': 'x'}}, "cmsr_spec = {'name': 'x'}"),
    ],
)
def test_what_is_not_supported_is_refused(decoder, change, said):
    name, args, state, _, _ = published(decoder, 'edsr')
    with pytest.raises(UserError, match=re.escape(f'published model {decoder!r} with {said} is not supported')):
        from_published(name, {**args, **change}, state)


def test_an_argument_whose_default_is_not_supported_is_to_be_stated():
    name, args, state, _, _ = published('lmliif', 'edsr')
    with pytest.raises(UserError, match='mod_input = False'):
        from_published(name, {key: value for key, value in args.items() if key != 'mod_input'}, state)


@pytest.mark.parametrize('only', ['mod_scale', 'mod_shift'])
def test_a_modulated_mlp_without_scale_or_shift_is_refused(only):
    name, args, state, _, _ = published('lmlte', 'edsr')
    imnet = {'name': 'lmmlp', 'args': {**args['imnet_spec']['args'], only: False}}
    with pytest.raises(UserError, match=f'{only} = False'):
        from_published(name, {**args, 'imnet_spec': imnet}, state)
