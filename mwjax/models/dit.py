"""The Wan2.1 diffusion transformer: velocity of noisy latents given text and, optionally, an image.
Source: Wan2.1 `wan/modules/model.py`.

The blocks' parameters are stacked and scanned over, so compile time does not grow with depth. Controls enter by an
Injection; a causal model remembers by a Past.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from mwjax.models.attention import Chunks
from mwjax.models.block import REMAT, Block, ContextKV, DiTConfig, Own, Shared, init_blocks, stacked_context_kv
from mwjax.models.cache import KV, Kept, Past
from mwjax.models.layers import MLP, Dense, LayerNorm, Module, layer_norm, sinusoid
from mwjax.models.rope import rope_at, rope_table
from mwjax.parallel.sharding import constrain
from mwjax.types import Array, Float


class Branch(NamedTuple):
    """A side branch run in step with the blocks: one of its blocks per `every` base blocks.

    start(x) gives its tokens from the embedded tokens; step(params, tokens, own, run) advances it by one block and
    gives (tokens, residual for the output of the first base block of each group, what it would keep). `run(variables,
    tokens, own)` applies a base-type block. params and own are stacked over the branch's blocks.
    """

    start: Callable[[Array], Array]
    step: Callable[[Any, Array, Own, Callable], tuple[Array, Array, KV | None]]
    params: Any
    own: Own
    every: int
    scale: float | Array


class Injection(NamedTuple):
    """The three ways into the backbone: tokens added to the embedded ones, modulation added to every block's, a
    branch."""

    tokens: Float[Array, "b t #p d"] | None = None
    modulation: Float[Array, "blocks b t 6 d"] | None = None
    branch: Branch | None = None

    def __add__(self, other: "Injection") -> "Injection":
        if self.branch is not None and other.branch is not None:
            raise ValueError("two controls with a branch of their own cannot be added up")

        def total(a, b):
            if a is None or b is None:
                return b if a is None else a
            return a + b

        branch = other.branch if self.branch is None else self.branch
        return Injection(total(self.tokens, other.tokens), total(self.modulation, other.modulation), branch)


class ImageEmbedding(Module):
    """Image tokens to the model's width: norm, two layers, norm."""

    config: DiTConfig

    @nn.compact
    def __call__(self, image: Float[Array, "b i c"]) -> Float[Array, "b i d"]:
        x = MLP(image.shape[-1], self.config.dim, name="mlp")(LayerNorm(1e-5, name="norm_in")(image))
        return LayerNorm(1e-5, name="norm_out")(x)


class Backbone(Module):
    """Patch embedding, blocks, head. Call `context_kv` once per prompt and the module itself at every step."""

    config: DiTConfig

    def setup(self):
        cfg = self.config
        self.patch_embedding = Dense(cfg.dim)
        self.text_embedding = MLP(cfg.dim, cfg.dim, "gelu_tanh")
        self.time_embedding = MLP(cfg.dim, cfg.dim, "silu")
        self.time_projection = Dense(6 * cfg.dim)
        if cfg.image_dim:
            self.image_embedding = ImageEmbedding(cfg)
        self.blocks = self.param("blocks", init_blocks(cfg, cfg.num_layers))
        self.head_modulation = self.param("head_modulation", nn.initializers.normal(cfg.dim**-0.5), (2, cfg.dim))
        self.head = Dense(cfg.out_dim * cfg.patch**2, kernel_init=nn.initializers.zeros)

    def block_variables(self) -> dict:
        """Parameters and adapters of all blocks, stacked."""
        lora = {"lora": self.get_variable("lora", "blocks")} if self.has_variable("lora", "blocks") else {}
        return {"params": self.blocks, **lora}

    def embed_text(self, text: Float[Array, "b s c"]) -> Float[Array, "b s2 d"]:
        """Text encoder outputs, zero-padded to text_len, to the model's width."""
        missing = self.config.text_len - text.shape[1]
        if missing < 0:
            raise ValueError(f"text has {text.shape[1]} tokens, the model takes {self.config.text_len}")
        return self.text_embedding(jnp.pad(text, ((0, 0), (0, missing), (0, 0))))

    def embed_image(self, image: Float[Array, "b i c"]) -> Float[Array, "b i d"]:
        """Image encoder outputs to the model's width."""
        return self.image_embedding(image)

    def embed_time(self, timesteps: Float[Array, "b #t"]) -> tuple[Float[Array, "b #t d"], Float[Array, "b #t 6 d"]]:
        """Embedding of timesteps, and its projection to what all blocks add to their modulation; float32 where the
        timesteps are."""
        embedded = self.time_embedding(sinusoid(timesteps, self.config.freq_dim))
        projected = self.time_projection(jax.nn.silu(embedded))
        return embedded, projected.reshape(*timesteps.shape, 6, self.config.dim)

    def context_kv(self, text: Float[Array, "b s d"], image: Float[Array, "b i d"] | None = None) -> ContextKV:
        """Keys and values of every block, stacked, from embedded text and image."""
        return stacked_context_kv(self.config, self.block_variables(), text, image)

    def __call__(
        self,
        latents: Float[Array, "b t h w c"],
        timesteps: Float[Array, " b"] | Float[Array, "b t"],
        context: ContextKV,
        injection: Injection = Injection(),  # noqa: B008  immutable
        *,
        past: Past | None = None,
        chunks: Chunks | None = None,
        reuse: tuple[Array, Float[Array, "b t p d"]] | None = None,
    ) -> tuple[Float[Array, "b t h w o"], dict]:
        """Velocity of `latents` at `timesteps` (0 … 1000, of each clip or each latent frame), and intermediates: the
        branch's `residuals`; with `past`, what these frames leave, `kept`; with `reuse`, the blocks' `change`.

        past: what came before these frames, which then see it all and each other. chunks: of a whole clip instead,
        see `self_attention`. reuse: (whether to run the blocks, what to add to the tokens in their place if not);
        `change` is what was added, to be given to the next step.
        """
        cfg = self.config
        _, t, h, w, _ = latents.shape
        grid = (h // cfg.patch, w // cfg.patch)
        embedded_time, time = self.embed_time(timesteps.reshape(len(timesteps), -1))
        x = self.tokens(latents)
        if injection.tokens is not None:
            x = x + injection.tokens.astype(x.dtype)
        channels = cfg.dim // cfg.num_heads
        if past is None:
            shared = Shared(time, rope_table((t, *grid), channels), chunks)
        else:
            own_frames = past.frames[:, None] + jnp.arange(t)[None]
            slots = rope_table((past.kept.base.k.shape[2], *grid), channels)
            shared = Shared(time, rope_at(own_frames, grid, channels), None, slots, past.frames)
        own = Own(context, injection.modulation, None if past is None else past.kept.base)
        if reuse is None:
            x, out = self.run_blocks(x, shared, own, injection.branch)
        else:
            x, out = self.run_or_reuse(x, shared, own, injection.branch, reuse)
        patches = self.to_velocity(x, embedded_time)
        sides = {"h": grid[0], "p": cfg.patch, "q": cfg.patch}
        return rearrange(patches, "b t (h w) (p q c) -> b t (h p) (w q) c", **sides), out

    def tokens(self, latents: Float[Array, "b t h w c"]) -> Float[Array, "b t p d"]:
        """Embedded patches. Raises ValueError if the latents do not divide into them."""
        patch = self.config.patch
        h, w = latents.shape[2:4]
        if h % patch or w % patch:
            raise ValueError(f"latents of {h}x{w} do not divide into patches of {patch}")
        patches = rearrange(latents, "b t (h p) (w q) c -> b t (h w) (p q c)", p=patch, q=patch)
        return constrain(self.patch_embedding(patches), "batch", None, "tokens", None)

    def run_blocks(self, x: Float[Array, "b t p d"], shared: Shared, own: Own, branch: Branch | None):
        """(tokens after all blocks, intermediates)."""
        cfg = self.config
        block = Block(cfg, parent=None)
        run = REMAT[cfg.remat](lambda variables, x, own: block.apply(variables, x, shared, own))
        layers = (self.block_variables(), own)
        if branch is None:
            x, kept = jax.lax.scan(lambda x, layer: run(layer[0], x, layer[1]), x, layers, unroll=cfg.unroll)
            return x, {"residuals": None, "kept": kept and Kept(kept)}
        x, residuals, kept = run_with_branch(run, x, layers, branch, unroll=cfg.unroll)
        return x, {"residuals": residuals, "kept": kept}

    def run_or_reuse(self, x: Float[Array, "b t p d"], shared: Shared, own: Own, branch: Branch | None, reuse: tuple):
        """As `run_blocks`, or what the blocks changed before, added again."""

        def run(x, change):
            del change
            return self.run_blocks(x, shared, own, branch)[0] - x

        change = jax.lax.cond(reuse[0], run, lambda x, change: change.astype(x.dtype), x, reuse[1])
        return x + change, {"change": change}

    def to_velocity(self, x: Float[Array, "b t p d"], time: Float[Array, "b #t d"]) -> Float[Array, "b t p o"]:
        """The head: patches of velocity from tokens and the embedded time."""
        modulation = self.head_modulation.astype(jnp.float32)[None, None] + time[:, :, None]
        shift, scale = jnp.split(modulation, 2, 2)
        return self.head((layer_norm(x, self.config.eps) * (1 + scale) + shift).astype(x.dtype))


def run_with_branch(run: Callable, x: Array, layers: tuple, branch: Branch, *, unroll: bool):
    """(tokens, residuals stacked over the branch's blocks, Kept or None): base blocks in groups of `branch.every`, the
    branch a block ahead of each group; what is left over is a group of its own."""

    def group(carry, part):
        x, tokens = carry
        members, side_params, side_own = part
        tokens, residual, side_kept = branch.step(side_params, tokens, side_own, run)
        kept = []
        for i in range(jax.tree.leaves(members)[0].shape[0]):
            variables, own = jax.tree.map(lambda a, i=i: a[i], members)
            x, new = run(variables, x, own)
            kept.append(new)
            if i == 0:
                x = x + (residual * branch.scale).astype(x.dtype)
        return (x, tokens), (residual, jax.tree.map(lambda *a: jnp.stack(a), *kept), side_kept)

    count = jax.tree.leaves(layers)[0].shape[0]
    groups, left = divmod(count, branch.every)
    side = (branch.params, branch.own)
    whole = jax.tree.map(lambda a: a[: count - left].reshape(groups, branch.every, *a.shape[1:]), layers)
    parts = (whole, *jax.tree.map(lambda a: a[:groups], side))
    carry, (residuals, base, kept) = jax.lax.scan(group, (x, branch.start(x)), parts, unroll=unroll)
    base = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), base)
    if left:
        rest = jax.tree.map(lambda a: a[count - left :], layers)
        carry, last = group(carry, (rest, *jax.tree.map(lambda a: a[groups], side)))
        residuals = jnp.concatenate([residuals, last[0][None]])
        base = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), base, last[1])
        kept = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), kept, last[2])
    return carry[0], residuals, base and Kept(base, kept)
