"""Stage 1 of the paper: low-rank adapters that take up the look of the game."""

import dataclasses

import jax

from mwjax.models import lora
from mwjax.models.model import Model
from mwjax.ranges import ranged
from mwjax.training.stages.flow import FlowStage


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRA(FlowStage):
    NAME = "lora"
    TRAINS = ((r"lora/.*/alpha$", False), (r"lora/", True), (r"params/", False))

    rank: int = ranged(128, least=1, most=4096, whole=True)
    alpha: float = ranged(64.0, above=0, most=1e6)

    def start(self, model: Model, *, seed: int, mesh: jax.sharding.Mesh | None = None) -> tuple[Model, dict]:
        model, _ = super().start(model, seed=seed, mesh=mesh)
        backbone = model.transformer.params["backbone"]
        fresh = jax.jit(lambda key: lora.init(backbone, self.rank, self.alpha, key))
        model = dataclasses.replace(model, lora=fresh(jax.random.key(seed)))
        return model, model.variables
