"""Action encoder: keys and mouse of the last twelve frames to one feature per latent frame. Source: Micro-World."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mwjax.models.layers import MLP, Module, sinusoid
from mwjax.types import Array, Float, Int, Real

WINDOW = 3  # latents
STRIDE = 4  # frames per latent
KEYBOARD = 64  # width of a frame's keyboard embedding


def windows(latents: int) -> Int[np.ndarray, "t window"]:
    """Action rows of a clip that each latent frame sees: latent i sees rows max(1, 4(i−3)+1) … 4i, the earliest
    repeated to fill."""
    rows = np.arange(-STRIDE * WINDOW + 1, 1)[None] + STRIDE * np.arange(latents)[:, None]
    return np.where(np.arange(latents)[:, None] == 0, 0, np.maximum(rows, 1))


class ActionEncoder(Module):
    """keyboard [b, r, 7] (0 or 1) and mouse [b, r, 2] (pitch, yaw in degrees per frame) to features [b, t, action_dim].

    seen: which of the given rows each latent frame sees, `windows` of a clip by default (then r = 4t − 3). place: each
    row's place in the session, by default its number.
    """

    action_dim: int

    @nn.compact
    def __call__(
        self,
        keyboard: Float[Array, "b r 7"],
        mouse: Float[Array, "b r 2"],
        seen: Int[np.ndarray, "t window"] | None = None,
        place: Real[Array, "*b r"] | None = None,
    ) -> Float[Array, "b t a"]:
        batch, frames = keyboard.shape[:2]
        if seen is None:
            if frames % STRIDE != 1:
                raise ValueError(f"{frames} action rows are not {STRIDE}n + 1")
            seen = windows(frames // STRIDE + 1)
        place = jnp.arange(frames) if place is None else place
        half = self.action_dim // 2

        def seen_rows(rows):
            return rows[:, seen].reshape(batch, len(seen), -1)

        keys = MLP(KEYBOARD, KEYBOARD, name="keyboard_embedding")(keyboard)
        where = sinusoid(place, KEYBOARD).astype(keys.dtype)
        keys = keys + where.reshape(-1, frames, KEYBOARD)
        keys = MLP(half, half, name="keyboard_mlp")(seen_rows(keys))
        moves = MLP(half, half, name="mouse_mlp")(seen_rows(mouse))
        return MLP(half, self.action_dim, name="action_mlp")(jnp.concatenate([moves, keys], -1))
