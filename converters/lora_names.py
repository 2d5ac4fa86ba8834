"""Names in LoRA files: which layer of the backbone a key means, and which part of its adapter.

Writers differ in what they put before a layer's name, in dots or underscores within it, in whose name it is (the
original's or diffusers'), and in how they call the two matrices. All of it is taken off here, in one place.
"""

import dataclasses
import re
from collections.abc import Iterable
from typing import NamedTuple

from flax.traverse_util import flatten_dict

from converters.dit import BACKBONE_ROWS, DIFFUSERS_ROWS
from converters.tables import Match, match
from mwjax.errors import InputError

# What writers put before a layer's name, with underscores for dots; taken off as often as it comes.
PREFIXES = (
    "base_model_model_",
    "base_model_",
    "model_diffusion_model_",
    "diffusion_model_",
    "lora_unet_",
    "lora_transformer_",
    "lora_dit_",
    "lora_",
    "lycoris_",
    "transformer_",
    "pipe_dit_",
    "pipe_",
    "model_",
    "module_",
    "unet_",
    "dit_",
    "net_",
    "_",
)
WITHIN = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "base_layer.", "processor.")
# How a key ends, and what it then is. PEFT puts an adapter's own name ("default") between.
PARTS = (
    (r"[._]lora(?:_linear_layer)?[._](?:A|down)(?:\.(?!weight$|bias$)[^.]+)?(?:\.weight)?", "down"),
    (r"[._]lora(?:_linear_layer)?[._](?:B|up)(?:\.(?!weight$|bias$)[^.]+)?(?:\.weight)?", "up"),
    (r"[._]lora(?:_linear_layer)?[._](?:B|up)(?:\.(?!bias$)[^.]+)?\.bias", "up_bias"),
    (r"(?:[._](?:lora|network))?[._]alpha(?:\.(?:default|weight))?", "alpha"),
    (r"\.diff", "weight"),
    (r"\.w_norm", "weight"),
    (r"\.diff_b", "bias"),
    (r"\.b_norm", "bias"),
    (r"\.diff_m", "modulation"),
)
PARTS = tuple((re.compile(f"(.*?){pattern}"), part) for pattern, part in PARTS)
# Adapters of other kinds: adding up · down would not be what they mean.
OTHER_KINDS = (
    ("DoRA", r"dora_scale|magnitude"),
    ("LoHa", r"\.hada_|[._]loha"),
    ("LoKr", r"\.lokr_|[._]lokr"),
    ("OFT", r"\.b?oft_|\.oft\."),
    ("IA3", r"\.ia3_|\.on_input"),
    ("GLoRA", r"\.(a1|a2|b1|b2|bm1|bm2)\.weight"),
    ("LoCon with three matrices", r"lora_mid|lora_t1|lora_t2"),
    ("AdaLoRA", r"lora_E|ranknum"),
    ("VeRA", r"vera_"),
    ("patch that replaces weights", r"\.(set_weight|reshape_weight)$"),
)
ENDINGS = {"weight": (".weight", ""), "bias": (".bias",), "modulation": (".modulation", ".scale_shift_table")}


class Spot(NamedTuple):
    """A leaf of the backbone's tree, and the number of its layer where it is stacked."""

    path: str
    number: int | None


@dataclasses.dataclass(frozen=True)
class Names:
    """The leaves of a backbone by all names that they go by in LoRA files. shapes: by path."""

    spots: dict[str, Spot]
    matches: dict[str, Match]
    shapes: dict[str, tuple[int, ...]]

    def find(self, layer: str, part: str) -> Spot | None:
        """The leaf `part` (a key of ENDINGS) of a layer as a file calls it; None if there is none."""
        for ending in ENDINGS[part]:
            name = _bare(layer + ending)
            while name not in self.spots:
                prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
                if prefix is None:
                    break
                name = name.removeprefix(prefix)
            else:
                return self.spots[name]
        return None

    def stack(self, path: str) -> tuple[int, ...]:
        """The shape of the layers that a leaf is stacked over."""
        found = self.matches[path]
        return (len(found.layers),) if found.stacked else ()

    @property
    def layers(self) -> int:
        """How many linear layers there are."""
        kernels = [spot for spot in set(self.spots.values()) if spot.path.endswith("/kernel")]
        return sum(spot.path != PATCH for spot in kernels)


PATCH = "backbone/patch_embedding/kernel"  # a convolution in the files


def _bare(name: str) -> str:
    return name.replace(".", "_")


def names_of(backbone: dict) -> Names:
    """The names of a backbone's leaves. backbone: shapes of its parameters."""
    spots: dict[str, Spot] = {}
    matches = {}
    shapes = {}
    for path, leaf in flatten_dict({"backbone": backbone}, sep="/").items():
        for rows in (DIFFUSERS_ROWS, BACKBONE_ROWS):
            found = match(rows, path, leaf.shape)
            for number, (name,) in enumerate(found.layers):
                spot = Spot(path, number if found.stacked else None)
                spots[_bare(name)] = spot
                spots.setdefault(_bare(name.replace(".to_out.0.", ".to_out.")), spot)
        matches[path] = found  # both rows lay a leaf out alike
        shapes[path] = tuple(leaf.shape[1:] if found.stacked else leaf.shape)
    return Names(spots, matches, shapes)


def split(key: str) -> tuple[str, str] | None:
    """(the layer as the file calls it, part) of a key; None if it ends as no key of an adapter does."""
    for wrapper in WITHIN:
        key = key.replace(wrapper, "")
    for pattern, part in PARTS:
        found = pattern.fullmatch(key)
        if found:
            layer = found[1]
            if part == "weight" and layer.endswith((".weight", ".bias")):  # ComfyUI's long form
                layer, _, part = layer.rpartition(".")
            return layer, part
    return None


def refuse_other_kinds(keys: Iterable[str], path) -> None:
    """Raises InputError, naming it, for an adapter that is no plain LoRA."""
    for key in keys:
        for kind, pattern in OTHER_KINDS:
            if re.search(pattern, key):
                raise InputError(
                    f"{path} is a {kind}, by its key {key}; only ordinary LoRAs are known here: "
                    "merge it into a model with the program that made it, or convert it to a LoRA"
                )


def dotted(layer: str) -> str:
    """A layer's name as a file calls it, without prefixes: what patterns of settings are matched with."""
    return re.sub(r"^(base_model\.model\.|(model\.)?diffusion_model\.|transformer\.|pipe\.dit\.|model\.)+", "", layer)
