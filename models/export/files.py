"""Writing a model as ONNX files, with a description that says how they are used."""

import contextlib
import hashlib
import json
import logging
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from models.export import storage
from models.export.description import describe
from models.export.graphs import graphs
from models.export.runtime import Runtime, axes, needs
from models.rendering import grid
from models.rendering.implicit import ImplicitModel
from models.rendering.render import FULLEST
from utils import UserError, atomic_path, write_text

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 20  # the first with the exact GELU as one operation
DECODE_INPUTS = ('features', 'y', 'x', 'y_offset', 'x_offset', 'y_slot', 'x_slot', 'relative_cell')
FEWEST_DB = 45  # smallest PSNR between the images that weights in fewer bytes and in float32 give
PHOTO, SCALE = Path(__file__).resolve().parents[2] / 'scripts' / 'demo.png', (2.5, 3.3)  # by which they are compared


def export(
    model: ImplicitModel, folder: Path | str, weights: Path | str, precision: str = 'fp32', licence: str | None = None
) -> dict[str, Any]:
    """Write `encode.onnx`, `decode.onnx` and `model.json`, the description, to a folder that exists.

    `weights`: the file that the model was loaded from. `precision`: how weights are stored, 'fp32', 'fp16' or 'int8';
    in all three runtimes compute in float32. Returns the description. Raises UserError for a model that has no graphs,
    for packages that are missing, and, with nothing written, if the stored weights give another image than the float32
    ones (`FEWEST_DB`).
    """
    folder, weights = Path(folder), Path(weights)
    protos, told = made(model)
    compared = None
    told |= {'name': weights.stem, 'weights': {'file': weights.name, 'sha256': digest(weights.read_bytes())}}
    if precision != 'fp32':
        needs('onnxruntime')
        stored = {name: storage.stored(proto, precision) for name, proto in protos.items()}
        compared = decibels(*(loaded(pair, told) for pair in (protos, stored)))
        if compared < FEWEST_DB:
            raise UserError(
                f'stored in {precision}, these weights give an image of {compared:.1f} dB against that of float32, '
                f'less than {FEWEST_DB} dB; nothing is written'
            )
        protos = stored
    for name, proto in protos.items():
        content = proto.SerializeToString()
        path = folder / f'{name}.onnx'
        try:
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
        except OSError as error:
            raise UserError(f'{path}: cannot be written ({error.strerror})') from error
        told['graphs'][name] |= {'file': path.name, 'bytes': len(content), 'sha256': digest(content)}
    told |= {
        'opset': OPSET,
        'precision': precision,
        'decibels_from_float32': compared and round(compared, 1),
        'licence': licence,
    }
    write_text(folder / 'model.json', json.dumps(told, indent=1, allow_nan=False))
    return told


def exported(model: ImplicitModel) -> Runtime:
    """A model in onnxruntime, without files."""
    return loaded(*made(model))


def made(model: ImplicitModel) -> tuple[dict[str, 'ModelProto'], dict[str, Any]]:
    """The ONNX models of a model's graphs, by name, and what is to be told of them."""
    needs('onnx', 'onnxscript')
    encode, decode = graphs(model)
    return ({'encode': encode_proto(encode), 'decode': decode_proto(encode, decode)}, describe(model, encode, decode))


def loaded(protos: dict[str, 'ModelProto'], told: dict[str, Any]) -> Runtime:
    return Runtime(protos['encode'].SerializeToString(), protos['decode'].SerializeToString(), told)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def decibels(*runtimes: Runtime) -> float:
    """PSNR in dB between the images that two runtimes make of the bundled photo, with values in [0, 1]."""
    lr = to_tensor(Image.open(PHOTO).convert('RGB'))[None]
    size = [round(n * scale) for n, scale in zip(lr.shape[-2:], SCALE)]
    first, second = (runtime.render(lr, size).clamp(0, 1).double() for runtime in runtimes)
    return -10 * math.log10(max(float((first - second).square().mean()), 1e-20))


# ---------------------------------------------------------------- graphs


def encode_proto(encode: torch.nn.Module) -> 'ModelProto':
    any_size = torch.export.Dim.DYNAMIC
    return traced(
        encode,
        (torch.rand(1, 3, 20, 23),),
        ['lr'],
        'features',
        {'lr': {2: any_size, 3: any_size}},
        {'lr': ('', '', 'H', 'W'), 'features': ("H'", "W'", 'F')},
    )


def decode_proto(encode: torch.nn.Module, decode: torch.nn.Module) -> 'ModelProto':
    any_size, lr = torch.export.Dim.DYNAMIC, torch.rand(1, 3, 20, 23)
    with torch.no_grad():
        told = {'features': encode(lr)}
    rows, columns = grid.Blocks(20, 47, fullest=FULLEST), grid.Blocks(23, 71, fullest=FULLEST)
    told |= {name: torch.from_numpy(values) for name, values in axes(rows, columns, (20, 23), (47, 71)).items()}
    arguments = tuple(told[name] for name in DECODE_INPUTS)
    shapes = {name: {axis: any_size for axis in range(value.ndim)} for name, value in zip(DECODE_INPUTS, arguments)}
    shapes |= {'features': {0: any_size, 1: any_size}, 'relative_cell': None}
    names = {
        'features': ("H'", "W'", ''),
        'y': ('P',),
        'x': ('Q',),
        'y_offset': ('P', 'm'),
        'x_offset': ('Q', 'n'),
        'y_slot': ('h',),
        'x_slot': ('w',),
        'relative_cell': ('',),
        'rgb': ('h', 'w', ''),
    }
    return traced(decode, arguments, list(DECODE_INPUTS), 'rgb', shapes, names)


def traced(
    graph: torch.nn.Module,
    arguments: tuple[torch.Tensor, ...],
    inputs: list[str],
    output: str,
    shapes: dict[str, Any],
    names: dict[str, tuple[str, ...]],
) -> 'ModelProto':
    """The ONNX model of a graph, its sizes called `names` where they are dynamic, '' where they are not."""
    with quiet():
        program = torch.onnx.export(
            graph.eval(),
            arguments,
            dynamo=True,
            input_names=inputs,
            output_names=[output],
            dynamic_shapes=shapes,
            opset_version=OPSET,
            verbose=False,
        )
    proto = program.model_proto
    for value in (*proto.graph.input, *proto.graph.output):
        for size, name in zip(value.type.tensor_type.shape.dim, names[value.name]):
            if name:
                size.dim_param = name
    del proto.graph.value_info[:], proto.metadata_props[:]  # what the export tells of the code it traced
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ''
    return proto


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporter warns of and logs, which is about torch itself."""
    loggers = [logging.getLogger(name) for name in ('torch.onnx', 'torch.fx.experimental.symbolic_shapes')]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


# ---------------------------------------------------------------- licence


def licence_of(model: ImplicitModel, weights: Path | str) -> str | None:
    """The licence of a weight file: what the file or the card beside it, `NAME.md`, says; None where neither does."""
    if isinstance(model.meta.get('licence'), str):
        return model.meta['licence']
    try:
        card = Path(weights).with_suffix('.md').read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError):
        return None
    rows = [[cell.strip() for cell in line.strip().strip('|').split('|')] for line in card.splitlines()]
    return next((row[1] for row in rows if len(row) == 2 and row[0].lower() == 'licence'), None)
