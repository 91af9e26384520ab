"""Models made from models that compute the same: with plain kernels, with a fresh RIM, with a deeper encoder."""

import torch
from torch import nn

from models.edsr import EDSR
from models.layers.rim import fold_state
from models.registry import build
from utils import UserError


def fitted(spec, state, dtype=torch.float32):
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


def fold(model):
    """The model with plain convolutions that computes the same; the model itself if it has no RIM."""
    if not model.spec['args'].get('rim'):
        return model
    like = next(model.parameters())
    folded = fitted({**model.spec, 'args': {**model.spec['args'], 'rim': False}}, fold_state(model), like.dtype)
    folded.meta = model.meta
    return folded.train(model.training).to(like.device)


def next_stage(model):
    """The model that the next stage of cumulative training starts from: folded, then a fresh RIM on every kernel of
    MSNO and MSSA. It computes what `model` computes. Source: MSIT (arXiv 2403.06536), cumulative training."""
    folded = fold(model)
    like = next(model.parameters())
    staged = build({**folded.spec, 'args': {**folded.spec['args'], 'rim': True}}).to(like)
    staged.load_state_dict({**staged.state_dict(), **folded.state_dict()})
    staged.meta = model.meta
    return staged.train(model.training)


def deepened(model, blocks):
    """`model` with `blocks` residual blocks in its EDSR encoder; itself if it has them. The last convolution of each
    added one is zero, so that the outputs are the same.

    Source of the idea: Net2Net (Chen et al., arXiv 1511.05641, section 2.3), here with residual blocks.

    Raises UserError for another encoder, and for fewer blocks than it has.
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
