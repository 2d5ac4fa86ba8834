"""Guidance: the model's other opinions, computed in the same batch, pushed away from."""

from collections.abc import Callable

import jax.numpy as jnp

from mwjax.types import Array


def guided(velocity: Callable[[Array, Array], Array], text: float, actions: float = 0.0) -> Callable[[Array, Array], Array]:
    """u + text · (c − u) + actions · (c − n), from a velocity(x, timestep) whose batch is [c; u; n].

    c: with prompt and actions. u: with the negative prompt (Ho & Salimans 2022), not there if text is 1. n: with the action module
    switched off, which needs no training without actions; not there if actions is 0.
    """
    count = 1 + (text != 1.0) + (actions != 0.0)

    def combined(x: Array, timestep: Array) -> Array:
        conditional, *others = jnp.split(velocity(jnp.concatenate([x] * count), timestep), count)
        out = conditional
        if text != 1.0:
            unconditional = others.pop(0)
            out = unconditional + text * (conditional - unconditional)
        if actions != 0.0:
            out = out + actions * (conditional - others.pop(0))
        return out

    return combined
