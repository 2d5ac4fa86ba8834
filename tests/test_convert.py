"""Key names both ways, strictly."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import released_keys

from converters import dit, image, text, vae
from converters.folder import load_model, new_model, save_model
from converters.lora import LORA
from converters.shapes import image_shapes, text_shapes, vae_shapes, world_shapes
from converters.tables import load, moves, save
from mwjax.errors import InputError
from mwjax.models import lora
from mwjax.models.dit import DiTConfig
from mwjax.models.image import ImageConfig
from mwjax.models.text import TextConfig
from mwjax.models.vae import VAEConfig
from mwjax.models.variants import VARIANTS, Variant
from mwjax.models.world_model import WorldConfig

BACKBONE = DiTConfig(dim=24, ffn_dim=32, num_heads=2, num_layers=4, text_dim=16, text_len=8, freq_dim=32)
SMALL = Variant(BACKBONE, VAEConfig(4, (1, 1, 2, 2), 1), TextConfig(384, 16, 16, 24, 2, 2), 16, "byt5")
def world_shapes_of_ones() -> dict:
    return jax.tree.map(lambda a: jnp.ones(a.shape), world_shapes(WorldConfig(BACKBONE)))["backbone"]


TREES = {
    "world": (dit.WORLD, world_shapes(WorldConfig(BACKBONE, "controlnet", 16))),
    "vae": (vae.VAE, vae_shapes(SMALL.vae)),
    "text": (text.TEXT, text_shapes(SMALL.text)),
    "lora": (LORA, {"backbone": jax.eval_shape(lambda: lora.init(world_shapes_of_ones(), 4, 2.0, jax.random.key(0)))}),
}


@pytest.fixture(scope="module")
def model():
    return new_model(SMALL, seed=0)


def random_tree(shapes: dict) -> dict:
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: rng.standard_normal(a.shape).astype(np.float32), shapes)


@pytest.mark.parametrize("name", TREES)
def test_export_then_import_is_the_identity(name):
    rows, shapes = TREES[name]
    tree = random_tree(shapes)
    tensors = dict(save(rows, tree))
    back = load(rows, tensors, shapes)
    jax.tree.map(np.testing.assert_array_equal, tree, back)
    again = dict(save(rows, back))
    assert tensors.keys() == again.keys()
    assert all(tensors[k].tobytes() == again[k].tobytes() for k in tensors)


def test_keys_must_fit_exactly():
    rows, shapes = TREES["world"]
    tensors = dict(save(rows, random_tree(shapes)))
    head = tensors.pop("head.head.weight")
    tensors["heads.head.weight"] = head
    tensors["blocks.2.ffn.0.bias"] = np.zeros(3, np.float32)
    with pytest.raises(InputError) as error:
        load(rows, tensors, shapes)
    for word in ("1 missing: head.head.weight", "1 unexpected: heads.head.weight", "wrong shape"):
        assert word in str(error.value)


def test_model_folders_round_trip(tmp_path, model):
    model = dataclasses.replace(model)
    model.lora = lora.init(model.world_params["backbone"], 4, 2.0, jax.random.key(1))
    again = load_model(save_model(model, tmp_path / "model"))
    assert again.world.backbone == model.world.backbone
    assert again.vae == model.vae
    assert again.text == model.text
    for part in ("world_params", "vae_params", "text_params", "lora"):
        jax.tree.map(np.testing.assert_array_equal, getattr(model, part), getattr(again, part))
    assert json.loads((tmp_path / "model/transformer/config.json").read_text())["dim"] == 24


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / "transformer/diffusion_pytorch_model.safetensors").write_bytes(b"xx"), "damaged"),
        (lambda f: (f / "vae/Wan2.1_VAE.safetensors").unlink(), "has no vae"),
        (lambda f: (f / "transformer/diffusion_pytorch_model.safetensors").unlink(), "python -m converters import"),
        (lambda f: (f / "transformer/config.json").write_text("{"), "not JSON"),
        (lambda f: edit(f / "transformer/config.json", dim=48), "wrong shape"),
    ],
)
def test_broken_model_folders(tmp_path, model, damage, says):
    folder = save_model(model, tmp_path / "model")
    damage(folder)
    with pytest.raises(InputError, match=says):
        load_model(folder)


def edit(path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def names_of(rows, shapes: dict) -> set[str]:
    names = [name for step in moves(rows, rows, shapes) for name in step.write]
    assert len(names) == len(set(names))
    return set(names)


@pytest.mark.parametrize(
    ("rows", "shapes", "keys", "tensors"),
    [
        (dit.WORLD, lambda: world_shapes(VARIANTS["1.3B"].world("none")), released_keys.T2V, 825),
        (dit.WORLD, lambda: world_shapes(VARIANTS["14B"].world("none")), released_keys.I2V, 1303),
        (dit.WORLD, lambda: world_shapes(VARIANTS["1.3B"].world("controlnet")), released_keys.T2W, None),
        (dit.WORLD, lambda: world_shapes(VARIANTS["14B"].world("adaln")), released_keys.I2W, None),
        (vae.VAE, lambda: vae_shapes(VAEConfig()), released_keys.VAE, 194),
        (text.TEXT, lambda: text_shapes(TextConfig()), released_keys.TEXT, 242),
        (image.IMAGE, lambda: image_shapes(ImageConfig()), released_keys.IMAGE, 392),
    ],
)
def test_every_key_of_the_released_files(rows, shapes, keys, tensors):
    assert names_of(rows, shapes()) == keys
    assert tensors in (len(keys), None)


@pytest.mark.parametrize(("size", "control", "keys", "layers"), [("1.3B", "controlnet", released_keys.T2W, 306), ("14B", "adaln", released_keys.I2W, 488)])
def test_every_key_of_the_released_loras(size, control, keys, layers):
    backbone = world_shapes(VARIANTS[size].world(control))["backbone"]
    blank = jax.tree.map(lambda a: np.broadcast_to(np.float32(0), a.shape), backbone)
    shapes = {"backbone": jax.eval_shape(lambda: lora.init(blank, 128, 64.0, jax.random.key(0)))}
    assert names_of(LORA, shapes) == released_keys.lora(keys)
    assert len(released_keys.lora(keys)) == 3 * layers
