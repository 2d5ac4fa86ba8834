"""Rectified flow: the noise schedule of training and the losses. Source: Micro-World's training scripts
(VideoX-Fun)."""

import jax.numpy as jnp
import numpy as np

from mwjax.types import Array, Float

TRAIN_STEPS = 1000


def shift_sigmas(sigmas: np.ndarray | float, shift: float) -> np.ndarray | float:
    """Push noise levels towards 1: shift·σ / (1 + (shift − 1)·σ) (Esser et al. 2024, eq. 23)."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def train_sigmas(shift: float = 5.0) -> np.ndarray:
    """The 1000 noise levels of training, from 1 down, float32; their timesteps are 1000 times as large."""
    even = np.linspace(1, TRAIN_STEPS, TRAIN_STEPS, dtype=np.float64)[::-1] / TRAIN_STEPS
    return shift_sigmas(even, shift).astype(np.float32)


def add_noise(
    latents: Float[Array, "b t h w c"],
    noise: Float[Array, "b t h w c"],
    sigmas: Float[Array, " b"] | Float[Array, "b t"],
) -> Float[Array, "b t h w c"]:
    """x_σ = (1 − σ) x + σ ε; σ of each clip or of each latent frame."""
    s = sigmas.reshape(len(sigmas), -1, 1, 1, 1).astype(latents.dtype)
    return (1 - s) * latents + s * noise


def flow_loss(
    velocity: Float[Array, "b t h w c"],
    latents: Float[Array, "b t h w c"],
    noise: Float[Array, "b t h w c"],
    *,
    motion: float,
) -> tuple[Array, dict]:
    """(1 − motion) · masked squared error + motion · squared error of frame-to-frame differences; target ε − x.

    Entries whose error exceeds 50 are dropped from the first term (its mean still counts them). float32.
    """
    error = (velocity - (noise - latents)).astype(jnp.float32)
    mse = jnp.mean(jnp.where(jnp.abs(error) <= 50.0, error, 0.0) ** 2)
    if motion == 0:
        return mse, {"mse": mse}
    steps = jnp.mean((error[:, 1:] - error[:, :-1]) ** 2)
    return (1 - motion) * mse + motion * steps, {"mse": mse, "motion": steps}
