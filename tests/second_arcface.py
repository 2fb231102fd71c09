"""ArcFace's networks written a second time, as functions of a state dict, for the tests: and random weights for them.

The shapes are read off InsightFace's own names, the arithmetic is plain ``functional``; nothing of ``facesieve`` is used.
"""

import torch
from torch.nn import functional as f

EPS = 1e-5


def norm(state, name, x):
    parts = [state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    mean, var, weight, bias = (part.reshape(1, -1, *(1,) * (x.ndim - 2)) for part in parts)
    return (x - mean) / torch.sqrt(var + EPS) * weight + bias


def slopes(state, name, x):
    return torch.where(x > 0, x, state[f"{name}.weight"].reshape(1, -1, 1, 1) * x)


def iresnet(state, x, blocks):
    x = slopes(state, "prelu", norm(state, "bn1", f.conv2d(x, state["conv1.weight"], padding=1)))
    for stage, count in enumerate(blocks, 1):
        for number in range(count):
            name, stride = f"layer{stage}.{number}", 1 if number else 2
            y = f.conv2d(norm(state, f"{name}.bn1", x), state[f"{name}.conv1.weight"], padding=1)
            y = slopes(state, f"{name}.prelu", norm(state, f"{name}.bn2", y))
            y = norm(state, f"{name}.bn3", f.conv2d(y, state[f"{name}.conv2.weight"], stride=stride, padding=1))
            if not number:
                x = norm(state, f"{name}.downsample.1", f.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride))
            x = x + y
    x = norm(state, "bn2", x).flatten(1) @ state["fc.weight"].T + state["fc.bias"]
    return norm(state, "features", x)


def mobilefacenet(state, x, blocks):
    def unit(name, x, stride=1, linear=False):
        weight = state[f"{name}.layers.0.weight"]
        pad = 1 if weight.shape[-1] == 3 else 0
        x = norm(state, f"{name}.layers.1", f.conv2d(x, weight, stride=stride, padding=pad, groups=x.shape[1] // weight.shape[1]))
        return x if linear else slopes(state, f"{name}.layers.2", x)

    def block(name, x, stride=1):
        y = unit(f"{name}.layers.0", x)
        y = unit(f"{name}.layers.2", unit(f"{name}.layers.1", y, stride), linear=True)
        return y if stride == 2 else x + y

    def stage(name, x, count):
        for number in range(count):
            x = block(f"{name}.layers.{number}", x)
        return x

    x = unit("layers.0", x, 2)
    x = unit("layers.1", x) if blocks[0] == 1 else stage("layers.1", x, blocks[0])
    for number, count in enumerate(blocks[1:], 1):
        x = stage(f"layers.{2 * number + 1}", block(f"layers.{2 * number}", x, 2), count)
    x = unit("features.layers.0", unit("conv_sep", x), linear=True).flatten(1)
    return norm(state, "features.layers.3", x @ state["features.layers.2.weight"].T)


def _layers(layers, state, generator):
    """Weights that keep the size of what goes through, and statistics and slopes that are none of the trivial ones."""

    def uniform(shape, low, high):
        return low + (high - low) * torch.rand(shape, generator=generator)

    for name, kind, *shape in layers:
        if kind == "norm":
            state[f"{name}.weight"], state[f"{name}.bias"] = uniform(shape, 0.5, 1.5), uniform(shape, -0.3, 0.3)
            state[f"{name}.running_mean"], state[f"{name}.running_var"] = uniform(shape, -0.5, 0.5), uniform(shape, 0.5, 2)
            state[f"{name}.num_batches_tracked"] = torch.tensor(7)
        elif kind == "slopes":
            state[f"{name}.weight"] = uniform(shape, -0.2, 0.6)
        else:
            fan = torch.tensor(shape[1:]).prod()
            state[f"{name}.weight"] = torch.randn(shape, generator=generator) / fan.sqrt()
            if kind == "matrix":
                state[f"{name}.bias"] = uniform(shape[:1], -0.2, 0.2)
    return state


def iresnet_state(blocks=(1, 2, 1, 1), widths=(4, 4, 6, 8, 10), dimensions=16, seed=0):
    layers = [("conv1", "conv", widths[0], 3, 3, 3), ("bn1", "norm", widths[0]), ("prelu", "slopes", widths[0])]
    for stage, count in enumerate(blocks, 1):
        for number in range(count):
            name, wide = f"layer{stage}.{number}", widths[stage]
            inputs = wide if number else widths[stage - 1]
            layers += [
                (f"{name}.bn1", "norm", inputs),
                (f"{name}.conv1", "conv", wide, inputs, 3, 3),
                (f"{name}.bn2", "norm", wide),
            ]
            layers += [
                (f"{name}.prelu", "slopes", wide),
                (f"{name}.conv2", "conv", wide, wide, 3, 3),
                (f"{name}.bn3", "norm", wide),
            ]
            if not number:
                layers += [(f"{name}.downsample.0", "conv", wide, inputs, 1, 1), (f"{name}.downsample.1", "norm", wide)]
    layers += [("bn2", "norm", widths[-1]), ("fc", "matrix", dimensions, 49 * widths[-1]), ("features", "norm", dimensions)]
    return _layers(layers, {}, torch.Generator().manual_seed(seed))


def mobilefacenet_state(
    blocks=(1, 2, 1, 1), widths=(8, 8, 12, 12), wide=(8, 8, 10, 14, 12, 16, 12), groups=4, last=16, dimensions=16, seed=0
):
    def unit(name, outputs, inputs, kernel, linear=False):
        found = [(f"{name}.layers.0", "conv", outputs, inputs, kernel, kernel), (f"{name}.layers.1", "norm", outputs)]
        return found if linear else [*found, (f"{name}.layers.2", "slopes", outputs)]

    def block(name, inputs, outputs, wide):
        parts = [unit(f"{name}.layers.0", wide, inputs, 1), unit(f"{name}.layers.1", wide, 1, 3)]
        return [*parts[0], *parts[1], *unit(f"{name}.layers.2", outputs, wide, 1, linear=True)]

    def stage(name, width, wide, count):
        return [layer for number in range(count) for layer in block(f"{name}.layers.{number}", width, width, wide)]

    layers = unit("layers.0", widths[0], 3, 3)
    small = blocks[0] == 1
    layers += unit("layers.1", widths[0], widths[0] // groups, 3) if small else stage("layers.1", widths[0], wide[0], blocks[0])
    for number in (1, 2, 3):
        layers += block(f"layers.{2 * number}", widths[number - 1], widths[number], wide[2 * number - 1])
        layers += stage(f"layers.{2 * number + 1}", widths[number], wide[2 * number], blocks[number])
    layers += [*unit("conv_sep", last, widths[-1], 1), *unit("features.layers.0", last, 1, 7, linear=True)]
    layers += [("features.layers.2", "conv", dimensions, last), ("features.layers.3", "norm", dimensions)]
    return _layers(layers, {}, torch.Generator().manual_seed(seed))
