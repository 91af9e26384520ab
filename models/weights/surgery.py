"""Models made from models: folded into plain kernels, with a fresh RIM, with a deeper encoder, averages of several."""

from collections.abc import Sequence

import torch
from torch import nn

from models.edsr import EDSR
from models.layers.rim import fold_state
from models.registry import build
from models.rendering.implicit import ImplicitModel
from utils import UserError, is_number


def fitted(spec: dict, state: dict, dtype: torch.dtype = torch.float32) -> ImplicitModel:
    """The model of `spec` with the weights `state`. Raises UserError, naming parameters, if they do not fit."""
    model = build(spec).to(dtype)
    own = model.state_dict()
    missing, unknown = [k for k in own if k not in state], [k for k in state if k not in own]
    shapes = [k for k in own if k in state and own[k].shape != state[k].shape]
    for what, keys in (('lacks', missing), ('has unknown', unknown), ('has another shape of', shapes)):
        if keys:
            raise UserError(
                f'weights of another architecture: {what} {keys[0]}'
                + (f' and {len(keys) - 1} more' if keys[1:] else '')
            )
    model.load_state_dict(state)
    return model


def fold(model: ImplicitModel) -> ImplicitModel:
    """A model with plain convolutions that computes the same as `model`; `model` itself if it has no RIM."""
    if not model.spec['args'].get('rim'):
        return model
    like = next(model.parameters())
    folded = fitted({**model.spec, 'args': {**model.spec['args'], 'rim': False}}, fold_state(model), like.dtype)
    folded.meta = model.meta
    return folded.train(model.training).to(like.device)


def next_stage(model: ImplicitModel) -> ImplicitModel:
    """The model that the next stage of cumulative training starts from: folded, with a fresh RIM on every kernel of
    MSNO and MSSA. It computes the same as `model`. Source: MSIT (arXiv 2403.06536), cumulative training."""
    folded = fold(model)
    like = next(model.parameters())
    staged = build({**folded.spec, 'args': {**folded.spec['args'], 'rim': True}}).to(like)
    staged.load_state_dict({**staged.state_dict(), **folded.state_dict()})
    staged.meta = model.meta
    return staged.train(model.training)


def deepened(model: ImplicitModel, blocks: int) -> ImplicitModel:
    """`model` with `blocks` residual blocks in its EDSR encoder; `model` itself if it has as many. The last convolution
    of each added block is zero, so that the outputs stay the same.

    Source of the idea: Net2Net (Chen et al., arXiv 1511.05641, section 2.3), here with residual blocks.

    Raises UserError for another encoder, and if it has more blocks already.
    """
    encoder = getattr(model, 'encoder', None)
    if not isinstance(encoder, EDSR):
        raise UserError(f'blocks: the model {model.spec["name"]!r} has no EDSR encoder to make deeper')
    *old, last = encoder.body
    if len(old) == blocks:
        return model
    if len(old) > blocks:
        raise UserError(f'blocks: the encoder has {len(old)} residual blocks already, more than {blocks}')
    args, encoder_spec = model.spec['args'], model.spec['args']['encoder_spec']
    deeper = {**encoder_spec, 'args': {**encoder_spec.get('args', {}), 'n_resblocks': blocks}}
    result = build({**model.spec, 'args': {**args, 'encoder_spec': deeper}}).to(next(model.parameters()))
    for added in result.encoder.body[len(old) : -1]:
        nn.init.zeros_(added.body[-1].weight)
        nn.init.zeros_(added.body[-1].bias)
    kept = {name: value for name, value in model.state_dict().items() if not name.startswith('encoder.body.')}
    result.load_state_dict({**result.state_dict(), **kept})
    for own, given in zip(result.encoder.body, old):
        own.load_state_dict(given.state_dict())
    result.encoder.body[-1].load_state_dict(last.state_dict())
    result.meta = model.meta
    return result.train(model.training)


def average(models: Sequence[ImplicitModel], shares: Sequence[float] | None = None) -> ImplicitModel:
    """The model with the mean of the weights of `models`, which must have the same spec. With `shares`, one number from
    0 up for each model, it is the weighted mean; only the ratios of the shares matter. RIM is folded first.

    The statistics of batch norm are averaged too, and whole numbers (its count of batches) are rounded. Sums are
    computed in float64. `.meta` has the entries that all models share, and the range of scales that all are trained
    for, if there is one. Source of the idea: Model soups (Wortsman et al., arXiv 2203.05482).
    Raises UserError for models of different specs, and for shares that make no sense.
    """
    models = [fold(model) for model in models]
    shares = [1] * len(models) if shares is None else list(shares)
    if not models or len(shares) != len(models):
        raise UserError(f'{len(shares)} shares for {len(models)} models')
    if not all(is_number(share) and share >= 0 for share in shares) or not sum(shares) > 0:
        raise UserError(f'shares are numbers from 0 up and not all 0, not {", ".join(map(str, shares))}')
    spec = models[0].spec
    if not list(models[0].parameters()):
        raise UserError(f'the model {spec["name"]!r} has no weights to average')
    for number, model in enumerate(models[1:], 2):
        if model.spec != spec:
            raise UserError(
                f'only models of one architecture can be averaged: number {number} is of another than the first'
            )
    states = [model.state_dict() for model in models]
    state = {}
    for key, value in states[0].items():
        mean = sum(share / sum(shares) * of_one[key].double() for share, of_one in zip(shares, states))
        state[key] = (mean if value.is_floating_point() else mean.round()).to(value.dtype)
    result = fitted(spec, state, next(models[0].parameters()).dtype)
    result.meta = common_card([model.meta for model in models])
    return result.train(models[0].training)


def common_card(cards: list[dict]) -> dict:
    """The entries that the cards of several weight files share, and the scales that all of them are trained for."""
    first, *others = cards
    card = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
    if all({'scale_min', 'scale_max'} <= set(each) for each in cards):
        low, high = max(each['scale_min'] for each in cards), min(each['scale_max'] for each in cards)
        if low <= high:
            card |= {'scale_min': low, 'scale_max': high}
    return card
