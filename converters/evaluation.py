"""Weights of the networks that metrics use: where they come from, and their way into `models/evaluation`.

    models/evaluation/NAME/weights.safetensors  config.json      (under the published key names; sizes, sources and hashes)
"""

import dataclasses
import http.client
import json
import pathlib
import urllib.request
from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from converters import idm
from converters.files import Stream, Tensors, open_pickle, open_safetensors, read_json, sha256
from converters.shapes import idm_shapes
from converters.tables import check, load, refuse, save
from mwjax.errors import InputError
from mwjax.evaluation.networks import amt, clip, i3d, lpips
from mwjax.evaluation.networks.clip import CLIPConfig
from mwjax.evaluation.networks.idm import IDMConfig
from mwjax.evaluation.networks.layers import Shapes

WEIGHTS = "weights.safetensors"
FOLDER = pathlib.Path("models/evaluation")
SHIPPED_IDM = pathlib.Path(__file__).resolve().parent.parent / "mwjax" / "assets" / "idm_vizdoom"
same = lambda name: name


@dataclasses.dataclass(frozen=True)
class Source:
    """A network's published weights. urls: every file it needs; used: their name → ours, None for what the network does not use.

    sha256: of each file, by its name, where its publisher gives it.
    """

    what: str
    urls: tuple[str, ...]
    used: Callable[[str], str | None] = same
    shapes: Callable[[], Shapes] | None = None
    sha256: dict[str, str] = dataclasses.field(default_factory=dict)


CLIP_SHA = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
SOURCES = {
    "idm": Source("VPT inverse dynamics model for Minecraft (OpenAI)", ("https://openaipublic.blob.core.windows.net/minecraft-rl/idm/4x_idm.weights",), idm.used),
    "lpips": Source(
        "VGG16 (torchvision) and the LPIPS weights of its channels",
        ("https://download.pytorch.org/models/vgg16-397923af.pth", "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/vgg.pth"),
        lambda name: None if name.startswith("classifier.") else name, lpips.shapes,
    ),
    "i3d": Source(
        "I3D trained on Kinetics-400, as VideoGPT ported it",
        ("https://huggingface.co/spaces/LanguageBind/Open-Sora-Plan-v1.0.0/resolve/main/opensora/eval/fvd/videogpt/i3d_pretrained_400.pt",),
        i3d.used, i3d.shapes,
    ),
    "clip": Source(
        "CLIP ViT-B/32 (OpenAI)", (f"https://openaipublic.azureedge.net/clip/models/{CLIP_SHA}/ViT-B-32.pt",),
        clip.used, lambda: clip.shapes(CLIPConfig()), {"ViT-B-32.pt": CLIP_SHA},
    ),
    "amt": Source("AMT-S frame interpolation", ("https://huggingface.co/lalala125/AMT/resolve/main/amt-s.pth",), same, amt.shapes),
}  # fmt: skip


def command(name: str, folder: pathlib.Path = FOLDER) -> str:
    """What to run to get the weights of a network."""
    return f"python -m converters metric {name}" + (f" --out {folder}" if folder != FOLDER else "")


def fetch(url: str, folder: pathlib.Path) -> pathlib.Path:
    """A downloaded file, or the one that is there. Raises InputError if it cannot be had; nothing half-written is left."""
    path = folder / url.rpartition("/")[2]
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with urllib.request.urlopen(url, timeout=60) as response, part.open("wb") as file:
            size = int(response.headers.get("Content-Length") or 0)
            with tqdm(total=size, unit="B", unit_scale=True, desc=path.name) as bar:
                while chunk := response.read(2**20):
                    file.write(chunk)
                    bar.update(len(chunk))
        if size and part.stat().st_size != size:
            raise OSError(f"it ended after {part.stat().st_size} of {size} bytes")
        part.replace(path)
    except (OSError, http.client.HTTPException) as error:
        raise InputError(f"{url} could not be downloaded ({error}); download it yourself and name the file at the end of the same command") from None
    finally:
        part.unlink(missing_ok=True)
    return path


def import_network(name: str, files: list[pathlib.Path], out: pathlib.Path) -> pathlib.Path:
    """Read published weights, check that every one is there, known and of the right shape, and write them below `out`.

    Raises InputError, before anything is written, for files that are damaged, of another network, or not what their publisher gave out.
    """
    source, parts, hashes = SOURCES[name], [], {}
    for path in files:
        tensors = open_safetensors([path]) if path.suffix == ".safetensors" else open_pickle(path)
        hashes[path.name] = sha256(path)
        expected = source.sha256.get(path.name)
        if expected not in (None, hashes[path.name]):
            raise InputError(f"{path} has SHA-256 {hashes[path.name]}, not {expected} as published; download it again")
        parts.append(tensors.renamed(source.used))
    specs = {key: spec for part in parts for key, spec in part.specs.items()}
    config: dict = {"what": source.what, "urls": source.urls, "sha256": hashes}
    if source.shapes is None:
        config["net"] = _vpt(files)
        check(idm.IDM, specs, idm_shapes(idm.config_from_json(config["net"])))
    else:
        check_shapes(specs, source.shapes())
    stream = Stream(out / name / WEIGHTS, specs)
    for part in parts:
        for key in part:
            stream.add(key, np.asarray(part[key], np.float32))
    (out / name / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    stream.close()
    return stream.path


def _vpt(files: list[pathlib.Path]) -> dict:
    """Sizes of an inverse dynamics model: from the config.json beside it, or the released ones."""
    beside = files[0].with_name("config.json")
    return (read_json(beside) if beside.exists() else {}).get("net") or idm.config_to_json(IDMConfig())


def check_shapes(specs: dict, shapes: Shapes) -> None:
    """Raises InputError listing tensors that are missing, unexpected or of the wrong shape."""
    wrong = [f"{name} is {'x'.join(map(str, specs[name][0]))}, not {'x'.join(map(str, shape))}" for name, shape in shapes.items()
             if name in specs and tuple(specs[name][0]) != shape]  # fmt: skip
    refuse([name for name in shapes if name not in specs], [name for name in specs if name not in shapes], wrong)


def available(name: str, folder: pathlib.Path = FOLDER) -> bool:
    return (folder / name / WEIGHTS).exists()


def load_network(name: str, folder: pathlib.Path = FOLDER) -> dict[str, np.ndarray]:
    """The weights of a network other than "idm", by their published names. Raises InputError if they are missing or damaged."""
    tensors = open_safetensors([folder / name / WEIGHTS])
    check_shapes(tensors.specs, SOURCES[name].shapes())
    return {key: tensors[key] for key in tensors}


def save_idm(folder: pathlib.Path, cfg: IDMConfig, params: dict, dtype: str = "bfloat16") -> pathlib.Path:
    """Write an inverse dynamics model under VPT's key names, with its sizes beside it."""
    tensors = {name: np.asarray(array).astype(np.dtype(dtype)) for name, array in save(idm.IDM, params)}
    stream = Stream(folder / WEIGHTS, tensors)
    for name, array in tensors.items():
        stream.add(name, array)
    (folder / "config.json").write_text(json.dumps({"net": idm.config_to_json(cfg)}, indent=1) + "\n")
    stream.close()
    return folder / WEIGHTS


def load_idm(folder: pathlib.Path, *, frames_at_once: int = 0) -> tuple[IDMConfig, dict]:
    """(sizes, float32 parameters) of an inverse dynamics model. Raises InputError for what is missing or does not fit."""
    tensors: Tensors = open_safetensors([folder / WEIGHTS]).renamed(idm.used)
    sizes = read_json(folder / "config.json").get("net")
    if not isinstance(sizes, dict):
        raise InputError(f"{folder / 'config.json'} is not that of an inverse dynamics model: it has no net")
    cfg = idm.config_from_json(sizes, frames_at_once=frames_at_once)
    shapes = idm_shapes(cfg)
    check(idm.IDM, tensors.specs, shapes)
    return cfg, load(idm.IDM, {name: tensors[name].astype(np.float32) for name in tensors}, shapes)
