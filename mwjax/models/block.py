"""The block that the Wan2.1 transformer is made of. Source: Wan2.1 `wan/modules/model.py`.

Tokens are [b, t, h·w, d]: what is constant per latent frame (modulation, noise level, place) is broadcast, never
repeated. State goes in and comes out: a block takes what was kept of the frames before and returns what it would keep
of its own."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name

from mwjax.errors import InputError
from mwjax.models.attention import Chunks, cross_attention, self_attention
from mwjax.models.cache import KV
from mwjax.models.layers import MLP, Dense, LayerNorm, Module, RMSNorm, layer_norm, stacked_init
from mwjax.models.rope import RopeTable, apply_rope, rope_table
from mwjax.parallel.sharding import constrain
from mwjax.ranges import Checked, Range, ranged
from mwjax.types import Array, Float, Int

WIDTH = Range(least=1, most=65_536, whole=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiTConfig(Checked):
    """Sizes of the backbone, and how it is computed.

    patch: latent pixels per token side. image_dim: width of image tokens; 0: no image conditioning. attention:
    backend, see models/attention.py. remat: what the backward pass recomputes, a name of REMAT. unroll: compile block
    after block, not a loop over them: a few small blocks step faster, and compile longer.
    """

    dim: int = ranged(allowed=WIDTH)
    ffn_dim: int = ranged(allowed=WIDTH)
    num_heads: int = ranged(least=1, most=1024, whole=True)
    num_layers: int = ranged(least=1, most=1024, whole=True)
    in_dim: int = ranged(16, WIDTH)
    out_dim: int = ranged(16, WIDTH)
    text_dim: int = ranged(4096, WIDTH)
    text_len: int = ranged(512, least=1, most=65_536, whole=True)
    freq_dim: int = ranged(256, least=2, most=65_536, whole=True)
    image_dim: int = ranged(0, least=0, most=65_536, whole=True)
    patch: int = ranged(2, least=1, most=64, whole=True)
    eps: float = ranged(1e-6, above=0, most=1)
    attention: str = "xla"
    remat: str = "none"
    unroll: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.dim % self.num_heads or self.dim // self.num_heads % 2:
            raise InputError(f"dim {self.dim} does not divide into num_heads {self.num_heads} of an even width")


def _offloaded(run: Callable) -> Callable:
    """Recompute each block from its input, which waits in host memory."""
    policy = jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=["block_input"],
        offload_src="device",
        offload_dst="pinned_host",
    )

    def named(variables, x, *rest):
        return run(variables, checkpoint_name(x, "block_input"), *rest)

    return jax.checkpoint(named, policy=policy)


def _dots(run: Callable) -> Callable:
    return jax.checkpoint(run, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable)


# What is kept of a block for its backward pass, from most memory to least.
REMAT: dict[str, Callable[[Callable], Callable]] = {
    "none": lambda run: run,  # everything
    "dots": _dots,  # results of linear layers
    "blocks": jax.checkpoint,  # its input
    "offload": _offloaded,  # nothing on the device
}


class ContextKV(NamedTuple):
    """Keys and values of text and image, computed once per prompt. [b, s, n, k]; stacked: [blocks, b, s, n, k]."""

    k: Array
    v: Array
    k_img: Array | None = None
    v_img: Array | None = None


class Shared(NamedTuple):
    """What all blocks of a pass get alike.

    time: projected noise level, per clip or per latent frame. rope: of the pass's own frames. chunks: which frames
    see each other, see `self_attention`. past_rope, past_frames: of the cache, if there is one.
    """

    time: Float[Array, "b #t 6 d"]
    rope: RopeTable
    chunks: Chunks | None = None
    past_rope: RopeTable | None = None
    past_frames: Int[Array, " b"] | None = None


class Own(NamedTuple):
    """What each block gets for itself; stacked over blocks, these are scanned over.

    modulation: what it adds to the time modulation, per latent frame. past: keys and values of the frames before.
    """

    context: ContextKV
    modulation: Float[Array, "*blocks b t 6 d"] | None = None
    past: KV | None = None


class SelfAttention(Module):
    config: DiTConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t p d"], shared: Shared, past: KV | None
    ) -> tuple[Float[Array, "b t p d"], KV | None]:
        cfg = self.config
        q = RMSNorm(cfg.eps, name="norm_q")(Dense(cfg.dim, name="q")(x))
        k = RMSNorm(cfg.eps, name="norm_k")(Dense(cfg.dim, name="k")(x))
        v = Dense(cfg.dim, name="v")(x)
        q, k, v = (rearrange(a, "b t p (n k) -> b t p n k", n=cfg.num_heads) for a in (q, k, v))
        queries, keys = apply_rope(q, shared.rope), apply_rope(k, shared.rope)
        if past is None:
            y = self_attention(queries, keys, v, chunks=shared.chunks, backend=cfg.attention)
            kept = None
        else:  # its own frames first, so that what is there comes first
            keys = jnp.concatenate([keys, apply_rope(past.k, shared.past_rope)], 1)
            values = jnp.concatenate([v, past.v], 1)
            frames = x.shape[1] + shared.past_frames
            y = self_attention(queries, keys, values, frames=frames, backend=cfg.attention)
            kept = KV(*(constrain(a, "batch", None, None, "all heads", None) for a in (k, v)))
        return Dense(cfg.dim, name="o")(rearrange(y, "b t p n k -> b t p (n k)")), kept


class CrossAttention(Module):
    """Attention to text and image, summed; keys and values come from `kv`, once per prompt. The text's padding is
    attended to, as in the original."""

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

    def __call__(
        self, x: Float[Array, "b t p d"], shared: Shared, own: Own
    ) -> tuple[Float[Array, "b t p d"], KV | None]:
        """(tokens, what to keep of them: None without a past)."""
        cfg = self.config
        x = constrain(x, "batch", None, "tokens", None)
        time = shared.time if own.modulation is None else shared.time + own.modulation
        modulation = self.modulation.astype(jnp.float32)[None, None] + time
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(modulation, 6, 2)
        y = (layer_norm(x, cfg.eps) * (1 + scale1) + shift1).astype(x.dtype)
        y, kept = self.self_attn(y, shared, own.past)
        x = (x + y * gate1).astype(x.dtype)
        x = x + self.cross_attn(self.norm3(x), own.context)
        y = (layer_norm(x, cfg.eps) * (1 + scale2) + shift2).astype(x.dtype)
        return (x + self.ffn(y) * gate2).astype(x.dtype), kept

    def init_all(self, text, x, shared):
        """Touch every parameter once, for initialisation."""
        return self(x, shared, Own(self.context_kv(text, text)))


def init_blocks(cfg: DiTConfig, length: int) -> Callable:
    """An initialiser of `length` stacked blocks."""
    text, x = jnp.zeros((1, 1, cfg.dim)), jnp.zeros((1, 1, 1, cfg.dim))
    shared = Shared(jnp.zeros((1, 1, 6, cfg.dim)), rope_table((1, 1, 1), cfg.dim // cfg.num_heads))
    return stacked_init(Block(cfg, parent=None), length, text, x, shared, method="init_all")


def stacked_context_kv(
    cfg: DiTConfig, variables: dict, text: Float[Array, "b s d"], image: Float[Array, "b i d"] | None = None
) -> ContextKV:
    """Text (and image) keys and values of stacked blocks, one after the other."""
    block = Block(cfg, parent=None)
    return jax.lax.map(lambda v: block.apply(v, text, image, method="context_kv"), variables)
