"""Training state: trainable parameters with their optimizer moments; everything frozen stays outside."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from mwjax.parallel.sharding import constrain, like_parameters, shardings
from mwjax.rules import split
from mwjax.training.objectives import Objective

Rules = Sequence[tuple[str, bool]]


@flax.struct.dataclass
class TrainState:
    """Everything a step changes (or shapes or shardings of the same tree).

    step: steps taken. trainable: {path: array} in float32. optimizer: moments of the same paths. average: running mean of the
    trainables, {} without. usual: running mean of the loss. skipped: steps left out in a row.
    """

    step: Any
    trainable: dict[str, Any]
    optimizer: Any
    average: Any
    usual: Any
    skipped: Any


def partition(variables: dict, rules: Rules) -> tuple[dict[str, Any], dict[str, Any]]:
    """Flat (trainable, frozen) parameters; `rules` says True for the trainable ones, which are copied, and must cover every path. The rest stay where they are."""
    flat = flatten_dict(variables, sep="/")
    chosen, rest = split(rules, flat)
    copied = jax.jit(lambda part: {path: jnp.array(leaf, jnp.float32) for path, leaf in part.items()})
    return copied({path: flat[path] for path in chosen}), {path: flat[path] for path in rest}


def combine(trainable: dict, frozen: dict) -> dict:
    """The variables tree again."""
    return unflatten_dict({**frozen, **trainable}, sep="/")


def new_state(trainable: dict, optimizer: optax.GradientTransformation, *, averaged: bool = False) -> TrainState:
    average = jax.tree.map(jnp.copy, trainable) if averaged else {}
    return TrainState(jnp.zeros((), jnp.int32), trainable, optimizer.init(trainable), average, jnp.zeros(()), jnp.zeros((), jnp.int32))


def state_shardings(state: TrainState, mesh) -> TrainState:
    """Where each part of a state (of arrays or shapes) lies: moments and average with their parameter."""
    return like_parameters(state, shardings(state.trainable, mesh), mesh)


def make_step(
    objective: Objective, optimizer: optax.GradientTransformation, seed: int, *, accumulate: int = 1, decay: float = 0.0, spike: float = 0.0, warmup: int = 100,
    layout: TrainState | None = None,
) -> Callable:  # fmt: skip
    """The jitted step(state, frozen, batch) → (state, metrics). Its randomness is fold_in(seed, step); the state is donated.

    accumulate: parts of the batch whose gradients are computed one after the other. decay: of the running mean of the trainables.
    A step whose loss or gradient is not finite, or (after `warmup` steps) whose loss exceeds `spike` > 0 times its running mean,
    changes no parameter and is counted. layout: shardings of the new state.
    """

    def step(state: TrainState, frozen: dict, batch: dict) -> tuple[TrainState, dict]:
        batch = {k: constrain(a, "batch", *[None] * (a.ndim - 1)) for k, a in batch.items()}
        drawn = objective.draw(batch, jax.random.fold_in(jax.random.key(seed), state.step))
        gradient = jax.value_and_grad(lambda trainable, part: objective.loss(combine(trainable, frozen), part), has_aux=True)

        def cut(a):  # element i goes to part i mod accumulate: devices keep what they have
            return constrain(jnp.moveaxis(a.reshape(-1, accumulate, *a.shape[1:]), 1, 0), None, "batch", *[None] * (a.ndim - 1))

        if accumulate == 1:
            (value, parts), gradients = gradient(state.trainable, drawn)
        else:
            add = lambda total, part: (jax.tree.map(jnp.add, total, gradient(state.trainable, part)), None)
            cuts = jax.tree.map(cut, drawn)
            nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(gradient, state.trainable, jax.tree.map(lambda a: a[0], cuts)))
            total, _ = jax.lax.scan(add, nothing, cuts)
            (value, parts), gradients = jax.tree.map(lambda a: a / accumulate, total)

        norm = optax.global_norm(gradients)
        early = (state.step < warmup) | (state.usual == 0)
        good = jnp.isfinite(value) & jnp.isfinite(norm) & (early | (spike == 0) | (value < spike * state.usual))

        def update(state):
            updates, moments = optimizer.update(gradients, state.optimizer, state.trainable)
            trainable = optax.apply_updates(state.trainable, updates)
            average = jax.tree.map(lambda mean, new: decay * mean + (1 - decay) * new, state.average, trainable) if state.average else {}
            usual = jnp.where(state.usual == 0, value, 0.98 * state.usual + 0.02 * value)
            return TrainState(state.step, trainable, moments, average, usual, jnp.zeros_like(state.skipped))

        state = jax.lax.cond(good, update, lambda state: state.replace(skipped=state.skipped + 1), state)
        metrics = {"loss": value, **parts, "grad_norm": norm, "skipped": state.skipped}
        return state.replace(step=state.step + 1), metrics

    return jax.jit(step, donate_argnums=0, out_shardings=layout and (layout, None))
