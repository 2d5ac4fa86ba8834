"""The first frame that an image-conditioned model sees beside its latents. Source: Wan2.1 image-to-video."""

import jax.numpy as jnp

from mwjax.models.vae import VAE, VAEConfig
from mwjax.types import Array, Float

MASK = 4  # mask channels: one for each frame of a latent


def with_mask(first_frame: Float[Array, "b t h w z"]) -> Float[Array, "b t h w c"]:
    """What the model sees beside its latents: a mask (1 for the first frame), then latents as `encode` gives them."""
    mask = jnp.zeros((*first_frame.shape[:-1], MASK), first_frame.dtype).at[:, 0].set(1)
    return jnp.concatenate([mask, first_frame], -1)


def encode(cfg: VAEConfig, params: dict, image: Float[Array, "b h w 3"], *, frames: int) -> Float[Array, "b t h8 w8 z"]:
    """Latents of a clip that is `image` (in [-1, 1]) followed by grey."""
    video = jnp.pad(image[:, None], ((0, 0), (0, frames - 1), (0, 0), (0, 0), (0, 0)))
    return VAE(cfg).apply({"params": params}, video, method="encode", mutable=["cache"])[0][0]
