"""The one loop: every stage of every model goes through here."""

import dataclasses
import math
import pathlib
import time
from collections.abc import Iterator

import jax
from tqdm import tqdm

from mwjax.errors import InputError
from mwjax.training.checkpoint import Checkpoints
from mwjax.training.metrics import Metrics
from mwjax.training.objectives import Objective
from mwjax.training.optim import OPTIMIZERS, SCHEDULES
from mwjax.training.state import Rules, combine, make_step, new_state, partition


@dataclasses.dataclass(frozen=True)
class Stage:
    """How one stage trains. name: vae, base, lora or action."""

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
    save_every: int = 200
    log_every: int = 10

    def __post_init__(self):
        if self.name not in TRAINABLE:
            raise InputError(f"stage name {self.name!r} is unknown; use {', '.join(TRAINABLE)}")
        if self.schedule not in SCHEDULES:
            raise InputError(f"stage {self.name}: schedule {self.schedule!r} is unknown; use {' or '.join(SCHEDULES)}")
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"stage {self.name}: optimizer {self.optimizer!r} is unknown; use {' or '.join(OPTIMIZERS)}")
        for key in ("steps", "batch", "save_every", "log_every"):
            if getattr(self, key) < 1:
                raise InputError(f"stage {self.name}: {key} is {getattr(self, key)}, it must be at least 1")

    @property
    def folder(self) -> str:
        """Name of its folder below the run's."""
        return f"{self.name}_images" if self.images else self.name


# What each stage trains. Every parameter must be covered; the first match wins.
TRAINABLE: dict[str, Rules] = {
    "vae": ((r"params/", True),),
    "base": ((r"params/backbone/", True), (r"params/", False)),
    "lora": ((r"lora/.*/alpha$", False), (r"lora/", True), (r"params/", False)),
    "action": ((r"params/(action_encoder|controlnet|adaln)/", True), (r"(params|lora)/", False)),
}


def train(stage: Stage, variables: dict, objective: Objective, batches: Iterator, *, folder: str | pathlib.Path, seed: int) -> dict:
    """Train `variables` for a stage and return them. Continues from the newest checkpoint in `folder`, bit for bit.

    batches: endless iterator of dicts of arrays with get_state() and set_state().
    """
    folder = pathlib.Path(folder)
    trainable, frozen = partition(variables, TRAINABLE[stage.name])
    schedule = SCHEDULES[stage.schedule](stage.lr, stage.warmup, stage.steps)
    optimizer = OPTIMIZERS[stage.optimizer](schedule, weight_decay=stage.weight_decay, clip=stage.clip, b2=stage.b2, eps=stage.eps)
    state = new_state(trainable, optimizer)
    del variables, trainable
    checkpoints = Checkpoints(folder / "checkpoints", every=stage.save_every)
    start = checkpoints.latest() or 0
    if start:
        state, position = checkpoints.restore(state)
        batches.set_state(position)
        if start < stage.steps:
            tqdm.write(f"continuing stage {stage.name} from step {start}")
    metrics = Metrics(folder, resume_step=start)
    step_function = make_step(objective, optimizer, seed)
    bar = tqdm(total=stage.steps, initial=start, desc=f"stage {stage.folder}", unit="step")
    clock = time.perf_counter()
    for step in range(start + 1, stage.steps + 1):
        state, values = step_function(state, frozen, next(batches))
        if step % stage.log_every == 0 or step == stage.steps:
            values = {k: float(v) for k, v in jax.device_get(values).items()}
            if not math.isfinite(values["loss"]):
                raise InputError(f"the loss of stage {stage.name} is {values['loss']} at step {step}; lower its lr ({stage.lr}) and run again")
            now = time.perf_counter()
            metrics.add(step, values | {"lr": float(schedule(step - 1)), "seconds_per_step": (now - clock) / stage.log_every})
            clock = now
            bar.set_postfix(loss=f"{values['loss']:.4f}")
        bar.update()
        checkpoints.save(step, state, batches.get_state(), force=step == stage.steps)
    bar.close()
    checkpoints.close()
    metrics.close()
    return combine(state.trainable, frozen)
