"""What the stages that train the transformer by flow matching have in common."""

import dataclasses
from collections.abc import Iterator

import jax

from mwjax.encoding import without_encoders
from mwjax.models.model import Model
from mwjax.models.world_model import input_shapes
from mwjax.ranges import ranged
from mwjax.training.gameplay import Gameplay
from mwjax.training.memory import Memory
from mwjax.training.objectives import Objective, flow_objective
from mwjax.training.stages.stage import Stage


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowStage(Stage):
    """motion: weight of the motion term of the loss. shorter: probability that a batch is cut to a shorter clip
    length."""

    motion: float = ranged(0.0, least=0, most=1000)
    caption_dropout: float = ranged(0.1, least=0, most=1)
    shorter: float = ranged(0.0, least=0, most=1)

    def start(self, model: Model, *, seed: int, mesh: jax.sharding.Mesh | None = None) -> tuple[Model, dict]:
        del seed, mesh
        model = without_encoders(model)
        return model, model.variables

    def batches(self, data: Gameplay, model: Model, *, seed: int, number: int) -> Iterator[dict]:
        return data.latent_batches(
            model=model,
            batch=self.batch,
            seed=seed + number,
            caption_dropout=self.caption_dropout,
            shorter=self.shorter,
        )

    def objective(self, model: Model, memory: Memory, attention: str) -> Objective:
        config = memory.tuned(model.transformer.config, attention)
        return flow_objective(config, motion=self.motion, dtype=memory.compute)

    def counted(self, model: Model, memory: Memory) -> Objective:
        config = model.transformer.config.tuned(attention="plain", remat="none")
        return flow_objective(config, motion=self.motion, dtype=memory.compute)

    def released(self, model: Model) -> Model:
        return dataclasses.replace(model.updated("transformer", params={}), lora=None)

    def finish(self, model: Model, variables: dict) -> Model:
        adapters = variables["lora"]["backbone"] if "lora" in variables else None
        return dataclasses.replace(model.updated("transformer", params=variables["params"]), lora=adapters)

    def batch_shapes(self, model: Model, latents: tuple[int, int, int], image_tokens: int) -> dict:
        config = model.transformer.config
        clip = (*latents, config.backbone.out_dim)
        shapes = input_shapes(config, latents, image_tokens) | {"mean": clip, "logvar": clip}
        return shapes | ({"first_frame": clip} if "first_frame" in shapes else {})  # the mask comes later
