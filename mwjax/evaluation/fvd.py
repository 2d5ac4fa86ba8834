"""Fréchet video distance: how far apart two sets of videos are, as distributions of I3D logits."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from mwjax.evaluation.networks.i3d import i3d
from mwjax.evaluation.networks.layers import Weights
from mwjax.evaluation.resize import bilinear
from mwjax.types import Array, Float

SIDE = 224


def preprocess(video: Float[Array, "f h w 3"]) -> Float[Array, "f 224 224 3"]:
    """Frames in [0, 1]: the shorter side to 224 (the longer one rounded up), centre crop, to [-1, 1]."""
    height, width = video.shape[1:3]
    scale = SIDE / min(height, width)
    height, width = (SIDE if side == min(height, width) else math.ceil(side * scale) for side in (height, width))
    x = bilinear(video, height, width)
    top, left = (height - SIDE) // 2, (width - SIDE) // 2
    return 2 * x[:, top : top + SIDE, left : left + SIDE] - 1


@functools.partial(jax.jit, static_argnames="prefixes")
def logits(weights: Weights, video: Float[Array, "f h w 3"], *, prefixes: tuple[int, ...]) -> Float[Array, "p classes"]:
    """I3D's logits of the first n frames, for each n of `prefixes`. Frames in [0, 1]; the published table resizes them to 256×256 before."""
    pixels = preprocess(video)
    return jnp.concatenate([i3d(weights, pixels[None, :n]) for n in prefixes])


def frechet(a: Float[np.ndarray, "n c"], b: Float[np.ndarray, "m c"]) -> float:
    """‖μa − μb‖² + tr(Σa + Σb − 2 √(Σa Σb)); of single videos the first term alone.

    The trace of the root is the sum of the singular values of Aᵀ B, where Σ = A Aᵀ: exact, and cheap for few videos.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    apart = float(np.sum((a.mean(0) - b.mean(0)) ** 2))
    if len(a) == 1 or len(b) == 1:
        return apart
    rows = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b)]
    root = np.linalg.svd(rows[0] @ rows[1].T, compute_uv=False).sum()
    return apart + float(sum(np.sum(x * x) for x in rows) - 2 * root)
