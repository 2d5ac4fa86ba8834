"""A training step of a stage, with drawn weights and batches."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
from flax.traverse_util import flatten_dict

from accelerator_parts.cases import CASES, IMAGE_TOKENS, QUICKSTART, Case, sized
from accelerator_parts.measure import SINGLE, compiled, drawn, drawn_weights, row_of, spec, useful_flops
from accelerator_parts.report import Row
from mwjax.models import lora
from mwjax.models.shapes import world_shapes
from mwjax.models.world_model import WorldConfig, input_shapes
from mwjax.rules import split
from mwjax.training.memory import Memory
from mwjax.training.objectives import Objective, flow_objective
from mwjax.training.optim import OPTIMIZERS, constant_with_warmup
from mwjax.training.state import combine, make_step, new_state


class Recipe(NamedTuple):
    """A training stage as its config says it. trains: as in mwjax/training/stages, which cannot be imported without
    PyAV. folded: adapters that are not trained are summed into their kernels."""

    case: Case
    trains: tuple[tuple[str, bool], ...]
    rank: int
    alpha: float
    optimizer: str
    options: dict[str, float]
    memory: Memory
    batch: int = 1
    motion: float = 0.0
    folded: bool = False


ADAPTERS = ((r"lora/.*/alpha$", False), (r"lora/", True), (r"params/", False))
CONTROL = ((r"params/(action_encoder|controlnet)/", True), (r"(params|lora)/", False))
ADAMW = {"weight_decay": 3e-2, "clip": 0.05, "b2": 0.999, "eps": 1e-10}
MUON = {"weight_decay": 0.0, "clip": 1.0, "b2": 0.99, "eps": 1e-8}
SAVING = Memory(frozen="bfloat16", compute="bfloat16", remat="blocks")
T2W = CASES["T2W-1.3B"]
RECIPES = {
    "lora": Recipe(T2W._replace(controls=()), ADAPTERS, 128, 64.0, "adamw", ADAMW, SAVING),
    "action": Recipe(T2W, CONTROL, 128, 64.0, "adamw", ADAMW, SAVING, motion=0.2),
    "quickstart": Recipe(
        QUICKSTART, CONTROL, 16, 8.0, "muon", MUON, Memory(unroll=True), batch=16, motion=0.2, folded=True
    ),
}


def trained_and_frozen(config: WorldConfig, recipe: Recipe) -> tuple[dict, dict]:
    """Shapes by path; what is frozen is kept in the recipe's dtype, but adapters."""
    params = world_shapes(config)
    adapters = jax.eval_shape(lambda: lora.init(params["backbone"], recipe.rank, recipe.alpha, jax.random.key(0)))
    flat = flatten_dict({"params": params, "lora": {"backbone": adapters}}, sep="/")
    trained, rest = split(recipe.trains, flat)
    frozen = {path: flat[path] for path in rest if not (recipe.folded and path.startswith("lora/"))}
    dtypes = {path: recipe.memory.frozen if path.startswith("params/") else SINGLE for path in frozen}
    kept = {path: spec(*leaf.shape, dtype=dtypes[path]) for path, leaf in frozen.items()}
    return {path: flat[path] for path in trained}, kept


def training_flops(objective: Objective, trainable: dict, frozen: dict, batch: dict) -> int | None:
    """As mwjax.training.loop counts them, which cannot be imported without PyAV."""
    ready = jax.eval_shape(objective.draw, batch, jax.eval_shape(lambda: jax.random.key(0)))

    def loss(trainable, frozen, part):
        return objective.loss(combine(trainable, frozen), part)[0]

    return useful_flops(jax.grad(loss), trainable, frozen, ready)


def training(name: str, *, tiny: bool, attention: str) -> Iterator[Row]:
    """A step of a stage. Predicted memory is what `--plan` would say of this device: everything that is kept, and the
    compiler's temporaries."""
    recipe = RECIPES[name]
    case, config = sized(recipe.case, tiny=tiny)
    if tiny:
        recipe = recipe._replace(rank=4, batch=2)
    memory, motion = recipe.memory, recipe.motion
    if memory.compute == "float32":
        attention = "xla"  # the fast kernels are for half precision
    shapes = input_shapes(config, case.latents, IMAGE_TOKENS)
    shapes |= dict.fromkeys(("mean", "logvar"), (*case.latents, config.backbone.out_dim))
    batch = {name: spec(recipe.batch, *shape, dtype=SINGLE) for name, shape in shapes.items()}
    trainable, frozen = trained_and_frozen(config, recipe)
    optimizer = OPTIMIZERS[recipe.optimizer](constant_with_warmup(1e-5, 0, 0), **recipe.options)
    start = functools.partial(new_state, optimizer=optimizer)
    objective = flow_objective(memory.tuned(config, attention), motion=motion, dtype=memory.compute)
    counted = flow_objective(config.tuned(attention="plain"), motion=motion, dtype=memory.compute)
    step = make_step(objective, optimizer, 0)
    program = compiled(step, jax.eval_shape(start, trainable), frozen, batch)
    flops = training_flops(counted, trainable, frozen, batch)
    state = jax.jit(start, donate_argnums=0)(drawn_weights(trainable))
    frozen, batch = drawn_weights(frozen), drawn(batch)

    def call():
        nonlocal state
        state, values = program.call(state, frozen, batch)
        return values

    what = f"training step, {name}, {case.size}, batch {recipe.batch}"
    yield row_of(what, f"mwjax, {attention}", program, call, flops=flops)
