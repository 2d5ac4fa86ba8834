"""The backbone, from text alone."""

import dataclasses

from mwjax.training.stages.flow import FlowStage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base(FlowStage):
    NAME = "base"
    TRAINS = ((r"params/backbone/", True), (r"params/", False))
