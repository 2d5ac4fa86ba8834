"""Model folders: released key names as safetensors, one sub-folder per network, with the sizes beside each.

    transformer/           config.json, diffusion_pytorch_model.safetensors  (backbone and action module)
    vae/                   config.json, Wan2.1_VAE.safetensors
    text_encoder/          config.json, models_t5.safetensors (and the tokenizer's files, unless it is "byt5")
    lora_diffusion_pytorch_model.safetensors                                 (if there is one)
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from converters import dit, text, vae
from converters.lora import LORA
from converters.tables import Row, load, save
from mwjax.errors import InputError
from mwjax.models import lora as lora_model
from mwjax.models import world_model
from mwjax.models.image import ImageConfig, ImageEncoder
from mwjax.models.text import TextConfig, TextEncoder
from mwjax.models.vae import VAE, VAEConfig
from mwjax.models.variants import Variant
from mwjax.models.world_model import WorldConfig

TRANSFORMER = pathlib.Path("transformer/diffusion_pytorch_model.safetensors")
VAE_FILE = pathlib.Path("vae/Wan2.1_VAE.safetensors")
TEXT_FILE = pathlib.Path("text_encoder/models_t5.safetensors")
LORA_FILE = pathlib.Path("lora_diffusion_pytorch_model.safetensors")
SHIPPED = {"tiny": pathlib.Path(__file__).resolve().parent.parent / "mwjax" / "assets" / "tiny"}


@dataclasses.dataclass
class Model:
    """A loaded model: sizes and parameters of every part. `world_params` and `lora` are trees of float32 arrays."""

    world: WorldConfig
    world_params: dict
    vae: VAEConfig
    vae_params: dict
    text: TextConfig
    text_params: dict
    tokenizer: str
    lora: dict | None = None

    @property
    def variables(self) -> dict:
        """The world model's variables, with the adapters as collection "lora" if there are any."""
        return {"params": self.world_params} | ({"lora": {"backbone": self.lora}} if self.lora else {})


def find(name: str | pathlib.Path) -> pathlib.Path:
    """The folder of a shipped model by name ("tiny") or of any path. Raises InputError if there is none."""
    folder = SHIPPED.get(str(name), pathlib.Path(name))
    if not (folder / TRANSFORMER).exists():
        how = f"python -m converters import DOWNLOADED_WAN_FOLDER {name}" if str(name) not in SHIPPED else "reinstall mwjax"
        raise InputError(f"model {str(name)!r} is not there ({folder / TRANSFORMER} is missing); import released Wan2.1 weights with: {how}")
    return folder


def world_shapes(cfg: WorldConfig) -> dict:
    return jax.eval_shape(lambda: world_model.init(cfg, jax.random.key(0)))


def vae_shapes(cfg: VAEConfig) -> dict:
    return jax.eval_shape(lambda: VAE(cfg).init(jax.random.key(0), jnp.zeros((1, 5, 16, 16, 3)))["params"])


def text_shapes(cfg: TextConfig) -> dict:
    return jax.eval_shape(lambda: TextEncoder(cfg).init(jax.random.key(0), jnp.zeros((1, 1), int), jnp.ones((1, 1), int))["params"])


def image_shapes(cfg: ImageConfig) -> dict:
    pixels = jnp.zeros((1, cfg.image_size, cfg.image_size, 3))
    return jax.eval_shape(lambda: ImageEncoder(cfg).init(jax.random.key(0), pixels)["params"])


def read_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """All tensors of a safetensors file. Raises InputError if it is missing or damaged."""
    try:
        with safe_open(path, "flax") as file:  # the flax reader knows bfloat16
            return {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except SafetensorError as error:
        raise InputError(f"{path} is damaged or not a safetensors file ({error})") from None


def _read_json(path: pathlib.Path) -> dict:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON ({error})") from None


def _fill(rows: tuple[Row, ...], path: pathlib.Path, tensors: dict[str, np.ndarray], shapes: dict) -> dict:
    try:
        tree = load(rows, tensors, shapes)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)


def load_model(name: str | pathlib.Path) -> Model:
    """Load a model folder, or a shipped model by name, in float32."""
    folder = find(name)
    config = _read_json(folder / "transformer/config.json")
    vae_cfg = vae.config_from_json(_read_json(folder / "vae/config.json"))
    text_json = _read_json(folder / "text_encoder/config.json")
    text_cfg = text.config_from_json(text_json)
    transformer, vae_tensors, text_tensors = (read_tensors(folder / path) for path in (TRANSFORMER, VAE_FILE, TEXT_FILE))
    world = dit.config_from_json(config, control=dit.control_of(transformer))
    params = _fill(dit.WORLD, folder / TRANSFORMER, transformer, world_shapes(world))
    tokenizer = text_json.get("tokenizer", "umt5")
    model = Model(
        world, params, vae_cfg, _fill(vae.VAE, folder / VAE_FILE, vae_tensors, vae_shapes(vae_cfg)), text_cfg,
        _fill(text.TEXT, folder / TEXT_FILE, text_tensors, text_shapes(text_cfg)), tokenizer if tokenizer == "byt5" else str(folder / "text_encoder"),
    )  # fmt: skip
    if (folder / LORA_FILE).exists():
        model.lora = load_lora(folder / LORA_FILE, params["backbone"])
    return model


def new_model(variant: Variant, *, seed: int) -> Model:
    """A model with fresh parameters and no control. Its text encoder stays as drawn: a fixed random embedding of captions."""
    keys = jax.random.split(jax.random.key(seed), 3)
    text_params = jax.jit(lambda key: TextEncoder(variant.text).init(key, jnp.zeros((1, 1), int), jnp.ones((1, 1), int))["params"])(keys[2])
    vae_params = jax.jit(lambda key: VAE(variant.vae).init(key, jnp.zeros((1, 5, 16, 16, 3)))["params"])(keys[1])
    world = variant.world("none")
    return Model(world, jax.jit(lambda key: world_model.init(world, key))(keys[0]), variant.vae, vae_params, variant.text, text_params, variant.tokenizer)


def add_control(model: Model, control: str, *, action_dim: int, seed: int) -> Model:
    """The model with an action module. A fresh one starts as copies of the base's blocks whose projections are zero."""
    if model.world.control == control:
        return model
    if model.world.control != "none":
        raise InputError(f"the model has control {model.world.control}, the config asks for {control}")
    world = dataclasses.replace(model.world, control=control, action_dim=action_dim)
    fresh = jax.jit(lambda key: world_model.init(world, key))(jax.random.key(seed))
    params = world_model.copy_base_into_control(fresh | {"backbone": model.world_params["backbone"]})
    return dataclasses.replace(model, world=world, world_params=params)


def load_lora(path: pathlib.Path, backbone: dict) -> dict:
    """Adapters of a LoRA file; its rank is read from the file."""
    tensors = read_tensors(path)
    ranks = {t.shape[0] for k, t in tensors.items() if k.endswith("lora_down.weight")}
    if len(ranks) != 1:
        raise InputError(f"{path} is not a LoRA file in the released naming (lora_unet__….lora_down.weight); its ranks are {sorted(ranks)}")
    shapes = jax.eval_shape(lambda: {"backbone": lora_model.init(backbone, ranks.pop(), 1.0, jax.random.key(0))})
    try:
        tree = load(LORA, tensors, shapes)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree["backbone"])


def write_tensors(path: pathlib.Path, pairs: Iterable[tuple[str, np.ndarray]], dtype: jax.typing.DTypeLike | None) -> None:
    """Write tensors (as `dtype`, or as they are if None) as a safetensors file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    arrays = {name: np.asarray(a) for name, a in pairs}
    save_file({name: np.asarray(a if dtype is None else a.astype(dtype), order="C") for name, a in arrays.items()}, part, metadata={"format": "pt"})
    os.replace(part, path)


def save_model(model: Model, folder: str | pathlib.Path, *, dtype: jax.typing.DTypeLike = jnp.float32) -> pathlib.Path:
    """Write a model folder; `load_model` of it gives the same model."""
    folder = pathlib.Path(folder)
    text_json = text.config_to_json(model.text) | ({"tokenizer": "byt5"} if model.tokenizer == "byt5" else {})
    parts = (
        (TRANSFORMER, dit.WORLD, model.world_params, dit.config_to_json(model.world)),
        (VAE_FILE, vae.VAE, model.vae_params, vae.config_to_json(model.vae)),
        (TEXT_FILE, text.TEXT, model.text_params, text_json),
    )
    for path, rows, tree, config in parts:
        write_tensors(folder / path, save(rows, jax.device_get(tree)), dtype)
        (folder / path).with_name("config.json").write_text(json.dumps(config, indent=1) + "\n")
    if model.lora:
        write_tensors(folder / LORA_FILE, save(LORA, {"backbone": jax.device_get(model.lora)}), dtype)
    return folder


def parameter_count(tree: dict) -> int:
    return sum(a.size for a in flatten_dict(tree).values())
