"""Action encoder: keys and mouse of the last twelve frames to one feature per latent frame. Source: Micro-World."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mwjax.models.layers import MLP, Module, sinusoid
from mwjax.types import Array, Float

WINDOW = 3  # latents
STRIDE = 4  # frames per latent
KEYBOARD = 64  # width of a frame's keyboard embedding


def windows(latents: int) -> np.ndarray:
    """Action rows that each latent frame sees, int [t, 12]: latent i sees rows max(1, 4(i−3)+1) … 4i, the earliest repeated to fill."""
    rows = np.arange(-STRIDE * WINDOW + 1, 1)[None] + STRIDE * np.arange(latents)[:, None]
    return np.where(np.arange(latents)[:, None] == 0, 0, np.maximum(rows, 1))


class ActionEncoder(Module):
    """keyboard [b, f, 7] (0 or 1) and mouse [b, f, 2] (pitch, yaw in degrees per frame) to features [b, t, action_dim], f = 4t − 3."""

    action_dim: int

    @nn.compact
    def __call__(self, keyboard: Float[Array, "b f 7"], mouse: Float[Array, "b f 2"]) -> Float[Array, "b t a"]:
        b, frames = keyboard.shape[:2]
        if frames % STRIDE != 1:
            raise ValueError(f"{frames} action rows are not 4n + 1")
        rows, half = windows(frames // STRIDE + 1), self.action_dim // 2
        keys = MLP(KEYBOARD, KEYBOARD, name="keyboard_embedding")(keyboard)
        keys = keys + sinusoid(jnp.arange(frames), KEYBOARD).astype(keys.dtype)[None]
        keys = MLP(half, half, name="keyboard_mlp")(keys[:, rows].reshape(b, len(rows), -1))
        moves = MLP(half, half, name="mouse_mlp")(mouse[:, rows].reshape(b, len(rows), -1))
        return MLP(half, self.action_dim, name="action_mlp")(jnp.concatenate([moves, keys], -1))
