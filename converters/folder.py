"""Model folders: released key names as safetensors, one sub-folder per network, with the sizes beside each.

    transformer/           config.json, diffusion_pytorch_model.safetensors  (backbone and action module)
    vae/                   config.json, Wan2.1_VAE.safetensors
    text_encoder/          config.json, models_t5.safetensors
    image_encoder/         config.json, models_clip.safetensors               (of image-conditioned models)
    tokenizer/             the tokenizer's files, unless it is "byt5"
    lora_diffusion_pytorch_model.safetensors                                 (if there is one)
"""

import dataclasses
import functools
import json
import pathlib
import shutil
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from converters import dit, image, text, vae
from converters.files import Stream, read_json, sha256
from converters.layouts import LORA_STEM, RECORD, Folder, locate, lora_of, open_folder
from converters.lora import LORA
from converters.tables import leaves, save
from mwjax.errors import InputError
from mwjax.models import lora, world_model
from mwjax.models.image import ImageConfig
from mwjax.models.text import TextConfig, TextEncoder
from mwjax.models.vae import VAE, VAEConfig
from mwjax.models.variants import Variant
from mwjax.models.world_model import WorldConfig
from mwjax.parallel.sharding import shardings

TRANSFORMER = pathlib.Path("transformer/diffusion_pytorch_model.safetensors")
VAE_FILE = pathlib.Path("vae/Wan2.1_VAE.safetensors")
TEXT_FILE = pathlib.Path("text_encoder/models_t5.safetensors")
IMAGE_FILE = pathlib.Path("image_encoder/models_clip.safetensors")
LORA_FILE = pathlib.Path(LORA_STEM)
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
    image: ImageConfig | None = None
    image_params: dict | None = None
    lora: dict | None = None

    @property
    def variables(self) -> dict:
        """The world model's variables, with the adapters as collection "lora" if there are any."""
        return {"params": self.world_params} | ({"lora": {"backbone": self.lora}} if self.lora else {})


def find(name: str | pathlib.Path) -> pathlib.Path:
    """The folder of a shipped model by name ("tiny") or of any path. Raises InputError if there is none."""
    folder = SHIPPED.get(str(name), pathlib.Path(name))
    if locate(folder, "transformer") is None:
        how = f"python -m converters import DOWNLOADED_WAN_FOLDER {name}" if str(name) not in SHIPPED else "reinstall mwjax"
        raise InputError(f"model {str(name)!r} is not there ({folder / TRANSFORMER} is missing); import released Wan2.1 weights with: {how}")
    return folder


def preflight(name: str | pathlib.Path) -> Folder:
    """What is in a model folder, checked as far as it can be without reading a tensor. Raises InputError if sampling from it would fail."""
    folder = open_folder(find(name))
    if folder.missing:
        raise InputError(f"{folder.path} has no {' and no '.join(folder.missing)}; complete it with: python -m converters import {folder.path} OUT --base BASE")
    return folder.check()


SETTINGS = "sampling.json"  # beside the networks: how to sample this model, where its training said so
# Of the released models, by whether they start from an image; Wan2.1's own negative prompt.
NEGATIVE = ("色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，"
            "多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走")  # fmt: skip
RELEASED = {"steps": 30, "shift": 3.0, "guidance": 3.0, "action_guidance": 0.0, "height": 352, "width": 640, "fps": 16.0, "negative": NEGATIVE}
IMAGE_GUIDANCE = 6.0


def defaults(folder: Folder) -> dict:
    """How to sample a model: the released recipe, changed by what its own settings file says."""
    own = read_json(folder.path / SETTINGS) if (folder.path / SETTINGS).exists() else {}
    image = folder.networks["transformer"].config.backbone.image_dim
    return RELEASED | ({"guidance": IMAGE_GUIDANCE} if image else {}) | {k: v for k, v in own.items() if k in RELEASED}


def fingerprint(folder: Folder) -> dict[str, str]:
    """SHA-256 of every file of weights, as noted when they were converted, or taken now."""
    record = folder.path / RECORD
    known = read_json(record).get("files", {}) if record.exists() else {}
    files = sorted({path for network in folder.networks.values() for path in network.tensors.paths} | ({folder.lora} if folder.lora else set()))
    return {name: known.get(name) or sha256(path) for path in files for name in [str(path.relative_to(folder.path))]}


def load_model(
    name: str | pathlib.Path, *, dtype: jax.typing.DTypeLike = jnp.float32, loras: Sequence[tuple[pathlib.Path, float]] | None = None, place: Callable | None = None
) -> Model:
    """Load a folder of weights in any known layout, or a shipped model by name.

    dtype: of transformer, text and image encoder; the VAE is always float32. loras: (file, scale) to fold into the weights, leaf
    by leaf and in float32; None keeps the folder's own as adapters. place(kind, path, array): puts a leaf of the network `kind`
    on its devices, one at a time (default: jnp.asarray). Raises InputError for what is missing, damaged or of another model.
    """
    folder = preflight(name)
    adapters = [(_adapters(path, folder), scale) for path, scale in loras or ()]
    parts = {}
    for kind, network in folder.networks.items():
        kept = jnp.float32 if kind == "vae" else dtype
        put = functools.partial(place, kind) if place else lambda path, array: jnp.asarray(array)
        tree = {path: put(path, np.asarray(_merged(path, array, adapters if kind == "transformer" else ())).astype(jnp.dtype(kept)))
                for path, array in leaves(network.rows, network.tensors, network.shapes)}  # fmt: skip
        parts[kind] = (network.config, unflatten_dict(tree, sep="/"))
    tokenizer = folder.networks["text_encoder"].extra.get("tokenizer") or str(folder.tokenizer)
    model = Model(*parts["transformer"], *parts["vae"], *parts["text_encoder"], tokenizer, *parts.get("image_encoder", (None, None)))
    if folder.lora and loras is None:
        model.lora = unflatten_dict({path: jnp.asarray(leaf) for path, leaf in _adapters(folder.lora, folder).items()}, sep="/")["backbone"]
    return model


def _adapters(path: pathlib.Path, folder: Folder) -> dict[str, np.ndarray]:
    return {name: np.asarray(array, np.float32) for name, array in leaves(*lora_of(path, folder.networks["transformer"]))}


def _merged(path: str, array: np.ndarray, adapters: Sequence[tuple[dict[str, np.ndarray], float]]) -> np.ndarray:
    """A leaf of the transformer with the adapters of its layer folded in."""
    layer, _, leaf = path.rpartition("/")
    for tree, scale in adapters:
        if leaf == "kernel" and f"{layer}/down" in tree:
            array = np.asarray(lora.merged(array.astype(np.float32), *(tree[f"{layer}/{name}"] for name in ("down", "up", "alpha")), scale))
    return array


def new_model(variant: Variant, *, seed: int) -> Model:
    """A model with fresh parameters and no control. Its text encoder stays as drawn: a fixed random embedding of captions."""
    keys = jax.random.split(jax.random.key(seed), 3)
    text_params = jax.jit(lambda key: TextEncoder(variant.text).init(key, jnp.zeros((1, 1), int), jnp.ones((1, 1), int))["params"])(keys[2])
    vae_params = jax.jit(lambda key: VAE(variant.vae).init(key, jnp.zeros((1, 5, 16, 16, 3)))["params"])(keys[1])
    world = variant.world("none")
    return Model(world, jax.jit(lambda key: world_model.init(world, key))(keys[0]), variant.vae, vae_params, variant.text, text_params, variant.tokenizer)


def add_control(model: Model, control: str, *, action_dim: int, seed: int, mesh: jax.sharding.Mesh | None = None) -> Model:
    """The model with an action module. A fresh one starts as copies of the base's blocks whose projections are zero. mesh: where it is made."""
    if model.world.control == control:
        return model
    if model.world.control != "none":
        raise InputError(f"the model has control {model.world.control}, the config asks for {control}")
    world = dataclasses.replace(model.world, control=control, action_dim=action_dim)
    module = lambda key: {name: tree for name, tree in world_model.init(world, key).items() if name != "backbone"}
    layout = mesh and shardings(jax.eval_shape(module, jax.random.key(seed)), mesh)
    fresh = jax.jit(module, out_shardings=layout)(jax.random.key(seed))
    params = world_model.copy_base_into_control(fresh | {"backbone": model.world_params["backbone"]})
    return dataclasses.replace(model, world=world, world_params=params)


def write_tensors(path: pathlib.Path, pairs: Iterable[tuple[str, np.ndarray]], dtype: jax.typing.DTypeLike) -> None:
    """Write tensors as `dtype` to a safetensors file that appears whole or not at all."""
    pairs = list(pairs)
    stream = Stream(path, [name for name, _ in pairs])
    for name, array in pairs:
        stream.add(name, np.asarray(array).astype(dtype))
    stream.close()


def save_model(model: Model, folder: str | pathlib.Path, *, dtype: jax.typing.DTypeLike = jnp.float32) -> pathlib.Path:
    """Write a model folder; `load_model` of it gives the same model."""
    folder = pathlib.Path(folder)
    text_json = text.config_to_json(model.text) | ({"tokenizer": "byt5"} if model.tokenizer == "byt5" else {})
    parts = (
        (TRANSFORMER, dit.WORLD, model.world_params, dit.config_to_json(model.world)),
        (VAE_FILE, vae.VAE, model.vae_params, vae.config_to_json(model.vae)),
        (TEXT_FILE, text.TEXT, model.text_params, text_json),
    )
    if model.image:
        parts += ((IMAGE_FILE, image.IMAGE, model.image_params, image.config_to_json(model.image)),)
    for path, rows, tree, config in parts:
        write_tensors(folder / path, save(rows, jax.device_get(tree)), dtype)
        (folder / path).with_name("config.json").write_text(json.dumps(config, indent=1) + "\n")
    if model.tokenizer != "byt5" and pathlib.Path(model.tokenizer) != folder / "tokenizer":
        shutil.copytree(model.tokenizer, folder / "tokenizer", dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    if model.lora:
        write_tensors(folder / LORA_FILE, save(LORA, {"backbone": jax.device_get(model.lora)}), dtype)
    return folder
