"""Sizes, in one table."""

import dataclasses

from mwjax.models.block import DiTConfig
from mwjax.models.text import TextConfig
from mwjax.models.vae import VAEConfig
from mwjax.models.world_model import WorldConfig


@dataclasses.dataclass(frozen=True)
class Variant:
    """Everything that makes up one size: backbone, VAE, text encoder, width of the action features, tokenizer."""

    backbone: DiTConfig
    vae: VAEConfig
    text: TextConfig
    action_dim: int
    tokenizer: str  # "byt5" needs no vocabulary file; "umt5" is read from the folder beside the weights

    def world(self, *controls: str) -> WorldConfig:
        return WorldConfig(self.backbone, controls, self.action_dim)


TINY = Variant(
    backbone=DiTConfig(dim=192, ffn_dim=576, num_heads=3, num_layers=6, text_dim=64, text_len=96),
    vae=VAEConfig(dim=8, dim_mult=(1, 2, 4, 8), num_res_blocks=1),
    text=TextConfig(vocab=384, dim=64, dim_attn=64, dim_ffn=128, num_heads=4, num_layers=2),
    action_dim=192,
    tokenizer="byt5",
)
T2W = Variant(
    backbone=DiTConfig(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30),
    vae=VAEConfig(),
    text=TextConfig(),
    action_dim=1536,
    tokenizer="umt5",
)
I2W = dataclasses.replace(
    T2W, backbone=DiTConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40, in_dim=36, image_dim=1280)
)

VARIANTS = {"tiny": TINY, "1.3B": T2W, "14B": I2W}
