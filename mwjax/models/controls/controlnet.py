"""ControlNet-style action branch: copies of every second block that see the action features. Source: Micro-World
T2W."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp

from mwjax.models.block import ContextKV, Own, init_blocks, stacked_context_kv
from mwjax.models.cache import KV
from mwjax.models.controls.control import Control
from mwjax.models.dit import Branch, Injection
from mwjax.models.layers import Dense, stacked_init
from mwjax.types import Array, Float

EVERY = 2  # base blocks per control block


class ControlNet(Control):
    """Makes the Branch that the backbone runs beside its blocks: copies of base blocks 0, 2, 4, …

    The first control block starts from the embedded tokens plus a projection of the action feature, the same for every
    token of a latent frame; each block gives a projection of its tokens as residual. The latter start at zero, so an
    untrained branch changes nothing. The former starts at random, unlike the original's: between two zeros the actions
    would get no gradient.
    """

    EVERY = EVERY

    def setup(self):
        cfg = self.config
        count = -(-cfg.num_layers // EVERY)
        self.blocks = self.param("blocks", init_blocks(cfg, count))
        self.before_proj = Dense(cfg.dim)
        self._project = Dense(cfg.dim, kernel_init=nn.initializers.zeros, parent=None)
        self.after_proj = self.param("after_proj", stacked_init(self._project, count, jnp.zeros((1, cfg.dim))))

    def context(self, text: Float[Array, "b s d"], image: Float[Array, "b i d"] | None) -> ContextKV:
        """The blocks' keys and values, stacked."""
        return stacked_context_kv(self.config, {"params": self.blocks}, text, image)

    def signal(self, features: Float[Array, "b t a"], inputs: Mapping[str, Array]) -> Float[Array, "b t 1 d"]:
        """What is added to every token of a latent frame."""
        del inputs
        return self.before_proj(features)[:, :, None]

    def inject(
        self, context: ContextKV, signal: Float[Array, "b t 1 d"], scale: float | Array, past: KV | None
    ) -> Injection:
        project = self._project

        def step(params, tokens, own, run):
            tokens, kept = run({"params": params[0]}, tokens, own)
            return tokens, project.apply({"params": params[1]}, tokens), kept

        def start(x):
            return x + signal.astype(x.dtype)

        own = Own(context, None, past)
        return Injection(branch=Branch(start, step, (self.blocks, self.after_proj), own, EVERY, scale))
