"""Model folders: released key names as safetensors, one sub-folder per network, with the sizes beside each.

transformer/           config.json, diffusion_pytorch_model.safetensors  (backbone and action module)
vae/                   config.json, Wan2.1_VAE.safetensors
text_encoder/          config.json, models_t5.safetensors
image_encoder/         config.json, models_clip.safetensors               (of image-conditioned models)
tokenizer/             the tokenizer's files, unless it is "byt5"
lora_diffusion_pytorch_model.safetensors                                 (if there is one)
sampling.json          how to sample it, where its training said so
conversion.json        of an imported one: what it was made from, and the hashes of its files
"""

import dataclasses
import pathlib
import shutil
import sys
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from converters.files import sha256, write_json, write_tensors
from converters.kinds import KINDS, OURS
from converters.layouts import BYT5, RECORD, Folder, locate, open_folder
from converters.lora import LORA_FILE, LORA_ROWS, LoRA, with_differences
from converters.tables import leaves, save
from mwjax.data.text import read_json
from mwjax.diffusion.sampling import recipe
from mwjax.errors import InputError
from mwjax.models import lora as low_rank
from mwjax.models.model import Model, Network

SHIPPED = {"tiny": pathlib.Path(__file__).resolve().parent.parent / "mwjax" / "assets" / "tiny"}
SETTINGS = "sampling.json"


def find(name: str | pathlib.Path) -> pathlib.Path:
    """The folder of a shipped model by name ("tiny") or of any path. Raises InputError if there is none."""
    folder = SHIPPED.get(str(name), pathlib.Path(name))
    if locate(folder, "transformer") is None:
        how = f"python -m converters import DOWNLOADED_WAN_FOLDER {name}"
        if str(name) in SHIPPED:
            how = "reinstall mwjax"
        wanted = folder / KINDS["transformer"].places[OURS].file
        raise InputError(
            f"model {str(name)!r} is not there ({wanted} is missing); import released Wan2.1 weights with: {how}"
        )
    return folder


def preflight(name: str | pathlib.Path) -> Folder:
    """What is in a model folder, checked as far as it can be without reading a tensor.

    Raises InputError if sampling from it would fail.
    """
    folder = open_folder(find(name))
    if folder.missing:
        raise InputError(
            f"{folder.path} has no {' and no '.join(folder.missing)}; "
            f"complete it with: python -m converters import {folder.path} OUT --base BASE"
        )
    return folder.check()


def defaults(folder: Folder) -> dict:
    """How to sample a model: the released recipe, changed by what its own settings file says."""
    settings = folder.path / SETTINGS
    own = read_json(settings) if settings.exists() else {}
    return recipe(own, image=folder.transformer.config.backbone.image_dim > 0)


def fingerprint(folder: Folder) -> dict[str, str]:
    """SHA-256 of every file of weights, as noted when they were converted, or taken now."""
    record = folder.path / RECORD
    known = read_json(record).get("files", {}) if record.exists() else {}
    hashes = {}
    for path in sorted(set(folder.files)):
        name = str(path.relative_to(folder.path))
        hashes[name] = known.get(name) or sha256(path)
    return hashes


def on_default_device(kind: str, path: str, array: np.ndarray) -> jax.Array:
    """Where `load_model` puts a leaf unless told otherwise."""
    return jnp.asarray(array)


def say(line: str) -> None:
    """A line for whoever loads a model."""
    print(line, file=sys.stderr, flush=True)


def load_model(
    name: str | pathlib.Path,
    *,
    dtype: jax.typing.DTypeLike = jnp.float32,
    loras: Sequence[tuple[pathlib.Path, float]] | None = None,
    place: Callable[[str, str, np.ndarray], jax.Array] = on_default_device,
) -> Model:
    """Load a folder of weights in any known layout, or a shipped model by name.

    dtype: of transformer, text and image encoder; the VAE is always float32. loras: (file, scale) to fold into the
    weights, leaf by leaf and in float32; None keeps the folder's own as adapters. place(kind, path, array): puts a leaf
    of the network `kind` on its devices, one at a time. Raises InputError for what is missing, damaged or of another
    model.
    """
    folder = preflight(name)
    added = [(folder.check_lora(path), scale) for path, scale in loras or ()]
    own = folder.check_lora(folder.lora) if folder.lora and loras is None else None
    for lora in [*(lora for lora, _ in added), *([own] if own else [])]:
        say(f"{lora.path}: LoRA of {lora.described}")
    if own and own.differences:
        say(f"{own.path}: its differences become part of the weights; the rest stays a LoRA")
        plain = [(dataclasses.replace(own, adapters={}), 1.0)]
    folded = [(dict(lora.leaves()), lora, scale) for lora, scale in (plain if own and own.differences else added)]
    networks = {}
    for kind, network in folder.networks.items():
        kept = jnp.dtype(KINDS[kind].dtype or dtype)
        tree = {}
        for path, leaf in leaves(network.rows, network.tensors, network.shapes):
            if KINDS[kind].lora:
                leaf = _folded(path, leaf, folded)
            tree[path] = place(kind, path, leaf.astype(kept))
        networks[kind] = Network(network.config, unflatten_dict(tree, sep="/"))
    adapters = jax.tree.map(jnp.asarray, own.tree()) if own and own.adapters else None
    return Model(networks, folder.tokenizer, adapters)


def _folded(path: str, leaf: np.ndarray, added: Sequence[tuple[dict, LoRA, float]]) -> np.ndarray:
    """A leaf of the transformer with what LoRAs do to it folded in."""
    layer, _, name = path.rpartition("/")
    for adapters, lora, scale in added:
        if name == "kernel" and layer in adapters:
            down, up, alpha = (adapters[layer][part] for part in ("down", "up", "alpha"))
            leaf = np.asarray(low_rank.fold(leaf.astype(np.float32), down, up, alpha, scale))
        leaf = with_differences(lora, path, leaf, scale)
    return leaf


def save_model(model: Model, folder: str | pathlib.Path, *, dtype: jax.typing.DTypeLike = jnp.float32) -> pathlib.Path:
    """Write a model folder; `load_model` of it gives the same model. dtype: of all but the VAE, which stays float32."""
    folder = pathlib.Path(folder)
    for kind, network in model.networks.items():
        place = KINDS[kind].places[OURS]
        naming = KINDS[kind].namings[place.naming]
        pairs = save(naming.rows(network.config), jax.device_get(network.params))
        write_tensors(folder / place.file, pairs, KINDS[kind].dtype or dtype)
        config = naming.write(network.config)
        if kind == "text_encoder" and model.tokenizer == BYT5:
            config |= {"tokenizer": BYT5}
        write_json(folder / place.folder / "config.json", config)
    if model.lora:
        pairs = save(LORA_ROWS, {"backbone": jax.device_get(model.lora)})
        write_tensors(folder / LORA_FILE, pairs, dtype)
    tokenizer = folder / "tokenizer"
    if model.tokenizer != BYT5 and pathlib.Path(model.tokenizer) != tokenizer:
        others = shutil.ignore_patterns("*.safetensors", "config.json")
        shutil.copytree(model.tokenizer, tokenizer, dirs_exist_ok=True, ignore=others)
    return folder
