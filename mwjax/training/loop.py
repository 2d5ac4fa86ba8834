"""The one loop: every stage of every model goes through here."""

import contextlib
import dataclasses
import functools
import math
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator

import jax
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from mwjax.errors import InputError, Preempted
from mwjax.models import lora
from mwjax.parallel.mesh import MeshShape, make_mesh
from mwjax.parallel.sharding import batch_sharding, shardings
from mwjax.training.checkpoint import Checkpoints, restore_trainable, saved_steps
from mwjax.training.flops import count, peak
from mwjax.training.metrics import Metrics
from mwjax.training.objectives import Objective
from mwjax.training.optim import OPTIMIZERS, SCHEDULES
from mwjax.training.state import Rules, TrainState, combine, make_step, new_state, partition, state_shardings


@dataclasses.dataclass(frozen=True)
class Stage:
    """How one stage trains. name: vae, base, lora, action or idm."""

    name: str
    steps: int
    batch: int
    lr: float
    optimizer: str = "adamw"
    schedule: str = "cosine"
    warmup: int = 100
    weight_decay: float = 0.1
    clip: float = 0.05
    b2: float = 0.999
    eps: float = 1e-8
    motion: float = 0.0  # weight of the motion term of the loss
    kl_weight: float = 1e-4  # of the VAE stage
    images: int = 0  # of the VAE stage: learn from so many single frames of each clip; 0: from whole clips
    caption_dropout: float = 0.1
    shorter: float = 0.0  # probability that a batch is cut to a shorter clip length
    rank: int = 128  # of the LoRA stage
    alpha: float = 64.0
    accumulate: int = 1  # parts of a batch that go one after the other
    average: float = 0.0  # decay of a running mean of what is trained, such as 0.999, which is then what the stage gives; 0: none
    spike: float = 0.0  # leave out steps whose loss exceeds this many times its running mean; 0: only those that are not finite
    max_skipped: int = 10  # stop after so many steps left out in a row
    start: str = ""  # checkpoint folder of this stage in another run to start from
    save_every: int = 200
    keep: int = 2  # newest checkpoints to keep
    keep_every: int = 0  # and every checkpoint of these steps; 0: none
    log_every: int = 10

    def __post_init__(self):
        if self.name not in TRAINABLE:
            raise InputError(f"stage name {self.name!r} is unknown; use {', '.join(TRAINABLE)}")
        if self.schedule not in SCHEDULES:
            raise InputError(f"stage {self.name}: schedule {self.schedule!r} is unknown; use {' or '.join(SCHEDULES)}")
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"stage {self.name}: optimizer {self.optimizer!r} is unknown; use {' or '.join(OPTIMIZERS)}")
        for key in ("batch", "save_every", "log_every", "accumulate", "max_skipped", "keep"):
            if getattr(self, key) < 1:
                raise InputError(f"stage {self.name}: {key} is {getattr(self, key)}, it must be at least 1")
        if self.steps < 1 and not (self.start and self.steps == 0):
            raise InputError(f"stage {self.name}: steps is {self.steps}, it must be at least 1 (or 0 with `start`)")
        if self.batch % self.accumulate:
            raise InputError(f"stage {self.name}: batch {self.batch} does not divide into accumulate {self.accumulate} parts")

    @property
    def folder(self) -> str:
        """Name of its folder below the run's."""
        return f"{self.name}_images" if self.images else self.name


# What each stage trains. Every parameter must be covered; the first match wins.
TRAINABLE: dict[str, Rules] = {
    "vae": ((r"params/", True),),
    "base": ((r"params/backbone/", True), (r"params/", False)),
    "lora": ((r"lora/.*/alpha$", False), (r"lora/", True), (r"params/", False)),
    "idm": ((r"params/", True),),
    "action": ((r"params/(action_encoder|controlnet|adaln)/", True), (r"(params|lora)/", False)),
}


def optimizer_of(stage: Stage) -> tuple[Callable, optax.GradientTransformation]:
    """(learning rate by step, optimizer)."""
    schedule = SCHEDULES[stage.schedule](stage.lr, stage.warmup, stage.steps)
    return schedule, OPTIMIZERS[stage.optimizer](schedule, weight_decay=stage.weight_decay, clip=stage.clip, b2=stage.b2, eps=stage.eps)


def train(
    stage: Stage, variables: dict, objective: Objective, batches: Iterator, *, folder: str | pathlib.Path, seed: int, mesh: Mesh | None = None,
    counted: Objective | None = None, fold: bool = False, profile: int = 0, wandb: str = "", told: "Told | None" = None,
) -> dict:  # fmt: skip
    """Train `variables` for a stage and return them. Continues from the newest checkpoint in `folder`, bit for bit.

    batches: endless iterator of dicts of arrays with get_state() and set_state(); of this process's part of each batch.
    mesh: default one device. counted: the objective whose arithmetic counts as useful (without recomputation). fold: compute with adapters
    that are not trained summed into their kernels, for networks in float32; they are returned apart. profile: step to trace.
    wandb: project to log to as well. told: whether to stop (default: by SIGTERM). Raises Preempted then, when a checkpoint is written.
    """
    folder, mesh = pathlib.Path(folder), mesh or make_mesh(MeshShape(), jax.devices()[:1])
    schedule, optimizer = optimizer_of(stage)
    with jax.set_mesh(mesh):
        trainable, frozen = (jax.device_put(part, shardings(part, mesh)) for part in partition(variables, TRAINABLE[stage.name]))
        if stage.start and not saved_steps(folder / "checkpoints"):
            trainable = restore_trainable(stage.start, trainable)
        start_state = functools.partial(new_state, optimizer=optimizer, averaged=stage.average > 0)
        layout = state_shardings(jax.eval_shape(start_state, trainable), mesh)
        state = jax.jit(start_state, out_shardings=layout)(trainable)
        del variables, trainable
        step_function = make_step(objective, optimizer, seed, accumulate=stage.accumulate, decay=stage.average, spike=stage.spike, warmup=stage.warmup, layout=layout)
        with contextlib.nullcontext(told) if told else Told() as told, told.later():
            used = lora.folded(frozen) if fold else frozen
            state = _steps(stage, state, used, step_function, batches, schedule, told, folder=folder, mesh=mesh, counted=counted, profile=profile, wandb=wandb)
        return combine(state.average or state.trainable, frozen)


def _steps(stage, state, frozen, step_function, batches, schedule, told, *, folder, mesh, counted, profile, wandb) -> TrainState:
    checkpoints = Checkpoints(folder / "checkpoints", every=stage.save_every, keep=stage.keep, keep_every=stage.keep_every)
    start = checkpoints.latest() or 0
    if start:
        state, position = checkpoints.restore(state)
        batches.set_state(position)
        if start < stage.steps:
            tqdm.write(f"continuing stage {stage.name} from step {start}")
    metrics = Metrics(folder, resume_step=start, wandb=wandb)
    bar = tqdm(total=stage.steps, initial=start, desc=f"stage {stage.folder}", unit="step", disable=jax.process_index() > 0)
    watch, arithmetic, several = Watch(), {}, jax.process_count() > 1
    first, last = max(profile, start + 1), min(max(profile, start + 1) + 2, stage.steps)  # of the trace
    stop = False
    for step in range(start + 1, stage.steps + 1):
        with watch.waiting():
            batch = to_devices(next(batches), mesh)
        shape = batch["mean"].shape if "mean" in batch else ()
        if counted and shape not in arithmetic:
            arithmetic[shape] = training_flops(counted, state.trainable, frozen, batch)
        watch.add(math.prod(shape[:4]) // 4 if shape else 0, arithmetic.get(shape, 0))
        if profile and step == first:
            jax.profiler.start_trace(folder / "profile")
        state, values = step_function(state, frozen, batch)
        stop = checkpoints.preempted(step) if several else told.now
        if profile and first <= step and (step == last or stop):
            jax.block_until_ready(values)
            jax.profiler.stop_trace()
            profile = 0
            tqdm.write(f"wrote {folder / 'profile'}")
        if step % stage.log_every == 0 or step == stage.steps:
            logged = {k: float(v) for k, v in jax.device_get(values).items()}
            if logged["skipped"] >= stage.max_skipped or (step == stage.steps and not math.isfinite(logged["loss"])):
                raise InputError(f"the loss of stage {stage.name} is {logged['loss']} at step {step}, after {logged['skipped']:.0f} steps left out in a row; "
                                 f"lower its lr ({stage.lr}) and run again")  # fmt: skip
            metrics.add(step, logged | {"lr": float(schedule(step - 1))} | watch.rates(mesh))
            bar.set_postfix(loss=f"{logged['loss']:.4f}")
        bar.update()
        checkpoints.save(step, state, batches.get_state(), force=stop or step == stage.steps)
        if stop:
            break
    bar.close()
    checkpoints.close()
    metrics.close()
    if stop:
        raise Preempted(f"stopped at step {step} of stage {stage.name}, which is saved in {folder / 'checkpoints'}; the same command carries on")
    return state


def to_devices(batch: dict, mesh: Mesh) -> dict[str, jax.Array]:
    """A batch on the mesh; each process gives its own part of it."""
    whole = {k: (a.shape[0] * jax.process_count(), *a.shape[1:]) for k, a in batch.items()}
    return {k: jax.make_array_from_process_local_data(batch_sharding(whole[k], mesh), a, whole[k]) for k, a in batch.items()}


def training_flops(objective: Objective, trainable: dict, frozen: dict, batch: dict) -> int:
    """Floating-point operations of the loss and its gradient for a whole batch."""
    drawn = jax.eval_shape(objective.draw, batch, jax.eval_shape(lambda: jax.random.key(0)))
    return count(jax.grad(lambda t, f, b: objective.loss(combine(t, f), b)[0]), trainable, frozen, drawn)


class Watch:
    """Rates of the steps since they were last asked for."""

    def __init__(self):
        self._begin()

    def _begin(self) -> None:
        self._began, self._waited, self._steps, self._tokens, self._arithmetic = time.perf_counter(), 0.0, 0, 0, 0

    @contextlib.contextmanager
    def waiting(self):
        """Around what waits for data; once a step."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began
        self._steps += 1

    def add(self, tokens: int, arithmetic: int) -> None:
        self._tokens += tokens
        self._arithmetic += arithmetic

    def rates(self, mesh: Mesh) -> dict[str, float]:
        """seconds_per_step, of which data_seconds wait for data; tokens and TFLOP per second; mfu where the device's peak is known."""
        seconds = time.perf_counter() - self._began
        out = {"seconds_per_step": seconds / self._steps, "data_seconds": self._waited / self._steps}
        if self._tokens:
            out["tokens_per_second"] = self._tokens / seconds
        if self._arithmetic:
            out["tflops_per_device"] = self._arithmetic / seconds / mesh.size / 1e12
            if fastest := peak(mesh.devices.flat[0]):
                out["mfu"] = out["tflops_per_device"] * 1e12 / fastest
        self._begin()
        return out


class Told:
    """Whether this process was told to stop (SIGTERM), within a `with`: at once, or `later`, when `now` is to be looked at."""

    def __init__(self):
        self.now, self._later = False, False

    def __enter__(self):
        def note(*_):
            self.now = True
            if not self._later:
                raise Preempted("stopped; the same command carries on")

        main = threading.current_thread() is threading.main_thread() and jax.process_count() == 1  # of several, jax's own service knows
        self._before = signal.signal(signal.SIGTERM, note) if main else None
        return self

    def __exit__(self, *_):
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    @contextlib.contextmanager
    def later(self):
        self._later = True
        try:
            yield
        finally:
            self._later = False
