"""Actions as modulation: six vectors per block and latent frame, added to the time modulation. Source: Micro-World
I2W."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from mwjax.models.cache import KV
from mwjax.models.controls.control import Control
from mwjax.models.dit import Injection
from mwjax.types import Array, Float


class AdaLN(Control):
    """Action features to the modulation of every block. The projections start at zero, so an untrained module changes
    nothing."""

    SIGNAL_BATCH = 1  # blocks come first

    @nn.compact
    def signal(self, features: Float[Array, "b t a"], inputs: Mapping[str, Array]) -> Float[Array, "blocks b t 6 d"]:
        del inputs
        cfg = self.config
        kernel = self.param("kernel", nn.initializers.zeros, (cfg.num_layers, features.shape[-1], 6 * cfg.dim))
        bias = self.param("bias", nn.initializers.zeros, (cfg.num_layers, 6 * cfg.dim))
        kernel, bias = kernel.astype(features.dtype), bias.astype(features.dtype)
        y = jnp.einsum("bta,lad->lbtd", jax.nn.silu(features), kernel) + bias[:, None, None]
        return y.reshape(*y.shape[:-1], 6, cfg.dim)

    def inject(
        self, context: None, signal: Float[Array, "blocks b t 6 d"], scale: float | Array, past: KV | None
    ) -> Injection:
        del context, past
        return Injection(modulation=signal * jnp.reshape(jnp.asarray(scale), (1, -1, 1, 1, 1)))
