"""From one layout to another: import a released model into a model folder, export a model folder to what others load."""

import dataclasses
import json
import math
import pathlib
import shutil
from collections.abc import Callable

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from tqdm import tqdm

from converters.files import NUMPY, Stream, Tensors, read_json, sha256
from converters.folder import IMAGE_FILE, TEXT_FILE, TRANSFORMER, VAE_FILE
from converters.layouts import LORA_STEM, NAMINGS, RECORD, TOKENIZER_FILES, Folder, Network, lora_of, open_folder
from converters.lora import NAMINGS as LORA_NAMINGS
from converters.tables import Move, load, moves, save
from mwjax.errors import InputError

SHARD = {"mwjax": math.inf, "wan": math.inf, "diffusers": 5 * 10**9, "micro-world": 5 * 10**9}  # largest file in bytes


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a layout keeps a network: sub-folder, stem and ending of the file, naming of the keys."""

    sub: str
    stem: str
    naming: str
    ending: str = ".safetensors"
    config: bool = True


def _ours(path: pathlib.Path) -> Place:
    return Place(str(path.parent), path.stem, "wan")


LAYOUTS: dict[str, dict[str, Place]] = {
    "mwjax": {"transformer": _ours(TRANSFORMER), "vae": _ours(VAE_FILE), "text_encoder": _ours(TEXT_FILE), "image_encoder": _ours(IMAGE_FILE)},
    "wan": {
        "transformer": Place("", "diffusion_pytorch_model", "wan"),
        "vae": Place("", "Wan2.1_VAE", "wan", ".pth", config=False),
        "text_encoder": Place("", "models_t5_umt5-xxl-enc-bf16", "wan", ".pth", config=False),
    },  # the original's image encoder also holds a text tower, which is not kept here: use the released file
    "diffusers": {
        "transformer": Place("transformer", "diffusion_pytorch_model", "diffusers"),
        "vae": Place("vae", "diffusion_pytorch_model", "diffusers"),
        "text_encoder": Place("text_encoder", "model", "diffusers"),
        "image_encoder": Place("image_encoder", "model", "diffusers"),
    },
    "micro-world": {"transformer": Place("transformer", "diffusion_pytorch_model", "wan")},
}
LORA_PLACE = {  # file and naming
    "mwjax": (LORA_STEM, "released"), "micro-world": (LORA_STEM, "released"), "wan": ("pytorch_lora_weights.safetensors", "peft"),
    "diffusers": ("pytorch_lora_weights.safetensors", "diffusers"),
}  # fmt: skip
TOKENIZER_PLACE = {"mwjax": "tokenizer", "wan": "google/umt5-xxl", "diffusers": "tokenizer"}


def stream(tensors: Tensors, steps: list[Move], folder: pathlib.Path, stem: str, *, dtype: np.dtype | None, shard: float, bar: tqdm) -> list[pathlib.Path]:
    """Carry out `steps` with one tensor in memory at a time; files that are there already are whole and are kept.

    dtype: of the written tensors; None keeps each as it is. shard: largest file in bytes. bar counts bytes.
    """
    size = {name: math.prod(shape) * (dtype or kind).itemsize for name, (shape, kind) in tensors.specs.items()}
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


def pickle(tensors: Tensors, steps: list[Move], path: pathlib.Path, *, dtype: np.dtype | None, bar: tqdm) -> list[pathlib.Path]:
    """Carry out `steps` into a .pth file, as the original loads its encoders from. PyTorch writes it whole: it needs the network's size in memory."""
    import torch

    if not path.exists():
        state = {}
        for step in steps:
            for name, array in zip(step.write, step.change([tensors[name] for name in step.read]), strict=True):
                array = np.array(array if dtype is None else array.astype(dtype))
                half = array.dtype == NUMPY["BF16"]
                state[name] = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16) if half else torch.from_numpy(array)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        torch.save(state, part)
        part.replace(path)
    bar.update(_bytes(tensors, dtype))
    return [path]


def _bytes(tensors: Tensors, dtype: np.dtype | None) -> int:
    return sum(math.prod(shape) * (dtype or kind).itemsize for shape, kind in tensors.specs.values())


def _fingerprint(folder: Folder) -> dict[str, list[int]]:
    """Size and time of every file that a conversion reads."""
    paths = [path for network in folder.networks.values() for path in network.tensors.paths] + ([folder.lora] if folder.lora else [])
    return {str(path.resolve()): [path.stat().st_size, path.stat().st_mtime_ns] for path in paths}


def _claim(out: pathlib.Path, what: dict, needed: int) -> None:
    """Make `out` the folder of this conversion, or say why it cannot be."""
    record = out / RECORD
    try:
        if out.exists() and any(out.iterdir()):
            if not record.exists():
                raise InputError(f"{out} is not empty and holds no conversion; choose another folder")
            before = read_json(record)
            if {k: v for k, v in before.items() if k != "files"} != what:
                raise InputError(f"{out} holds another conversion (of {before.get('source')}, or of it as it was before); delete it or choose another folder")
        out.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out).free + sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
        if free < needed:
            raise InputError(f"{out} has {free / 1e9:.1f} GB free, the conversion needs about {needed / 1e9:.1f} GB; free some space")
        record.write_text(json.dumps(what, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}") from None


def write(folder: Folder, out: pathlib.Path, layout: str, *, dtype: np.dtype | None, shard: float | None = None) -> list[pathlib.Path]:
    """Write a checked folder to `out` in a layout: networks, configs, LoRA, tokenizer. Started again, it carries on; hashes go to conversion.json.

    dtype: of transformer, text encoder, image encoder and LoRA; the VAE stays as it is, for its loaders expect float32.
    Raises InputError if `out` holds something else, lacks room or cannot be written.
    """
    places = LAYOUTS[layout]
    networks = {kind: network for kind, network in folder.networks.items() if kind in places}
    dtypes = {kind: None if kind == "vae" else dtype for kind in networks}
    if any(places[kind].ending == ".pth" for kind in networks):
        try:
            import torch  # noqa: F401
        except ImportError:
            raise InputError(f'the {layout} layout has .pth files, which need PyTorch; run: pip install -e ".[convert]"') from None
    total = sum(_bytes(network.tensors, dtypes[kind]) for kind, network in networks.items())
    what = {"source": str(folder.path), "layout": layout, "dtype": dtype.name if dtype is not None else "as it is", "read": _fingerprint(folder)}
    _claim(out, what, total)
    paths = []
    bar = tqdm(total=total, desc="converting", unit="B", unit_scale=True)
    for kind, network in networks.items():
        place = places[kind]
        naming = NAMINGS[kind][place.naming]
        shapes = {name: tree for name, tree in network.shapes.items() if name not in naming.without}
        steps = moves(network.rows, naming.rows(network.config), shapes)
        target = out / place.sub
        if place.ending == ".pth":
            paths += pickle(network.tensors, steps, target / f"{place.stem}.pth", dtype=dtypes[kind], bar=bar)
        else:
            size = SHARD[layout] if shard is None else shard
            paths += stream(network.tensors, steps, target, place.stem, dtype=dtypes[kind], shard=size, bar=bar)
        if place.config:
            _json(target / "config.json", naming.write(network.config) | network.extra)
    bar.close()
    if folder.lora:
        name, naming = LORA_PLACE[layout]
        paths += write_lora(folder.lora, folder.networks["transformer"], out / name, naming, dtype=dtype)
    if folder.tokenizer and layout in TOKENIZER_PLACE and any((folder.tokenizer / name).exists() for name in TOKENIZER_FILES):
        _copy_whole(folder.tokenizer, out / TOKENIZER_PLACE[layout])
    if layout == "diffusers":
        _write_pipeline(out, networks)
    hashes = {str(path.relative_to(out)): sha256(path) for path in tqdm(paths, desc="hashing", unit="file", leave=False)}
    _json(out / RECORD, what | {"files": hashes})
    return paths


def _copy_whole(source: pathlib.Path, target: pathlib.Path) -> None:
    part = target.with_name(target.name + ".part")
    for old in (part, target):
        shutil.rmtree(old, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, part)
    part.rename(target)


def write_lora(source: pathlib.Path, transformer: Network, path: pathlib.Path, naming: str, *, dtype: np.dtype | None) -> list[pathlib.Path]:
    """Rewrite a LoRA file in a naming ("released", "peft", "diffusers"). Raises InputError if it is of another model.

    PEFT and diffusers take alpha for the rank, so there alpha / rank is multiplied into the up matrices.
    """
    rows, tensors, shapes = lora_of(source, transformer)
    flat = flatten_dict(load(rows, tensors, shapes), sep="/")
    if naming != "released":
        for name in [name for name in flat if name.endswith("/alpha")]:
            alpha, up = flat.pop(name), name.removesuffix("alpha") + "up"
            flat[up] = (flat[up] * (alpha / flat[up].shape[-2])[..., None, None]).astype(flat[up].dtype)
    pairs = [(name, array if dtype is None else array.astype(dtype)) for name, array in save(LORA_NAMINGS[naming][0], unflatten_dict(flat, sep="/"))]
    out = Stream(path, [name for name, _ in pairs])
    for name, array in pairs:
        out.add(name, array)
    out.close()
    return [path]


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


def import_model(
    source: pathlib.Path, out: pathlib.Path, *, base: pathlib.Path | None, lora: pathlib.Path | None, dtype: np.dtype | None, report: Callable[[str], None]
) -> list[pathlib.Path]:
    """Any known layout to a model folder.

    base: gives the networks and the tokenizer that `source` lacks (Micro-World releases are transformers alone). lora: a LoRA file to go with it.
    """
    folder = open_folder(source)
    if base:
        other = open_folder(base)
        networks = other.networks | folder.networks
        if not networks["transformer"].config.backbone.image_dim:
            networks.pop("image_encoder", None)
        folder = dataclasses.replace(folder, networks=networks, tokenizer=folder.tokenizer or other.tokenizer)
    if lora:
        folder = dataclasses.replace(folder, lora=lora)
    if folder.missing:
        raise InputError(f"{source} has no {' and no '.join(folder.missing)}; give --base FOLDER that has (the Wan2.1 model it was made from)")
    folder.check()
    for kind, network in folder.networks.items():
        report(f"{kind:14} {network.tensors.count:,} parameters, {network.naming} names, from {network.tensors.paths[0].parent}")
    if folder.networks["transformer"].config.control == "none":
        report("action module  none in these weights; training makes one from base blocks 0, 2, 4, … with zero projections")
    return write(folder, out, "mwjax", dtype=dtype)


def export_model(source: pathlib.Path, out: pathlib.Path, *, layout: str, dtype: np.dtype | None, shard: float | None = None) -> list[pathlib.Path]:
    """A model folder to a layout that others load. Raises InputError for what the layout has no place for."""
    folder = open_folder(source)
    if "transformer" not in folder.networks:
        raise InputError(f"{source} has no transformer")
    control = folder.networks["transformer"].config.control
    if layout in ("wan", "diffusers") and control != "none":
        raise InputError(f"{source} has an action module ({control}), for which the {layout} layout has no place; use --format micro-world")
    if layout != "micro-world" and folder.missing:
        raise InputError(f"{source} has no {' and no '.join(folder.missing)}, which the {layout} layout needs")
    return write(folder.check(), out, layout, dtype=dtype, shard=shard)
