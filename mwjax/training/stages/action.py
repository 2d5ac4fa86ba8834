"""Stage 2 of the paper: the action modules, with the adapters of stage 1 in place."""

import dataclasses

import jax

from mwjax.errors import InputError
from mwjax.models.controls import CONTROLS
from mwjax.models.model import Model, add_controls
from mwjax.ranges import Checked, ranged
from mwjax.training.stages.flow import FlowStage


@dataclasses.dataclass(frozen=True, kw_only=True)
class ControlConfig(Checked):
    """kind: a name of CONTROLS, several joined by "+", or "none". action_dim: width of the action features."""

    kind: str = "none"
    action_dim: int = ranged(1536, least=2, most=65_536, whole=True)

    def __post_init__(self):
        super().__post_init__()
        for name in self.controls:
            if name not in CONTROLS:
                known = ", ".join(("none", *CONTROLS))
                raise InputError(f"control.kind {name!r} is unknown; use {known}, or several joined by +")

    @property
    def controls(self) -> tuple[str, ...]:
        return () if self.kind == "none" else tuple(self.kind.split("+"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Action(FlowStage):
    NAME = "action"
    TRAINS = ((rf"params/(action_encoder|{'|'.join(CONTROLS)})/", True), (r"(params|lora)/", False))

    control: ControlConfig = ControlConfig()  # the config's own section

    def __post_init__(self):
        super().__post_init__()
        if not self.control.controls:
            choice = " or ".join(f'"{name}"' for name in CONTROLS)
            raise InputError(f'control.kind is "none", but there is an action stage; use {choice}')

    def start(self, model: Model, *, seed: int, mesh: jax.sharding.Mesh | None = None) -> tuple[Model, dict]:
        model, _ = super().start(model, seed=seed, mesh=mesh)
        control = self.control
        model = add_controls(model, control.controls, action_dim=control.action_dim, seed=seed, mesh=mesh)
        return model, model.variables
