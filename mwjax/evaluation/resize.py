"""Pictures at other sizes, exactly as the libraries that the published metrics use do it.

Those are OpenCV for uint8, PyTorch for floats. A resize is a matrix for each axis: out = rows · picture · columnsᵀ.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mwjax.types import Array, Float, UInt8

HEIGHT, WIDTH = -3, -2  # axes
SIZE = (256, 256)  # (height, width) at which the published table compares pictures


def _positions(size: int, new_size: int) -> tuple[np.ndarray, np.ndarray]:
    """(first pixel, fraction towards the next) for every new pixel, in float32."""
    source = (np.arange(new_size, dtype=np.float32) + np.float32(0.5)) * np.float32(size / new_size) - np.float32(0.5)
    first = np.floor(source)
    fraction = np.where((first < 0) | (first >= size - 1), 0, source - first)
    return first.clip(0, size - 1).astype(int), fraction.astype(np.float32)


def linear_weights(size: int, new_size: int) -> Float[np.ndarray, "new_size size"]:
    """Bilinear along one axis, half-pixel centres, no antialiasing; beyond the border the last pixel repeats."""
    first, fraction = _positions(size, new_size)
    weights = np.zeros((new_size, size), np.float32)
    rows = np.arange(new_size)
    np.add.at(weights, (rows, first), 1 - fraction)
    np.add.at(weights, (rows, (first + 1).clip(max=size - 1)), fraction)
    return weights


def apply(
    images: Float[Array, "*b h w c"], rows: Float[Array, "y h"], columns: Float[Array, "x w"]
) -> Float[Array, "*b y x c"]:
    return jnp.einsum("yh,...hwc,xw->...yxc", rows, images, columns, precision="highest")


def bilinear(images: Float[Array, "*b h w c"], height: int, width: int) -> Float[Array, "*b height width c"]:
    """PyTorch's `interpolate(mode="bilinear", align_corners=False)`."""
    return apply(images, linear_weights(images.shape[-3], height), linear_weights(images.shape[-2], width))


def pictures(frames: UInt8[Array, "f h w 3"], size: tuple[int, int] = SIZE) -> Float[Array, "f y x 3"]:
    """Frames in [0, 1], resized."""
    return bilinear(jnp.asarray(frames, jnp.float32) / 255, *size)


@functools.partial(jax.jit, static_argnums=(1, 2))
def opencv_linear(images: UInt8[Array, "*b h w c"], height: int, width: int) -> UInt8[Array, "*b height width c"]:
    """OpenCV's INTER_LINEAR of uint8, bit for bit: weights of 11 bits, rows first, the intermediate cut by 4 bits."""
    x = jnp.asarray(images, jnp.int32)
    for axis, new_size in ((WIDTH, width), (HEIGHT, height)):
        size = x.shape[axis]
        first, fraction = _positions(size, new_size)
        along = (1,) * (x.ndim + axis) + (new_size,) + (1,) * (-axis - 1)
        near, far = (np.rint(part * 2048).astype(np.int32).reshape(along) for part in (1 - fraction, fraction))
        a = jnp.take(x, first, axis)
        b = jnp.take(x, (first + 1).clip(max=size - 1), axis)
        x = a * near + b * far if axis == WIDTH else ((near * (a >> 4)) >> 16) + ((far * (b >> 4)) >> 16)
    return ((x + 2) >> 2).clip(0, 255).astype(jnp.uint8)


def area_weights(size: int, new_size: int) -> Float[np.ndarray, "new_size size"]:
    """Average over the part of the axis that a new pixel covers, in float64."""
    edges = np.arange(new_size + 1) * (size / new_size)
    low = np.maximum(edges[:-1, None], np.arange(size))
    high = np.minimum(edges[1:, None], np.arange(1, size + 1))
    return np.maximum(high - low, 0) * (new_size / size)


def area(images: UInt8[np.ndarray, "*b h w c"], height: int, width: int) -> UInt8[np.ndarray, "*b height width c"]:
    """OpenCV's INTER_AREA of uint8 when shrinking: the exact average, rounded."""
    rows = area_weights(images.shape[-3], height)
    columns = area_weights(images.shape[-2], width)
    narrow = np.einsum("yh,...hwc->...ywc", rows, images.astype(np.float64), optimize=True)
    small = np.einsum("xw,...ywc->...yxc", columns, narrow, optimize=True)
    return np.rint(small.clip(0, 255)).astype(np.uint8)
