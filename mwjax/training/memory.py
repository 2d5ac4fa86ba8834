"""What a training computes in and what it keeps."""

import dataclasses

from mwjax.errors import InputError
from mwjax.models.block import REMAT
from mwjax.models.world_model import WorldConfig

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """frozen: dtype of weights that are not trained. compute: dtype of activations. remat: what the backward pass
    recomputes, a name of REMAT. unroll: compile block after block, not a loop over them: a small model steps faster,
    and compiles longer."""

    frozen: str = "float32"
    compute: str = "float32"
    remat: str = "none"
    unroll: bool = False

    def __post_init__(self):
        for key in ("frozen", "compute"):
            if getattr(self, key) not in DTYPES:
                raise InputError(f"memory.{key} {getattr(self, key)!r} is unknown; use {' or '.join(DTYPES)}")
        if self.remat not in REMAT:
            raise InputError(f"memory.remat {self.remat!r} is unknown; use {', '.join(REMAT)}")

    def tuned(self, world: WorldConfig, attention: str) -> WorldConfig:
        """The model, computed so."""
        return world.tuned(attention=attention, remat=self.remat, unroll=self.unroll)
