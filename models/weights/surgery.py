"""A deeper encoder that computes the same, to train on from a smaller model.

Source of the idea: Net2Net (Chen et al., arXiv 1511.05641, section 2.3), here with residual blocks.
"""
from torch import nn

from models.edsr import EDSR
from models.weights import files
from utils import UserError


def deepened(model, blocks):
    """`model` with `blocks` residual blocks in its EDSR encoder; itself if it has them. The last convolution of each
    added one is zero, so that the outputs are the same.

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
    result = files.build({**model.spec, 'args': {**args, 'encoder_spec': deeper}}).to(next(model.parameters()))
    for added in result.encoder.body[len(old):-1]:
        nn.init.zeros_(added.body[-1].weight)
        nn.init.zeros_(added.body[-1].bias)
    kept = {name: value for name, value in model.state_dict().items() if not name.startswith('encoder.body.')}
    result.load_state_dict({**result.state_dict(), **kept})
    for own, given in zip(result.encoder.body, old):
        own.load_state_dict(given.state_dict())
    result.encoder.body[-1].load_state_dict(last.state_dict())
    result.meta = model.meta
    return result.train(model.training)
