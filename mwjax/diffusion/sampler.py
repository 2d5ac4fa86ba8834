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


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How to sample; everything here is compiled in."""

    steps: int = 30
    shift: float = 3.0
    guidance: float = 3.0
    solver: str = "unipc"


def sample_latents(
    cfg: WorldConfig, sampling: Sampling, variables: dict, noise: Float[Array, "b t h w z"], text: Float[Array, "b s c"],
    negative: Float[Array, "b s c"], keyboard: Float[Array, "b f 7"], mouse: Float[Array, "b f 2"],
) -> Float[Array, "b t h w z"]:  # fmt: skip
    """Denoise. With guidance both halves get the same actions; text and actions enter once, not per step."""
    model = WorldModel(cfg)
    if sampling.guidance != 1.0:
        text, keyboard, mouse = (jnp.concatenate(pair) for pair in ((text, negative), (keyboard, keyboard), (mouse, mouse)))
    condition = model.apply(variables, text, keyboard, mouse, method="condition")

    def velocity(x, timestep):
        return model.apply(variables, x, jnp.full(x.shape[:1], timestep), condition)[0]

    solver = SOLVERS[sampling.solver](sampling.steps, sampling.shift)
    return solve(solver, guided(velocity, sampling.guidance), noise)[0]


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
    negative: Array, keyboard: Array, mouse: Array,
) -> UInt8[Array, "b f h w 3"]:  # fmt: skip
    """Noise, text embeddings and actions to uint8 frames."""
    latents = sample_latents(cfg, sampling, variables, noise, text, negative, keyboard, mouse)
    return jnp.round(decode(vae, vae_params, latents) * 255).astype(jnp.uint8)
