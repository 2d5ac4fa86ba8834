"""Rotary position embedding in three axes (Su et al. 2021; Wan2.1): time, height and width share the channels of a head."""

import jax.numpy as jnp
import numpy as np

from mwjax.types import Array, Float


def rope_table(grid: tuple[int, int, int], channels: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin [t, h·w, channels/2] for a latent grid (t, h, w of patches); a head of 128 splits 44/42/42. float64 inside.

    start: latent frame at which the grid begins.
    """
    sizes = (channels - 4 * (channels // 6), 2 * (channels // 6), 2 * (channels // 6))
    positions = (np.arange(start, start + grid[0]), np.arange(grid[1]), np.arange(grid[2]))
    angles = []
    for axis, (size, position) in enumerate(zip(sizes, positions, strict=True)):
        angle = np.outer(position, 10000.0 ** (-np.arange(0, size, 2) / size))
        shape = [1, 1, 1, size // 2]
        shape[axis] = grid[axis]
        angles.append(np.broadcast_to(angle.reshape(shape), (*grid, size // 2)))
    angle = np.concatenate(angles, -1).reshape(grid[0], -1, channels // 2)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def apply_rope(x: Float[Array, "b t p n k"], table: tuple[np.ndarray, np.ndarray]) -> Float[Array, "b t p n k"]:
    """Rotate neighbouring pairs of channels; in float32, returned in x's dtype."""
    cos, sin = (a[None, :, :, None, :] for a in table)
    even, odd = x[..., 0::2].astype(jnp.float32), x[..., 1::2].astype(jnp.float32)
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape).astype(x.dtype)
