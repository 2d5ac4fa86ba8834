"""Functions that take weights as they are published: a dict of arrays under their PyTorch names, in PyTorch's layout.

Networks that are only ever run need no parameter tree of their own; `shapes` of each says what its file must hold.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from mwjax.types import Array, Float

Weights = Mapping[str, Array]
Shapes = dict[str, tuple[int, ...]]


def per_channel(vector: Float[Array, " c"], x: Array) -> Array:
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


def convolve(
    x: Float[Array, "b *n c"],
    weights: Weights,
    name: str,
    *,
    stride: int | tuple[int, ...] = 1,
    padding: int | str = "SAME",
) -> Float[Array, "b *m d"]:
    """Convolution over the middle axes with `name`.weight [d, c, …] and `name`.bias, if there is one. padding: pixels
    on each side, or "SAME"."""
    kernel = weights[f"{name}.weight"]
    space = "THW"[-(x.ndim - 2) :] if x.ndim > 4 else "HW"
    strides = (stride,) * len(space) if isinstance(stride, int) else stride
    pads = padding if isinstance(padding, str) else [(padding, padding)] * len(space)
    y = jax.lax.conv_general_dilated(
        x, kernel, strides, pads, dimension_numbers=(f"N{space}C", f"OI{space}", f"N{space}C")
    )
    bias = weights.get(f"{name}.bias")
    return y if bias is None else y + per_channel(bias, y)


def upconvolve(x: Float[Array, "b h w c"], weights: Weights, name: str) -> Float[Array, "b h2 w2 d"]:
    """PyTorch's ConvTranspose2d(kernel 4, stride 2, padding 1) with `name`.weight [c, d, 4, 4]."""
    kernel = weights[f"{name}.weight"][:, :, ::-1, ::-1]
    y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), [(2, 2), (2, 2)], lhs_dilation=(2, 2), dimension_numbers=("NHWC", "IOHW", "NHWC")
    )
    return y + per_channel(weights[f"{name}.bias"], y)


def prelu(x: Float[Array, "*b c"], weights: Weights, name: str) -> Float[Array, "*b c"]:
    return jnp.where(x >= 0, x, per_channel(weights[f"{name}.weight"], x) * x)


def pool_max(
    x: Float[Array, "b *n c"], size: tuple[int, ...], stride: tuple[int, ...], padding: str = "VALID"
) -> Float[Array, "b *m c"]:
    """Largest of each window, found axis after axis."""
    for axis, (length, step) in enumerate(zip(size, stride, strict=True), 1):
        if (length, step) != (1, 1):
            window, strides = ([n if i == axis else 1 for i in range(x.ndim)] for n in (length, step))
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, padding)
    return x
