"""What every stage is: settings, what it trains, where it starts, what it learns from, what it minimises, what it
leaves."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import ClassVar

import jax
import optax

from mwjax.data.clips import ClipConfig
from mwjax.errors import InputError
from mwjax.models.model import Model
from mwjax.ranges import ranged
from mwjax.training.gameplay import Gameplay
from mwjax.training.memory import Memory
from mwjax.training.objectives import Objective
from mwjax.training.optim import OPTIMIZERS, SCHEDULES
from mwjax.training.state import MOST_DECAY, MOST_STEPS, Rules, StepOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(StepOptions):
    """Settings of every stage; a subclass adds its own.

    keep: newest checkpoints to keep. keep_every: and every checkpoint of these steps; 0: none. max_skipped: stop
    after so many steps left out in a row. start_from: checkpoint folder of this stage in another run to start from.
    """

    NAME: ClassVar[str]  # in configs
    KIND: ClassVar[str] = "transformer"  # of the network that is trained
    TRAINS: ClassVar[Rules]  # every parameter must be covered; the first match wins
    RENAMED: ClassVar[dict[str, str]] = {  # keys that configs had before
        "accumulate": "grad_accumulation",
        "average": "ema",
        "spike": "skip_above",
        "start": "start_from",
    }

    steps: int = ranged(least=0, most=MOST_STEPS, whole=True)
    batch: int = ranged(least=1, most=1_000_000, whole=True)
    lr: float = ranged(least=0, most=1000)
    optimizer: str = "adamw"
    schedule: str = "cosine"
    weight_decay: float = ranged(0.1, least=0, most=1000)
    clip: float = ranged(0.05, above=0)
    b2: float = ranged(0.999, least=0, most=MOST_DECAY)
    eps: float = ranged(1e-8, above=0, most=1)
    max_skipped: int = ranged(10, least=1, most=MOST_STEPS, whole=True)
    start_from: str = ""
    save_every: int = ranged(200, least=1, most=MOST_STEPS, whole=True)
    keep: int = ranged(2, least=1, most=1_000_000, whole=True)
    keep_every: int = ranged(0, least=0, most=MOST_STEPS, whole=True)
    log_every: int = ranged(10, least=1, most=MOST_STEPS, whole=True)

    def __post_init__(self):
        super().__post_init__()
        for key, table in (("schedule", SCHEDULES), ("optimizer", OPTIMIZERS)):
            if getattr(self, key) not in table:
                raise InputError(
                    f"stage {self.NAME}: {key} {getattr(self, key)!r} is unknown; use {' or '.join(table)}"
                )
        if self.steps < 1 and not (self.start_from and self.steps == 0):
            raise InputError(
                f"stage {self.NAME}: steps is {self.steps}, it must be at least 1 (or 0 with `start_from`)"
            )
        if self.batch % self.grad_accumulation:
            parts = f"grad_accumulation {self.grad_accumulation} parts"
            raise InputError(f"stage {self.NAME}: batch {self.batch} does not divide into {parts}")

    @classmethod
    def parsed(cls, values: dict, where: str) -> dict:
        """The values of a config with their sections built; `where` names them in errors."""
        del where
        return values

    def check(self, clip: ClipConfig) -> None:
        """Raises InputError for what does not fit the clips that are trained on."""
        del clip

    @property
    def folder(self) -> str:
        """Name of its folder below the run's."""
        return self.NAME

    def schedule_and_optimizer(self) -> tuple[Callable, optax.GradientTransformation]:
        """(learning rate by step, optimizer)."""
        schedule = SCHEDULES[self.schedule](self.lr, self.warmup, self.steps)
        make = OPTIMIZERS[self.optimizer]
        options = {"weight_decay": self.weight_decay, "clip": self.clip, "b2": self.b2, "eps": self.eps}
        return schedule, make(schedule, **options)

    def start(self, model: Model, *, seed: int, mesh: jax.sharding.Mesh | None = None) -> tuple[Model, dict]:
        """The model with what this stage adds, and the variables that it trains a part of."""
        raise NotImplementedError

    def batches(self, data: Gameplay, model: Model, *, seed: int, number: int) -> Iterator[dict]:
        """Endless batches of this process's part, with get_state() and set_state(). number: of the stage in its run."""
        raise NotImplementedError

    def objective(self, model: Model, memory: Memory, attention: str) -> Objective:
        """What is minimised."""
        raise NotImplementedError

    def counted(self, model: Model, memory: Memory) -> Objective | None:
        """The same without recomputation, whose arithmetic counts as useful; None: not counted."""
        del model, memory
        return None

    def released(self, model: Model) -> Model:
        """The model without the arrays that `variables` of `start` holds: what is trained must not be held twice."""
        return model

    def finish(self, model: Model, variables: dict) -> Model:
        """The model with what was trained."""
        raise NotImplementedError

    def conclude(self, model: Model, data: Gameplay, *, seed: int) -> Model:
        """What is still to be done where this is the last stage."""
        del data, seed
        return model

    def batch_shapes(self, model: Model, latents: tuple[int, int, int], image_tokens: int) -> dict | None:
        """Shapes of one clip in a batch, for planning; None where a stage is not planned. latents: (t, h, w)."""
        del model, latents, image_tokens
        return None
