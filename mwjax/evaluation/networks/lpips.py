"""LPIPS with VGG16 (Zhang et al. 2018): how far two pictures are apart for a network. Source: torchmetrics
`functional/image/lpips.py`."""

import jax.numpy as jnp
import numpy as np

from mwjax.evaluation.networks.layers import Shapes, Weights, convolve, per_channel, pool_max
from mwjax.types import Array, Float

SHIFT = np.float32([-0.030, -0.088, -0.188])
SCALE = np.float32([0.458, 0.448, 0.450])
# Convolutions of VGG16 by their index in `features`, in groups; a pooling lies between groups and each group ends in
# what is compared.
GROUPS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
CHANNELS = (64, 128, 256, 512, 512)


def shapes() -> Shapes:
    out, width = {}, 3
    for group, channels in zip(GROUPS, CHANNELS, strict=True):
        for i in group:
            out |= {f"features.{i}.weight": (channels, width, 3, 3), f"features.{i}.bias": (channels,)}
            width = channels
    return out | {f"lin{k}.model.1.weight": (1, channels, 1, 1) for k, channels in enumerate(CHANNELS)}


def features(weights: Weights, images: Float[Array, "b h w 3"]) -> list[Float[Array, "b h2 w2 c"]]:
    """Activations at the end of each group, of unit length at every pixel."""
    x = (images - per_channel(SHIFT, images)) / per_channel(SCALE, images)
    out = []
    for group in GROUPS:
        for i in group:
            x = jnp.maximum(convolve(x, weights, f"features.{i}"), 0)
        out.append(x / jnp.sqrt(1e-8 + jnp.sum(x * x, -1, keepdims=True)))
        x = pool_max(x, (2, 2), (2, 2))
    return out


def lpips_layers(weights: Weights, a: Float[Array, "b h w 3"], b: Float[Array, "b h w 3"]) -> Float[Array, "b 5"]:
    """The five terms whose sum is the distance. Pictures are taken as they are; the network was made for [-1, 1]."""
    terms = []
    for k, (x, y) in enumerate(zip(features(weights, a), features(weights, b), strict=True)):
        terms.append(
            jnp.einsum("bhwc,c->b", (x - y) ** 2, weights[f"lin{k}.model.1.weight"].reshape(-1))
            / (x.shape[1] * x.shape[2])
        )
    return jnp.stack(terms, -1)
