"""What each stage minimises. A new loss is a new Objective here."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mwjax.diffusion.flow import TRAIN_STEPS, add_noise, flow_loss, train_sigmas
from mwjax.models.first_frame import with_mask
from mwjax.models.vae import VAE, VAEConfig
from mwjax.models.world_model import WorldConfig, WorldModel
from mwjax.types import Array, Float, Int


class Objective(NamedTuple):
    """draw(batch, rng) adds everything random to a whole batch; loss(variables, batch) of any part of it gives (loss,
    metrics).

    Randomness belongs to the batch, not to its parts: accumulating over parts, or cutting them over devices, changes
    no number.
    """

    draw: Callable[[Mapping, jax.Array], dict]
    loss: Callable[[Mapping, Mapping], tuple[jax.Array, dict]]


def stratified_indices(rng: jax.Array, batch: int) -> Int[Array, " b"]:
    """Noise-level indices, one from each of `batch` equal parts of the schedule (the original stratifies over its
    workers)."""
    parts = jnp.arange(batch) + jax.random.uniform(rng, (batch,))
    return (parts * (TRAIN_STEPS / batch)).astype(jnp.int32).clip(0, TRAIN_STEPS - 1)


def draw_latents(
    mean: Float[Array, "b t h w z"], logvar: Float[Array, "b t h w z"], noise: Float[Array, "b t h w z"]
) -> Float[Array, "b t h w z"]:
    """A draw from the encoder's distribution, in the normalised space of the mean (as the original does)."""
    return mean + jnp.exp(0.5 * logvar.clip(-30.0, 20.0)) * noise


def model_inputs(batch: Mapping[str, Array], dtype: jax.typing.DTypeLike) -> dict[str, Array]:
    """What the model reads of a training batch, in the dtype it computes in."""
    inputs = {name: a for name, a in batch.items() if name not in ("latents", "noise", "sigma")}
    if "first_frame" in inputs:
        inputs["first_frame"] = with_mask(inputs["first_frame"])
    return {name: a.astype(dtype) for name, a in inputs.items()}


def flow_objective(
    cfg: WorldConfig, *, motion: float, shift: float = 5.0, dtype: jax.typing.DTypeLike = jnp.float32
) -> Objective:
    """Flow matching on latents, conditioned on text and, if the model has controls, on what they read.

    Batches hold mean and logvar [b, t, h, w, z] of the latents, and the model's inputs ("first_frame" without its
    mask). dtype: of the network's activations; noise, targets, norms and the loss stay in float32.
    """
    model, sigmas = WorldModel(cfg), jnp.asarray(train_sigmas(shift))

    def draw(batch, rng):
        keys = jax.random.split(rng, 3)
        latents = draw_latents(batch["mean"], batch["logvar"], jax.random.normal(keys[0], batch["mean"].shape))
        noise = jax.random.normal(keys[1], latents.shape)
        rest = {name: a for name, a in batch.items() if name not in ("mean", "logvar")}
        return rest | {"latents": latents, "noise": noise, "sigma": sigmas[stratified_indices(keys[2], len(latents))]}

    def loss(variables, batch):
        latents, noise, sigma = batch["latents"], batch["noise"], batch["sigma"]
        condition = model.apply(variables, model_inputs(batch, dtype), method="condition")
        noisy = add_noise(latents, noise, sigma).astype(dtype)
        velocity, _ = model.apply(variables, noisy, sigma * TRAIN_STEPS, condition)
        return flow_loss(velocity, latents, noise, motion=motion)

    return Objective(draw, loss)


def vae_objective(cfg: VAEConfig, *, kl_weight: float) -> Objective:
    """Squared error of the reconstruction + kl_weight · KL divergence of the normalised latents from the unit Gaussian.

    batch["video"]: uint8 [b, f, h, w, 3], or [b, n, 1, h, w, 3] for n single frames of each clip.
    """
    model = VAE(cfg)

    def draw(batch, rng):
        *lead, frames, height, width, _ = batch["video"].shape
        side = cfg.spatial_stride
        shape = (*lead, frames // cfg.temporal_stride + 1, height // side, width // side, cfg.z_dim)
        return {**batch, "noise": jax.random.normal(rng, shape)}

    def loss(variables, batch):
        video, noise = (a.reshape(-1, *a.shape[-4:]) for a in (batch["video"], batch["noise"]))
        pixels = video.astype(jnp.float32) / 127.5 - 1
        (mean, logvar), _ = model.apply(variables, pixels, method="encode", mutable=["cache"])
        frames, _ = model.apply(variables, draw_latents(mean, logvar, noise), method="decode", mutable=["cache"])
        mse = jnp.mean((frames - pixels) ** 2)
        logvar = logvar.clip(-30.0, 20.0)
        kl = 0.5 * jnp.mean(mean**2 + jnp.exp(logvar) - 1 - logvar)
        return mse + kl_weight * kl, {"mse": mse, "kl": kl}

    return Objective(draw, loss)
