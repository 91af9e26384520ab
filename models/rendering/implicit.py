"""What the decoders share whose plan is no more than where output pixels lie."""

from torch import nn

from models.rendering import grid
from models.rendering.render import render


class Decoder(nn.Module):
    """A decoder has `encode`, with its `receptive_field` and `floats_per_pixel`, `query`, and `query_blocks` with its
    `floats_per_block`."""

    def encode_part(self, lr, y, x):
        """`encode` of the part `lr[:, :, y, x]`, two slices, right but for a margin of `receptive_field` where the
        image goes on."""
        return self.encode(lr[:, :, y, x])

    def plan(self, features, rows, columns, relative_cell):
        """What `query_blocks` needs to know of an output size: the `grid.Blocks` of both axes and the relative cell,
        (2/scale_y, 2/scale_x), `(2,)`."""
        return grid.Layout(rows, columns, relative_cell)

    def render(self, lr, size, **options):
        """`lr (B, 3, H, W)` in [0, 1] at any output size `(h, w)`: `(B, 3, h, w)` on the same scale, not clamped.

        `options`: `tile`, `precision`, `progress`, see `models.rendering.render.render`.
        """
        return render(self, lr, size, **options)
