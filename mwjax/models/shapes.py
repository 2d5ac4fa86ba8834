"""Shapes of every network's parameters for given sizes; nothing is allocated.

Each takes a second or so to find, so they are kept: do not change them. Everything is traced, so that no device is
touched before a plan has made up its own.
"""

import functools

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from mwjax.models import world_model
from mwjax.models.image import ImageConfig, ImageEncoder
from mwjax.models.text import TextConfig, TextEncoder
from mwjax.models.vae import VAE, VAEConfig
from mwjax.models.world_model import WorldConfig


@functools.cache
def world_shapes(cfg: WorldConfig) -> dict:
    return jax.eval_shape(lambda: world_model.init(cfg, jax.random.key(0)))


@functools.cache
def vae_shapes(cfg: VAEConfig) -> dict:
    return jax.eval_shape(lambda: VAE(cfg).init(jax.random.key(0), jnp.zeros((1, 5, 16, 16, 3)))["params"])


@functools.cache
def text_shapes(cfg: TextConfig) -> dict:
    def init():
        return TextEncoder(cfg).init(jax.random.key(0), jnp.zeros((1, 1), int), jnp.ones((1, 1), int))["params"]

    return jax.eval_shape(init)


@functools.cache
def image_shapes(cfg: ImageConfig) -> dict:
    size = (1, cfg.image_size, cfg.image_size, 3)
    return jax.eval_shape(lambda: ImageEncoder(cfg).init(jax.random.key(0), jnp.zeros(size))["params"])


SHAPES = {
    "transformer": world_shapes,
    "vae": vae_shapes,
    "text_encoder": text_shapes,
    "image_encoder": image_shapes,
}  # by kind of network


def parameter_count(tree: dict) -> int:
    return sum(a.size for a in flatten_dict(tree).values())
