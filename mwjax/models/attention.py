"""Attention as one function. Scores of a block of queries against a block of keys are all that ever exists at once."""

import functools

import jax
import jax.numpy as jnp

from mwjax.types import Array, Bool, Float

BLOCK = 1024


def attention(
    q: Float[Array, "b l n k"], k: Float[Array, "b s n k"], v: Float[Array, "b s n k"], *, bias: Float[Array, "#b n l s"] | None = None,
    mask: Bool[Array, "b s"] | None = None, scale: float | None = None,
) -> Float[Array, "b l n k"]:  # fmt: skip
    """softmax(q kᵀ · scale + bias) v with float32 sums; scale defaults to 1/√k.

    Beyond BLOCK tokens the keys and queries go by in blocks (Rabe & Staats 2021, "Self-attention does not need O(n²)
    memory"): memory is linear in tokens, forward and backward. `mask` marks the keys to attend to; `bias` and `mask`
    are for the short sequences of text encoders only.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if bias is not None or mask is not None or max(q.shape[1], k.shape[1]) <= BLOCK:
        scores = jnp.einsum("blnk,bsnk->bnls", q, k, preferred_element_type=jnp.float32) * scale
        if bias is not None:
            scores = scores + bias
        if mask is not None:
            scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
        weights = jax.nn.softmax(scores, -1).astype(v.dtype)
        return jnp.einsum("bnls,bsnk->blnk", weights, v)
    return _blockwise(q, k, v, scale)


def _blockwise(q, k, v, scale):
    b, l, n, _ = q.shape
    q, _ = _blocks(q)
    k, valid = _blocks(k)
    v, _ = _blocks(v)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def one_query_block(q):
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def add_key_block(carry, kv):
            top, total, out = carry
            k, v, valid = kv
            scores = jnp.einsum("blnk,bsnk->bnls", q, k, preferred_element_type=jnp.float32) * scale
            scores = jnp.where(valid, scores, -jnp.inf)
            new_top = jnp.maximum(top, scores.max(-1))
            weights = jnp.exp(scores - new_top[..., None])
            decay = jnp.exp(top - new_top)
            total = total * decay + weights.sum(-1)
            out = out * decay[..., None] + jnp.einsum("bnls,bsnk->bnlk", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
            return (new_top, total, out), None

        shape = (b, n, q.shape[1])
        start = (jnp.full(shape, -1e30, jnp.float32), jnp.zeros(shape, jnp.float32), jnp.zeros((*shape, v.shape[-1]), jnp.float32))
        (_, total, out), _ = jax.lax.scan(add_key_block, start, (k, v, valid))
        return (out / total[..., None]).transpose(0, 2, 1, 3).astype(v.dtype)

    out = jax.lax.map(one_query_block, q)
    return out.transpose(1, 0, 2, 3, 4).reshape(b, -1, n, v.shape[-1])[:, :l]


def _blocks(x):
    """[b, l, n, k] to [blocks, b, BLOCK, n, k], zero-padded, and which entries are real [blocks, BLOCK]."""
    b, l, n, k = x.shape
    count = -(-l // BLOCK)
    size = -(-l // count)
    x = jnp.pad(x, ((0, 0), (0, count * size - l), (0, 0), (0, 0)))
    valid = (jnp.arange(count * size) < l).reshape(count, size)
    return x.reshape(b, count, size, n, k).transpose(1, 0, 2, 3, 4), valid
