"""The one loop: every stage of every model goes through here."""

import contextlib
import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Iterator

import jax
from jax.sharding import Mesh
from tqdm import tqdm

from mwjax.errors import InputError, Preempted
from mwjax.models import lora
from mwjax.parallel.mesh import one_device
from mwjax.parallel.sharding import batch_sharding, shardings
from mwjax.runtime.preemption import PreemptionGuard
from mwjax.training.checkpoint import Checkpoints, restore_trainable, saved_steps
from mwjax.training.flops import count
from mwjax.training.metrics import Metrics
from mwjax.training.objectives import Objective
from mwjax.training.progress import LeftOut, Throughput, Trace
from mwjax.training.stages.stage import Stage
from mwjax.training.state import TrainState, combine, make_step, new_state, partition, state_shardings

LEFT_OUT = "left_out"  # beside the place in the data: steps left out until then
LATENTS_A_TOKEN = 4  # patches of 2 × 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Where and how stages are trained.

    folder: each stage gets one of its own below it. mesh: default one device. fold_lora: compute with adapters that
    are not trained summed into their kernels, for networks in float32; they are returned apart. profile: step to
    trace, 0 for none. wandb: project to log to as well. guard: whether to stop (default: by SIGTERM).
    """

    folder: pathlib.Path
    seed: int
    mesh: Mesh = dataclasses.field(default_factory=one_device)
    fold_lora: bool = False
    profile: int = 0
    wandb: str = ""
    guard: PreemptionGuard | None = None

    def folder_of(self, stage: Stage) -> pathlib.Path:
        return self.folder / stage.folder


def train(
    stage: Stage,
    variables: dict,
    objective: Objective,
    batches: Iterator,
    run: Run,
    *,
    counted: Objective | None = None,
) -> dict:
    """Train `variables` for a stage and return them. Continues from the newest checkpoint, bit for bit.

    batches: endless iterator of dicts of arrays with get_state() and set_state(); of this process's part of each
    batch. counted: the objective whose arithmetic counts as useful (without recomputation). Raises Preempted when it
    was told to stop and a checkpoint is written.
    """
    mesh = run.mesh
    _, optimizer = stage.schedule_and_optimizer()
    with jax.set_mesh(mesh):
        parts = partition(variables, stage.TRAINS)
        trainable, frozen = (jax.device_put(part, shardings(part, mesh)) for part in parts)
        if stage.start_from and not saved_steps(run.folder_of(stage) / "checkpoints"):
            trainable = restore_trainable(stage.start_from, trainable)
        start = functools.partial(new_state, optimizer=optimizer, ema=stage.ema > 0)
        layout = state_shardings(jax.eval_shape(start, trainable), mesh)
        state = jax.jit(start, out_shardings=layout)(trainable)
        del variables, parts, trainable
        step = make_step(objective, optimizer, run.seed, stage, layout=layout)
        used = lora.fold_frozen(frozen) if run.fold_lora else frozen
        arithmetic = Arithmetic(counted)
        if run.guard:
            with run.guard.deferred():
                state = run_steps(stage, state, used, step, batches, run, arithmetic)
        else:
            with PreemptionGuard() as guard, guard.deferred():
                state = run_steps(stage, state, used, step, batches, dataclasses.replace(run, guard=guard), arithmetic)
        return combine(state.ema or state.trainable, frozen)


def run_steps(
    stage: Stage,
    state: TrainState,
    frozen: dict,
    step_function: Callable,
    batches: Iterator,
    run: Run,
    arithmetic: "Arithmetic",
) -> TrainState:
    """From where the checkpoints stand to the last step."""
    folder = run.folder_of(stage)
    options = {"every": stage.save_every, "keep": stage.keep, "keep_every": stage.keep_every}
    with contextlib.ExitStack() as open_files:
        checkpoints = open_files.enter_context(Checkpoints(folder / "checkpoints", **options))
        state, begun, left_out = resumed(stage, state, batches, checkpoints)
        metrics = open_files.enter_context(Metrics(folder, resume_step=begun, wandb=run.wandb))
        trace = Trace(folder, first=run.profile, begun=begun, last=stage.steps)
        throughput, schedule = Throughput(), stage.schedule_and_optimizer()[0]
        title, silent = f"stage {stage.folder}", jax.process_index() > 0
        bar = open_files.enter_context(tqdm(total=stage.steps, initial=begun, desc=title, unit="step", disable=silent))
        stop = False
        step = begun
        while step < stage.steps and not stop:
            step += 1
            last = step == stage.steps
            with throughput.waiting():
                batch = to_devices(next(batches), run.mesh)
            throughput.add(tokens_of(batch), arithmetic.of(state, frozen, batch))
            trace.before(step)
            state, values = step_function(state, frozen, batch)
            left_out.add(values["skipped"])
            stop = run.guard.stop()
            trace.after(step, values, stop=stop)
            if step % stage.log_every == 0 or last:
                logged = {name: float(value) for name, value in jax.device_get(values).items()}
                logged["left_out"] = left_out.count()
                check_loss(stage, step, logged)
                metrics.add(step, logged | {"lr": float(schedule(step - 1))} | throughput.rates(run.mesh))
                bar.set_postfix(loss=f"{logged['loss']:.4f}")
            bar.update()
            if checkpoints.due(step, force=stop or last):
                position = batches.get_state() | {LEFT_OUT: left_out.count()}
                checkpoints.save(step, state, position, force=True)
    if left_out.count() and not silent:
        tqdm.write(
            f"stage {stage.NAME}: {left_out.count()} of {step} steps were left out: their loss was not finite, or leapt"
        )
    if stop:
        where = f"stopped at step {step} of stage {stage.NAME}, which is saved in {folder / 'checkpoints'}"
        raise Preempted(f"{where}; the same command carries on")
    return state


def resumed(
    stage: Stage, state: TrainState, batches: Iterator, checkpoints: Checkpoints
) -> tuple[TrainState, int, LeftOut]:
    """(state, steps done, steps left out of them): of the newest checkpoint that can be read, which also sets the place
    in the data."""
    if not checkpoints.latest():
        return state, 0, LeftOut()
    state, position = checkpoints.restore(state)
    left_out = LeftOut(position.pop(LEFT_OUT, 0))
    batches.set_state(position)
    begun = int(state.step)
    if begun < stage.steps:
        tqdm.write(f"continuing stage {stage.NAME} from step {begun}")
    return state, begun, left_out


def check_loss(stage: Stage, step: int, logged: dict[str, float]) -> None:
    """Raises InputError if the loss has not been finite for too long, or is not at the end."""
    last = step == stage.steps and not math.isfinite(logged["loss"])
    if logged["skipped"] >= stage.max_skipped or last:
        loss, skipped = logged["loss"], f"{logged['skipped']:.0f} steps left out in a row"
        what = f"the loss of stage {stage.NAME} is {loss} at step {step}, after {skipped}"
        raise InputError(f"{what}; lower its lr ({stage.lr}) and run again")


def to_devices(batch: dict, mesh: Mesh) -> dict[str, jax.Array]:
    """A batch on the mesh; each process gives its own part of it."""
    whole = {name: (a.shape[0] * jax.process_count(), *a.shape[1:]) for name, a in batch.items()}
    place = jax.make_array_from_process_local_data
    return {name: place(batch_sharding(whole[name], mesh), a, whole[name]) for name, a in batch.items()}


def tokens_of(batch: dict) -> int:
    """Tokens of a batch of latents; 0 of others."""
    return math.prod(batch["mean"].shape[:4]) // LATENTS_A_TOKEN if "mean" in batch else 0


class Arithmetic:
    """Floating-point operations of a step, counted once for each shape of its batch; 0 without an objective to
    count."""

    def __init__(self, objective: Objective | None):
        self._objective = objective
        self._known: dict[tuple, int] = {}

    def of(self, state: TrainState, frozen: dict, batch: dict) -> int:
        if self._objective is None or "mean" not in batch:
            return 0
        shape = batch["mean"].shape
        if shape not in self._known:
            self._known[shape] = training_flops(self._objective, state.trainable, frozen, batch)
        return self._known[shape]


def training_flops(objective: Objective, trainable: dict, frozen: dict, batch: dict) -> int:
    """Floating-point operations of the loss and its gradient for a whole batch."""
    drawn = jax.eval_shape(objective.draw, batch, jax.eval_shape(lambda: jax.random.key(0)))

    def loss(trainable, frozen, part):
        return objective.loss(combine(trainable, frozen), part)[0]

    return count(jax.grad(loss), trainable, frozen, drawn)
