"""What `model.json` tells of exported graphs: what goes in and comes out, in which units, of which weights."""

from typing import Any

from torch import nn

from models.rendering.implicit import ImplicitModel
from models.rendering.render import FULLEST

FORMAT = 1
SCALES = 1, 4  # trained for, where a weight file does not tell
BELONGS = (
    'Output pixel i of n belongs to LR pixel round_half_even(p), p = (2 i + 1) n_lr / (2 n) - 1/2, in whole '
    'numbers, n_lr being the size of the whole LR image.'
)
LR = (
    'RGB in 0..1: a tile of the LR image with receptive_field more LR pixels at each side, or as many as the image '
    'has there'
)
SOME = (
    'those of encode, or some of their rows and columns: of the LR pixels to be decoded and `reads` more at each '
    'side, or as many as the image has there, and pad more'
)


def describe(model: ImplicitModel, encode: nn.Module, decode: nn.Module) -> dict[str, Any]:
    """What is told of a model and its graphs, but for the weights' file, the files written, and how they are stored."""
    scales = [float(model.meta.get(key, default)) for key, default in zip(('scale_min', 'scale_max'), SCALES)]
    features = value('features', 'float32', ["H'", "W'", 'F'], "of the tile; H' = H + 2 pad, W' = W + 2 pad")
    rgb = value('rgb', 'float32', ['h', 'w', 3], 'RGB in the scale of 0..1, not clamped')
    cell = value(
        'relative_cell',
        'float32',
        [2],
        '2 n_lr / n along y and x: the size of an output pixel where an LR pixel counts 2',
    )
    where = [*axis('y', 'row', 'P', 'h', 'm'), *axis('x', 'column', 'Q', 'w', 'n')]
    return {
        'format': FORMAT,
        'model': model.spec['name'],
        'parameters': sum(parameter.numel() for parameter in model.parameters()),
        'scale_range': scales,
        'receptive_field': model.receptive_field,
        'whole_image_only': whole_image_only(model),
        'pad': encode.pad,
        'reads': decode.reads,
        'largest_block': FULLEST,
        'floats_per_block': decode.floats_per_block,
        'floats_per_output_pixel': decode.floats_per_pixel,
        'graphs': {
            'encode': {'inputs': [value('lr', 'float32', [1, 3, 'H', 'W'], LR)], 'outputs': [features]},
            'decode': {
                'inputs': [value('features', 'float32', ["H'", "W'", 'F'], SOME), *where, cell],
                'outputs': [rgb],
            },
        },
    }


def whole_image_only(model: ImplicitModel) -> bool:
    """Whether tiles of an image are not encoded as parts of it: FEM wraps around, or windows start at multiples."""
    return model.spec['args'].get('fem') == 'circular' or hasattr(model.encoder, 'window')


def axis(name: str, lines: str, blocks: str, pixels: str, most: str) -> list[dict[str, Any]]:
    """The three inputs that tell where output pixels lie along an axis."""
    return [
        value(
            name,
            'int64',
            [blocks],
            f'the LR {lines} of each {lines} of blocks, counted from the first of features. ' + BELONGS,
        ),
        value(
            f'{name}_offset',
            'float32',
            [blocks, most],
            f"from that LR {lines}'s centre to each output {lines} of the block, in LR pixels: "
            f'p - round_half_even(p); any number where a block has fewer than {most}. '
            'For speed at most largest_block of them',
        ),
        value(f'{name}_slot', 'int64', [pixels], f'where the output {lines}s stand in the flattened {name}_offset'),
    ]


def value(name: str, kind: str, shape: list[int | str], meaning: str) -> dict[str, Any]:
    return {'name': name, 'type': kind, 'shape': shape, 'meaning': meaning}
