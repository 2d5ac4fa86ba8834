"""Rotary position embedding in three axes (Su et al. 2021; Wan2.1): time, height and width share the channels of a
head.

A head of 128 channels splits 44/42/42. Angles are worked out in float64.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from mwjax.types import Array, Float, Int

POSITIONS = 1024  # latent frames in the table of time, as in the original


class RopeTable(NamedTuple):
    """cos and sin of every token's angles, [t, p, k/2] or, where clips stand at different places, [b, t, p, k/2]."""

    cos: Array
    sin: Array


def axis_sizes(channels: int) -> tuple[int, int, int]:
    """Channels of a head for time, height and width."""
    side = 2 * (channels // 6)
    return channels - 2 * side, side, side


def axis_angles(positions: Int[np.ndarray, " n"], size: int) -> Float[np.ndarray, "n half"]:
    return np.outer(positions, 10000.0 ** (-np.arange(0, size, 2) / size))


def rope_table(grid: tuple[int, int, int], channels: int) -> RopeTable:
    """Of a latent grid (t, h, w of patches) whose first frame is frame 0."""
    angles = []
    for axis, (length, size) in enumerate(zip(grid, axis_sizes(channels), strict=True)):
        shape = [1, 1, 1, size // 2]
        shape[axis] = length
        angle = axis_angles(np.arange(length), size).reshape(shape)
        angles.append(np.broadcast_to(angle, (*grid, size // 2)))
    angle = np.concatenate(angles, -1).reshape(grid[0], -1, channels // 2)
    return RopeTable(np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32))


def rope_at(frames: Int[Array, "*b t"], grid: tuple[int, int], channels: int) -> RopeTable:
    """Of frames at any places below POSITIONS, which may be traced; grid: (h, w) of patches. The bits of
    `rope_table`."""
    time = axis_angles(np.arange(POSITIONS), axis_sizes(channels)[0])
    space = rope_table((1, *grid), channels)
    half = time.shape[-1]

    def table(function, spatial):
        whole = jnp.asarray(function(time).astype(np.float32))[frames]  # [*b, t, half]
        shape = (*frames.shape, spatial.shape[1])
        parts = [
            jnp.broadcast_to(whole[..., None, :], (*shape, half)),
            jnp.broadcast_to(jnp.asarray(spatial[0, :, half:]), (*shape, channels // 2 - half)),
        ]
        return jnp.concatenate(parts, -1)

    return RopeTable(table(np.cos, space.cos), table(np.sin, space.sin))


def apply_rope(x: Float[Array, "b t p n k"], table: RopeTable) -> Float[Array, "b t p n k"]:
    """Rotate neighbouring pairs of channels; in float32, returned in x's dtype."""
    cos, sin = (a[..., None, :] if a.ndim == 4 else a[None, :, :, None, :] for a in table)
    even, odd = x[..., 0::2].astype(jnp.float32), x[..., 1::2].astype(jnp.float32)
    rotated = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], -1)
    return rotated.reshape(x.shape).astype(x.dtype)
