"""ONNX files of the models in onnxruntime, against `render`; the example without torch; what may go wrong."""

import hashlib
import json
import random
import runpy
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, refused
from examples import LIIF, LTE
from PIL import Image
from torchvision.transforms.functional import to_tensor

import models

onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
pytest.importorskip('onnxscript', reason='onnxscript is not installed')
onnx = pytest.importorskip('onnx', reason='onnx is not installed')

from models.export import Runtime, files, storage  # noqa: E402

LIGHT = ROOT / 'modelzoo' / 'EDSR_light_MSIT.pth'
RIM = {**TINY, 'args': {**TINY['args'], 'rim': True, 'radius': 2, 'fem': 'circular'}}
PROGRAM = 'scripts/export.py'


def randomised(spec):
    """A model with random weights, none of which is zero, as folded as `models.load` gives it."""
    torch.manual_seed(5)
    model = models.build(spec).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def written(path, folder):
    """The folder that the model of a weight file is exported to, by the program."""
    done = subprocess.run(
        [sys.executable, ROOT / PROGRAM, '-model', path, '-output', folder], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, '')
    return folder


@pytest.fixture(scope='module')
def light(tmp_path_factory):
    """The folder of the bundled weights' files."""
    return written(LIGHT, tmp_path_factory.mktemp('light') / 'onnx')


@pytest.fixture(scope='module', params=[LIGHT.stem, 'rim', 'liif', 'lte'])
def exported(request, tmp_path_factory):
    """The weight file of a model, and the folder that it is exported to."""
    if request.param == LIGHT.stem:
        return LIGHT, request.getfixturevalue('light')
    folder = tmp_path_factory.mktemp(request.param)
    path = folder / f'{request.param}.pth'
    models.save(path, randomised({'rim': RIM, 'liif': LIIF, 'lte': LTE}[request.param]))
    return path, written(path, folder / 'onnx')


def test_images_are_those_of_render(exported, monkeypatch):
    path, folder = exported
    model, runtime = models.load(path), Runtime(folder / 'encode.onnx', folder / 'decode.onnx', described(folder))
    chance = random.Random(7)
    sizes = [((9, 12), (18, 24)), ((16, 11), (24, 55)), ((7, 8), (7, 8)), ((13, 10), (6, 33))]  # ties; below x1
    for _ in range(6):
        lr_size = chance.randint(5, 40), chance.randint(5, 40)
        sizes.append((lr_size, tuple(round(n * chance.uniform(1, 5)) for n in lr_size)))
    sizes.append(((3, 4), (130, 161)))  # blocks that are cut
    for (height, width), size in sizes:
        lr = torch.rand(1, 3, height, width)
        assert (runtime.render(lr, size) - model.render(lr, size)).abs().max() < 1e-4, (height, width, size)
    # tiles, decoded a few blocks at a time; one for the whole image where FEM wraps around
    tile = 24 if model.receptive_field < 20 else 64
    monkeypatch.setattr('models.export.runtime.TILE', tile)
    monkeypatch.setattr('models.export.runtime.FLOATS', 2e5)
    lr = torch.rand(1, 3, tile + 21, 2 * tile + 5)
    size = tile + 33, 5 * tile
    assert (runtime.render(lr, size) - model.render(lr, size)).abs().max() < 1e-4


def described(folder):
    return json.loads((folder / 'model.json').read_text())


def test_the_description_says_what_the_files_are(exported):
    path, folder = exported
    told, model = described(folder), models.load(path)
    assert told['name'] == path.stem and told['model'] == model.spec['name'] and told['precision'] == 'fp32'
    assert told['receptive_field'] == model.receptive_field and told['opset'] >= 20
    assert told['weights'] == {'file': path.name, 'sha256': hashlib.sha256(path.read_bytes()).hexdigest()}
    assert told['whole_image_only'] == (path.stem == 'rim')
    if path == LIGHT:
        assert told['scale_range'] == [1, 4] and told['licence'].startswith('code: MIT')
    else:
        assert told['licence'] is None
    for name, graph in told['graphs'].items():
        content = (folder / graph['file']).read_bytes()
        assert graph['bytes'] == len(content) and graph['sha256'] == hashlib.sha256(content).hexdigest()
        assert str(ROOT).encode() not in content and b'site-packages' not in content
        session = onnxruntime.InferenceSession(str(folder / graph['file']))
        for told_of, there in ((graph['inputs'], session.get_inputs()), (graph['outputs'], session.get_outputs())):
            tensors = {tensor.name: tensor for tensor in there}
            assert {value['name'] for value in told_of} == tensors.keys()
            for value in told_of:
                tensor = tensors[value['name']]
                assert (
                    tensor.type
                    == {'float32': 'tensor(float)', 'float64': 'tensor(double)', 'int64': 'tensor(int64)'}[
                        value['type']
                    ]
                )
                assert len(tensor.shape) == len(value['shape']) and value['meaning']
                for size, told_size in zip(tensor.shape, value['shape']):
                    assert isinstance(told_size, str) or size == told_size
                    assert isinstance(size, int) or size == told_size or told_size == 'F', 'the size is dynamic'


def test_the_example_without_torch(exported, tmp_path):
    path, folder = exported
    script = ROOT / 'scripts' / 'onnx_example.py'
    assert len(script.read_text().splitlines()) <= 60 and 'import torch' not in script.read_text()
    photo = np.asarray(Image.open(ROOT / 'scripts/demo.png').convert('RGB'))[20:75, 30:101]
    Image.fromarray(photo).save(tmp_path / 'photo.png')
    size = [round(n * 2.3) for n in photo.shape[:2]]
    example = runpy.run_path(str(script))
    example['render'].__globals__['TILE'] = 30
    large = example['render'](folder, photo.astype(np.float32) / 255, size)
    expected = models.load(path).render(to_tensor(photo)[None], size)[0].permute(1, 2, 0).numpy()
    assert np.abs(large - expected).max() < 1e-4
    subprocess.run([sys.executable, script, folder, tmp_path / 'photo.png', '2.3', tmp_path / 'large.png'], check=True)
    written = np.asarray(Image.open(tmp_path / 'large.png')).astype(int)
    assert np.abs(written - (expected.clip(0, 1) * 255).round()).max() <= 1


@pytest.fixture
def made(light):
    """What `files.made` gives for the bundled weights."""
    told = described(light)
    return {name: onnx.load(light / graph['file']) for name, graph in told['graphs'].items()}, told


def test_weights_in_fewer_bytes(made):
    (graphs, told), sizes = made, {}
    lr = to_tensor(Image.open(ROOT / 'scripts/demo.png').convert('RGB'))[None, :, 40:90, 50:120]
    for precision in ('fp16', 'int8'):
        stored = {name: storage.stored(graph, precision) for name, graph in graphs.items()}
        runtime = files.loaded(stored, told)
        difference = runtime.render(lr, (155, 210)) - models.load(LIGHT).render(lr, (155, 210))
        assert 1e-6 < difference.square().mean().sqrt() < 10 ** (-files.FEWEST_DB / 20)
        sizes[precision] = sum(graph.ByteSize() for graph in stored.values())
    assert sizes['int8'] < 0.6 * sizes['fp16'] < 0.36 * LIGHT.stat().st_size


def test_precision_is_written_down(program, tmp_path, made, monkeypatch):
    monkeypatch.setattr(files, 'made', lambda _: made)
    status, out, err = program(PROGRAM, '-model', LIGHT, '-output', 'folder', '-precision', 'int8')
    assert (status, err) == (0, '') and 'dB from float32' in out
    told = described(tmp_path / 'folder')
    assert told['precision'] == 'int8' and told['decibels_from_float32'] >= files.FEWEST_DB
    assert told['graphs']['encode']['bytes'] == (tmp_path / 'folder' / 'encode.onnx').stat().st_size


def test_weights_that_do_not_hold_are_refused(program, tmp_path, made, monkeypatch):
    monkeypatch.setattr(files, 'made', lambda _: made)
    monkeypatch.setattr(files, 'FEWEST_DB', 150)
    refused(program(PROGRAM, '-model', LIGHT, '-output', 'folder', '-precision', 'fp16'), 'dB', 'nothing is')
    assert list((tmp_path / 'folder').iterdir()) == []


@pytest.mark.parametrize(
    'options, said',
    [
        (['-model', 'none.pth', '-output', 'out'], 'none.pth: no such file'),
        (['-model', 'bicubic', '-output', 'out'], 'no weights'),
        (['-model', LIGHT, '-output', 'file'], 'no folder'),
        (['-model', LIGHT, '-output', 'out', '-precision', 'int4'], 'int4'),
        (['-model', LIGHT], '-output'),
    ],
)
def test_mistakes(program, tmp_path, options, said):
    (tmp_path / 'file').write_text('')
    refused(program(PROGRAM, *options), said)


def test_a_package_that_is_missing_is_named(program, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    refused(program(PROGRAM, '-model', LIGHT, '-output', 'out'), 'onnxscript', 'pip install')


def test_a_kind_without_graphs_is_refused(tmp_path):
    with pytest.raises(files.UserError, match="'bicubic' cannot be exported"):
        files.export(models.load('bicubic'), tmp_path, LIGHT)


def test_whole_numbers_have_a_scale_for_each_output_channel():
    from onnx import TensorProto, helper, numpy_helper

    weight = np.outer(np.linspace(1, 2, 40), [1, 100, 0]).astype(np.float32)  # 40 in, 3 out
    weight = np.concatenate([weight, -weight, weight]).astype(np.float32)
    names = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (('x', [1, 120]), ('y', [1, 3]))
    ]
    graph = helper.make_graph(
        [helper.make_node('MatMul', ['x', 'w'], ['y'])],
        'g',
        names[:1],
        names[1:],
        [numpy_helper.from_array(weight, 'w')],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid('', files.OPSET)], ir_version=10)
    made = storage.stored(proto, 'int8')
    scale = numpy_helper.to_array(next(value for value in made.graph.initializer if value.name == 'w.scale'))
    assert np.allclose(scale, [2 / 127, 200 / 127, 1])
    session = onnxruntime.InferenceSession(made.SerializeToString())
    x = np.random.default_rng(0).random((1, 120), np.float32)
    (y,) = session.run(None, {'x': x})
    assert (np.abs(y - x @ weight) <= 0.01 * (x @ weight)).all() and y[0, 0] != (x @ weight)[0, 0]
    assert len(proto.graph.node) == 1  # the argument is as it was
