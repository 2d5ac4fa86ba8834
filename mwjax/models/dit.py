"""The Wan2.1 diffusion transformer: velocity of noisy latents given text and, optionally, an image. Source: Wan2.1 `wan/modules/model.py`.

Tokens are [b, t, h·w, d]: what is constant per latent frame (modulation, action features) is broadcast, never repeated.
The blocks' parameters are stacked and scanned over, so compile time does not grow with depth.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name

from mwjax.models.attention import cross_attention, self_attention
from mwjax.models.layers import MLP, Dense, LayerNorm, Module, RMSNorm, layer_norm, sinusoid, stacked_init
from mwjax.models.rope import apply_rope, rope_table
from mwjax.parallel.sharding import constrain
from mwjax.types import Array, Float


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """Sizes of the backbone; `patch` is latent pixels per token side."""

    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    in_dim: int = 16
    out_dim: int = 16
    text_dim: int = 4096
    text_len: int = 512
    freq_dim: int = 256
    image_dim: int = 0  # width of image tokens; 0: no image conditioning
    patch: int = 2
    eps: float = 1e-6
    attention: str = "xla"  # backend; see models/attention.py
    remat: str = "none"  # what the backward pass recomputes; a name of REMAT
    unroll: bool = False  # compile block after block, not a loop over them: a few small blocks step faster, and compile longer


def _offloaded(run: Callable) -> Callable:
    """Recompute each block from its input, which waits in host memory."""
    policy = jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[], names_which_can_be_offloaded=["block_input"], offload_src="device", offload_dst="pinned_host"
    )
    named = lambda variables, x, *rest: run(variables, checkpoint_name(x, "block_input"), *rest)
    return jax.checkpoint(named, policy=policy)


# What is kept of a block for its backward pass, from most memory to least.
REMAT: dict[str, Callable[[Callable], Callable]] = {
    "none": lambda run: run,  # everything
    "dots": lambda run: jax.checkpoint(run, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable),  # results of linear layers
    "blocks": jax.checkpoint,  # its input
    "offload": _offloaded,  # nothing on the device
}


class ContextKV(NamedTuple):
    """Keys and values of text and image, computed once per prompt. [b, s, n, k]; stacked over blocks: [blocks, b, s, n, k]."""

    k: Array
    v: Array
    k_img: Array | None = None
    v_img: Array | None = None


class Branch(NamedTuple):
    """A side branch run in step with the blocks: one of its blocks per `every` base blocks.

    start(x) gives its tokens from the embedded tokens; step(params, tokens, context_kv, run) advances it by one block and
    gives a residual for the output of the first base block of each group. `run(block_params, tokens, context_kv)` applies a
    base-type block. params and context_kv are stacked over the branch's blocks.
    """

    start: Callable[[Array], Array]
    step: Callable[[Any, Array, ContextKV, Callable], tuple[Array, Array]]
    params: Any
    context_kv: ContextKV
    every: int
    scale: float | Array


class SelfAttention(Module):
    config: DiTConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b t p d"], table) -> Float[Array, "b t p d"]:
        cfg = self.config
        q = RMSNorm(cfg.eps, name="norm_q")(Dense(cfg.dim, name="q")(x))
        k = RMSNorm(cfg.eps, name="norm_k")(Dense(cfg.dim, name="k")(x))
        v = Dense(cfg.dim, name="v")(x)
        q, k, v = (rearrange(a, "b t p (n k) -> b t p n k", n=cfg.num_heads) for a in (q, k, v))
        y = self_attention(apply_rope(q, table), apply_rope(k, table), v, backend=cfg.attention)
        return Dense(cfg.dim, name="o")(rearrange(y, "b t p n k -> b t p (n k)"))


class CrossAttention(Module):
    """Attention to text and image, summed; keys and values come from `kv`, once per prompt. The text's padding is attended to, as in the original."""

    config: DiTConfig

    def setup(self):
        cfg = self.config
        self.q, self.k, self.v, self.o = (Dense(cfg.dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(cfg.eps), RMSNorm(cfg.eps)
        if cfg.image_dim:
            self.k_img, self.v_img, self.norm_k_img = Dense(cfg.dim), Dense(cfg.dim), RMSNorm(cfg.eps)

    def kv(self, text: Float[Array, "b s d"], image: Float[Array, "b i d"] | None = None) -> ContextKV:
        pairs = [self.norm_k(self.k(text)), self.v(text)]
        if self.config.image_dim:
            pairs += [self.norm_k_img(self.k_img(image)), self.v_img(image)]
        return ContextKV(*(rearrange(a, "b s (n k) -> b s n k", n=self.config.num_heads) for a in pairs))

    def __call__(self, x: Float[Array, "b t p d"], kv: ContextKV) -> Float[Array, "b t p d"]:
        q = rearrange(self.norm_q(self.q(x)), "b t p (n k) -> b t p n k", n=self.config.num_heads)
        backend = self.config.attention
        y = cross_attention(q, kv.k, kv.v, backend=backend)
        if kv.k_img is not None:
            y = y + cross_attention(q, kv.k_img, kv.v_img, backend=backend)
        return self.o(rearrange(y, "b t p n k -> b t p (n k)"))


class ImageEmbedding(Module):
    """Image tokens to the model's width: norm, two layers, norm."""

    config: DiTConfig

    @nn.compact
    def __call__(self, image: Float[Array, "b i c"]) -> Float[Array, "b i d"]:
        x = MLP(image.shape[-1], self.config.dim, name="mlp")(LayerNorm(1e-5, name="norm_in")(image))
        return LayerNorm(1e-5, name="norm_out")(x)


class Block(Module):
    """Modulated self-attention, text cross-attention, modulated MLP."""

    config: DiTConfig

    def setup(self):
        cfg = self.config
        self.modulation = self.param("modulation", nn.initializers.normal(cfg.dim**-0.5), (6, cfg.dim))
        self.self_attn, self.cross_attn = SelfAttention(cfg), CrossAttention(cfg)
        self.norm3 = LayerNorm(cfg.eps)
        self.ffn = MLP(cfg.ffn_dim, cfg.dim, "gelu_tanh")

    def context_kv(self, text: Float[Array, "b s d"], image: Float[Array, "b i d"] | None = None) -> ContextKV:
        return self.cross_attn.kv(text, image)

    def __call__(self, x: Float[Array, "b t p d"], time: Float[Array, "b #t 6 d"], context_kv: ContextKV, table) -> Float[Array, "b t p d"]:
        x = constrain(x, "batch", None, "tokens", None)
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(self.modulation.astype(jnp.float32)[None, None] + time, 6, 2)
        y = (layer_norm(x, self.config.eps) * (1 + scale1) + shift1).astype(x.dtype)
        y = self.self_attn(y, table)
        x = (x + y * gate1).astype(x.dtype)
        x = x + self.cross_attn(self.norm3(x), context_kv)
        y = (layer_norm(x, self.config.eps) * (1 + scale2) + shift2).astype(x.dtype)
        return (x + self.ffn(y) * gate2).astype(x.dtype)

    def init_all(self, text, x, time, table):
        """Touch every parameter once, for initialisation."""
        return self(x, time, self.context_kv(text, text), table)


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

    def _block_variables(self) -> dict:
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

    def embed_time(self, timesteps: Float[Array, " b"]) -> tuple[Float[Array, "b d"], Float[Array, "b 6 d"]]:
        """Embedding of timesteps, and its projection to what all blocks add to their modulation; float32 where the timesteps are."""
        embedded = self.time_embedding(sinusoid(timesteps, self.config.freq_dim))
        return embedded, self.time_projection(jax.nn.silu(embedded)).reshape(-1, 6, self.config.dim)

    def context_kv(self, text: Float[Array, "b s d"], image: Float[Array, "b i d"] | None = None) -> ContextKV:
        """Keys and values of every block, stacked, from embedded text and image."""
        return stacked_context_kv(self.config, self._block_variables(), text, image)

    def __call__(
        self, latents: Float[Array, "b t h w c"], timesteps: Float[Array, " b"], context_kv: ContextKV, branch: Branch | None = None,
        modulation: Float[Array, "blocks b t 6 d"] | None = None, reuse: tuple[Array, Float[Array, "b t p d"]] | None = None,
    ) -> tuple[Float[Array, "b t h w o"], dict]:  # fmt: skip
        """Velocity of `latents` at `timesteps` (0 … 1000), and intermediates: the branch's `residuals` or, with `reuse`, `change`.

        modulation: what each block adds to its time modulation, per latent frame. reuse: (whether to run the blocks, what to add
        to the tokens in their place if not); the intermediate `change` is what was added, to be given to the next step.
        """
        cfg = self.config
        _, t, h, w, _ = latents.shape
        if h % cfg.patch or w % cfg.patch:
            raise ValueError(f"latents of {h}x{w} do not divide into patches of {cfg.patch}; frames must be multiples of {8 * cfg.patch}")
        dtype = latents.dtype
        patches = rearrange(latents, "b t (h p) (w q) c -> b t (h w) (p q c)", p=cfg.patch, q=cfg.patch)
        x = constrain(self.patch_embedding(patches), "batch", None, "tokens", None)
        embedded_time, time = self.embed_time(timesteps)
        time = time[:, None]
        table = rope_table((t, h // cfg.patch, w // cfg.patch), cfg.dim // cfg.num_heads)

        block = Block(cfg, parent=None)

        def run(variables, x, context_kv, modulation=None):
            return block.apply(variables, x, time if modulation is None else time + modulation, context_kv, table)

        run = REMAT[cfg.remat](run)
        layers = (self._block_variables(), context_kv, modulation)

        def blocks(x):
            if branch is None:
                def one(x, layer):
                    variables, context_kv, modulation = layer
                    return run(variables, x, context_kv, modulation), None

                return jax.lax.scan(one, x, layers, unroll=cfg.unroll)

            def group(carry, layers):
                x, side = carry
                layers, side_params, side_kv = layers
                side, residual = branch.step(side_params, side, side_kv, run)
                for i in range(branch.every):
                    variables, context_kv, modulation = jax.tree.map(lambda a, i=i: a[i], layers)
                    x = run(variables, x, context_kv, modulation)
                    if i == 0:
                        x = x + (residual * branch.scale).astype(dtype)
                return (x, side), residual

            grouped = jax.tree.map(lambda a: a.reshape(-1, branch.every, *a.shape[1:]), layers)
            (x, _), residuals = jax.lax.scan(group, (x, branch.start(x)), (grouped, branch.params, branch.context_kv), unroll=cfg.unroll)
            return x, residuals

        if reuse is None:
            x, residuals = blocks(x)
            out = {"residuals": residuals}
        else:
            change = jax.lax.cond(reuse[0], lambda x, change: blocks(x)[0] - x, lambda x, change: change.astype(x.dtype), x, reuse[1])
            x, out = x + change, {"change": change}

        shift, scale = jnp.split(self.head_modulation.astype(jnp.float32)[None] + embedded_time[:, None], 2, 1)
        x = self.head((layer_norm(x, cfg.eps) * (1 + scale[:, None]) + shift[:, None]).astype(dtype))
        velocity = rearrange(x, "b t (h w) (p q c) -> b t (h p) (w q) c", h=h // cfg.patch, p=cfg.patch, q=cfg.patch)
        return velocity, out


def init_blocks(cfg: DiTConfig, length: int) -> Callable:
    """An initialiser of `length` stacked blocks."""
    side = (1, 1, 1, cfg.dim)
    example = (jnp.zeros((1, 1, cfg.dim)), jnp.zeros(side), jnp.zeros((1, 1, 6, cfg.dim)), rope_table((1, 1, 1), cfg.dim // cfg.num_heads))
    return stacked_init(Block(cfg, parent=None), length, *example, method="init_all")


def stacked_context_kv(cfg: DiTConfig, variables: dict, text: Float[Array, "b s d"], image: Float[Array, "b i d"] | None = None) -> ContextKV:
    """Text (and image) keys and values of stacked blocks, one after the other."""
    block = Block(cfg, parent=None)
    return jax.lax.map(lambda v: block.apply(v, text, image, method="context_kv"), variables)
