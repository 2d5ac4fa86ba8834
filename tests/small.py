"""The toy box: small sizes, drawn parameters, what a refused command leaves behind, and a user's environment."""

import os

import jax
import numpy as np
import pytest

from mwjax.models import lora
from mwjax.models.block import DiTConfig
from mwjax.models.image import ImageConfig
from mwjax.models.model import Model, Network
from mwjax.models.shapes import image_shapes, text_shapes, vae_shapes, world_shapes
from mwjax.models.text import TextConfig
from mwjax.models.vae import VAEConfig
from mwjax.models.world_model import WorldConfig

BACKBONE = DiTConfig(dim=24, ffn_dim=32, num_heads=2, num_layers=2, text_dim=16, text_len=32, freq_dim=32)
VAE = VAEConfig(4, (1, 1, 2, 2), 1)
TEXT = TextConfig(384, 16, 16, 24, 2, 2)
IMAGE = ImageConfig(28, 14, 80, 2, 24, 1, 3)


def backbone(**changes) -> DiTConfig:
    """A small backbone, but for what is said."""
    sizes = {"dim": 48, "ffn_dim": 64, "num_heads": 2, "num_layers": 4, "text_dim": 16, "text_len": 8, "freq_dim": 32}
    return DiTConfig(**sizes | changes)


def drawn(shapes: dict, seed: int = 0) -> dict:
    """Parameters of these shapes with nothing at zero, about as large as fresh ones; scales near one. Nothing is
    compiled for them."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        near = 1.0 if path[-1].key in ("scale", "gamma", "alpha") else 0.0
        return (near + 0.14 * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def adapter_shapes(params: dict, rank: int = 4, alpha: float = 2.0) -> dict:
    """Shapes of adapters for a world model's parameters, as the collection "lora"."""
    return {"backbone": jax.eval_shape(lambda: lora.init(params["backbone"], rank, alpha, jax.random.key(1)))}


def small_model(world: WorldConfig) -> Model:
    """Drawn networks around a world model whose text has 16 channels, and whose picture 80, if it takes one."""
    networks = {
        "transformer": Network(world, drawn(world_shapes(world))),
        "vae": Network(VAE, drawn(vae_shapes(VAE))),
        "text_encoder": Network(TEXT, drawn(text_shapes(TEXT))),
    }
    if world.backbone.image_dim:
        networks["image_encoder"] = Network(IMAGE, drawn(image_shapes(IMAGE)))
    return Model(networks, "byt5")


def refused(main, arguments, says: str, capsys) -> None:
    """The command ends with exit code 2 and one line that says what is wrong."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    error = capsys.readouterr().err
    assert stop.value.code == 2, error
    assert says in error
    assert len(error.strip().splitlines()) == 1


def one_device() -> dict[str, str]:
    """The environment of a user with one device."""
    return {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"}
