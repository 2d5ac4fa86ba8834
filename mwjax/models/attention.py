"""Attention as one function with interchangeable backends. Scores of a block of queries against a block of keys are
all that ever exists at once."""

import functools
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp

from mwjax.errors import InputError
from mwjax.parallel.sharding import constrain, locally, padded_heads
from mwjax.types import Array, Bool, Float, Int

BLOCK = 1024

Chunks = tuple[tuple[int, int], ...]  # (first frame, last frame + 1) of each


def attention(
    q: Float[Array, "b l n k"],
    k: Float[Array, "b s n k"],
    v: Float[Array, "b s n k"],
    *,
    bias: Float[Array, "#b n l s"] | None = None,
    mask: Bool[Array, "b s"] | None = None,
    scale: float | None = None,
    backend: str = "xla",
) -> Float[Array, "b l n k"]:
    """softmax(q kᵀ · scale + bias) v with float32 sums; scale defaults to 1/√k. backend: a name of BACKENDS (see
    `choose`), or "plain" for the textbook formula, to count its arithmetic by.

    Beyond BLOCK tokens the keys and queries go by in blocks: memory is linear in tokens, forward and backward. `mask`
    marks the keys to attend to; `bias` and `mask` are for the short sequences of text encoders only.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    short = max(q.shape[1], k.shape[1]) <= BLOCK
    if bias is not None or mask is not None or short or backend == "plain":
        return _plain(q, k, v, bias, mask, scale)
    return BACKENDS[backend](q, k, v, scale)


def _plain(q, k, v, bias, mask, scale):
    scores = jnp.einsum("blnk,bsnk->bnls", q, k, preferred_element_type=jnp.float32) * scale
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores, -1).astype(v.dtype)
    return jnp.einsum("bnls,bsnk->blnk", weights, v)


def prefix_attention(
    q: Float[Array, "b l n k"],
    k: Float[Array, "b s n k"],
    v: Float[Array, "b s n k"],
    length: Int[Array, " b"],
    *,
    backend: str = "xla",
) -> Float[Array, "b l n k"]:
    """Attention to the first `length` keys of each clip; at least one. The others may hold anything finite."""
    scale = q.shape[-1] ** -0.5
    if max(q.shape[1], k.shape[1]) <= BLOCK or backend == "plain":
        return _plain(q, k, v, None, jnp.arange(k.shape[1])[None] < length[:, None], scale)
    return BACKENDS[backend](q, k, v, scale, length=length)


def self_attention(
    q: Float[Array, "b t p n k"],
    k: Float[Array, "b t2 p n k"],
    v: Float[Array, "b t2 p n k"],
    *,
    chunks: Chunks | None = None,
    frames: Int[Array, " b"] | None = None,
    backend: str = "xla",
) -> Float[Array, "b t p n k"]:
    """Attention among the tokens of a clip: every frame to every frame; with `chunks` (first and last + 1 frame of
    each) every chunk to itself and those before; with `frames` to the first so many frames of k and v, per clip.

    On a mesh whose `sequence` axis splits the tokens, the heads are split instead while it lasts (an all-to-all
    before and after; Jacobs et al. 2023, "DeepSpeed Ulysses"), so every backend sees whole sequences.
    """
    count, names = q.shape[3], ("batch", None, None, "all heads", None)

    def flat(a):
        return a.reshape(a.shape[0], -1, *a.shape[3:])

    def local(q, k, v, *lengths):
        if lengths:
            y = prefix_attention(flat(q), flat(k), flat(v), lengths[0] * q.shape[2], backend=backend)
        elif chunks is None:
            y = attention(flat(q), flat(k), flat(v), backend=backend)
        else:  # no l × l mask: every chunk against its own prefix
            parts = [(flat(q[:, a:b]), flat(k[:, :b]), flat(v[:, :b])) for a, b in chunks]
            y = jnp.concatenate([attention(*part, backend=backend) for part in parts], 1)
        return y.reshape(q.shape)

    arrays = [padded_heads(a, "all heads") for a in (q, k, v)]
    if frames is None:
        y = locally(local, (names,) * 3, *arrays)
    else:
        y = locally(local, (names, names, names, ("batch",)), *arrays, frames)
    return constrain(y, "batch", None, "tokens", "heads", None)[..., :count, :]


def cross_attention(
    q: Float[Array, "b t p n k"], k: Float[Array, "b s n k"], v: Float[Array, "b s n k"], *, backend: str = "xla"
) -> Float[Array, "b t p n k"]:
    """Attention of every token to a context that every device has whole."""
    count = q.shape[3]
    tokens, context = ("batch", None, "tokens", "heads", None), ("batch", None, "heads", None)

    def local(q, k, v):
        return attention(q.reshape(q.shape[0], -1, *q.shape[3:]), k, v, backend=backend).reshape(q.shape)

    arrays = [padded_heads(a, "heads") for a in (q, k, v)]
    return locally(local, (tokens, context, context), *arrays)[..., :count, :]


def _blockwise(q, k, v, scale, *, length=None):
    """Portable (Rabe & Staats 2021, "Self-attention does not need O(n²) memory")."""
    b, l, n, _ = q.shape
    q, _ = _blocks(q)
    k, valid = _blocks(k)
    v, _ = _blocks(v)
    if length is not None:  # [blocks, b, 1, 1, BLOCK]: of each clip
        index = jnp.arange(valid.size).reshape(valid.shape)
        valid = (index[:, None] < length[None, :, None])[:, :, None, None]

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
            weights = weights.astype(v.dtype)
            new = jnp.einsum("bnls,bsnk->bnlk", weights, v, preferred_element_type=jnp.float32)
            out = out * decay[..., None] + new
            return (new_top, total, out), None

        shape = (b, n, q.shape[1])
        start = (
            jnp.full(shape, -1e30, jnp.float32),
            jnp.zeros(shape, jnp.float32),
            jnp.zeros((*shape, v.shape[-1]), jnp.float32),
        )
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


def _cudnn(q, k, v, scale, *, length=None):
    """NVIDIA's fused kernel; half precision only."""
    return jax.nn.dot_product_attention(q, k, v, scale=scale, key_value_seq_lengths=length, implementation="cudnn")


def _padded(x, size):
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % size), (0, 0), (0, 0)))


def _triton(q, k, v, scale, *, length=None, block: int = 64, interpret: bool = False):
    """JAX's own Pallas kernel for NVIDIA and AMD, in blocks small enough for both.

    Its only mask is one of segments, for queries and keys alike. Where they are not as many, keys that are no
    multiple of a block (image tokens, which are few), or not all there, take the portable way.
    """
    l, s = q.shape[1], k.shape[1]
    if length is not None or (s % block and s != l):
        return _blockwise(q, k, v, scale, length=length)
    forward = functools.partial(_triton_forward, scale=scale, block=block, interpret=interpret)
    if l != s:  # the kernel's own gradient wants as many keys as queries
        return _with_portable_gradient(forward, scale)(q, k, v)
    if s % block == 0:
        return forward(q, k, v)
    padded = l + -l % block  # the padding is a segment of its own
    segments = jnp.broadcast_to((jnp.arange(padded) < l).astype(jnp.int32), (q.shape[0], padded))
    return forward(q, k, v, segments)


def _triton_forward(q, k, v, segments=None, *, scale, block, interpret):
    from jax.experimental.pallas.ops.gpu.attention import BlockSizes, mha

    l = q.shape[1]
    names = ("block_q", "block_k", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq")
    sizes = BlockSizes(**dict.fromkeys(names, block))
    q, k, v = (_padded(a, block) for a in (q, k, v))
    return mha(q, k, v, segments, sm_scale=scale, block_sizes=sizes, num_stages=1, interpret=interpret)[:, :l]


def _with_portable_gradient(forward: Callable, scale: float) -> Callable:
    attend = jax.custom_vjp(lambda q, k, v: forward(q, k, v))

    def backward(qkv, gradient):
        return jax.vjp(lambda *a: _blockwise(*a, scale), *qkv)[1](gradient)

    attend.defvjp(lambda *qkv: (forward(*qkv), qkv), backward)
    return attend


def _splash(q, k, v, scale, *, length=None, interpret: bool = False):
    """JAX's own Pallas kernel for TPUs."""
    from jax.experimental.pallas.ops.tpu.splash_attention import FullMask, MultiHeadMask, SegmentIds, make_splash_mha

    l, s, n = q.shape[1], k.shape[1], q.shape[2]
    q, k, v = (_padded(a, 128).transpose(0, 2, 1, 3) for a in (q * scale, k, v))
    masks = MultiHeadMask([FullMask((q.shape[2], k.shape[2]))] * n)
    kernel = make_splash_mha(mask=masks, head_shards=1, q_seq_shards=1, interpret=interpret)
    queries = (jnp.arange(q.shape[2]) >= l).astype(jnp.int32)

    def one(q, k, v, there):
        keys = (jnp.arange(k.shape[1]) >= there).astype(jnp.int32)
        return kernel(q, k, v, segment_ids=SegmentIds(queries, keys))

    there = jnp.full(q.shape[:1], s) if length is None else length
    return jax.vmap(one)(q, k, v, there).transpose(0, 2, 1, 3)[:, :l]


BACKENDS: dict[str, Callable] = {"xla": _blockwise, "cudnn": _cudnn, "triton": _triton, "splash": _splash}


def preferred(platform: str, capability: str, dtype: str) -> str:
    """The backend that should be fastest on a device. capability: "9.0" of an NVIDIA GPU, "gfx942" of an AMD one (MI250
    has no fast kernel)."""
    if platform == "tpu":
        return "splash"
    if platform not in ("gpu", "cuda", "rocm") or dtype == "float32" or capability.startswith("gfx90"):
        return "xla"
    return "triton" if capability.startswith("gfx") else "cudnn"


def choose(name: str, dtype: str) -> str:
    """The backend of that name or, for "auto", the preferred one of this machine, after trying it on a small example,
    forward and backward.

    An automatic choice that fails falls back to "xla" with a warning that names the reason; a chosen one raises
    InputError.
    """
    device = jax.devices()[0]
    wanted = name
    if name == "auto":
        wanted = preferred(device.platform, str(getattr(device, "compute_capability", "")), dtype)
    if wanted == "xla" or (reason := trial(BACKENDS[wanted], dtype)) is None:
        return wanted
    if name != "auto":
        raise InputError(f"attention {name} does not work here ({reason}); use auto or xla")
    warnings.warn(f"attention {wanted} does not work here ({reason}); using xla, which is slower", stacklevel=2)
    return "xla"


def trial(backend: Callable, dtype: str) -> str | None:
    """Why a backend cannot be used, None if it agrees with plain attention, forward and backward."""
    q, k, v, g = (jax.random.normal(jax.random.key(i), (1, 300, 2, 128), dtype) for i in range(4))

    def run(attend):
        return jax.jit(lambda *qkv: jax.vjp(lambda *a: attend(*a, 128**-0.5), *qkv))(q, k, v)

    def apart(a, b):
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
        return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))

    try:
        ours, back = run(backend)
        theirs, back_theirs = run(_blockwise)
        worst = max(map(apart, (ours, *back(g)), (theirs, *back_theirs(g))))
    except Exception as error:  # a kernel that does not compile raises whatever its compiler raises
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:160]}"
    return None if worst < 0.03 else f"its results are {worst:.0%} off"
