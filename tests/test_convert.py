"""Key names both ways, strictly."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import released_keys
from small import BACKBONE, drawn, small_model

from converters import image, text, vae
from converters.dit import WORLD_ROWS
from converters.folder import load_model, save_model
from converters.lora import LORA_ROWS
from converters.tables import load, moves, save
from mwjax.errors import InputError
from mwjax.models import lora
from mwjax.models.image import ImageConfig
from mwjax.models.shapes import image_shapes, text_shapes, vae_shapes, world_shapes
from mwjax.models.text import TextConfig
from mwjax.models.vae import VAEConfig
from mwjax.models.variants import VARIANTS
from mwjax.models.world_model import WorldConfig


def adapter_shapes(world: WorldConfig, *, rank: int) -> dict:
    """Shapes of adapters for a world model's backbone."""
    blank = jax.tree.map(lambda a: np.broadcast_to(np.float32(0), a.shape), world_shapes(world)["backbone"])
    return {"backbone": jax.eval_shape(lambda: lora.init(blank, rank, 2.0, jax.random.key(0)))}


TREES = {
    "world": (WORLD_ROWS, world_shapes(WorldConfig(BACKBONE, ("controlnet",), 16))),
    "vae": (vae.ROWS, vae_shapes(VAEConfig(4, (1, 1, 2, 2), 1))),
    "text": (text.ROWS, text_shapes(TextConfig(384, 16, 16, 24, 2, 2))),
    "image": (image.ROWS, image_shapes(ImageConfig(28, 14, 80, 2, 24, 1, 3))),
    "lora": (LORA_ROWS, adapter_shapes(WorldConfig(BACKBONE), rank=4)),
}


@pytest.fixture(scope="module")
def model():
    return small_model(WorldConfig(BACKBONE))


@pytest.mark.parametrize("name", TREES)
def test_export_then_import_is_the_identity(name):
    rows, shapes = TREES[name]
    tree = drawn(shapes)
    tensors = dict(save(rows, tree))
    back = load(rows, tensors, shapes)
    jax.tree.map(np.testing.assert_array_equal, tree, back)
    again = dict(save(rows, back))
    assert tensors.keys() == again.keys()
    assert all(tensors[name].tobytes() == again[name].tobytes() for name in tensors)


def test_keys_must_fit_exactly():
    rows, shapes = TREES["world"]
    tensors = dict(save(rows, drawn(shapes)))
    head = tensors.pop("head.head.weight")
    tensors["heads.head.weight"] = head
    tensors["blocks.1.ffn.0.bias"] = np.zeros(3, np.float32)
    with pytest.raises(InputError) as error:
        load(rows, tensors, shapes)
    for word in ("1 missing: head.head.weight", "1 unexpected: heads.head.weight", "wrong shape"):
        assert word in str(error.value)


def test_model_folders_round_trip(tmp_path, model):
    model = dataclasses.replace(model, lora=drawn(adapter_shapes(model.transformer.config, rank=4))["backbone"])
    again = load_model(save_model(model, tmp_path / "model"))
    assert again.tokenizer == model.tokenizer
    assert again.networks.keys() == model.networks.keys()
    for kind, network in model.networks.items():
        assert again.networks[kind].config == network.config
        jax.tree.map(np.testing.assert_array_equal, network.params, again.networks[kind].params)
    jax.tree.map(np.testing.assert_array_equal, model.lora, again.lora)
    assert json.loads((tmp_path / "model/transformer/config.json").read_text())["dim"] == 24


WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
SIZES = "transformer/config.json"


def edit(path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / WEIGHTS).write_bytes(b"xx"), "damaged"),
        (lambda folder: (folder / "vae/Wan2.1_VAE.safetensors").unlink(), "has no vae"),
        (lambda folder: (folder / WEIGHTS).unlink(), "python -m converters import"),
        (lambda folder: (folder / SIZES).write_text("{"), "not JSON"),
        (lambda folder: edit(folder / SIZES, dim=48), "wrong shape"),
    ],
)
def test_broken_model_folders(tmp_path, model, damage, says):
    folder = save_model(model, tmp_path / "model")
    damage(folder)
    with pytest.raises(InputError, match=says):
        load_model(folder)


def names_of(rows, shapes: dict) -> set[str]:
    names = [name for step in moves(rows, rows, shapes) for name in step.write]
    assert len(names) == len(set(names))
    return set(names)


@pytest.mark.parametrize(
    ("rows", "shapes", "keys", "tensors"),
    [
        (WORLD_ROWS, lambda: world_shapes(VARIANTS["1.3B"].world()), released_keys.T2V, 825),
        (WORLD_ROWS, lambda: world_shapes(VARIANTS["14B"].world()), released_keys.I2V, 1303),
        (WORLD_ROWS, lambda: world_shapes(VARIANTS["1.3B"].world("controlnet")), released_keys.T2W, None),
        (WORLD_ROWS, lambda: world_shapes(VARIANTS["14B"].world("adaln")), released_keys.I2W, None),
        (vae.ROWS, lambda: vae_shapes(VAEConfig()), released_keys.VAE, 194),
        (text.ROWS, lambda: text_shapes(TextConfig()), released_keys.TEXT, 242),
        (image.ROWS, lambda: image_shapes(ImageConfig()), released_keys.IMAGE, 392),
    ],
)
def test_every_key_of_the_released_files(rows, shapes, keys, tensors):
    assert names_of(rows, shapes()) == keys
    assert tensors in (len(keys), None)


@pytest.mark.parametrize(
    ("size", "control", "keys", "layers"),
    [("1.3B", "controlnet", released_keys.T2W, 306), ("14B", "adaln", released_keys.I2W, 488)],
)
def test_every_key_of_the_released_loras(size, control, keys, layers):
    shapes = adapter_shapes(VARIANTS[size].world(control), rank=128)
    assert names_of(LORA_ROWS, shapes) == released_keys.lora(keys)
    assert len(released_keys.lora(keys)) == 3 * layers
