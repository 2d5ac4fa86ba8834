"""I3D (Carreira & Zisserman 2017), the network of the Fréchet video distance, with the keys of VideoGPT's
`i3d_pretrained_400.pt`."""

import jax
import jax.numpy as jnp

from mwjax.evaluation.networks.layers import Shapes, Weights, convolve, per_channel, pool_max
from mwjax.types import Array, Float

CLASSES = 400
EPS = 1e-5  # of batch norm, as in that port; the first release had 1e-3
BRANCHES = ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")
# Inception blocks: name → (channels in, channels of each branch's convolutions).
MIXED = {
    "3b": (192, (64, 96, 128, 16, 32, 32)),
    "3c": (256, (128, 128, 192, 32, 96, 64)),
    "4b": (480, (192, 96, 208, 16, 48, 64)),
    "4c": (512, (160, 112, 224, 24, 64, 64)),
    "4d": (512, (128, 128, 256, 24, 64, 64)),
    "4e": (512, (112, 144, 288, 32, 64, 64)),
    "4f": (528, (256, 160, 320, 32, 128, 128)),
    "5b": (832, (256, 160, 320, 32, 128, 128)),
    "5c": (832, (384, 192, 384, 48, 128, 128)),
}
POOL_BEFORE = {"3b": ((1, 3, 3), (1, 2, 2)), "4b": ((3, 3, 3), (2, 2, 2)), "5b": ((2, 2, 2), (2, 2, 2))}
LEAST_FRAMES = 10


def shapes() -> Shapes:
    out = {"logits.conv3d.weight": (CLASSES, 1024, 1, 1, 1), "logits.conv3d.bias": (CLASSES,)}

    def unit(name, inputs, outputs, kernel):
        out[f"{name}.conv3d.weight"] = (outputs, inputs, kernel, kernel, kernel)
        out.update({f"{name}.bn.{part}": (outputs,) for part in ("weight", "bias", "running_mean", "running_var")})

    unit("Conv3d_1a_7x7", 3, 64, 7), unit("Conv3d_2b_1x1", 64, 64, 1), unit("Conv3d_2c_3x3", 64, 192, 3)
    for name, (inputs, outputs) in MIXED.items():
        sources = (inputs, inputs, outputs[1], inputs, outputs[3], inputs)
        for branch, source, target in zip(BRANCHES, sources, outputs, strict=True):
            unit(f"Mixed_{name}.{branch}", source, target, 3 if branch in ("b1b", "b2b") else 1)
    return out


def used(name: str) -> str | None:
    """The name, or None for tensors that the model does not use."""
    return None if name.endswith("num_batches_tracked") else name


def unit(x: Float[Array, "b t h w c"], weights: Weights, name: str, *, stride: int = 1) -> Float[Array, "b t2 h2 w2 d"]:
    """Convolution, batch norm by running statistics, ReLU."""
    y = convolve(x, weights, f"{name}.conv3d", stride=stride)
    scale = weights[f"{name}.bn.weight"] * jax.lax.rsqrt(weights[f"{name}.bn.running_var"] + EPS)
    return jnp.maximum(
        (y - per_channel(weights[f"{name}.bn.running_mean"], y)) * per_channel(scale, y)
        + per_channel(weights[f"{name}.bn.bias"], y),
        0,
    )


def i3d(weights: Weights, video: Float[Array, "b t 224 224 3"]) -> Float[Array, "b classes"]:
    """Logits of videos in [-1, 1] of at least LEAST_FRAMES frames, averaged over time."""
    x = unit(video, weights, "Conv3d_1a_7x7", stride=2)
    x = pool_max(x, (1, 3, 3), (1, 2, 2), "SAME")
    x = unit(unit(x, weights, "Conv3d_2b_1x1"), weights, "Conv3d_2c_3x3")
    for name in MIXED:
        if name in POOL_BEFORE:
            x = pool_max(x, *POOL_BEFORE[name], "SAME")
        block = f"Mixed_{name}"
        deep = (unit(unit(x, weights, f"{block}.b{i}a"), weights, f"{block}.b{i}b") for i in (1, 2))
        pooled = unit(pool_max(x, (3, 3, 3), (1, 1, 1), "SAME"), weights, f"{block}.b3b")
        x = jnp.concatenate([unit(x, weights, f"{block}.b0"), *deep, pooled], -1)
    x = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 7, 7, 1), (1, 1, 1, 1, 1), "VALID") / (2 * 7 * 7)
    return convolve(x, weights, "logits.conv3d").mean((1, 2, 3))
