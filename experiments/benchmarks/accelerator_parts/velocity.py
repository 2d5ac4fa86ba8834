"""One velocity of a whole transformer."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from accelerator_parts.cases import CASES, IMAGE_TOKENS, Case, sized
from accelerator_parts.measure import HALF, in_dtype, measured, spec
from accelerator_parts.report import Row
from mwjax.models.shapes import world_shapes
from mwjax.models.world_model import WorldConfig, WorldModel, input_shapes


def velocity_of(config: WorldConfig) -> Callable:
    """One velocity; the condition is there."""

    def step(params, latents, condition):
        timesteps = jnp.full(latents.shape[:1], 500.0)
        return WorldModel(config).apply({"params": params}, latents, timesteps, condition)[0]

    return step


def velocity_shapes(case: Case, config: WorldConfig) -> tuple[dict, jax.ShapeDtypeStruct, Any]:
    """Of parameters, latents and condition; half precision."""
    params = in_dtype(world_shapes(config), HALF)
    inputs = {name: spec(1, *shape) for name, shape in input_shapes(config, case.latents, IMAGE_TOKENS).items()}

    def condition(params, inputs):
        return WorldModel(config).apply({"params": params}, inputs, method="condition")

    return params, spec(1, *case.latents, config.backbone.out_dim), jax.eval_shape(condition, params, inputs)


def velocity(name: str, *, tiny: bool, attention: str) -> Iterator[Row]:
    """One velocity of a case, without guidance; text, image and actions are encoded before."""
    case, config = sized(CASES[name], tiny=tiny)
    yield measured(
        f"velocity of {name}, {case.size}",
        velocity_of(config.tuned(attention=attention)),
        *velocity_shapes(case, config),
        useful=velocity_of(config.tuned(attention="plain")),
        by=f"mwjax, {attention}",
    )
