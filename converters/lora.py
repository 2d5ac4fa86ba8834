"""LoRA files: the released naming (`lora_unet__NAME_WITH_UNDERSCORES`), PEFT's over the original names, and
diffusers'."""

import json
import pathlib

import jax
import numpy as np

from converters.dit import BACKBONE_ROWS
from converters.dit import DIFFUSERS_ROWS as DIFFUSERS_BACKBONE_ROWS
from converters.files import Tensors, metadata, open_safetensors, read_json
from converters.tables import Row, check
from mwjax.errors import InputError
from mwjax.models import lora

LORA_FILE = "lora_diffusion_pytorch_model.safetensors"  # as released, and in our model folders
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
PEFT_FILE = "adapter_model.safetensors"


def _linear(rows: tuple[Row, ...]) -> list[tuple[str, str]]:
    """(their name, our path) of the linear layers; the patch embedding is a convolution and has no adapter."""
    return [(theirs, ours) for theirs, ours, layer in rows if layer == "linear"]


LORA_ROWS: tuple[Row, ...] = tuple(
    ("lora_unet__" + theirs.replace(".", "_"), ours, "lora") for theirs, ours in _linear(BACKBONE_ROWS)
)
PEFT_ROWS: tuple[Row, ...] = tuple(
    ("diffusion_model." + theirs, ours, "peft") for theirs, ours in _linear(BACKBONE_ROWS)
)
DIFFUSERS_ROWS: tuple[Row, ...] = tuple(
    ("transformer." + theirs, ours, "peft") for theirs, ours in _linear(DIFFUSERS_BACKBONE_ROWS)
)
NAMINGS = {  # rows, and how every name begins
    "released": (LORA_ROWS, "lora_unet__"),
    "peft": (PEFT_ROWS, "diffusion_model."),
    "diffusers": (DIFFUSERS_ROWS, "transformer."),
}


def naming(tensors: Tensors) -> tuple[str, int]:
    """(key of NAMINGS, rank) of a LoRA file. Raises InputError if its names or ranks are none that is known here."""
    downs = (".lora_down.weight", ".lora_A.weight")
    ranks = {shape[0] for name, (shape, _) in tensors.specs.items() if name.endswith(downs)}
    fitting = [kind for kind, (_, start) in NAMINGS.items() if all(name.startswith(start) for name in tensors)]
    if not fitting or len(ranks) != 1:
        starts = ", ".join(start + "…" for _, start in NAMINGS.values())
        raise InputError(
            f"not a LoRA file that is known here (names begin with {starts}; one rank for all, not {sorted(ranks)})"
        )
    return fitting[0], ranks.pop()


def open_lora(path: pathlib.Path) -> Tensors:
    """The tensors of a LoRA file. Raises InputError if it is missing or damaged.

    Where they give no alpha, it comes from the file's header or from adapter_config.json, else it is the rank.
    """
    tensors = open_safetensors([path]).renamed(lambda name: name.removeprefix("base_model.model."))
    ranks = {
        name.replace(".lora_A.weight", ".alpha"): shape[0]
        for name, (shape, _) in tensors.specs.items()
        if name.endswith(".lora_A.weight")
    }
    beside = path.with_name("adapter_config.json")
    config = json.loads(metadata(path).get("lora_adapter_metadata", "{}"))
    config = {key.removeprefix("transformer."): value for key, value in config.items()}
    if not config and beside.exists():
        config = read_json(beside)
    alphas = {name: config.get("lora_alpha", rank) for name, rank in ranks.items() if name not in tensors}
    specs = tensors.specs | {name: ((), np.dtype(np.float32)) for name in alphas}

    def read(name: str) -> np.ndarray:
        return np.array(alphas[name], np.float32) if name in alphas else tensors[name]

    return Tensors(specs, read, tensors.paths)


def lora_of(path: pathlib.Path, backbone: dict) -> tuple[tuple[Row, ...], Tensors, dict]:
    """(rows, tensors, shapes) of a LoRA file for a backbone of these shapes. Raises InputError if it is damaged or of
    another model."""
    tensors = open_lora(path)
    blank = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), backbone)
    try:
        name, rank = naming(tensors)
        rows, _ = NAMINGS[name]
        shapes = jax.eval_shape(lambda: {"backbone": lora.init(blank, rank, 1.0, jax.random.key(0))})
        check(rows, tensors.specs, shapes)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return rows, tensors, shapes
