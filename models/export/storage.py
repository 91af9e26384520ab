"""Weights of an ONNX model in fewer bytes: runtimes turn them into float32 when they load or run it."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto

SMALLEST = 256  # numbers; smaller weights stay as they are
KINDS = 'fp32', 'fp16', 'int8'


def stored(proto: 'ModelProto', kind: str) -> 'ModelProto':
    """A copy of an ONNX model with its large float32 weights in half precision ('fp16') or as whole numbers from -127
    to 127 with a scale for each output channel ('int8')."""
    from onnx import helper, numpy_helper

    made = type(proto)()
    made.CopyFrom(proto)
    nodes, kept = [], []
    channel = output_channels(made)
    for weight in made.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.size < SMALLEST:
            kept.append(weight)
        elif kind == 'fp16':
            kept.append(numpy_helper.from_array(values.astype(np.float16), f'{weight.name}.half'))
            nodes.append(helper.make_node('Cast', [f'{weight.name}.half'], [weight.name], to=1))
        else:
            axis = channel.get(weight.name, 0)
            others = tuple(k for k in range(values.ndim) if k != axis)
            largest = np.abs(values).max(axis=others, keepdims=True)
            scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
            kept.append(numpy_helper.from_array(np.rint(values / scale).astype(np.int8), f'{weight.name}.whole'))
            kept.append(numpy_helper.from_array(scale.reshape(-1), f'{weight.name}.scale'))
            nodes.append(
                helper.make_node(
                    'DequantizeLinear', [f'{weight.name}.whole', f'{weight.name}.scale'], [weight.name], axis=axis
                )
            )
    nodes += list(made.graph.node)
    del made.graph.initializer[:], made.graph.node[:]
    made.graph.initializer.extend(kept)
    made.graph.node.extend(nodes)
    return made


def output_channels(proto: 'ModelProto') -> dict[str, int]:
    """Which axis of a weight the output channels lie along, by its name: the last one where a product has it on the
    right, else the first."""
    axes = {}
    dimensions = {weight.name: len(weight.dims) for weight in proto.graph.initializer}
    for node in proto.graph.node:
        transposed = any(attribute.name == 'transB' and attribute.i for attribute in node.attribute)
        if node.op_type in ('MatMul', 'Gemm') and node.input[1] in dimensions and not transposed:
            axes[node.input[1]] = dimensions[node.input[1]] - 1
    return axes
