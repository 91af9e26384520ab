"""Published weight files, translated into this project's specs and parameter names."""

import re

from utils import UserError

# Old name to new name, applied in order to every parameter.
ENCODER_NAMES = (
    (r'^encoder\.SFENet([12])\.', lambda m: f'encoder.shallow.{int(m[1]) - 1}.'),
    (r'^encoder\.RDBs\.(\d+)\.convs\.(\d+)\.conv\.0\.', r'encoder.blocks.\1.convs.\2.'),
    (r'^encoder\.RDBs\.(\d+)\.LFF\.', r'encoder.blocks.\1.fuse.'),
    (r'^encoder\.GFF\.', 'encoder.fuse.'),
)
MSIT_NAMES = (
    (r'\.convmap\.weight$', '.interaction'),
    (r'\.linear\.weight$', '.gain'),
    (r'^conv_ch\.', 'project.'),
    (r'^amsno\.Ms_conv_(\d+)\.', lambda m: f'msno.msc.convs.{int(m[1]) - 1}.'),
    (r'^amsno\.v\.', 'msno.value.'),
    (r'^amsno\.s\.', 'msno.scales.'),
    (r'^amsno\.proj\.', 'msno.project.'),
    (r'^amsno\.sim0\.', 'msno.sim.expand.'),
    (r'^amsno\.bn\.', 'msno.sim.norm.'),
    (r'^amsno\.sim1\.', 'msno.sim.project.'),
    (r'^multi_conv_qs\.0\.local_conv_(\d+)\.', lambda m: f'mssa.msc.convs.{int(m[1]) - 1}.'),
    (r'^multi_conv_qs\.0\.proj0\.', 'mssa.inner.'),
    (r'^multi_conv_qs\.0\.proj1\.', 'mssa.sim.expand.'),
    (r'^multi_conv_qs\.0\.bn\.', 'mssa.sim.norm.'),
    (r'^multi_conv_qs\.0\.proj2\.', 'mssa.sim.project.'),
    (r'^conv_vs\.0\.', 'mssa.value.'),
    (r'^pb_encoder\.proj\.', 'mssa.position_bias.proj.'),
    (r'^imnets\.0\.', 'imnet.'),
)
# Constants in published files, which are not learned.
UNUSED = re.compile(
    r'^(encoder\.(sub_mean|add_mean)\.|amsno\.lem\.|encoder\.layers\..*\.(relative_position_index|attn_mask)$)'
)


def is_published(args: dict) -> bool:
    """Whether `args` come from a published file: all of those tell their encoder not to upsample."""
    encoder = args.get('encoder_spec')
    encoder_args = encoder.get('args') if isinstance(encoder, dict) else None
    return isinstance(encoder_args, dict) and 'no_upsampling' in encoder_args


def from_published(name: str, args: dict, state: dict) -> tuple[dict, dict]:
    """The spec and state dict, in this project's terms, of a published checkpoint of one of `SPECS`.

    Raises UserError for another model, and for a configuration that the published code can run but this project does
    not support.
    """
    if name not in SPECS:
        raise UserError(f'no published model of the name {name!r} is known')
    make_spec, fixed, names = SPECS[name]
    check_fixed(name, args, fixed)
    return make_spec(args, state), rename(state, names + ENCODER_NAMES)


def check_fixed(name: str, args: dict, fixed: dict) -> None:
    """Raise UserError if one of `args` differs from its only supported value in `fixed`."""
    for key, value in fixed.items():
        if args.get(key, value) != value:
            raise UserError(f'published model {name!r} with {key} = {args[key]!r} is not supported, only {value!r}')


def msit_spec(args: dict, state: dict) -> dict:
    return {
        'name': 'msit',
        'args': {
            'encoder_spec': encoder_spec(args['encoder_spec']),
            'imnet_spec': imnet_spec(args['imnet_spec']),
            'channels': args.get('base_dim', 256),
            'heads': args.get('head', 8),
            'radius': args.get('r', 3),
            'msno_kernels': [3 + 2 * i for i in range(args.get('MsC_heads', 16))],
            'mssa_kernels': [3 + 2 * i for i in range(args.get('MsSA_q', 4))],
            'fem': 'circular' if args.get('use_lem', True) else None,
            'position_bias_spec': position_bias_spec(args.get('pb_spec')),
            'rim': any(key.endswith('.convmap.weight') for key in state),
        },
    }


def liif_spec(args: dict, state: dict) -> dict:
    return {
        'name': 'liif',
        'args': {'encoder_spec': encoder_spec(args['encoder_spec']), 'imnet_spec': imnet_spec(args['imnet_spec'])},
    }


def lte_spec(args: dict, state: dict) -> dict:
    return {'name': 'lte', 'args': {**liif_spec(args, state)['args'], 'hidden_dim': args.get('hidden_dim', 256)}}


def lte_fast_spec(args: dict, state: dict) -> dict:
    sizes = {key: args[key] for key in ('num_layer', 'hidden_dim') if key in args}
    return {'name': 'lte-fast', 'args': {'encoder_spec': encoder_spec(args['encoder_spec']), **sizes}}


def lmliif_spec(args: dict, state: dict) -> dict:
    return {'name': 'lmliif', 'args': lmf_args('lmliif', args)}


def lmlte_spec(args: dict, state: dict) -> dict:
    return {'name': 'lmlte', 'args': {**lmf_args('lmlte', args), 'hidden_dim': args.get('hidden_dim', 128)}}


def lmf_args(name: str, args: dict) -> dict:
    imnet, hypernet = (args[key].get('args') or {} for key in ('imnet_spec', 'hypernet_spec'))
    check_fixed(name, {'mod_input': False, **args}, {'mod_input': True})
    check_fixed(name, imnet, {'mod_scale': True, 'mod_shift': True, 'out_dim': 3})
    hypernet = {key: value for key, value in hypernet.items() if key != 'out_dim'}  # which published code ignores
    return {
        'encoder_spec': encoder_spec(args['encoder_spec']),
        'imnet_spec': {'name': 'lmmlp', 'args': {key: imnet[key] for key in ('hidden_dim', 'hidden_depth')}},
        'hypernet_spec': {'name': 'mlp', 'args': hypernet},
    }


def encoder_spec(spec: dict) -> dict:
    args = dict(spec.get('args') or {})
    args.pop('no_upsampling', None)
    if spec['name'] == 'swinir':
        args.pop('img_size', None)  # the size of a buffer that is not learned
    if spec['name'] == 'rdn':
        sizes = {'A': (20, 6, 32), 'B': (16, 8, 64)}[args.pop('RDNconfig', 'B')]
        return {'name': 'rdn', 'args': dict(zip(('n_blocks', 'n_convs', 'growth'), sizes), n_feats=args.pop('G0', 64))}
    return {'name': spec['name'], 'args': args}


def imnet_spec(spec: dict) -> dict:
    return {'name': 'mlp', 'args': dict(spec.get('args') or {})}


def position_bias_spec(spec: dict | None) -> dict | None:
    if spec is None:
        return None
    args = spec.get('args', {})
    if args.get('posenc_type', 'sinusoid') != 'sinusoid':
        raise UserError(f"position bias {args['posenc_type']!r} is not supported, only 'sinusoid'")
    return {'name': 'sinusoid', 'args': {'features': args['enc_dims'], 'max_exponent': args['posenc_scale']}}


def rename(state: dict, names: tuple) -> dict:
    renamed = {}
    for key, value in state.items():
        if UNUSED.match(key):
            continue
        for pattern, replacement in names:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value.reshape(value.shape[:2]) if key.startswith('imnet.') else value  # 1x1 convolutions
    return renamed


PUBLISHED_LMF = {'local_ensemble': True, 'cell_decode': True, 'cmsr_spec': None}
# Published name to the function that makes the spec, the only supported values of some arguments, and the parameter
# names except the encoder's.
SPECS: dict[str, tuple] = {
    'amsit': (msit_spec, {'imnet_num': 1, 'conv_num': 1, 'is_cell': True, 'local_attn': True}, MSIT_NAMES),
    'liif': (liif_spec, {'local_ensemble': True, 'feat_unfold': True, 'cell_decode': True}, ()),
    'lte': (lte_spec, {}, ()),
    'lte-fast': (lte_fast_spec, {'out_dim': 3}, ((r'^layers\.', 'imnet.layers.'),)),
    'lmliif': (lmliif_spec, {**PUBLISHED_LMF, 'feat_unfold': True}, ()),
    'lmlte': (lmlte_spec, PUBLISHED_LMF, ()),
}
