"""MSSA and the decoder for one query point, in plain loops, written from the method's description alone."""

import math


def number(tensor):
    """A tensor as nested lists of Python floats."""
    return tensor.detach().double().tolist()


def render_point(model, lr, query_key, value, p, cell, nearest):
    """The colour, three floats in the network's scale of [-1, 1], at `p` (y, x) in [-1, 1].

    `lr (3, H, W)` in [-1, 1], `query_key` and `value (C, H, W)` nested lists; `cell` (y, x) of the output; `nearest`
    (y, x) the LR pixel that holds `p`.
    """
    height, width = len(lr[0]), len(lr[0][0])
    channels, heads, radius = len(value), model.mssa.heads, model.radius
    depth = channels // heads
    at = [((p[0] + 1) * height - 1) / 2, ((p[1] + 1) * width - 1) / 2]

    def inside(y, x):
        return 0 <= y < height and 0 <= x < width

    def bilinear(maps, zeros):
        """All channels at `p`; outside the image zero, or the border pixel."""
        y0, x0 = math.floor(at[0]), math.floor(at[1])
        total = [0.0] * len(maps)
        for y, wy in ((y0, y0 + 1 - at[0]), (y0 + 1, at[0] - y0)):
            for x, wx in ((x0, x0 + 1 - at[1]), (x0 + 1, at[1] - x0)):
                if zeros and not inside(y, x):
                    continue
                yy, xx = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
                for c in range(len(maps)):
                    total[c] += wy * wx * maps[c][yy][xx]
        return total

    query = bilinear(query_key, zeros=True)
    window = [(dy, dx) for dy in range(-radius, radius + 1) for dx in range(-radius, radius + 1)]
    attention = []
    for head in range(heads):
        logits = []
        for dy, dx in window:
            y, x = nearest[0] + dy, nearest[1] + dx
            dot = 0.0
            if inside(y, x):
                for c in range(head * depth, (head + 1) * depth):
                    dot += query[c] * query_key[c][y][x]
            centre = (-1 + (2 * y + 1) / height, -1 + (2 * x + 1) / width)
            rel = ((p[0] - centre[0]) * height, (p[1] - centre[1]) * width)
            logits.append(dot / math.sqrt(depth) + position_bias(model, rel, head))
        largest = max(logits)
        exponentials = [math.exp(logit - largest) for logit in logits]
        attention.append([e / sum(exponentials) for e in exponentials])

    latent = []
    for k, (dy, dx) in enumerate(window):
        y, x = nearest[0] + dy, nearest[1] + dx
        for c in range(channels):
            latent.append(attention[c // depth][k] * value[c][y][x] if inside(y, x) else 0.0)
    latent += [cell[0] * height, cell[1] * width]
    residual = mlp(model, latent)
    return [r + s for r, s in zip(residual, bilinear(lr, zeros=False))]


def position_bias(model, rel, head):
    module = model.mssa.position_bias
    if module is None:
        return 0.0
    weight, bias = number(module.proj.weight)[head], number(module.proj.bias)[head]
    quarter = len(weight) // 4
    frequencies = [2 ** (module.max_exponent * j / (quarter - 1)) - 1 for j in range(quarter)]
    features = (
        [math.sin(f * rel[0]) for f in frequencies]
        + [math.sin(f * rel[1]) for f in frequencies]
        + [math.cos(f * rel[0]) for f in frequencies]
        + [math.cos(f * rel[1]) for f in frequencies]
    )
    return sum(w * f for w, f in zip(weight, features)) + bias


def mlp(model, x):
    linears = [layer for layer in model.imnet.layers if hasattr(layer, 'weight')]
    gelu = type(model.imnet.layers[1]).__name__ == 'GELU' if len(linears) > 1 else False
    for i, layer in enumerate(linears):
        x = [sum(w * v for w, v in zip(row, x)) + b for row, b in zip(number(layer.weight), number(layer.bias))]
        if i < len(linears) - 1:
            x = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) if gelu else max(v, 0.0) for v in x]
    return x
