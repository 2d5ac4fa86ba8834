"""Guidance: the model's other opinions, computed in the same batch, pushed away from."""

import numpy as np

from mwjax.types import Array, Float, Int

# What a step does about guidance: computes it, reuses what the last such step added, goes without.
FULL, REUSED, NONE = range(3)


def guidance_delta(
    parts: list[Float[Array, "b t h w c"]], text: Float[Array, ""] | None, actions: Float[Array, ""] | None
) -> Float[Array, "b t h w c"] | float:
    """What guidance adds to the conditional velocity c: (text − 1) · (c − u) + actions · (c − n), from parts [c, u, n].

    u: with the negative prompt (Ho & Salimans 2022), not there if text is None. n: with the action module switched off,
    which needs no training without actions; not there if actions is None.
    """
    conditional, *others = parts
    out = 0.0
    if text is not None:
        out = (text - 1) * (conditional - others.pop(0))
    if actions is not None:
        out = out + actions * (conditional - others.pop(0))
    return out


def guide_modes(steps: int, *, every: int, skip: float) -> Int[np.ndarray, " steps"]:
    """FULL on every `every`-th step and REUSED between; NONE on the last part `skip` (0 … 1) of the steps."""
    index = np.arange(steps)
    guided = np.where(index % every == 0, FULL, REUSED)
    return np.where(index >= steps * (1 - skip), NONE, guided).astype(np.int32)
