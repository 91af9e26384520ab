"""Self-ensemble: the mean of what a model makes of the eight flips and transpositions of an image."""
import itertools


def render_ensemble(model, lr, size, **options):
    """As `model.render(lr, size, **options)`, of the eight symmetries of `lr (B, 3, H, W)`, each turned back: the mean,
    `(B, 3, h, w)`. Four of them are transposed and rendered at (w, h).

    Source: Lim et al., EDSR (arXiv 1707.02921), geometric self-ensemble. Raises UserError as `render` does.
    """
    total = 0
    for transposed, flipped in itertools.product((False, True), ((), (-2,), (-1,), (-2, -1))):
        image = lr.flip(flipped)
        if transposed:
            output = model.render(image.transpose(-2, -1), (size[1], size[0]), **options).transpose(-2, -1)
        else:
            output = model.render(image, size, **options)
        total = total + output.flip(flipped)
    return total / 8
