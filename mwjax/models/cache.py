"""What a causal transformer remembers: keys and values of the latent frames before.

Keys are kept before their rotary embedding, so that where a frame stands is decided when it is attended to. Blocks
return what they would keep; whether it is written is the caller's choice.
"""

from typing import NamedTuple

import jax

from mwjax.types import Array, Int


class KV(NamedTuple):
    """Keys (before rotary) and values of latent frames, [b, t, p, n, k]; stacked over blocks: [blocks, b, t, p, n,
    k]."""

    k: Array
    v: Array


class Kept(NamedTuple):
    """What a pass leaves: keys and values of its own frames, stacked over the base's blocks and over a side
    branch's."""

    base: KV
    side: KV | None = None


class Past(NamedTuple):
    """Room for N latent frames, of which the first `frames` [b] are there."""

    frames: Int[Array, " b"]
    kept: Kept


def append(past: Past, kept: Kept) -> Past:
    """The past with what a pass has left after its last frame; each clip of the batch at its own place."""
    count = kept.base.k.shape[2]

    def write(room, new):
        place = jax.vmap(lambda a, b, at: jax.lax.dynamic_update_slice_in_dim(a, b, at, 1), (1, 1, 0), 1)
        return place(room, new.astype(room.dtype), past.frames)

    return Past(past.frames + count, jax.tree.map(write, past.kept, kept))
