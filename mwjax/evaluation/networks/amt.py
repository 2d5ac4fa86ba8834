"""AMT-S (Li et al. 2023), which puts a frame between two, with the official key names. Source: MCG-NKU AMT
`networks/AMT-S.py`, `blocks/`.

Flows have two channels: right, down, in pixels of their own scale. "0" points from the new frame to the first, "1" to
the second."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mwjax.evaluation.networks.layers import Shapes, Weights, convolve, prelu, upconvolve
from mwjax.evaluation.resize import bilinear
from mwjax.types import Array, Float

RADIUS, LEVELS, FLOWS = 3, 4, 3
CHANNELS, SKIP = (20, 32, 44, 56), 20
LEAST_SIDE, MULTIPLE = 128, 16  # below, the coarsest correlation is one pixel wide
EPS = 1e-5


class Result(NamedTuple):
    """frame [b, h, w, 3] in [0, 1]; flows and features of the coarse levels (4, 3, 2), after their updates."""

    frame: Array
    flows: dict[int, tuple[Array, Array]]
    features: dict[int, Array]


def shapes() -> Shapes:
    out: Shapes = {}

    def conv(name, inputs, outputs, kernel=3, activation=""):
        out[f"{name}.weight"], out[f"{name}.bias"] = (outputs, inputs, kernel, kernel), (outputs,)
        if activation:
            out[f"{activation}.weight"] = (outputs,)

    conv("feat_encoder.conv1", 3, 32, 7)
    for layer, (inputs, outputs) in enumerate(((32, 32), (32, 64), (64, 96)), 1):
        for block, source in enumerate((inputs, outputs)):
            name, quarter = f"feat_encoder.layer{layer}.{block}", outputs // 4
            conv(f"{name}.conv1", source, quarter, 1)
            conv(f"{name}.conv2", quarter, quarter)
            conv(f"{name}.conv3", quarter, outputs, 1)
            if block == 0 and layer > 1:
                conv(f"{name}.downsample.0", source, outputs, 1)
    conv("feat_encoder.conv2", 96, 84, 1)
    for level, (inputs, outputs) in enumerate(zip((3, *CHANNELS), CHANNELS, strict=False), 1):
        for i, source in enumerate((inputs, outputs)):
            conv(f"encoder.pyramid{level}.{i}.0", source, outputs, activation=f"encoder.pyramid{level}.{i}.1")
    c1, c2, c3, c4 = CHANNELS
    decoders = (
        (4, 2 * c4 + 1, 2 * c4, 4 + c3),
        (3, 3 * c3 + 4, 3 * c3, 4 + c2),
        (2, 3 * c2 + 4, 3 * c2, 4 + c1),
        (1, 3 * c1 + 4, 3 * c1, 8 * FLOWS),
    )
    for level, inputs, width, outputs in decoders:
        block = f"decoder{level}.convblock"
        conv(f"{block}.0.0", inputs, width, activation=f"{block}.0.1")
        for i, channels in enumerate((width, SKIP, width, SKIP), 1):
            conv(f"{block}.1.conv{i}.0", channels, channels, activation=f"{block}.1.conv{i}.1")
        conv(f"{block}.1.conv5", width, width)
        out[f"{block}.1.prelu.weight"] = (width,)
        out[f"{block}.2.weight"], out[f"{block}.2.bias"] = (width, outputs, 4, 4), (outputs,)
    for level, feature in ((4, c3), (3, c2), (2, c1)):
        name, hidden, fc = f"update{level}", 76, 68
        conv(f"{name}.convc1", 2 * LEVELS * (2 * RADIUS + 1) ** 2, 64, 1)
        conv(f"{name}.convf1", 4, 40, 7)
        conv(f"{name}.convf2", 40, 20)
        conv(f"{name}.conv", 84, fc)
        conv(f"{name}.gru.0", fc + 4 + feature, hidden)
        conv(f"{name}.gru.2", hidden, hidden)
        for head, outputs in (("feat_head", feature), ("flow_head", 4)):
            conv(f"{name}.{head}.0", hidden, hidden)
            conv(f"{name}.{head}.2", hidden, outputs)
    conv("comb_block.0", 3 * FLOWS, 6 * FLOWS, activation="comb_block.1")
    conv("comb_block.2", 6 * FLOWS, 3)
    return out


def _activated(x, weights: Weights, name: str, *, stride: int = 1):
    """Convolution `name`.0 and PReLU `name`.1."""
    return prelu(convolve(x, weights, f"{name}.0", stride=stride, padding=1), weights, f"{name}.1")


def _instance_norm(x):
    mean = x.mean((1, 2), keepdims=True)
    return (x - mean) * jax.lax.rsqrt(jnp.mean((x - mean) ** 2, (1, 2), keepdims=True) + EPS)


def _matching_features(x, weights: Weights):
    """[b, h, w, 3] to [b, h/8, w/8, 84]."""

    def normed(x, name, **how):
        return _instance_norm(convolve(x, weights, f"feat_encoder.{name}", **how))

    x = jax.nn.relu(normed(x, "conv1", stride=2, padding=3))
    for layer in (1, 2, 3):
        for block in (0, 1):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = jax.nn.relu(normed(x, f"{name}.conv1", padding=0))
            y = jax.nn.relu(normed(y, f"{name}.conv2", stride=stride, padding=1))
            y = jax.nn.relu(normed(y, f"{name}.conv3", padding=0))
            x = jax.nn.relu((normed(x, f"{name}.downsample.0", stride=stride, padding=0) if stride > 1 else x) + y)
    return convolve(x, weights, "feat_encoder.conv2", padding=0)


def _pyramid(x, weights: Weights):
    out = []
    for level in range(1, 5):
        x = _activated(
            _activated(x, weights, f"encoder.pyramid{level}.0", stride=2), weights, f"encoder.pyramid{level}.1"
        )
        out.append(x)
    return out


def sample_at(
    image: Float[Array, "b h w c"], x: Float[Array, "b *n"], y: Float[Array, "b *n"], *, border: bool
) -> Float[Array, "b *n c"]:
    """Bilinear values at pixel positions; outside, the nearest border pixel or zero."""
    height, width = image.shape[1:3]
    if border:
        x, y = x.clip(0, width - 1), y.clip(0, height - 1)
    flat, total = image.reshape(image.shape[0], height * width, -1), 0.0
    left, top = jnp.floor(x), jnp.floor(y)
    for dx in (0, 1):
        for dy in (0, 1):
            column, row = left + dx, top + dy
            weight = jnp.abs(1 - dx - (x - left)) * jnp.abs(1 - dy - (y - top))
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = (row.clip(0, height - 1) * width + column.clip(0, width - 1)).astype(jnp.int32)
            values = jnp.take_along_axis(flat, index.reshape(len(flat), -1, 1), 1).reshape(*index.shape, -1)
            total = total + values * jnp.where(inside, weight, 0)[..., None]
    return total


def warp(image: Float[Array, "b h w c"], flow: Float[Array, "b h w 2"]) -> Float[Array, "b h w c"]:
    """The picture as seen from where the flow points."""
    y, x = jnp.meshgrid(*(jnp.arange(n, dtype=jnp.float32) for n in flow.shape[1:3]), indexing="ij")
    return sample_at(image, x[None] + flow[..., 0], y[None] + flow[..., 1], border=True)


def _scaled(x, factor: float):
    return bilinear(x, int(x.shape[1] * factor), int(x.shape[2] * factor))


def correlations(a: Float[Array, "b h w c"], b: Float[Array, "b h w c"]) -> list[Float[Array, "bhw h2 w2 1"]]:
    """Inner products of every position of a with all of b, halved LEVELS − 1 times."""
    batch, height, width, channels = a.shape
    product = jnp.einsum("bijc,bklc->bijkl", a, b) / channels**0.5
    maps = [product.reshape(batch * height * width, height, width, 1)]
    for _ in range(LEVELS - 1):
        maps.append(jax.lax.reduce_window(maps[-1], 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4)
    return maps


_NEAR = np.arange(-RADIUS, RADIUS + 1, dtype=np.float32)


def look_up(maps: list, x: Float[Array, "b h w"], y: Float[Array, "b h w"]) -> Float[Array, "b h w levels_49"]:
    """Correlations around a position at every level. As in RAFT, the first of the two window axes moves along x."""
    shape, out = x.shape, []
    for level, volume in enumerate(maps):
        xs = x.reshape(-1, 1, 1) / 2**level + _NEAR.reshape(1, -1, 1)
        ys = y.reshape(-1, 1, 1) / 2**level + _NEAR.reshape(1, 1, -1)
        xs, ys = jnp.broadcast_arrays(xs, ys)
        out.append(sample_at(volume, xs, ys, border=False).reshape(*shape, -1))
    return jnp.concatenate(out, -1)


def _residual(x, weights: Weights, name: str):
    """Five convolutions; the second and fourth touch only the last SKIP channels."""

    def side(x, i):
        last = _activated(x[..., -SKIP:], weights, f"{name}.conv{i}")
        return jnp.concatenate([x[..., :-SKIP], last], -1)

    y = side(_activated(x, weights, f"{name}.conv1"), 2)
    y = side(_activated(y, weights, f"{name}.conv3"), 4)
    return prelu(x + convolve(y, weights, f"{name}.conv5", padding=1), weights, f"{name}.prelu")


def _decode(x, weights: Weights, level: int):
    block = f"decoder{level}.convblock"
    return upconvolve(_residual(_activated(x, weights, f"{block}.0"), weights, f"{block}.1"), weights, f"{block}.2")


def _leaky(x):
    return jnp.where(x >= 0, x, 0.1 * x)


def _update(feature, flow, correlation, weights: Weights, level: int, factor: int):
    """Changes of feature and flows, computed at 1/factor of their scale."""
    name = f"update{level}"
    net = feature if factor == 1 else _scaled(feature, 1 / factor)
    seen = _leaky(convolve(correlation, weights, f"{name}.convc1", padding=0))
    moved = _leaky(convolve(flow, weights, f"{name}.convf1", padding=3))
    moved = _leaky(convolve(moved, weights, f"{name}.convf2", padding=1))
    both = _leaky(convolve(jnp.concatenate([seen, moved], -1), weights, f"{name}.conv", padding=1))
    x = jnp.concatenate([both, flow, net], -1)
    x = convolve(_leaky(convolve(x, weights, f"{name}.gru.0", padding=1)), weights, f"{name}.gru.2", padding=1)

    def head(kind):
        hidden = _leaky(convolve(x, weights, f"{name}.{kind}.0", padding=1))
        return convolve(hidden, weights, f"{name}.{kind}.2", padding=1)

    deltas = head("feat_head"), head("flow_head")
    return deltas if factor == 1 else (_scaled(deltas[0], factor), factor * _scaled(deltas[1], factor))


def between(weights: Weights, first: Float[Array, "b h w 3"], second: Float[Array, "b h w 3"]) -> Result:
    """The frame half-way between two, all in [0, 1]; sides must be multiples of MULTIPLE and at least LEAST_SIDE."""
    mean = (first.mean((1, 2, 3), keepdims=True) + second.mean((1, 2, 3), keepdims=True)) / 2
    first, second = first - mean, second - mean
    matched = [_matching_features(x, weights) for x in (first, second)]
    maps = correlations(*matched), correlations(*matched[::-1])
    y, x = jnp.meshgrid(*(jnp.arange(n, dtype=jnp.float32) for n in matched[0].shape[1:3]), indexing="ij")
    pyramids = [_pyramid(x, weights) for x in (first, second)]

    def around(flow0, flow1, factor):
        """What both frames look like around where the flows (at 1/8 of the picture times `factor`) point, and the
        flows at 1/8."""
        small = [f if factor == 1 else _scaled(f, 1 / factor) / factor for f in (flow0, flow1)]
        looks = [
            look_up(m, x[None] + 2 * f[..., 0], y[None] + 2 * f[..., 1]) for m, f in zip(maps, small[::-1], strict=True)
        ]
        return jnp.concatenate(looks, -1), jnp.concatenate(small, -1)

    half = jnp.full((len(first), *pyramids[0][3].shape[1:3], 1), 0.5)
    flows, features = {}, {}
    decoded = _decode(jnp.concatenate([pyramids[0][3], pyramids[1][3], half], -1), weights, 4)
    flow0, flow1, feature = decoded[..., :2], decoded[..., 2:4], decoded[..., 4:]
    for level, factor in ((4, 1), (3, 2), (2, 4)):
        if level < 4:
            pair = [warp(p[level - 1], f) for p, f in zip(pyramids, (flow0, flow1), strict=True)]
            decoded = _decode(jnp.concatenate([feature, *pair, flow0, flow1], -1), weights, level)
            flow0, flow1 = (decoded[..., 2 * i : 2 * i + 2] + 2 * _scaled(f, 2) for i, f in enumerate((flow0, flow1)))
            feature = decoded[..., 4:]
        correlation, small = around(flow0, flow1, factor)
        more, moved = _update(feature, small, correlation, weights, level, factor)
        feature, flow0, flow1 = feature + more, flow0 + moved[..., :2], flow1 + moved[..., 2:]
        flows[level], features[level] = (flow0, flow1), feature
    pair = [warp(p[0], f) for p, f in zip(pyramids, (flow0, flow1), strict=True)]
    decoded = _decode(jnp.concatenate([feature, *pair, flow0, flow1], -1), weights, 1)
    deltas0, deltas1, mask, rest = jnp.split(decoded, np.cumsum((2 * FLOWS, 2 * FLOWS, FLOWS)), -1)
    flow0, flow1 = (d + jnp.tile(2 * _scaled(f, 2), (1, 1, 1, FLOWS)) for d, f in ((deltas0, flow0), (deltas1, flow1)))
    mask, blends = jax.nn.sigmoid(mask), []
    for i in range(FLOWS):
        warped = [warp(image, flow[..., 2 * i : 2 * i + 2]) for image, flow in ((first, flow0), (second, flow1))]
        share = mask[..., i : i + 1]
        blends.append(share * warped[0] + (1 - share) * warped[1] + mean + rest[..., 3 * i : 3 * i + 3])
    combined = convolve(
        _activated(jnp.concatenate(blends, -1), weights, "comb_block"), weights, "comb_block.2", padding=1
    )
    return Result((sum(blends) / FLOWS + combined).clip(0, 1), flows, features)
