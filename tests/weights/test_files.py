"""Weight files: what is written is read back, what is damaged, foreign or malicious is refused in one line."""

import copy
import datetime
import io
import pickle
import pickletools
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY, refused
from examples import DECODERS, ENCODERS, anything, built, places, replaced, spec_of
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import models
from models.weights.files import read
from utils import UserError

META = {'data': 'some photographs', 'licence': 'MIT', 'steps': 7, 'psnr x2': 37.25}
many = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope='module')
def good(tmp_path_factory):
    """The path of a weight file."""
    path = tmp_path_factory.mktemp('weights') / 'good.pth'
    models.save(path, built(TINY, seed=1, dtype=torch.float32), META)
    return path


@pytest.fixture
def content(good):
    return torch.load(good, weights_only=True)


@pytest.fixture(scope='module')
def scratch(tmp_path_factory):
    """A path that is written to repeatedly."""
    return tmp_path_factory.mktemp('scratch') / 'scratch.pth'


def refusal(path):
    """The error of `models.load` for a file: one line that begins with its path."""
    with pytest.raises(UserError) as caught:
        models.load(path)
    assert str(caught.value).startswith(f'{path}: ') and '\n' not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- there and back


@pytest.mark.parametrize('encoder', ENCODERS)
@pytest.mark.parametrize('decoder', DECODERS)
def test_round_trip(tmp_path, decoder, encoder):
    spec = spec_of(decoder, encoder)
    model = built(spec, dtype=torch.float32)
    models.save(tmp_path / 'model.pth', model, META)
    loaded = models.load(tmp_path / 'model.pth')
    assert (loaded.spec, loaded.meta) == (spec, META)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert {(v.dtype, v.device.type) for v in loaded.parameters()} == {(torch.float32, 'cpu')}
    assert list(loaded.state_dict()) == list(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values()))
    lr = torch.rand(1, 3, 5, 6)
    assert torch.equal(loaded.render(lr, (8, 7)), model.render(lr, (8, 7)))
    models.save(tmp_path / 'again.pth', loaded)  # its own card goes with it
    assert models.load(tmp_path / 'again.pth').meta == META


def test_weights_of_any_precision_are_read_in_any(tmp_path, good):
    models.save(tmp_path / 'double.pth', models.load(good).double())
    single, double = models.load(tmp_path / 'double.pth'), models.load(good, torch.float64)
    assert all(
        torch.equal(a.double(), b) and (a.dtype, b.dtype) == (torch.float32, torch.float64)
        for a, b in zip(single.parameters(), double.parameters())
    )


def test_rim_is_folded_on_loading(tmp_path):
    model = built({**TINY, 'args': {**TINY['args'], 'rim': True}}, dtype=torch.float32)
    models.save(tmp_path / 'rim.pth', model)
    loaded = models.load(tmp_path / 'rim.pth')
    assert not loaded.spec['args']['rim'] and set(loaded.state_dict()) == set(built(TINY).state_dict())
    lr = torch.rand(1, 3, 5, 6)
    assert (loaded.render(lr, (8, 7)) - model.render(lr, (8, 7))).abs().max() < 1e-5


def leaves(value):
    """The types of everything in a nested structure."""
    if isinstance(value, dict):
        return {kind for pair in value.items() for part in pair for kind in leaves(part)}
    if isinstance(value, (list, tuple)):
        return {kind for part in value for kind in leaves(part)}
    return {type(value)}


def test_a_file_holds_tensors_numbers_and_strings_alone(good):
    content = torch.load(good, map_location='cpu', weights_only=True)
    assert set(content) == {'model', 'meta'} and set(content['model']) == {'name', 'args', 'sd'}
    assert leaves(content) <= {str, int, float, torch.Tensor}
    with zipfile.ZipFile(good) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith('data.pkl'))
        operations = list(pickletools.genops(archive.read(name)))
    named = {argument for operation, argument, _ in operations if operation.name == 'GLOBAL'}
    assert named == {
        'collections OrderedDict',
        'torch._utils _rebuild_tensor_v2',
        'torch FloatStorage',
        'torch LongStorage',
    }


def test_a_file_may_lack_args_and_meta(scratch):
    torch.save({'model': {'name': 'bicubic', 'args': None, 'sd': {}}}, scratch)
    assert (models.load(scratch).spec, models.load(scratch).meta) == ({'name': 'bicubic', 'args': {}}, {})


@pytest.mark.parametrize('what', ['torch.save fails', 'content cannot be saved', 'interrupted'])
def test_a_save_that_fails_leaves_the_old_file(tmp_path, good, monkeypatch, what):
    path = tmp_path / 'model.pth'
    path.write_bytes(good.read_bytes())
    model, meta = models.load(good), META
    if what == 'content cannot be saved':
        meta = {'card': lambda: None}
    else:

        def save(_, target):
            Path(target).write_bytes(b'half of it')
            raise KeyboardInterrupt if what == 'interrupted' else OSError('No space left on device')

        monkeypatch.setattr(torch, 'save', save)
    with pytest.raises((OSError, KeyboardInterrupt, UserError)):
        models.save(path, model, meta)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == good.read_bytes()


@pytest.mark.parametrize('name', ['a.pth', 'a.safetensors'])
@pytest.mark.parametrize('value', [b'bytes', {1, 2}, [{'when': datetime.date(2020, 1, 1)}, 1], 1j, Path('a')], ids=str)
def test_a_card_that_no_file_can_hold_is_refused_by_its_entry(tmp_path, good, name, value):
    with pytest.raises(UserError, match=f"{name}: the entry 'card' of meta cannot be saved: there is a .* in it"):
        models.save(tmp_path / name, models.load(good), {'steps': 3, 'card': value})
    assert not (tmp_path / name).exists()


# ---------------------------------------------------------------- files that are none


def test_what_is_not_there(tmp_path):
    assert 'no such file' in refusal(tmp_path / 'none.pth')
    assert 'directory' in refusal(tmp_path)
    assert 'cannot be read' in refusal(tmp_path / ('x' * 300))


@many
@example(b'')
@example(b'{}')
@example(b'PK\x03\x04')
@given(st.binary(max_size=300))
def test_bytes_of_any_kind_are_refused(scratch, data):
    scratch.write_bytes(data)
    refusal(scratch)


def legacy(data):
    """A weight file in the format of torch before 1.6."""
    buffer = io.BytesIO()
    torch.save(torch.load(io.BytesIO(data), weights_only=True), buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@pytest.mark.parametrize('form', [bytes, legacy])
@many
@given(data=st.data())
def test_truncated_files_are_refused(scratch, good, form, data):
    whole = form(good.read_bytes())
    scratch.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert 'weight file' in refusal(scratch)


@pytest.mark.parametrize('form', [bytes, legacy])
@many
@given(data=st.data())
def test_damaged_files_give_a_model_or_one_line(scratch, good, form, data, recwarn):
    whole = bytearray(form(good.read_bytes()))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, min(len(whole), 4000) - 1))] = data.draw(st.integers(0, 255))
    scratch.write_bytes(whole)
    try:
        models.load(scratch)
    except UserError as error:
        assert str(error).startswith(f'{scratch}: ') and '\n' not in str(error)
    assert not recwarn.list  # a warning would be a second line


class Code:
    """An object whose pickle calls a function when it is read."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return Path.mkdir, (Path(self.marker),)


@pytest.mark.parametrize(
    'write',
    [
        lambda content, path: path.write_bytes(pickle.dumps(content)),
        torch.save,
        lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    ],
    ids=['pickle', 'torch', 'torch legacy'],
)
@pytest.mark.parametrize('where', ['top', 'sd', 'meta'])
def test_code_is_not_run(tmp_path, content, write, where):
    code = Code(tmp_path / 'ran')
    if where == 'top':
        content = code
    else:
        (content['meta'] if where == 'meta' else content['model']['sd'])['more'] = code
    path = tmp_path / 'code.pth'
    write(content, path)
    assert 'carries code' in refusal(path)
    assert not (tmp_path / 'ran').exists()
    pickle.loads(pickle.dumps(code))  # it is code indeed
    assert (tmp_path / 'ran').exists()


def test_whole_modules_are_refused(scratch):
    torch.save(torch.nn.Linear(2, 2), scratch)
    assert 'carries code' in refusal(scratch)


# ---------------------------------------------------------------- weights that do not fit


def changed(content, change):
    content = copy.deepcopy(content)
    change(content['model'])
    return content


@pytest.mark.parametrize(
    'change, said',
    [
        (lambda m: m['sd'].pop('project.bias'), 'lacks project.bias'),
        (lambda m: m['sd'].update(extra=torch.zeros(1)), 'has unknown extra'),
        (lambda m: m['sd'].update({'project.bias': torch.zeros(9)}), 'another shape of project.bias'),
        (lambda m: m['args'].update(channels=16), 'another shape of project.weight and'),
        (lambda m: m['args'].update(rim=True), 'lacks msno.msc.convs.0.interaction and'),
        (lambda m: m['args']['encoder_spec']['args'].update(n_resblocks=2), 'lacks encoder.body.1.body.0.weight and'),
        (
            lambda m: m['args']['encoder_spec'].update(name='rdn', args={'n_blocks': 1, 'n_convs': 1, 'growth': 4}),
            'lacks encoder.shallow.0.weight and',
        ),
        (lambda m: m['args']['encoder_spec'].update(name='edsr-basline'), "did you mean 'edsr-baseline'"),
        (lambda m: m.update(name='mist'), "'mist'"),
        (lambda m: m['args'].update(head=2), "did you mean 'heads'"),
        (
            lambda m: m.update(name='edsr-baseline', args={'n_resblocks': 1, 'n_feats': 8}),
            'no model that renders images',
        ),
        (lambda m: m.update(name='mlp', args={'in_dim': 1, 'out_dim': 3, 'hidden_list': []}), 'no model that renders'),
        (
            lambda m: m['args']['encoder_spec'].update(name='mlp', args={'in_dim': 1, 'out_dim': 3, 'hidden_list': []}),
            "'mlp' is no encoder",
        ),
        (lambda m: m['args']['imnet_spec']['args'].update(out_dim=4), 'out_dim of imnet_spec is 3'),
        (lambda m: m['args']['imnet_spec'].update(name='rdn', args={}), "takes no 'in_dim'"),
        (
            lambda m: m['args'].update(
                position_bias_spec=copy.deepcopy(
                    {'name': m['name'], 'args': {key: value for key, value in m['args'].items() if key != 'heads'}}
                )
            ),
            'no position bias',
        ),
        (lambda m: m['args'].update(channels=9), '9 channels'),
        (lambda m: m['args'].update(heads=3), '3 heads'),
        (lambda m: m['args'].update(heads='x'), "heads is a whole number from 1 up, not 'x'"),
        (lambda m: m['args'].update(radius=-1), 'radius'),
        (lambda m: m['args'].update(channels=8.0), 'channels'),
        (lambda m: m['args'].update(rim='no'), "rim is true or false, not 'no'"),
        (lambda m: m['args'].update(fem='mirror'), "unknown padding 'mirror'"),
        (lambda m: m['args'].update(msno_kernels=[2, 4]), 'odd numbers'),
        (lambda m: m['args'].update(mssa_kernels=[-3, 3]), 'odd numbers'),
        (lambda m: m['args'].update(mssa_kernels=3), 'odd numbers'),
        (lambda m: m['args'].update(mssa_kernels=[3] * 3), 'equal chunks'),
        (lambda m: m['args']['imnet_spec']['args'].update(hidden_list=8), 'hidden_list'),
        (lambda m: m['args']['imnet_spec']['args'].update(out_dim='3'), "out_dim is a whole number from 1 up, not '3'"),
        (lambda m: m['args']['imnet_spec']['args'].update(act=['gelu']), 'unknown activation'),
        (lambda m: m['args']['position_bias_spec']['args'].update(features=6), 'multiple of 4'),
        (lambda m: m['args']['position_bias_spec']['args'].update(max_exponent='10'), 'max_exponent'),
        (lambda m: m['args']['encoder_spec']['args'].update(n_feats=0), 'n_feats'),
        (lambda m: m['args']['encoder_spec']['args'].update(res_scale=None), 'res_scale'),
        (lambda m: m['args'].update(encoder_spec='edsr'), 'spec is {name, args}'),
        (lambda m: m['args'].update(imnet_spec={'name': ['mlp']}), 'spec is {name, args}'),
        (lambda m: m['args']['imnet_spec'].update(args=[1]), 'args is a mapping'),
        (lambda m: m.update(args=5), 'args is no dict'),
        (lambda m: m.update(args=[]), 'args is no dict'),
        (lambda m: m.update(name=['msit']), 'name is no str'),
        (lambda m: m.update(sd=list(m['sd'])), 'sd is no dict'),
        (lambda m: m['sd'].update({'project.bias': 3}), "'project.bias' is no tensor but a int"),
        (lambda m: m['sd'].update({3: torch.zeros(1)}), '3'),
        (lambda m: m.pop('sd'), 'holds no model'),
        (lambda m: m.pop('name'), 'holds no model'),
        (lambda m: m.update(name='amsit', args={'base_dim': 8}), 'KeyError'),
    ],
)
def test_models_of_another_kind_are_refused(scratch, content, change, said):
    torch.save(changed(content, change), scratch)
    assert said in refusal(scratch)


@pytest.mark.parametrize(
    'content, said',
    [
        ([], 'holds no model'),
        ({}, 'holds no model'),
        ({'model': []}, 'holds no model'),
        (torch.zeros(3), 'holds no model'),
        (OrderedDict(weight=torch.zeros(3)), 'holds no model'),
        ({'model': {'name': 'msit'}}, 'holds no model'),
        ({'model': {'name': 'bicubic', 'args': {}, 'sd': {}}, 'meta': [1]}, 'meta is no dict'),
    ],
)
def test_content_of_another_kind_is_refused(scratch, content, said):
    torch.save(content, scratch)
    assert said in refusal(scratch)


@settings(max_examples=150)
@given(path=st.sampled_from(list(places(TINY['args']))), value=anything)
def test_a_spec_with_any_value_anywhere_gives_a_model_or_one_line(path, value):
    """In the config of a training too, not only in weight files."""
    try:
        model = models.build({**TINY, 'args': replaced(TINY['args'], path, value)})
    except UserError as error:
        assert '\n' not in str(error)
    else:
        assert model.eval().render(torch.rand(1, 3, 3, 3), (4, 5)).shape == (1, 3, 4, 5)


# ---------------------------------------------------------------- through a program


@pytest.fixture
def test(program, photos):
    """`test(weights)` runs test.py with these weights."""
    Path('set.yaml').write_text(
        f'dataset: {{name: sr-evaluation, args: {{scale: 2, dataset: {{name: image-folder, '
        f'args: {{root_path: {photos}}}}}}}}}\nprotocol: benchmark\n'
    )
    return lambda weights: program('test.py', '-config', 'set.yaml', '-model', weights, '-device', 'cpu')


def test_programs_refuse_in_one_line_and_leave_nothing(test, content, good, tmp_path):
    path = Path('bad.pth')
    for write, said in (
        (lambda: None, 'no such file'),
        (path.mkdir, 'directory'),
        (path.touch, 'not a whole weight file'),
        (lambda: path.write_bytes(b'\x80\x02' + bytes(range(256))), 'weight file'),
        (lambda: path.write_bytes(good.read_bytes()[:20_000]), 'not a whole weight file'),
        (lambda: torch.save({'model': Code(tmp_path / 'ran')}, path), 'carries code'),
        (lambda: torch.save(changed(content, lambda m: m['sd'].pop('project.bias')), path), 'lacks project.bias'),
        (lambda: torch.save(changed(content, lambda m: m.update(args=5)), path), 'args is no dict'),
        (lambda: torch.save(changed(content, lambda m: m.update(name='edsr', args={})), path), 'no model that'),
    ):
        write()
        refused(test(path), 'bad.pth: ', said)
        assert not Path('save').exists() and not Path('ran').exists()
        if path.is_dir():
            path.rmdir()


def test_debug_shows_where_it_was_refused(tmp_path):
    (tmp_path / 'bad.pth').write_bytes(b'no weights')
    code = 'import models; from utils import run_main; run_main(lambda: models.load("bad.pth"), debug=True)'
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={'PYTHONPATH': str(ROOT), 'PATH': ''},
    )
    assert done.returncode == 1 and 'Traceback' in done.stderr and 'UserError: bad.pth: refused' in done.stderr


def test_training_checkpoints_are_read_as_they_are(scratch, content):
    torch.save({**content, 'optimizer': {'state': {}, 'param_groups': []}, 'step': 3}, scratch)
    assert models.load(scratch).spec == TINY and read(scratch)['step'] == 3
