"""Training state: trainable parameters with their optimizer moments; everything frozen stays outside."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from mwjax.rules import split
from mwjax.training.objectives import Objective

Rules = Sequence[tuple[str, bool]]


@flax.struct.dataclass
class TrainState:
    """step: steps taken. trainable: {path: array} in float32. optimizer: moments of the same paths. (Or shapes or shardings of the same tree.)"""

    step: Any
    trainable: dict[str, Any]
    optimizer: Any


def partition(variables: dict, rules: Rules) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Flat (trainable, frozen) parameters; `rules` says True for the trainable ones, which are copied, and must cover every path."""
    flat = flatten_dict(variables, sep="/")
    chosen, rest = split(rules, flat)
    return {k: jnp.array(flat[k], jnp.float32) for k in chosen}, {k: jnp.asarray(flat[k]) for k in rest}


def combine(trainable: dict, frozen: dict) -> dict:
    """The variables tree again."""
    return unflatten_dict({**frozen, **trainable}, sep="/")


def new_state(trainable: dict, optimizer: optax.GradientTransformation) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), trainable, optimizer.init(trainable))


def make_step(objective: Objective, optimizer: optax.GradientTransformation, seed: int) -> Callable:
    """The jitted step(state, frozen, batch) → (state, metrics). Its randomness is fold_in(seed, step); the state is donated."""

    def step(state: TrainState, frozen: dict, batch: dict) -> tuple[TrainState, dict]:
        rng = jax.random.fold_in(jax.random.key(seed), state.step)

        def loss(trainable):
            return objective(combine(trainable, frozen), batch, rng)

        (value, parts), gradients = jax.value_and_grad(loss, has_aux=True)(state.trainable)
        updates, moments = optimizer.update(gradients, state.optimizer, state.trainable)
        metrics = {"loss": value, **parts, "grad_norm": optax.global_norm(gradients)}
        return TrainState(state.step + 1, optax.apply_updates(state.trainable, updates), moments), metrics

    return jax.jit(step, donate_argnums=0)
