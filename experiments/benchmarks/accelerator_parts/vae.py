"""A clip through the autoencoder."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from accelerator_parts.cases import CASES, TOY_CLIP, TOY_VAE, Case
from accelerator_parts.measure import SINGLE, attempted, measured, spec
from accelerator_parts.report import Row
from mwjax.diffusion.decoding import decode
from mwjax.models.shapes import vae_shapes
from mwjax.models.vae import VAE, VAEConfig


def vae_case(*, tiny: bool) -> tuple[VAEConfig, Case]:
    case = CASES["T2W-1.3B"]
    return (TOY_VAE, case._replace(clip=TOY_CLIP)) if tiny else (VAEConfig(), case)


def vae_encode(*, tiny: bool, attention: str) -> Iterator[Row]:
    """A clip in float32: four frames after the other, which takes less memory, then all at once."""
    del attention
    config, case = vae_case(tiny=tiny)
    model, every = VAE(config), config.temporal_stride

    def encode(variables, frames):
        (mean, _), cache = model.apply(variables, frames, method="encode", mutable=["cache"])
        return cache, mean

    def whole(params, video):
        return encode({"params": params}, video)[1]

    def in_chunks(params, video):
        cache, first = encode({"params": params}, video[:, :1])
        chunks = jnp.moveaxis(video[:, 1:].reshape(len(video), -1, every, *video.shape[2:]), 1, 0)
        _, rest = jax.lax.scan(lambda cache, chunk: encode({"params": params, **cache}, chunk), cache, chunks)
        return first, rest

    video = spec(1, *case.clip, 3, dtype=SINGLE)
    for way, function in ((f"{every} frames at a time", in_chunks), ("at once", whole)):
        what = f"encoder, {case.size}, {way}"
        measure = functools.partial(measured, what, function, vae_shapes(config), video)
        yield attempted(what, "mwjax", measure)


def vae_decode(*, tiny: bool, attention: str) -> Iterator[Row]:
    """A clip in float32, a latent frame at a time."""
    del attention
    config, case = vae_case(tiny=tiny)
    latents = spec(1, *case.latents, config.z_dim, dtype=SINGLE)
    what = f"decoder, {case.size}, a latent frame at a time"
    yield measured(what, functools.partial(decode, config), vae_shapes(config), latents)
