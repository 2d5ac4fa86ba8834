"""What is measured: world models and clips, and toy sizes of them."""

import dataclasses
from typing import NamedTuple

from mwjax.models.vae import VAEConfig
from mwjax.models.variants import VARIANTS
from mwjax.models.world_model import WorldConfig

IMAGE_TOKENS = 257  # of the image encoder


class Case(NamedTuple):
    """A world model and a clip (frames, height, width)."""

    variant: str
    controls: tuple[str, ...]
    clip: tuple[int, int, int]

    @property
    def size(self) -> str:
        frames, height, width = self.clip
        return f"{frames}×{height}×{width}"

    @property
    def latents(self) -> tuple[int, int, int]:
        frames, height, width = self.clip
        return frames // 4 + 1, height // 8, width // 8


CASES = {
    "T2V-1.3B": Case("1.3B", (), (81, 480, 832)),
    "T2W-1.3B": Case("1.3B", ("controlnet",), (81, 352, 640)),
    "I2W-14B": Case("14B", ("adaln",), (81, 352, 640)),
}
QUICKSTART = Case("tiny", ("controlnet",), (17, 48, 80))
TOY_CLIP = (5, 32, 48)
TOY = {"dim": 48, "ffn_dim": 64, "num_heads": 2, "num_layers": 2, "text_dim": 16, "text_len": 8, "freq_dim": 32}
TOY_VAE = VAEConfig(4, (1, 1, 2, 2), 1)


def sized(case: Case, *, tiny: bool) -> tuple[Case, WorldConfig]:
    """A case and its model; tiny: toy sizes of the same kind."""
    config = VARIANTS[case.variant].world(*case.controls)
    if not tiny:
        return case, config
    image_dim = 16 if config.backbone.image_dim else 0
    backbone = dataclasses.replace(config.backbone, **TOY, image_dim=image_dim)
    return case._replace(clip=TOY_CLIP), dataclasses.replace(config, backbone=backbone, action_dim=16)
