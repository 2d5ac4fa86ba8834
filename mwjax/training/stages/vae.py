"""The autoencoder, from clips or from single frames of them."""

import dataclasses
from collections.abc import Iterator

import jax

from mwjax.data.clips import ClipConfig
from mwjax.encoding import standardise_latents
from mwjax.errors import InputError
from mwjax.models.model import Model
from mwjax.ranges import FRAMES, Range, ranged
from mwjax.training.gameplay import Gameplay
from mwjax.training.memory import Memory
from mwjax.training.objectives import Objective, vae_objective
from mwjax.training.stages.stage import Stage

FRAMES_OR_NONE = Range(least=0, most=FRAMES.most, whole=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Autoencoder(Stage):
    """images: learn from so many single frames of each clip; 0: from whole clips."""

    NAME = "vae"
    KIND = "vae"
    TRAINS = ((r"params/", True),)

    kl_weight: float = ranged(1e-4, least=0, most=1000)
    images: int = ranged(0, FRAMES_OR_NONE)

    def check(self, clip: ClipConfig) -> None:
        if self.images > clip.frames:
            raise InputError(f"images {self.images} is more than the {clip.frames} frames of a clip, framing.frames")

    @property
    def folder(self) -> str:
        return f"{self.NAME}_images" if self.images else self.NAME

    def start(self, model: Model, *, seed: int, mesh: jax.sharding.Mesh | None = None) -> tuple[Model, dict]:
        del seed, mesh
        return model, {"params": model.vae.params}

    def batches(self, data: Gameplay, model: Model, *, seed: int, number: int) -> Iterator[dict]:
        del model, number
        return data.pixel_batches(batch=self.batch, seed=seed, images=self.images)

    def objective(self, model: Model, memory: Memory, attention: str) -> Objective:
        del memory, attention
        return vae_objective(model.vae.config, kl_weight=self.kl_weight)

    def finish(self, model: Model, variables: dict) -> Model:
        return model.updated("vae", params=variables["params"])

    def conclude(self, model: Model, data: Gameplay, *, seed: int) -> Model:
        """With latents of mean 0 and deviation 1."""
        return standardise_latents(model, data.pixel_batches(batch=self.batch, seed=seed, images=self.images))
