"""ControlNet-style action branch: copies of every second block that see the action features. Source: Micro-World T2W."""

import flax.linen as nn
import jax

from mwjax.models.dit import Branch, ContextKV, DiTConfig, init_blocks, stacked_context_kv
from mwjax.models.layers import Dense, Module, stacked_init
from mwjax.types import Array, Float

EVERY = 2  # base blocks per control block


class ControlNet(Module):
    """Makes the Branch that the backbone runs beside its blocks.

    The first control block starts from the embedded tokens plus a projection of the action feature, the same for every
    token of a latent frame; each block gives a projection of its tokens as residual. The latter start at zero, so an untrained
    branch changes nothing. The former starts at random, unlike the original's: between two zeros the actions would get no gradient.
    """

    config: DiTConfig
    action_dim: int

    def setup(self):
        cfg = self.config
        count = -(-cfg.num_layers // EVERY)
        if cfg.num_layers % EVERY:
            raise ValueError(f"a ControlNet needs an even number of layers, not {cfg.num_layers}")
        self.blocks = self.param("blocks", init_blocks(cfg, count))
        self.before_proj = Dense(cfg.dim)
        self._project = Dense(cfg.dim, kernel_init=nn.initializers.zeros, parent=None)
        self.after_proj = self.param("after_proj", stacked_init(self._project, count, jax.numpy.zeros((1, cfg.dim))))

    def prepare(self, actions: Float[Array, "b t a"], text: Float[Array, "b s d"], image: Float[Array, "b i d"] | None) -> tuple[Array, ContextKV]:
        """What does not change over steps: the projected action features [b, t, 1, d] and the blocks' keys and values of embedded text and image."""
        return self.before_proj(actions)[:, :, None], stacked_context_kv(self.config, {"params": self.blocks}, text, image)

    def branch(self, prepared: tuple[Array, ContextKV], scale: float | Array = 1.0) -> Branch:
        first, context_kv = prepared
        project = self._project

        def step(params, tokens, context_kv, run):
            tokens = run({"params": params[0]}, tokens, context_kv)
            return tokens, project.apply({"params": params[1]}, tokens)

        start = lambda x: x + first.astype(x.dtype)
        return Branch(start=start, step=step, params=(self.blocks, self.after_proj), context_kv=context_kv, every=EVERY, scale=scale)
