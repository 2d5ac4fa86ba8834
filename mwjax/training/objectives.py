"""What each stage minimises: functions of (variables, batch, rng) to (loss, metrics). A new loss is a new function here."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from mwjax.diffusion.flow import TRAIN_STEPS, add_noise, flow_loss, train_sigmas
from mwjax.diffusion.sampler import with_mask
from mwjax.models.vae import VAE, VAEConfig
from mwjax.models.world_model import WorldConfig, WorldModel
from mwjax.types import Array, Float, Int

Objective = Callable[[Mapping, Mapping, jax.Array], tuple[jax.Array, dict]]


def stratified_indices(rng: jax.Array, batch: int) -> Int[Array, " b"]:
    """Noise-level indices, one from each of `batch` equal parts of the schedule (the original stratifies over its workers)."""
    return ((jnp.arange(batch) + jax.random.uniform(rng, (batch,))) * (TRAIN_STEPS / batch)).astype(jnp.int32).clip(0, TRAIN_STEPS - 1)


def sample_latents(rng: jax.Array, mean: Float[Array, "b t h w z"], logvar: Float[Array, "b t h w z"]) -> Float[Array, "b t h w z"]:
    """A draw from the encoder's distribution, in the normalised space of the mean (as the original does)."""
    return mean + jnp.exp(0.5 * logvar.clip(-30.0, 20.0)) * jax.random.normal(rng, mean.shape, mean.dtype)


def flow_objective(cfg: WorldConfig, *, motion: float, shift: float = 5.0) -> Objective:
    """Flow matching on latents, conditioned on text and, if the model has control, on actions."""
    model, sigmas = WorldModel(cfg), jnp.asarray(train_sigmas(shift))

    def objective(variables, batch, rng):
        keys = jax.random.split(rng, 3)
        latents = sample_latents(keys[0], batch["mean"], batch["logvar"])
        noise = jax.random.normal(keys[1], latents.shape, latents.dtype)
        sigma = sigmas[stratified_indices(keys[2], latents.shape[0])]
        image = (batch["image"], with_mask(batch["condition"])) if cfg.backbone.image_dim else ()
        condition = model.apply(variables, batch["text"], batch["keyboard"], batch["mouse"], *image, method="condition")
        velocity, _ = model.apply(variables, add_noise(latents, noise, sigma), sigma * TRAIN_STEPS, condition)
        return flow_loss(velocity, latents, noise, motion=motion)

    return objective


def vae_objective(cfg: VAEConfig, *, kl_weight: float) -> Objective:
    """Squared error of the reconstruction + kl_weight · KL divergence of the normalised latents from the unit Gaussian.

    batch["video"]: uint8 [b, f, h, w, 3], or [b, n, 1, h, w, 3] for n single frames of each clip.
    """
    model = VAE(cfg)

    def objective(variables, batch, rng):
        video = batch["video"]
        pixels = video.reshape(-1, *video.shape[-4:]).astype(jnp.float32) / 127.5 - 1
        (mean, logvar), _ = model.apply(variables, pixels, method="encode", mutable=["cache"])
        frames, _ = model.apply(variables, sample_latents(rng, mean, logvar), method="decode", mutable=["cache"])
        mse = jnp.mean((frames - pixels) ** 2)
        logvar = logvar.clip(-30.0, 20.0)
        kl = 0.5 * jnp.mean(mean**2 + jnp.exp(logvar) - 1 - logvar)
        return mse + kl_weight * kl, {"mse": mse, "kl": kl}

    return objective
