"""Actions as modulation: six vectors per block and latent frame, added to the time modulation. Source: Micro-World I2W."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mwjax.models.dit import DiTConfig
from mwjax.models.layers import Module
from mwjax.types import Array, Float


class AdaLN(Module):
    """Action features to the modulation of every block. The projections start at zero, so an untrained module changes nothing."""

    config: DiTConfig

    @nn.compact
    def __call__(self, actions: Float[Array, "b t a"]) -> Float[Array, "blocks b t 6 d"]:
        cfg = self.config
        kernel = self.param("kernel", nn.initializers.zeros, (cfg.num_layers, actions.shape[-1], 6 * cfg.dim))
        bias = self.param("bias", nn.initializers.zeros, (cfg.num_layers, 6 * cfg.dim))
        y = jnp.einsum("bta,lad->lbtd", jax.nn.silu(actions), kernel.astype(actions.dtype)) + bias.astype(actions.dtype)[:, None, None]
        return y.reshape(*y.shape[:-1], 6, cfg.dim)
