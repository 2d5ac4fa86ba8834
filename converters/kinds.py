"""The kinds of networks that a model is made of: everything in which they differ, one row for each."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from converters import dit, image, text, vae
from converters.files import Tensors
from converters.tables import Row
from mwjax.models.block import DiTConfig
from mwjax.models.world_model import WorldConfig

OURS = "mwjax"  # the layout of model folders


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a layout keeps a network.

    folder: a sub-folder, or "". stem: the file's name without its ending. naming: of its keys. ending: as it is
    written; either is read. config: whether a config.json lies beside it. written: False for what is only read.
    """

    folder: str
    stem: str
    naming: str
    ending: str = ".safetensors"
    config: bool = True
    written: bool = True

    @property
    def file(self) -> pathlib.Path:
        return pathlib.Path(self.folder) / (self.stem + self.ending)


@dataclasses.dataclass(frozen=True)
class Naming:
    """How one of the two worlds names a network.

    key: a name that tells. read, write: our sizes from its config, and back. rows: of the key table, for given sizes.
    without: parts of our tree that it has no place for and that nothing uses.
    """

    key: str
    read: Callable[[dict], Any]
    write: Callable[[Any], dict]
    rows: Callable[[Any], tuple[Row, ...]]
    without: tuple[str, ...] = ()


def _as_it_is(tensors: Tensors) -> Tensors:
    return tensors


def _from_config(sizes: Any, tensors: Tensors) -> Any:
    return sizes


def _with_controls(sizes: WorldConfig, tensors: Tensors) -> WorldConfig:
    return dataclasses.replace(sizes, controls=dit.controls_of(tensors))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of network.

    places: by layout; the first that is there is read.
    namings: by name; the first whose key is there counts.
    normalised: the tensors without prefixes, parts that are not used, and second copies.
    infer: the original's constructor arguments from its tensors, where it comes without a config.
    completed: the sizes with what the tensors alone tell.
    feeds: entry of its sizes, and entry of the backbone's, that must be equal; where the backbone's is 0, the
        transformer takes nothing of this network.
    optional: whether a model can be without it: it is needed only where it feeds the transformer.
    dtype: what it is always computed in, so that a conversion leaves it as it is; None: what the caller asks for.
    lora: whether a model's LoRA is for it.
    """

    places: dict[str, Place]
    namings: dict[str, Naming]
    normalised: Callable[[Tensors], Tensors] = _as_it_is
    infer: Callable[[Tensors], dict] | None = None
    completed: Callable[[Any, Tensors], Any] = _from_config
    feeds: tuple[str, str] | None = None
    optional: bool = False
    dtype: str | None = None
    lora: bool = False

    def taken(self, backbone: DiTConfig) -> bool:
        """Whether a transformer takes anything of this network."""
        return self.feeds is None or getattr(backbone, self.feeds[1]) > 0

    def needed(self, backbone: DiTConfig | None) -> bool:
        """Whether sampling needs this network; backbone: of the transformer, if there is one."""
        if not self.optional:
            return True
        return backbone is not None and self.feeds is not None and self.taken(backbone)


KINDS: dict[str, Kind] = {
    "transformer": Kind(
        places={
            OURS: Place("transformer", "diffusion_pytorch_model", "wan"),
            "wan": Place("", "diffusion_pytorch_model", "wan"),
            "diffusers": Place("transformer", "diffusion_pytorch_model", "diffusers"),
            "micro-world": Place("transformer", "diffusion_pytorch_model", "wan"),
        },
        namings={
            "diffusers": Naming(
                "condition_embedder.time_proj.weight",
                dit.config_from_diffusers,
                dit.config_to_diffusers,
                lambda cfg: dit.DIFFUSERS_ROWS,
            ),
            "wan": Naming(
                "time_projection.1.weight", dit.config_from_json, dit.config_to_json, lambda cfg: dit.WORLD_ROWS
            ),
        },
        completed=_with_controls,
        lora=True,
    ),
    "vae": Kind(
        places={
            OURS: Place("vae", "Wan2.1_VAE", "wan"),
            "wan": Place("", "Wan2.1_VAE", "wan", ".pth", config=False),
            "diffusers": Place("vae", "diffusion_pytorch_model", "diffusers"),
        },
        namings={
            "diffusers": Naming(
                "quant_conv.weight", vae.config_from_diffusers, vae.config_to_diffusers, vae.diffusers_rows
            ),
            "wan": Naming("conv1.weight", vae.config_from_json, vae.config_to_json, lambda cfg: vae.ROWS),
        },
        normalised=vae.normalised,
        infer=vae.infer,
        feeds=("z_dim", "out_dim"),
        dtype="float32",
    ),
    "text_encoder": Kind(
        places={
            OURS: Place("text_encoder", "models_t5", "wan"),
            "wan": Place("", "models_t5_umt5-xxl-enc-bf16", "wan", ".pth", config=False),
            "diffusers": Place("text_encoder", "model", "diffusers"),
        },
        namings={
            "diffusers": Naming(
                "shared.weight",
                text.config_from_diffusers,
                text.config_to_diffusers,
                lambda cfg: text.DIFFUSERS_ROWS,
            ),
            "wan": Naming("token_embedding.weight", text.config_from_json, text.config_to_json, lambda cfg: text.ROWS),
        },
        normalised=text.normalised,
        infer=text.infer,
        feeds=("dim", "text_dim"),
    ),
    "image_encoder": Kind(
        places={
            OURS: Place("image_encoder", "models_clip", "wan"),
            # The original's also holds a text tower, which is not kept here: use the released file.
            "wan": Place(
                "",
                "models_clip_open-clip-xlm-roberta-large-vit-huge-14",
                "wan",
                ".pth",
                config=False,
                written=False,
            ),
            "diffusers": Place("image_encoder", "model", "diffusers"),
        },
        namings={
            "diffusers": Naming(
                "vision_model.pre_layrnorm.weight",
                image.config_from_diffusers,
                image.config_to_diffusers,
                lambda cfg: image.DIFFUSERS_ROWS,
                without=("head",),
            ),
            "wan": Naming("pre_norm.weight", image.config_from_json, image.config_to_json, lambda cfg: image.ROWS),
        },
        normalised=image.normalised,
        infer=image.infer,
        completed=image.completed,
        feeds=("dim", "image_dim"),
        optional=True,
    ),
}
