"""Training state: trainable parameters with their optimizer moments; everything frozen stays outside."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from mwjax.parallel.sharding import constrain, like_parameters, shardings
from mwjax.ranges import Checked, ranged
from mwjax.rules import split
from mwjax.training.objectives import Objective

Rules = Sequence[tuple[str, bool]]
MOST_STEPS = 100_000_000
MOST_DECAY = 0.9999999  # of a running mean, in float32


@flax.struct.dataclass
class TrainState:
    """Everything a step changes (or shapes or shardings of the same tree).

    step: steps taken. trainable: {path: array} in float32. optimizer: moments of the same paths. ema: running mean of
    the trainables, {} without. loss_ema: running mean of the loss. skipped: steps left out in a row.
    """

    step: Any
    trainable: dict[str, Any]
    optimizer: Any
    ema: Any
    loss_ema: Any
    skipped: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepOptions(Checked):
    """What a step does beside the optimizer.

    grad_accumulation: parts of a batch whose gradients are computed one after the other. ema: decay of a running mean
    of what is trained, such as 0.999, which is then what the stage gives; 0: none. skip_above: leave out steps whose
    loss exceeds this many times its running mean; 0: only those that are not finite. warmup: steps during which none
    is left out for that.
    """

    grad_accumulation: int = ranged(1, least=1, most=1_000_000, whole=True)
    ema: float = ranged(0.0, least=0, most=MOST_DECAY)
    skip_above: float = ranged(0.0, least=0)
    warmup: int = ranged(100, least=0, most=MOST_STEPS, whole=True)


def partition(variables: dict, rules: Rules) -> tuple[dict[str, Any], dict[str, Any]]:
    """Flat (trainable, frozen) parameters; `rules` says True for the trainable ones, which are copied, and must cover
    every path. The rest stay where they are."""
    flat = flatten_dict(variables, sep="/")
    chosen, rest = split(rules, flat)
    copied = jax.jit(lambda part: {path: jnp.array(leaf, jnp.float32) for path, leaf in part.items()})
    return copied({path: flat[path] for path in chosen}), {path: flat[path] for path in rest}


def combine(trainable: dict, frozen: dict) -> dict:
    """The variables tree again."""
    return unflatten_dict({**frozen, **trainable}, sep="/")


def new_state(trainable: dict, optimizer: optax.GradientTransformation, *, ema: bool = False) -> TrainState:
    mean = jax.tree.map(jnp.copy, trainable) if ema else {}
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, trainable, optimizer.init(trainable), mean, jnp.zeros(()), jnp.zeros((), jnp.int32))


def state_shardings(state: TrainState, mesh) -> TrainState:
    """Where each part of a state (of arrays or shapes) lies: moments and running mean with their parameter."""
    return like_parameters(state, shardings(state.trainable, mesh), mesh)


def accumulated(gradient: Callable, trainable: dict, batch: dict, parts: int):
    """((loss, metrics), gradients), the mean over `parts` parts of the batch, one after the other."""

    def cut(a):  # element i goes to part i mod parts: devices keep what they have
        stacked = jnp.moveaxis(a.reshape(-1, parts, *a.shape[1:]), 1, 0)
        return constrain(stacked, None, "batch", *[None] * (a.ndim - 1))

    def add(total, part):
        return jax.tree.map(jnp.add, total, gradient(trainable, part)), None

    cuts = jax.tree.map(cut, batch)
    shapes = jax.eval_shape(gradient, trainable, jax.tree.map(lambda a: a[0], cuts))
    nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    total, _ = jax.lax.scan(add, nothing, cuts)
    return jax.tree.map(lambda a: a / parts, total)


def make_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    seed: int,
    options: StepOptions = StepOptions(),
    *,
    layout: TrainState | None = None,
) -> Callable:
    """The jitted step(state, frozen, batch) → (state, metrics). Its randomness is fold_in(seed, step); the state is
    donated.

    A step whose loss or gradient is not finite, or whose loss leaps (`options.skip_above`), changes no parameter and is
    counted. layout: shardings of the new state.
    """

    def update(state: TrainState, gradients: dict, loss: jax.Array) -> TrainState:
        updates, moments = optimizer.update(gradients, state.optimizer, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        decay, mean = options.ema, {}
        if state.ema:
            mean = jax.tree.map(lambda mean, new: decay * mean + (1 - decay) * new, state.ema, trainable)
        loss_ema = jnp.where(state.loss_ema == 0, loss, 0.98 * state.loss_ema + 0.02 * loss)
        return TrainState(state.step, trainable, moments, mean, loss_ema, jnp.zeros_like(state.skipped))

    def step(state: TrainState, frozen: dict, batch: dict) -> tuple[TrainState, dict]:
        batch = {name: constrain(a, "batch", *[None] * (a.ndim - 1)) for name, a in batch.items()}
        drawn = objective.draw(batch, jax.random.fold_in(jax.random.key(seed), state.step))

        def loss_of(trainable, part):
            return objective.loss(combine(trainable, frozen), part)

        gradient = jax.value_and_grad(loss_of, has_aux=True)
        if options.grad_accumulation == 1:
            (loss, parts), gradients = gradient(state.trainable, drawn)
        else:
            (loss, parts), gradients = accumulated(gradient, state.trainable, drawn, options.grad_accumulation)
        norm = optax.global_norm(gradients)
        early = (state.step < options.warmup) | (state.loss_ema == 0)
        leaps = (options.skip_above != 0) & (loss >= options.skip_above * state.loss_ema)
        good = jnp.isfinite(loss) & jnp.isfinite(norm) & (early | ~leaps)
        state = jax.lax.cond(
            good,
            lambda state: update(state, gradients, loss),
            lambda state: state.replace(skipped=state.skipped + 1),
            state,
        )
        metrics = {"loss": loss, **parts, "grad_norm": norm, "skipped": state.skipped}
        return state.replace(step=state.step + 1), metrics

    return jax.jit(step, donate_argnums=0, out_shardings=layout and (layout, None))
