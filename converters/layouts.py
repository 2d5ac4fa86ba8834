"""What a folder of weights holds: which networks, in which files, under which names, of which sizes.

Each network is found by its file, its naming by one telling key; sizes come from the config beside it or, where the original has
none, from the tensors' shapes.
"""

import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from converters import dit, image, text, vae
from converters.files import Tensors, metadata, open_pickle, open_safetensors, open_shards, read_json
from converters.lora import naming as lora_naming
from converters.shapes import image_shapes, text_shapes, vae_shapes, world_shapes
from converters.tables import Row, check
from mwjax.errors import InputError
from mwjax.models import lora as lora_model
from mwjax.models.image import ImageConfig
from mwjax.models.text import TextConfig
from mwjax.models.vae import VAEConfig

# Where a network may be: sub-folder and stem of its file. The first that is there counts.
PLACES = {
    "transformer": (("transformer", "diffusion_pytorch_model"), ("", "diffusion_pytorch_model")),
    "vae": (("vae", "Wan2.1_VAE"), ("", "Wan2.1_VAE"), ("vae", "diffusion_pytorch_model")),
    "text_encoder": (("text_encoder", "models_t5"), ("", "models_t5_umt5-xxl-enc-bf16"), ("text_encoder", "model")),
    "image_encoder": (("image_encoder", "models_clip"), ("", "models_clip_open-clip-xlm-roberta-large-vit-huge-14"), ("image_encoder", "model")),
}
TOKENIZERS = ("google/umt5-xxl", "tokenizer")
TOKENIZER_FILES = ("tokenizer.json", "spiece.model")  # either is enough
LORA_STEM = "lora_diffusion_pytorch_model.safetensors"
LORA_FILES = (LORA_STEM, "pytorch_lora_weights.safetensors", "adapter_model.safetensors")
RECORD = "conversion.json"  # beside a conversion: what it is of and, once it is whole, the hashes of its files
HEAD_WIDTH = 80  # of CLIP ViT-H, whose number of heads no shape tells


@dataclasses.dataclass(frozen=True)
class Naming:
    """How one of the two worlds names a network: a telling key, its config both ways, and its rows for given sizes."""

    key: str
    read: Callable[[dict], Any]
    write: Callable[[Any], dict]
    rows: Callable[[Any], tuple[Row, ...]]
    without: tuple[str, ...] = ()  # parts of our tree that it has no place for and that nothing uses


NAMINGS: dict[str, dict[str, Naming]] = {
    "transformer": {
        "diffusers": Naming("condition_embedder.time_proj.weight", dit.config_from_diffusers, dit.config_to_diffusers, lambda cfg: dit.DIFFUSERS),
        "wan": Naming("time_projection.1.weight", dit.config_from_json, dit.config_to_json, lambda cfg: dit.WORLD),
    },
    "vae": {
        "diffusers": Naming("quant_conv.weight", vae.config_from_diffusers, vae.config_to_diffusers, vae.diffusers),
        "wan": Naming("conv1.weight", vae.config_from_json, vae.config_to_json, lambda cfg: vae.VAE),
    },
    "text_encoder": {
        "diffusers": Naming("shared.weight", text.config_from_diffusers, text.config_to_diffusers, lambda cfg: text.DIFFUSERS),
        "wan": Naming("token_embedding.weight", text.config_from_json, text.config_to_json, lambda cfg: text.TEXT),
    },
    "image_encoder": {
        "diffusers": Naming("vision_model.pre_layrnorm.weight", image.config_from_diffusers, image.config_to_diffusers, lambda cfg: image.DIFFUSERS, ("head",)),
        "wan": Naming("pre_norm.weight", image.config_from_json, image.config_to_json, lambda cfg: image.IMAGE),
    },
}
SHAPES = {"transformer": world_shapes, "vae": vae_shapes, "text_encoder": text_shapes, "image_encoder": image_shapes}


@dataclasses.dataclass(frozen=True)
class Network:
    """A network found in a folder. kind: a key of PLACES. naming: "wan" or "diffusers"."""

    kind: str
    naming: str
    config: Any
    tensors: Tensors
    extra: dict  # what its config.json says beside its sizes

    @property
    def rows(self) -> tuple[Row, ...]:
        return NAMINGS[self.kind][self.naming].rows(self.config)

    @property
    def shapes(self) -> dict:
        return SHAPES[self.kind](self.config)

    def check(self) -> "Network":
        """Itself, if every key is there exactly once in the right shape; else an InputError that lists what is not."""
        try:
            check(self.rows, self.tensors.specs, self.shapes)
        except InputError as error:
            raise InputError(f"{self.tensors.paths[0]}: {error}") from None
        return self


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder of weights."""

    path: pathlib.Path
    networks: dict[str, Network]
    tokenizer: pathlib.Path | None
    lora: pathlib.Path | None

    @property
    def missing(self) -> list[str]:
        """Networks and files that sampling needs and that are not there."""
        needed = ["transformer", "vae", "text_encoder"]
        if "transformer" in self.networks and self.networks["transformer"].config.backbone.image_dim:
            needed.append("image_encoder")
        lost = [kind for kind in needed if kind not in self.networks]
        return lost if self.tokenizer else [*lost, "tokenizer"]

    def check(self) -> "Folder":
        """Itself, if every key of every network and of the LoRA is there, and the networks fit each other. Reads no tensor.

        Raises InputError naming what does not.
        """
        for network in self.networks.values():
            network.check()
        sizes = {kind: network.config for kind, network in self.networks.items()}
        backbone = sizes["transformer"].backbone if "transformer" in sizes else None
        for kind, theirs, ours in (("text_encoder", "dim", "text_dim"), ("image_encoder", "dim", "image_dim"), ("vae", "z_dim", "out_dim")):
            if backbone and kind in sizes and getattr(sizes[kind], theirs) != getattr(backbone, ours):
                raise InputError(f"{self.networks[kind].tensors.paths[0]}: this {kind} gives {getattr(sizes[kind], theirs)} channels, "
                                 f"the transformer takes {getattr(backbone, ours)}; they belong to different models")  # fmt: skip
        if self.lora and backbone:
            self.check_lora(self.lora)
        return self

    def check_lora(self, path: pathlib.Path) -> None:
        """Raises InputError if a LoRA file is damaged or of another model."""
        lora_of(path, self.networks["transformer"])


def normalised(kind: str, tensors: Tensors) -> Tensors:
    """Tensors without wrapping prefixes, parts that are not used, and second copies."""
    if kind == "vae":
        return tensors.renamed(lambda name: name.removeprefix("model."))
    if kind == "text_encoder":
        return tensors.renamed(lambda name: None if name == text.COPY and "shared.weight" in tensors else "shared.weight" if name == text.COPY else name)
    if kind == "image_encoder" and any(name.startswith("visual.") for name in tensors):
        return tensors.renamed(lambda name: name.removeprefix("visual.") if name.startswith("visual.") else None)
    if kind == "image_encoder" and "pre_layrnorm.weight" in tensors:
        tensors = tensors.renamed(lambda name: name if name.startswith("visual_projection.") else "vision_model." + name)
    return tensors.renamed(lambda name: None if name == image.IGNORED else name)


def locate(folder: pathlib.Path, kind: str) -> tuple[str, str, str] | None:
    """(sub-folder, stem, ending) of the file or files of a network, or None."""
    for sub, stem in PLACES[kind]:
        place = folder / sub
        if any((place / f"{stem}.safetensors{end}").exists() for end in ("", ".index.json")) or list(place.glob(f"{stem}-*-of-*.safetensors")):
            return sub, stem, ".safetensors"
        if (place / f"{stem}.pth").exists():
            return sub, stem, ".pth"
    return None


def open_network(folder: pathlib.Path, kind: str) -> Network | None:
    """The network of a kind in a folder, or None. Raises InputError if its files are damaged or of no known naming."""
    found = locate(folder, kind)
    if found is None:
        return None
    sub, stem, ending = found
    place = folder / sub
    tensors = normalised(kind, open_pickle(place / f"{stem}.pth") if ending == ".pth" else open_shards(place, stem))
    naming = next((name for name, n in NAMINGS[kind].items() if n.key in tensors), None)
    if naming is None:
        keys = " nor ".join(n.key for n in NAMINGS[kind].values())
        raise InputError(f"{tensors.paths[0]} is no {kind} that is known here: it holds neither {keys}")
    config = read_json(place / "config.json") if sub or kind == "transformer" else infer(kind, tensors)
    try:
        sizes = NAMINGS[kind][naming].read(config)
        if kind == "transformer":
            sizes = dataclasses.replace(sizes, control=dit.control_of(tensors))
        if "visual_projection.weight" in tensors:
            sizes = dataclasses.replace(sizes, out_dim=tensors.specs["visual_projection.weight"][0][0])
        SHAPES[kind](sizes)
    except KeyError as error:
        raise InputError(f"{place / 'config.json'} lacks {error}") from None
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise InputError(f"{place / 'config.json'} gives sizes that make no {kind} ({error})") from None
    return Network(kind, naming, sizes, tensors, {k: v for k, v in config.items() if k == "tokenizer"})


def open_folder(path: pathlib.Path) -> Folder:
    """What is in a folder. Raises InputError if there is no network in it, or a conversion that was cut short."""
    if (path / RECORD).exists() and "files" not in read_json(path / RECORD):
        raise InputError(f"{path} is an unfinished conversion of {read_json(path / RECORD).get('source')}; run its command again")
    networks = {kind: network for kind in PLACES if (network := open_network(path, kind))}
    if "transformer" in networks and not networks["transformer"].config.backbone.image_dim:
        networks.pop("image_encoder", None)
    lora = next((path / name for name in LORA_FILES if (path / name).exists()), None)
    if not networks and not lora:
        raise InputError(f"{path} holds no weights that are known here; a transformer would be {path / 'diffusion_pytorch_model.safetensors'} "
                         f"or {path / 'transformer/diffusion_pytorch_model.safetensors'}")  # fmt: skip
    tokenizer = next((path / name for name in TOKENIZERS if any((path / name / file).exists() for file in TOKENIZER_FILES)), None)
    if "text_encoder" in networks and networks["text_encoder"].extra.get("tokenizer") == "byt5":
        tokenizer = path / "text_encoder"  # needs no files
    return Folder(path, networks, tokenizer, lora)


def infer(kind: str, tensors: Tensors) -> dict:
    """The constructor arguments of an original VAE, text or image encoder, which come without a config."""
    shape = lambda name: tensors.specs[name][0]
    try:
        if kind == "vae":
            return _infer_vae(tensors)
        if kind == "text_encoder":
            buckets, heads = shape("blocks.0.pos_embedding.embedding.weight")
            config = TextConfig(*shape("token_embedding.weight"), shape("blocks.0.attn.q.weight")[0], shape("blocks.0.ffn.fc1.weight")[0], heads,
                                _count(tensors, r"blocks\.(\d+)\.norm1\.weight"), buckets)  # fmt: skip
            return text.config_to_json(config)
        dim, _, patch, _ = shape("patch_embedding.weight")
        side = math.isqrt(shape("pos_embedding")[1] - 1)
        config = ImageConfig(side * patch, patch, dim, shape("transformer.0.mlp.0.weight")[0] // dim, shape("head")[1], max(1, dim // HEAD_WIDTH),
                             _count(tensors, r"transformer\.(\d+)\.norm1\.weight"))  # fmt: skip
        return image.config_to_json(config)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{tensors.paths[0]} does not look like a {kind} of Wan2.1 ({error}); it may be damaged") from None


def _infer_vae(tensors: Tensors) -> dict:
    """Walk down the encoder: widths, blocks per level, and where time is halved."""
    dim = tensors.specs["encoder.conv1.weight"][0][0]
    widths, temporal, blocks = [], [], 0
    for i in range(1 + max(int(m[1]) for name in tensors if (m := re.match(r"encoder\.downsamples\.(\d+)\.", name)))):
        start = f"encoder.downsamples.{i}."
        if start + "resample.1.weight" in tensors:
            temporal.append(start + "time_conv.weight" in tensors)
        else:
            width = tensors.specs[start + "residual.2.weight"][0][0]
            widths = widths if len(widths) > len(temporal) else [*widths, width]
            blocks += len(widths) == 1
    config = VAEConfig(dim, tuple(w // dim for w in widths), blocks, tuple(temporal), tensors.specs["conv2.weight"][0][0])
    return vae.config_to_json(config)


def _count(tensors: Tensors, pattern: str) -> int:
    return 1 + max((int(m[1]) for name in tensors if (m := re.fullmatch(pattern, name))), default=-1)


def open_lora(path: pathlib.Path) -> Tensors:
    """The tensors of a LoRA file. Where they give no alpha, it comes from the file's header or from adapter_config.json, else it is the rank."""
    tensors = open_safetensors([path]).renamed(lambda name: name.removeprefix("base_model.model."))
    ranks = {name.replace(".lora_A.weight", ".alpha"): shape[0] for name, (shape, _) in tensors.specs.items() if name.endswith(".lora_A.weight")}
    beside = path.with_name("adapter_config.json")
    config = json.loads(metadata(path).get("lora_adapter_metadata", "{}"))
    config = {key.removeprefix("transformer."): value for key, value in config.items()} or (read_json(beside) if beside.exists() else {})
    absent = {name: config.get("lora_alpha", rank) for name, rank in ranks.items() if name not in tensors}
    specs = tensors.specs | {name: ((), np.dtype(np.float32)) for name in absent}
    return Tensors(specs, lambda name: np.array(absent[name], np.float32) if name in absent else tensors[name], tensors.paths)


def lora_of(path: pathlib.Path, transformer: Network) -> tuple[tuple[Row, ...], Tensors, dict]:
    """(rows, tensors, shapes) of a LoRA file. Raises InputError if it is damaged or of another model."""
    tensors = open_lora(path)
    backbone = jax.tree.map(lambda a: np.broadcast_to(np.float32(0), a.shape), transformer.shapes["backbone"])
    try:
        rows, rank = lora_naming(tensors)
        shapes = jax.eval_shape(lambda: {"backbone": lora_model.init(backbone, rank, 1.0, jax.random.key(0))})
        check(rows, tensors.specs, shapes)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return rows, tensors, shapes
