"""From noise to frames: one compiled function."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from mwjax.diffusion.guidance import guided
from mwjax.diffusion.solvers import SOLVERS, solve
from mwjax.models.vae import VAE, VAEConfig
from mwjax.models.world_model import WorldConfig, WorldModel
from mwjax.types import Array, Float, UInt8

MASK = 4  # mask channels: one for each frame of a latent


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How to sample; everything here is compiled in."""

    steps: int = 30
    shift: float = 3.0
    guidance: float = 3.0
    solver: str = "unipc"
    action_guidance: float = 0.0  # how far to push away from what the model would do without its action module; the original has none


def sample_latents(
    cfg: WorldConfig, sampling: Sampling, variables: dict, noise: Float[Array, "b t h w z"], text: Float[Array, "b s c"],
    negative: Float[Array, "b s c"], keyboard: Float[Array, "b f 7"], mouse: Float[Array, "b f 2"],
    image: Float[Array, "b i e"] | None = None, channels: Float[Array, "b t h w m"] | None = None,
) -> Float[Array, "b t h w z"]:  # fmt: skip
    """Denoise. With guidance all parts of the batch get the same actions and image; text, image and actions enter once, not per step."""
    model, pushed = WorldModel(cfg), sampling.action_guidance if cfg.control != "none" else 0.0
    texts = [text] + [negative] * (sampling.guidance != 1.0) + [text] * (pushed != 0.0)
    repeated = (a if a is None else jnp.concatenate([a] * len(texts)) for a in (keyboard, mouse, image, channels))
    condition = model.apply(variables, jnp.concatenate(texts), *repeated, method="condition")
    scale = jnp.ones((len(texts), len(text), 1, 1, 1)).at[-1].set(pushed == 0.0).reshape(-1, 1, 1, 1)  # of the control, per part of the batch

    def velocity(x, timestep):
        return model.apply(variables, x, jnp.full(x.shape[:1], timestep), condition, scale)[0]

    solver = SOLVERS[sampling.solver](sampling.steps, sampling.shift)
    return solve(solver, guided(velocity, sampling.guidance, pushed), noise)[0]


def with_mask(condition: Float[Array, "b t h w z"]) -> Float[Array, "b t h w c"]:
    """What an image-conditioned model sees beside its latents: a mask (1 for the first frame), then the latents of its condition."""
    mask = jnp.zeros((*condition.shape[:-1], MASK), condition.dtype).at[:, 0].set(1)
    return jnp.concatenate([mask, condition], -1)


def image_condition(cfg: VAEConfig, params: dict, image: Float[Array, "b h w 3"], *, frames: int) -> Float[Array, "b t h8 w8 z"]:
    """Latents of a clip that is `image` (in [-1, 1]) followed by grey."""
    video = jnp.pad(image[:, None], ((0, 0), (0, frames - 1), (0, 0), (0, 0), (0, 0)))
    return VAE(cfg).apply({"params": params}, video, method="encode", mutable=["cache"])[0][0]


def decode(cfg: VAEConfig, params: dict, latents: Float[Array, "b t h w c"]) -> Float[Array, "b f h8 w8 3"]:
    """Latents to frames in [0, 1], one latent frame at a time under a scan: memory does not grow with length."""
    model = VAE(cfg)

    def chunk(cache, latent):
        frames, state = model.apply({"params": params, **cache}, latent[:, None], method="decode", mutable=["cache"])
        return state, jnp.clip(frames / 2 + 0.5, 0, 1)

    cache, first = chunk({}, latents[:, 0])
    if latents.shape[1] == 1:
        return first
    _, rest = jax.lax.scan(chunk, cache, jnp.moveaxis(latents[:, 1:], 1, 0))
    rest = jnp.moveaxis(rest, 0, 1).reshape(first.shape[0], -1, *first.shape[2:])
    return jnp.concatenate([first, rest], 1)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def sample(
    cfg: WorldConfig, vae: VAEConfig, sampling: Sampling, variables: dict, vae_params: dict, noise: Array, text: Array,
    negative: Array, keyboard: Array, mouse: Array, image: Array | None = None, condition: Array | None = None,
) -> UInt8[Array, "b f h w 3"]:  # fmt: skip
    """Noise, text embeddings, actions and, of an image-conditioned model, image tokens and condition to uint8 frames."""
    channels = None if condition is None else with_mask(condition)
    latents = sample_latents(cfg, sampling, variables, noise, text, negative, keyboard, mouse, image, channels)
    return jnp.round(decode(vae, vae_params, latents) * 255).astype(jnp.uint8)
