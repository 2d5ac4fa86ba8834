"""From one layout to another: import a released model into a model folder, export a model folder to what others load."""

import dataclasses
import json
import math
import pathlib
import shutil
from collections.abc import Callable

import jax
import numpy as np
from tqdm import tqdm

from converters.files import NUMPY, Stream, Tensors, read_json, sha256
from converters.folder import IMAGE_FILE, LORA_FILE, TEXT_FILE, TRANSFORMER, VAE_FILE
from converters.layouts import NAMINGS, Folder, Network, open_folder, open_lora
from converters.lora import NAMINGS as LORA_NAMINGS
from converters.lora import naming as lora_naming
from converters.tables import Move, check, moves
from mwjax.errors import InputError
from mwjax.models import lora as lora_model

SHARD = 5 * 10**9  # bytes, the usual size of a shard of released weights
RECORD = "conversion.json"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a layout keeps a network: sub-folder, stem and ending of the file, naming of the keys, and their prefix."""

    sub: str
    stem: str
    naming: str
    ending: str = ".safetensors"
    prefix: str = ""
    config: bool = True


def _ours(path: pathlib.Path) -> Place:
    return Place(str(path.parent), path.stem, "wan")


LAYOUTS: dict[str, dict[str, Place]] = {
    "mwjax": {"transformer": _ours(TRANSFORMER), "vae": _ours(VAE_FILE), "text_encoder": _ours(TEXT_FILE), "image_encoder": _ours(IMAGE_FILE)},
    "wan": {
        "transformer": Place("", "diffusion_pytorch_model", "wan"),
        "vae": Place("", "Wan2.1_VAE", "wan", ".pth", config=False),
        "text_encoder": Place("", "models_t5_umt5-xxl-enc-bf16", "wan", ".pth", config=False),
        "image_encoder": Place("", "models_clip_open-clip-xlm-roberta-large-vit-huge-14", "wan", ".pth", "visual.", config=False),
    },
    "diffusers": {
        "transformer": Place("transformer", "diffusion_pytorch_model", "diffusers"),
        "vae": Place("vae", "diffusion_pytorch_model", "diffusers"),
        "text_encoder": Place("text_encoder", "model", "diffusers"),
        "image_encoder": Place("image_encoder", "model", "diffusers"),
    },
    "micro-world": {"transformer": Place("transformer", "diffusion_pytorch_model", "wan")},
}
TOKENIZER_PLACE = {"mwjax": "tokenizer", "wan": "google/umt5-xxl", "diffusers": "tokenizer"}


def stream(tensors: Tensors, steps: list[Move], folder: pathlib.Path, stem: str, *, dtype: np.dtype | None, shard: float, bar: tqdm) -> list[pathlib.Path]:
    """Carry out `steps` with one tensor in memory at a time; files that are there already are whole and are kept.

    dtype: of the written tensors; None keeps each as it is. shard: largest file in bytes. bar counts bytes read.
    """
    size = {name: math.prod(shape) * kind.itemsize for name, (shape, kind) in tensors.specs.items()}
    groups: list[list[Move]] = [[]]
    filled = 0
    for step in steps:
        nbytes = sum(size[name] for name in step.read)
        if groups[-1] and filled + nbytes > shard:
            groups.append([])
            filled = 0
        groups[-1].append(step)
        filled += nbytes
    count = len(groups)
    paths = [folder / (f"{stem}.safetensors" if count == 1 else f"{stem}-{i + 1:05d}-of-{count:05d}.safetensors") for i in range(count)]
    for path, group in zip(paths, groups, strict=True):
        if path.exists():
            bar.update(sum(size[name] for step in group for name in step.read))
            continue
        out = Stream(path, [name for step in group for name in step.write])
        for step in group:
            for name, array in zip(step.write, step.change([tensors[name] for name in step.read]), strict=True):
                out.add(name, array if dtype is None else array.astype(dtype))
            bar.update(sum(size[name] for name in step.read))
        out.close()
    if count > 1:
        names = {name: path.name for path, group in zip(paths, groups, strict=True) for step in group for name in step.write}
        index = {"metadata": {"total_size": sum(size.values())}, "weight_map": names}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    return paths


def pickle(tensors: Tensors, steps: list[Move], path: pathlib.Path, prefix: str, *, dtype: np.dtype | None, bar: tqdm) -> list[pathlib.Path]:
    """Carry out `steps` into a .pth file, as the original loads its encoders from."""
    try:
        import torch
    except ImportError:
        raise InputError(f'{path.name} needs PyTorch to be written; run: pip install -e ".[convert]"') from None
    if not path.exists():
        state = {}
        for step in steps:
            for name, array in zip(step.write, step.change([tensors[name] for name in step.read]), strict=True):
                array = np.array(array if dtype is None else array.astype(dtype))
                half = array.dtype == NUMPY["BF16"]
                state[prefix + name] = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16) if half else torch.from_numpy(array)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        torch.save(state, part)
        part.replace(path)
    bar.update(_bytes(tensors))
    return [path]


def _bytes(tensors: Tensors) -> int:
    return sum(math.prod(shape) * kind.itemsize for shape, kind in tensors.specs.values())


def write(networks: dict[str, Network], out: pathlib.Path, layout: str, *, dtype: np.dtype | None, source: str, lora: pathlib.Path | None = None,
          tokenizer: pathlib.Path | None = None, shard: float = SHARD) -> list[pathlib.Path]:  # fmt: skip
    """Write checked networks to `out` in a layout, with configs, LoRA and tokenizer. Started again, it carries on; hashes go to conversion.json.

    Raises InputError if `out` holds something else.
    """
    what = {"source": source, "layout": layout, "dtype": dtype.name if dtype is not None else "as it is"}
    record = out / RECORD
    if out.exists() and any(out.iterdir()):
        if not record.exists():
            raise InputError(f"{out} is not empty and holds no conversion; choose another folder")
        if {k: v for k, v in read_json(record).items() if k != "files"} != what:
            raise InputError(f"{out} holds another conversion (of {read_json(record)['source']}); choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    needed = sum(_bytes(n.tensors) for n in networks.values()) * (dtype.itemsize / 2 if dtype is not None else 1)
    free = shutil.disk_usage(out).free + sum(p.stat().st_size for p in out.rglob("*.safetensors"))
    if free < needed:
        raise InputError(f"{out} has {free / 1e9:.1f} GB free, the conversion needs about {needed / 1e9:.1f} GB; free some space")
    record.write_text(json.dumps(what, indent=1) + "\n")
    paths = []
    bar = tqdm(total=sum(_bytes(n.tensors) for n in networks.values()), desc="converting", unit="B", unit_scale=True)
    for kind, network in networks.items():
        place = LAYOUTS[layout][kind]
        naming = NAMINGS[kind][place.naming]
        shapes = {name: tree for name, tree in network.shapes.items() if name not in naming.without}
        steps = moves(network.rows, naming.rows(network.config), shapes)
        folder = out / place.sub
        if place.ending == ".pth":
            paths += pickle(network.tensors, steps, folder / f"{place.stem}.pth", place.prefix, dtype=dtype, bar=bar)
        else:
            paths += stream(network.tensors, steps, folder, place.stem, dtype=dtype, shard=shard, bar=bar)
        if place.config:
            (folder / "config.json").write_text(json.dumps(naming.write(network.config) | network.extra, indent=1) + "\n")
    bar.close()
    if lora:
        paths += write_lora(lora, networks["transformer"], out / LORA_FILE, "released")
    if tokenizer and layout in TOKENIZER_PLACE and list(tokenizer.glob("*token*")):
        shutil.copytree(tokenizer, out / TOKENIZER_PLACE[layout], dirs_exist_ok=True)
    if layout == "diffusers":
        _write_pipeline(out, networks)
    hashes = {str(path.relative_to(out)): sha256(path) for path in tqdm(paths, desc="hashing", unit="file", leave=False)}
    record.write_text(json.dumps(what | {"files": hashes}, indent=1) + "\n")
    return paths


def write_lora(source: pathlib.Path, transformer: Network, path: pathlib.Path, naming: str) -> list[pathlib.Path]:
    """Rewrite a LoRA file in a naming ("released", "peft", "diffusers"). Raises InputError if it is of another model."""
    tensors = open_lora(source)
    backbone = jax.tree.map(lambda a: np.broadcast_to(np.float32(0), a.shape), transformer.shapes["backbone"])
    try:
        rows, rank = lora_naming(tensors)
        shapes = jax.eval_shape(lambda tree: {"backbone": lora_model.init(tree, rank, 1.0, jax.random.key(0))}, backbone)
        check(rows, tensors.specs, shapes)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    steps = moves(rows, LORA_NAMINGS[naming][0], shapes)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tqdm(total=_bytes(tensors), desc="LoRA", unit="B", unit_scale=True, leave=False) as bar:
        return stream(tensors, steps, path.parent, path.stem, dtype=None, shard=math.inf, bar=bar)


def _write_pipeline(out: pathlib.Path, networks: dict[str, Network]) -> None:
    """What `diffusers` needs beside the networks to load the folder as a pipeline."""
    image = "image_encoder" in networks
    index = {
        "_class_name": "WanImageToVideoPipeline" if image else "WanPipeline",
        "transformer": ["diffusers", "WanTransformer3DModel"], "vae": ["diffusers", "AutoencoderKLWan"],
        "text_encoder": ["transformers", "UMT5EncoderModel"], "tokenizer": ["transformers", "T5TokenizerFast"],
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    }  # fmt: skip
    if image:
        index |= {"image_encoder": ["transformers", "CLIPVisionModel"], "image_processor": ["transformers", "CLIPImageProcessor"]}
        _json(out / "image_processor/preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 224},
              "crop_size": {"height": 224, "width": 224}, "image_mean": [0.48145466, 0.4578275, 0.40821073],
              "image_std": [0.26862954, 0.26130258, 0.27577711]})  # fmt: skip
    _json(out / "model_index.json", index)
    _json(out / "scheduler/scheduler_config.json", {"_class_name": "UniPCMultistepScheduler", "num_train_timesteps": 1000, "solver_order": 2,
          "solver_type": "bh2", "prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0})  # fmt: skip


def _json(path: pathlib.Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")


def import_model(source: pathlib.Path, out: pathlib.Path, *, base: pathlib.Path | None, dtype: np.dtype | None, report: Callable[[str], None]) -> list[pathlib.Path]:
    """Any known layout to a model folder. `base` gives the networks and the tokenizer that `source` lacks (Micro-World releases are transformers alone)."""
    folder = open_folder(source)
    if base:
        other = open_folder(base)
        folder = Folder(folder.path, other.networks | folder.networks, folder.tokenizer or other.tokenizer, folder.lora)
    if folder.missing:
        raise InputError(f"{source} has no {' and no '.join(folder.missing)}; give --base FOLDER that has (the Wan2.1 model it was made from)")
    for kind, network in folder.networks.items():
        network.check()
        report(f"{kind:14} {network.tensors.count:,} parameters, {network.naming} names, from {network.tensors.paths[0].parent}")
    transformer = folder.networks["transformer"]
    if transformer.config.control == "none":
        report("action module  none in these weights; training makes one from base blocks 0, 2, 4, … with zero projections")
    return write(folder.networks, out, "mwjax", dtype=dtype, source=str(source), lora=folder.lora, tokenizer=folder.tokenizer, shard=math.inf)


def export_model(source: pathlib.Path, out: pathlib.Path, *, layout: str, dtype: np.dtype | None, shard: float = SHARD) -> list[pathlib.Path]:
    """A model folder to a layout that others load. Raises InputError for what the layout has no place for."""
    folder = open_folder(source)
    if "transformer" not in folder.networks:
        raise InputError(f"{source} has no transformer")
    control = folder.networks["transformer"].config.control
    if layout in ("wan", "diffusers") and control != "none":
        raise InputError(f"{source} has an action module ({control}), for which the {layout} layout has no place; use --format micro-world")
    networks = {kind: network.check() for kind, network in folder.networks.items() if kind in LAYOUTS[layout]}
    return write(networks, out, layout, dtype=dtype, source=str(source), lora=folder.lora, tokenizer=folder.tokenizer, shard=shard)
