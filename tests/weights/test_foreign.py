"""Weight files that other programs or wrapped models wrote: what is read of them, what is told, what is refused."""

import copy
import json
import os
import struct
import warnings

import pytest
import torch
from conftest import ROOT, TINY
from examples import LIIF, built
from safetensors.torch import load_file, save_file

import models
from models.weights import files
from models.weights.surgery import deepened
from utils import Note, UserError, load_config

META = {'data': 'some photographs', 'scale_min': 1, 'scale_max': 4.5, 'psnr x2': 37.25}


@pytest.fixture
def model():
    return built(TINY, seed=1, dtype=torch.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'weights.pth'


def loaded(path, **options):
    """The model of a file, and what is told of it: lines that begin with its path."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        model = models.load(path, **options)
    assert all(issubclass(warning.category, Note) for warning in caught)
    said = [str(warning.message) for warning in caught]
    assert all(line.startswith(f'{path}: ') and '\n' not in line for line in said)
    return model, said


def refusal(path, **options):
    with pytest.raises(UserError) as caught:
        models.load(path, **options)
    assert str(caught.value).startswith(f'{path}: ') and '\n' not in str(caught.value)
    return str(caught.value)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


def own_form(model, state, **more):
    return {'model': {**model.spec, 'sd': state}, 'meta': META, **more}


# ---------------------------------------------------------------- names of wrapped models


@pytest.mark.parametrize(
    'prefix', ['module.', '_orig_mod.', 'module._orig_mod.', '_orig_mod.module.', 'model.', 'net.module.']
)
def test_prefixes_are_taken_off_and_told(path, model, prefix):
    torch.save(own_form(model, prefixed(model.state_dict(), prefix)), path)
    result, said = loaded(path)
    assert same(result, model) and result.meta == META and len(said) == 1
    assert all(f"'{word}.'" in said[0] for word in prefix.split('.')[:-1])


@pytest.mark.parametrize('prefix', ['model.', 'net.', 'generator.module.', 'net_g._orig_mod.'])
def test_of_a_module_that_holds_losses_too_the_model_is_taken_and_told(path, model, prefix, monkeypatch, tmp_path):
    monkeypatch.setattr(files, 'CONFIGS', tmp_path)
    (tmp_path / 'tiny.yaml').write_text(json.dumps({'model': TINY}))
    state = {**prefixed(model.state_dict(), prefix), 'loss.vgg.weight': torch.ones(2), 'metric.sum': torch.ones(())}
    content = {'state_dict': state, 'epoch': 3, 'pytorch-lightning_version': '2.4.0', 'hyper_parameters': {'lr': 1e-4}}
    torch.save(content, path)
    for spec in (None, TINY):
        result, said = loaded(path, spec=spec)
        assert same(result, model) and '2 weights of something else are left out' in ' '.join(said)
    content['state_dict'] = {**state, f'{prefix}a': torch.ones(3)}
    torch.save(content, path)
    assert 'of no architecture' in refusal(path)


def test_prefixes_of_parts_are_taken_off(path, model):
    state = {key.replace('encoder.', 'encoder.module.', 1): value for key, value in model.state_dict().items()}
    state = {key.replace('imnet.', 'imnet._orig_mod.', 1): value for key, value in state.items()}
    torch.save(own_form(model, state), path)
    result, said = loaded(path)
    assert same(result, model) and "'module.' and '_orig_mod.'" in said[0]


def test_wrappers_themselves(path, model):
    """What torch makes of a model, not what we take it for."""
    averaged, compiled = torch.optim.swa_utils.AveragedModel(model), torch.compile(copy.deepcopy(model))
    for wrapped in (averaged, torch.nn.DataParallel(model), compiled):
        assert wrapped.state_dict().keys() != model.state_dict().keys()
        torch.save(own_form(model, wrapped.state_dict()), path)
        assert same(loaded(path)[0], model)


def test_a_model_that_has_such_names_itself_keeps_them(path, model):
    models.save(path, model)
    result, said = loaded(path)
    assert same(result, model) and said == []
    mixed = {**model.state_dict(), **prefixed(model.state_dict(), 'module.')}
    torch.save(own_form(model, mixed), path)  # two sets of weights in one
    assert 'has unknown' in refusal(path)


def test_published_weights_with_a_prefix(path):
    model = built(LIIF, dtype=torch.float32)
    args = {**LIIF['args'], 'encoder_spec': copy.deepcopy(LIIF['args']['encoder_spec'])}
    args['encoder_spec']['args']['no_upsampling'] = True
    content = {'model': {'name': 'liif', 'args': args, 'sd': prefixed(model.state_dict(), 'module.')}}
    torch.save(content, path)
    result, said = loaded(path)
    assert same(result, model) and "'module.'" in said[0]


# ---------------------------------------------------------------- averages and other keys


def test_of_a_checkpoint_the_average_is_taken_and_told(path, model):
    average = built(TINY, seed=2, dtype=torch.float32)
    torch.save(own_form(model, model.state_dict(), ema=average.state_dict(), step=3, optimizer={'state': {}}), path)
    result, said = loaded(path)
    assert same(result, average) and len(said) == 1 and 'average' in said[0] and result.meta == META
    torch.save(own_form(model, model.state_dict(), ema=None, step=3), path)
    result, said = loaded(path)
    assert same(result, model) and said == []


@pytest.mark.parametrize('key', ['params', 'state_dict', 'model_state_dict', 'sd'])
def test_weights_beside_their_spec_under_other_keys(path, model, key):
    state = model.state_dict()
    for content in ({'model': {**model.spec, key: state}}, {**model.spec, key: state}):
        torch.save(content, path)
        result, said = loaded(path)
        assert same(result, model) and result.spec == TINY and (key == 'sd' or repr(key) in said[0])


def test_of_params_and_params_ema_the_average_is_taken(path, model):
    average = built(TINY, seed=2, dtype=torch.float32)
    torch.save({'params': model.state_dict(), 'params_ema': average.state_dict()}, path)
    result, said = loaded(path, spec=TINY)
    assert same(result, average) and 'params_ema' in said[0]


# ---------------------------------------------------------------- weights without a spec


def test_weights_alone_need_a_spec(path, model):
    torch.save(model.state_dict(), path)
    assert 'weights alone, of no architecture in configs/train; models.load(path, spec=' in refusal(path)
    result, said = loaded(path, spec=TINY)
    assert same(result, model) and result.spec == TINY and result.meta == {} and said == []
    assert 'another architecture' in refusal(path, spec=LIIF)
    assert "'mist'" in refusal(path, spec={'name': 'mist', 'args': {}})
    for spec in ({'name': 'msit'}, {'name': 'msit', 'args': 3}):
        assert 'spec is {name, args}' in refusal(path, spec=spec)


@pytest.mark.parametrize('form', ['alone', 'params', 'state_dict', 'safetensors'])
@pytest.mark.parametrize('prefix', ['', 'module.', 'net.'])
def test_weights_of_a_config_s_model_are_known_by_their_shapes(tmp_path, form, prefix):
    spec = load_config(ROOT / 'configs/train/train_edsr_light_liif.yaml')['model']
    model = built(spec, dtype=torch.float32)
    state, path = prefixed(model.state_dict(), prefix), tmp_path / f'{form}.x'
    if form == 'safetensors':
        save_file(state, path)
    else:
        torch.save(state if form == 'alone' else {form: state, 'epoch': 3}, path)
    result, said = loaded(path)
    assert same(result, model) and result.spec == spec
    assert 'holds no spec' in ' '.join(said) and 'train_edsr_light_liif.yaml' in ' '.join(said)


def test_the_depth_and_rim_of_a_config_s_stages_are_known(path):
    spec = load_config(ROOT / 'configs/train/train_edsr_light_MsIT.yaml')['model']
    with_rim = built({**spec, 'args': {**spec['args'], 'rim': True}}, dtype=torch.float32)
    for model in (deepened(built(spec, dtype=torch.float32), 16), deepened(with_rim, 16)):
        torch.save(model.state_dict(), path)
        assert same(loaded(path)[0], models.fold(model))


def test_weights_that_fit_several_models_are_refused(path, monkeypatch, tmp_path):
    monkeypatch.setattr(files, 'CONFIGS', tmp_path)
    for name, act in (('a', 'relu'), ('b', 'gelu'), ('same', 'gelu')):
        spec = copy.deepcopy(LIIF)
        spec['args']['imnet_spec']['args']['act'] = act
        (tmp_path / f'{name}.yaml').write_text(json.dumps({'model': spec}))
    torch.save(built(LIIF, dtype=torch.float32).state_dict(), path)
    assert 'fit several models (a.yaml, b.yaml)' in refusal(path)


# ---------------------------------------------------------------- safetensors


@pytest.mark.parametrize('name', ['weights.safetensors', 'weights.pth', 'weights'])
def test_safetensors_there_and_back(tmp_path, model, name):
    """Read by content; written by the name's ending."""
    path = tmp_path / 'weights.safetensors'
    models.save(path, model.to(memory_format=torch.channels_last), META)
    assert same_tensors(load_file(path), model.state_dict())  # by what everyone else reads it with
    path = path.rename(tmp_path / name)
    result, said = loaded(path)
    assert same(result, model) and (result.spec, result.meta, said) == (TINY, META, [])
    lr = torch.rand(1, 3, 5, 6)
    assert torch.equal(result.render(lr, (8, 7)), model.render(lr, (8, 7)))
    models.save(tmp_path / 'again.safetensors', result)
    assert loaded(tmp_path / 'again.safetensors')[0].meta == META


def same_tensors(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_weights_of_torch_under_the_other_name(tmp_path, model):
    models.save(tmp_path / 'a.pth', model)
    assert same(loaded((tmp_path / 'a.pth').rename(tmp_path / 'a.safetensors'))[0], model)


def test_safetensors_by_others(tmp_path, model):
    path = tmp_path / 'model.safetensors'
    save_file(prefixed(model.state_dict(), 'module.'), path, {'format': 'pt'})
    assert 'of no architecture' in refusal(path)
    assert same(loaded(path, spec=TINY)[0], model)
    for card, said in (
        ({'spec': '{'}, 'no JSON'),
        ({'spec': '[1]'}, 'spec is no dict but a list'),
        ({'spec': json.dumps(TINY), 'meta': '[1]'}, 'meta is no dict'),
        ({'spec': json.dumps({'args': {}})}, 'weights alone'),
        ({'spec': json.dumps({'name': 3})}, 'name is no str'),
        ({'spec': json.dumps({**TINY, 'name': 'mist'})}, "'mist'"),
        ({'spec': json.dumps(TINY), 'meta': '{"scale_min": "big"}'}, 'scale_min'),
    ):
        save_file(model.state_dict(), path, card)
        assert said in refusal(path)


def test_damaged_safetensors_are_refused(tmp_path, model):
    path = tmp_path / 'model.safetensors'
    models.save(path, model)
    whole = path.read_bytes()
    length = struct.unpack('<Q', whole[:8])[0]
    for content in (
        b'',
        whole[:5],
        whole[:9],
        whole[: length // 2],
        whole[: length + 8],
        whole[:-1],
        whole + b'x',
        b'\xff' * 8 + whole[8:],
        whole[:8] + b'{' * length + whole[8 + length :],
        b'no weights at all',
    ):
        path.write_bytes(content)
        assert 'not a whole weight file' in refusal(path)


# ---------------------------------------------------------------- the card


@pytest.mark.parametrize('value', ['big', None, [1], True, -1, 0, float('nan'), float('inf'), torch.ones(2, 2)])
@pytest.mark.parametrize('key', ['scale_min', 'scale_max'])
def test_scales_that_are_none_are_refused_on_loading(path, model, key, value):
    torch.save({'model': {**TINY, 'sd': model.state_dict()}, 'meta': {**META, key: value}}, path)
    assert f'in this file {key} is no number above 0' in refusal(path)


def test_other_entries_of_a_card_may_be_anything(path, model):
    card = {'scale_min': 2, 'classes': ['a'], 'licence': None, 'steps': '7'}
    torch.save({'model': {**TINY, 'sd': model.state_dict()}, 'meta': card}, path)
    assert loaded(path)[0].meta == card


# ---------------------------------------------------------------- through a program


def test_programs_tell_it_in_one_line(program, photos, model):
    torch.save(own_form(model, prefixed(model.state_dict(), 'module.'), ema=model.state_dict()), 'last.pth')
    status, out, err = program(
        'demo.py',
        '-input',
        'photos/photo0.png',
        '-scale',
        '2',
        '-output',
        'a.png',
        '-device',
        'cpu',
        '-model',
        'last.pth',
    )
    assert status == 0 and err.startswith('note: last.pth: ') and err.count('\n') == 1 and 'average' in err


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no named pipes')
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / 'pipe.pth')
    with pytest.raises(UserError, match='pipe.pth: not a regular file'):
        models.load(tmp_path / 'pipe.pth')


def test_the_ending_may_be_in_capitals(tmp_path):
    model = models.build(TINY)
    models.save(tmp_path / 'a.SafeTensors', model)
    assert (tmp_path / 'a.SafeTensors').read_bytes()[8:9] == b'{'
    same = models.load(tmp_path / 'a.SafeTensors').state_dict()
    assert all(torch.equal(value, same[name]) for name, value in model.state_dict().items())


def test_scales_in_the_wrong_order_are_refused(tmp_path):
    models.save(tmp_path / 'a.pth', models.build(TINY), {'scale_min': 5, 'scale_max': 2})
    with pytest.raises(UserError, match='a.pth: in this file scale_min is larger than scale_max'):
        models.load(tmp_path / 'a.pth')
