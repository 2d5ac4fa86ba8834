"""Shapes of every network's parameters for given sizes; nothing is allocated. Each takes a second or so to find, so they are kept: do not change them."""

import functools

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from mwjax.evaluation.networks.idm import IDMConfig, InverseDynamics
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
    return jax.eval_shape(lambda: TextEncoder(cfg).init(jax.random.key(0), jnp.zeros((1, 1), int), jnp.ones((1, 1), int))["params"])


@functools.cache
def image_shapes(cfg: ImageConfig) -> dict:
    pixels = jnp.zeros((1, cfg.image_size, cfg.image_size, 3))
    return jax.eval_shape(lambda: ImageEncoder(cfg).init(jax.random.key(0), pixels)["params"])


@functools.cache
def idm_shapes(cfg: IDMConfig) -> dict:
    video = jnp.zeros((1, 1, *cfg.image_size, 3), jnp.uint8)
    return jax.eval_shape(lambda: InverseDynamics(cfg).init(jax.random.key(0), video)["params"])


def parameter_count(tree: dict) -> int:
    return sum(a.size for a in flatten_dict(tree).values())
