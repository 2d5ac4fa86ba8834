"""UMT5 text encoder (mT5 with a relative-position table in every layer). Source: Wan2.1 `wan/modules/t5.py`."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from mwjax.models.attention import attention
from mwjax.models.layers import ACTIVATIONS, Dense, Module, RMSNorm, stacked_init
from mwjax.types import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Sizes of the encoder; the defaults are UMT5-xxl's."""

    vocab: int = 256384
    dim: int = 4096
    dim_attn: int = 4096
    dim_ffn: int = 10240
    num_heads: int = 64
    num_layers: int = 24
    num_buckets: int = 32
    max_distance: int = 128


def relative_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """Bucket of key − query position, int [l, l]: exact when near, logarithmic when far, half the buckets for each
    side."""
    offset = np.arange(length)[None] - np.arange(length)[:, None]
    half = buckets // 2
    distance, exact = np.abs(offset), half // 2
    far = exact + (np.log(np.maximum(distance, 1) / exact) / np.log(max_distance / exact) * (half - exact)).astype(int)
    return (offset > 0) * half + np.where(distance < exact, distance, np.minimum(far, half - 1))


class TextBlock(Module):
    config: TextConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b l c"], mask: Int[Array, "b l"], buckets: np.ndarray) -> Float[Array, "b l c"]:
        cfg = self.config
        table = self.param("relative_bias", nn.initializers.normal(0.1), (cfg.num_buckets, cfg.num_heads))
        y = RMSNorm(name="norm1")(x)
        q, k, v = (
            rearrange(Dense(cfg.dim_attn, use_bias=False, name=name)(y), "b l (n k) -> b l n k", n=cfg.num_heads)
            for name in ("q", "k", "v")
        )
        bias = table[buckets].transpose(2, 0, 1)[None].astype(jnp.float32)
        y = attention(q, k, v, bias=bias, mask=mask > 0, scale=1.0)
        x = x + Dense(cfg.dim, use_bias=False, name="o")(rearrange(y, "b l n k -> b l (n k)"))
        y = RMSNorm(name="norm2")(x)
        gate = ACTIVATIONS["gelu_tanh"](Dense(cfg.dim_ffn, use_bias=False, name="gate")(y))
        return x + Dense(cfg.dim, use_bias=False, name="fc2")(gate * Dense(cfg.dim_ffn, use_bias=False, name="fc1")(y))


class TextEncoder(Module):
    """Token ids and mask [b, l] to embeddings [b, l, dim]; only positions with mask 1 mean anything."""

    config: TextConfig

    @nn.compact
    def __call__(self, ids: Int[Array, "b l"], mask: Int[Array, "b l"]) -> Float[Array, "b l c"]:
        cfg = self.config
        table = self.param("token_embedding", nn.initializers.normal(1.0), (cfg.vocab, cfg.dim))
        block = TextBlock(cfg, parent=None)
        example = (jnp.zeros((1, 1, cfg.dim)), jnp.ones((1, 1), int), np.zeros((1, 1), int))
        blocks = self.param("blocks", stacked_init(block, cfg.num_layers, *example))
        buckets = relative_buckets(ids.shape[1], cfg.num_buckets, cfg.max_distance)
        x, _ = jax.lax.scan(lambda x, p: (block.apply({"params": p}, x, mask, buckets), None), table[ids], blocks)
        return RMSNorm(name="norm")(x)
