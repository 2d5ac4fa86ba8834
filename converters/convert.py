"""From one layout to another: a released model into a model folder, a model folder into what others load."""

import dataclasses
import math
import pathlib
import shutil
from collections.abc import Callable, Iterator

import numpy as np
from tqdm import tqdm

from converters.files import NUMPY, Tensors, TensorWriter, sha256, write_json, write_tensors
from converters.kinds import KINDS, OURS, Place
from converters.layouts import BYT5, RECORD, Folder, StoredNetwork, open_folder, used
from converters.lora import DIFFUSERS_FILE, LORA_FILE, read_lora, renamed
from converters.tables import Move, moves
from mwjax.data.files import whole
from mwjax.data.text import read_json
from mwjax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How a whole folder is laid out; the place of each network in it is an entry of `converters.kinds`.

    lora: (file, naming of its keys). tokenizer: folder of its files; None: there is none. shard: largest file in bytes.
    actions: whether an action module has a place. complete: whether every network must be there. pipeline: whether the
    files are written beside them with which diffusers loads the folder as a pipeline.
    """

    lora: tuple[str, str]
    tokenizer: str | None
    shard: float = math.inf
    actions: bool = True
    complete: bool = True
    pipeline: bool = False


LAYOUTS = {
    OURS: Layout(lora=(LORA_FILE, "released"), tokenizer="tokenizer"),
    "wan": Layout(lora=(DIFFUSERS_FILE, "peft"), tokenizer="google/umt5-xxl", actions=False),
    "diffusers": Layout(
        lora=(DIFFUSERS_FILE, "diffusers"), tokenizer="tokenizer", shard=5 * 10**9, actions=False, pipeline=True
    ),
    "micro-world": Layout(lora=(LORA_FILE, "released"), tokenizer=None, shard=5 * 10**9, complete=False),
}


def _sizes(tensors: Tensors, dtype: np.dtype | None) -> dict[str, int]:
    """Bytes of each tensor once it is written as `dtype`."""
    return {name: math.prod(shape) * (dtype or kind).itemsize for name, (shape, kind) in tensors.specs.items()}


def _changed(tensors: Tensors, steps: list[Move], dtype: np.dtype | None) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of all that `steps` write, with the tensors of one step in memory at a time."""
    for step in steps:
        for name, array in zip(step.write, step.change([tensors[name] for name in step.read]), strict=True):
            yield name, array if dtype is None else array.astype(dtype)


def split(steps: list[Move], sizes: dict[str, int], shard: float) -> list[list[Move]]:
    """The steps of each file, so that none holds more than `shard` bytes unless a single step does."""
    groups: list[list[Move]] = [[]]
    filled = 0
    for step in steps:
        size = sum(sizes[name] for name in step.read)
        if groups[-1] and filled + size > shard:
            groups.append([])
            filled = 0
        groups[-1].append(step)
        filled += size
    return groups


def stream(
    tensors: Tensors, steps: list[Move], path: pathlib.Path, *, dtype: np.dtype | None, shard: float, bar: tqdm
) -> list[pathlib.Path]:
    """Carry out `steps` with one tensor in memory at a time; files that are there already are whole and are kept.

    path: of a .safetensors file; several get their numbers in its name, and an index. dtype: of the written tensors;
    None keeps each as it is. shard: largest file in bytes. bar counts bytes.
    """
    sizes = _sizes(tensors, dtype)
    groups = split(steps, sizes, shard)
    count = len(groups)
    paths = [path]
    if count > 1:
        paths = [path.with_name(f"{path.stem}-{i:05d}-of-{count:05d}.safetensors") for i in range(1, count + 1)]
    names = [[name for step in group for name in step.write] for group in groups]
    for file, group, written in zip(paths, groups, names, strict=True):
        if file.exists():
            bar.update(sum(sizes[name] for step in group for name in step.read))
            continue
        with TensorWriter(file, written) as out:
            for name, array in _changed(tensors, group, dtype):
                out.add(name, array)
                bar.update(array.nbytes)
    if count > 1:
        files = {name: file.name for file, written in zip(paths, names, strict=True) for name in written}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": files}
        write_json(path.with_name(f"{path.name}.index.json"), index)
    return paths


def pickle(
    tensors: Tensors, steps: list[Move], path: pathlib.Path, *, dtype: np.dtype | None, bar: tqdm
) -> list[pathlib.Path]:
    """Carry out `steps` into a .pth file, as the original loads its encoders from. PyTorch writes it at once, so this
    needs the network's size in memory."""
    import torch

    def tensor_of(array: np.ndarray) -> torch.Tensor:
        array = np.array(array)
        if array.dtype == NUMPY["BF16"]:
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    if not path.exists():
        state = {name: tensor_of(array) for name, array in _changed(tensors, steps, dtype)}
        with whole(path) as part:
            torch.save(state, part)
    bar.update(sum(_sizes(tensors, dtype).values()))
    return [path]


def _stamps(folder: Folder) -> dict[str, list[int]]:
    """Size and time of every file that a conversion reads."""
    return {str(path.resolve()): [path.stat().st_size, path.stat().st_mtime_ns] for path in folder.files}


def _claim(out: pathlib.Path, what: dict, needed: int) -> None:
    """Make `out` the folder of this conversion, or say why it cannot be."""
    record = out / RECORD
    try:
        if out.exists() and any(out.iterdir()):
            if not record.exists():
                raise InputError(f"{out} is not empty and holds no conversion; choose another folder")
            before = read_json(record)
            if {key: value for key, value in before.items() if key != "files"} != what:
                raise InputError(
                    f"{out} holds another conversion (of {before.get('source')}, or of it as it was before); "
                    "delete it or choose another folder"
                )
        out.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out).free + sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        if free < needed:
            raise InputError(
                f"{out} has {free / 1e9:.1f} GB free, the conversion needs about {needed / 1e9:.1f} GB; free some space"
            )
        write_json(record, what)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}") from None


def _require_torch(layout: str, places: dict[str, Place]) -> None:
    if not any(place.ending == ".pth" for place in places.values()):
        return
    try:
        import torch  # noqa: F401
    except ImportError:
        raise InputError(
            f'the {layout} layout has .pth files, which need PyTorch; run: pip install -e ".[convert]"'
        ) from None


def write(
    folder: Folder, out: pathlib.Path, layout: str, *, dtype: np.dtype | None, shard: float | None = None
) -> list[pathlib.Path]:
    """Write a checked folder to `out` in a layout: networks, configs, LoRA, tokenizer. Started again, it carries on;
    hashes go to conversion.json.

    dtype: of transformer, text encoder, image encoder and LoRA; the VAE stays as it is, for its loaders expect
    float32. shard: largest file in bytes, None for the layout's own. Raises InputError if `out` holds something else,
    lacks room or cannot be written.
    """
    rules = LAYOUTS[layout]
    places = {kind: KINDS[kind].places[layout] for kind in folder.networks if layout in KINDS[kind].places}
    places = {kind: place for kind, place in places.items() if place.written}
    dtypes = {kind: None if KINDS[kind].dtype else dtype for kind in places}
    _require_torch(layout, places)
    total = sum(sum(_sizes(folder.networks[kind].tensors, dtypes[kind]).values()) for kind in places)
    what = {
        "source": str(folder.path),
        "layout": layout,
        "dtype": dtype.name if dtype is not None else "as it is",
        "read": _stamps(folder),
    }
    _claim(out, what, total)
    paths = []
    with tqdm(total=total, desc="converting", unit="B", unit_scale=True) as bar:
        for kind, place in places.items():
            size = rules.shard if shard is None else shard
            paths += _write_network(folder.networks[kind], place, out, dtype=dtypes[kind], shard=size, bar=bar)
    if folder.lora:
        name, naming = rules.lora
        paths.append(write_lora(folder.lora, folder.transformer, out / name, naming, dtype=dtype))
    if folder.tokenizer not in (None, BYT5) and rules.tokenizer:
        with whole(out / rules.tokenizer) as part:
            shutil.copytree(folder.tokenizer, part)
    if rules.pipeline:
        _write_pipeline(out, image="image_encoder" in places)
    progress = tqdm(paths, desc="hashing", unit="file", leave=False)
    write_json(out / RECORD, what | {"files": {str(path.relative_to(out)): sha256(path) for path in progress}})
    return paths


def _write_network(
    network: StoredNetwork, place: Place, out: pathlib.Path, *, dtype: np.dtype | None, shard: float, bar: tqdm
) -> list[pathlib.Path]:
    """Write a network and its config to its place below `out`."""
    naming = KINDS[network.kind].namings[place.naming]
    shapes = {name: tree for name, tree in network.shapes.items() if name not in naming.without}
    steps = moves(network.rows, naming.rows(network.config), shapes)
    if place.ending == ".pth":
        paths = pickle(network.tensors, steps, out / place.file, dtype=dtype, bar=bar)
    else:
        paths = stream(network.tensors, steps, out / place.file, dtype=dtype, shard=shard, bar=bar)
    if place.config:
        tokenizer = {"tokenizer": network.tokenizer} if network.tokenizer else {}
        write_json(out / place.folder / "config.json", naming.write(network.config) | tokenizer)
    return paths


def write_lora(
    source: pathlib.Path, transformer: StoredNetwork, path: pathlib.Path, naming: str, *, dtype: np.dtype | None
) -> pathlib.Path:
    """Rewrite a LoRA file in a naming ("released", "peft", "diffusers"). Raises InputError if it is of another model,
    or holds what the naming has no place for.

    PEFT and diffusers take alpha for the rank, so there alpha / rank is multiplied into the up matrices.
    """
    lora = read_lora(source, transformer.shapes["backbone"])
    write_tensors(path, renamed(lora, naming), dtype)
    return path


SCHEDULER = {
    "_class_name": "UniPCMultistepScheduler",
    "num_train_timesteps": 1000,
    "solver_order": 2,
    "solver_type": "bh2",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 3.0,
}
IMAGE_PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
PIPELINE = {
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
}
IMAGE_PIPELINE = {
    "image_encoder": ["transformers", "CLIPVisionModel"],
    "image_processor": ["transformers", "CLIPImageProcessor"],
}


def _write_pipeline(out: pathlib.Path, *, image: bool) -> None:
    """What diffusers needs beside the networks to load the folder as a pipeline (image: that starts from one)."""
    index = {"_class_name": "WanImageToVideoPipeline" if image else "WanPipeline"} | PIPELINE
    if image:
        index |= IMAGE_PIPELINE
        write_json(out / "image_processor/preprocessor_config.json", IMAGE_PROCESSOR)
    write_json(out / "model_index.json", index)
    write_json(out / "scheduler/scheduler_config.json", SCHEDULER)


def import_model(
    source: pathlib.Path,
    out: pathlib.Path,
    *,
    base: pathlib.Path | None = None,
    lora: pathlib.Path | None = None,
    dtype: np.dtype | None = None,
    report: Callable[[str], None] = print,
) -> list[pathlib.Path]:
    """Any known layout to a model folder.

    base: gives the networks and the tokenizer that `source` lacks (Micro-World releases are transformers alone).
    lora: a LoRA file to go with it. dtype: of what is written; None keeps it. report: takes what is said on the way.
    Raises InputError for what is missing, damaged or of different models.
    """
    folder = open_folder(source)
    if base:
        other = open_folder(base)
        networks = used(other.networks | folder.networks)
        folder = dataclasses.replace(folder, networks=networks, tokenizer=folder.tokenizer or other.tokenizer)
    if lora:
        folder = dataclasses.replace(folder, lora=lora)
    if folder.missing:
        raise InputError(
            f"{source} has no {' and no '.join(folder.missing)}; "
            "give --base FOLDER that has (the Wan2.1 model it was made from)"
        )
    folder.check()
    for kind, network in folder.networks.items():
        where = network.tensors.paths[0].parent
        report(f"{kind:14} {network.tensors.count:,} parameters, {network.naming} names, from {where}")
    if not folder.transformer.config.controls:
        report(
            "action module  none in these weights; training makes one from base blocks 0, 2, 4, … with zero projections"
        )
    return write(folder, out, OURS, dtype=dtype)


def export_model(
    source: pathlib.Path,
    out: pathlib.Path,
    *,
    layout: str,
    dtype: np.dtype | None = None,
    shard: float | None = None,
) -> list[pathlib.Path]:
    """A model folder to a layout that others load. Raises InputError for what the layout has no place for."""
    folder = open_folder(source)
    if folder.transformer is None:
        raise InputError(f"{source} has no transformer")
    controls = folder.transformer.config.controls
    if controls and not LAYOUTS[layout].actions:
        raise InputError(
            f"{source} has an action module ({' + '.join(controls)}), for which the {layout} layout has no place; "
            "use --format micro-world"
        )
    if LAYOUTS[layout].complete and folder.missing:
        missing = " and no ".join(folder.missing)
        raise InputError(f"{source} has no {missing}, which the {layout} layout needs")
    return write(folder.check(), out, layout, dtype=dtype, shard=shard)
