"""What can be trained: one stage a file, one line a stage in this table."""

from mwjax.training.stages.action import Action
from mwjax.training.stages.base import Base
from mwjax.training.stages.idm import InverseDynamicsStage
from mwjax.training.stages.lora import LoRA
from mwjax.training.stages.stage import Stage
from mwjax.training.stages.vae import Autoencoder

STAGES: dict[str, type[Stage]] = {
    stage.NAME: stage for stage in (Autoencoder, Base, LoRA, Action, InverseDynamicsStage)
}
