"""Classifier-free guidance (Ho & Salimans 2022): the two halves go through the model as one batch."""

from collections.abc import Callable

import jax.numpy as jnp

from mwjax.types import Array


def guided(velocity: Callable[[Array, Array], Array], scale: float) -> Callable[[Array, Array], Array]:
    """u + scale · (c − u), from a velocity(x, timestep) whose batch is [conditional; unconditional]; scale 1 has no second half."""

    def both(x: Array, timestep: Array) -> Array:
        if scale == 1.0:
            return velocity(x, timestep)
        conditional, unconditional = jnp.split(velocity(jnp.concatenate([x, x]), timestep), 2)
        return unconditional + scale * (conditional - unconditional)

    return both
