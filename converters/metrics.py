"""Weights of the networks that metrics use: where they come from, and their way into `models/evaluation`.

models/evaluation/NAME/weights.safetensors  config.json   (under the published key names; sizes, sources, hashes)
"""

import dataclasses
import http.client
import json
import pathlib
import urllib.request
from collections.abc import Callable, Iterable

import jax
import numpy as np
from tqdm import tqdm

from converters import idm as idm_table
from converters.files import Tensors, TensorWriter, open_pickle, open_safetensors, sha256
from converters.tables import check, load, refuse, save
from mwjax.data.files import whole, write_whole
from mwjax.data.text import read_json
from mwjax.errors import InputError
from mwjax.evaluation.networks import amt, clip, i3d, lpips
from mwjax.evaluation.networks.clip import CLIPConfig
from mwjax.evaluation.networks.idm import IDMConfig, idm_shapes
from mwjax.evaluation.networks.layers import Shapes

WEIGHTS = "weights.safetensors"
FOLDER = pathlib.Path("models/evaluation")
SHIPPED_IDM = pathlib.Path(__file__).resolve().parent.parent / "mwjax" / "assets" / "idm_vizdoom"
AT_ONCE = 4  # frames that go together through the convolutions of an inverse dynamics model as wide as VPT's
WIDE = 1024


def same(name: str) -> str:
    return name


def not_classifier(name: str) -> str | None:
    """The name, or None for VGG16's last layers."""
    return None if name.startswith("classifier.") else name


def clip_shapes() -> Shapes:
    return clip.shapes(CLIPConfig())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A network's published weights. urls: every file it needs; used: their name → ours, None for what it does not use.

    sha256: of each file, by its name, where its publisher gives it.
    """

    what: str
    urls: tuple[str, ...]
    used: Callable[[str], str | None] = same
    shapes: Callable[[], Shapes] | None = None
    sha256: dict[str, str] = dataclasses.field(default_factory=dict)


CLIP_SHA = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
VGG_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
LPIPS_URL = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/vgg.pth"
I3D_URL = (
    "https://huggingface.co/spaces/LanguageBind/Open-Sora-Plan-v1.0.0/resolve/main/"
    "opensora/eval/fvd/videogpt/i3d_pretrained_400.pt"
)
SOURCES = {
    "idm": Source(
        what="VPT inverse dynamics model for Minecraft (OpenAI)",
        urls=("https://openaipublic.blob.core.windows.net/minecraft-rl/idm/4x_idm.weights",),
        used=idm_table.used,
    ),
    "lpips": Source(
        what="VGG16 (torchvision) and the LPIPS weights of its channels",
        urls=(VGG_URL, LPIPS_URL),
        used=not_classifier,
        shapes=lpips.shapes,
    ),
    "i3d": Source(
        what="I3D trained on Kinetics-400, as VideoGPT ported it",
        urls=(I3D_URL,),
        used=i3d.used,
        shapes=i3d.shapes,
    ),
    "clip": Source(
        what="CLIP ViT-B/32 (OpenAI)",
        urls=(f"https://openaipublic.azureedge.net/clip/models/{CLIP_SHA}/ViT-B-32.pt",),
        used=clip.used,
        shapes=clip_shapes,
        sha256={"ViT-B-32.pt": CLIP_SHA},
    ),
    "amt": Source(
        what="AMT-S frame interpolation",
        urls=("https://huggingface.co/lalala125/AMT/resolve/main/amt-s.pth",),
        shapes=amt.shapes,
    ),
}


def how_to_get(name: str, folder: pathlib.Path = FOLDER) -> str:
    """What a network is, and what to run to get its weights."""
    place = f" --out {folder}" if folder != FOLDER else ""
    return f"{SOURCES[name].what}; get it with: python -m converters metric {name}{place}"


def fetch(url: str, folder: pathlib.Path) -> pathlib.Path:
    """A downloaded file, or the one that is there; nothing half-written is left.

    Raises InputError if it cannot be had.
    """
    path = folder / url.rpartition("/")[2]
    if path.exists():
        return path
    try:
        with whole(path) as part, urllib.request.urlopen(url, timeout=60) as response, part.open("wb") as file:
            size = int(response.headers.get("Content-Length") or 0)
            with tqdm(total=size, unit="B", unit_scale=True, desc=path.name) as bar:
                while chunk := response.read(2**20):
                    file.write(chunk)
                    bar.update(len(chunk))
            if size and file.tell() != size:
                raise OSError(f"it ended after {file.tell()} of {size} bytes")
    except (OSError, http.client.HTTPException) as error:
        how = "download it yourself and name the file at the end of the same command"
        raise InputError(f"{url} could not be downloaded ({error}); {how}") from None
    return path


def _published(path: pathlib.Path, source: Source) -> tuple[Tensors, str]:
    """(tensors that the network uses, SHA-256) of a file.

    Raises InputError if it is damaged or not what its publisher gave out.
    """
    tensors = open_safetensors([path]) if path.suffix == ".safetensors" else open_pickle(path)
    found = sha256(path)
    expected = source.sha256.get(path.name)
    if expected not in (None, found):
        raise InputError(f"{path} has SHA-256 {found}, not {expected} as published; download it again")
    return tensors.renamed(source.used), found


def import_network(name: str, files: list[pathlib.Path], out: pathlib.Path) -> pathlib.Path:
    """Read published weights, check that every one is there, known and of the right shape, and write them below `out`.

    Raises InputError, before anything is written, for files that are damaged, of another network, or not what their
    publisher gave out.
    """
    source = SOURCES[name]
    parts, hashes = [], {}
    for path in files:
        tensors, hashes[path.name] = _published(path, source)
        parts.append(tensors)
    specs = {key: spec for part in parts for key, spec in part.specs.items()}
    config: dict = {"what": source.what, "urls": source.urls, "sha256": hashes}
    if source.shapes is None:
        config["net"] = _vpt(files)
        check(idm_table.ROWS, specs, idm_shapes(idm_table.config_from_json(config["net"])))
    else:
        check_shapes(specs, source.shapes())
    with TensorWriter(out / name / WEIGHTS, specs) as stream:
        for part in parts:
            for key in part:
                stream.add(key, np.asarray(part[key], np.float32))
        write_whole(out / name / "config.json", json.dumps(config, indent=1) + "\n")
    return stream.path


def _vpt(files: list[pathlib.Path]) -> dict:
    """Sizes of an inverse dynamics model: from the config.json beside it, or the released ones."""
    beside = files[0].with_name("config.json")
    found = read_json(beside).get("net") if beside.exists() else None
    return found or idm_table.config_to_json(IDMConfig())


def _size(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))


def check_shapes(specs: dict, shapes: Shapes) -> None:
    """Raises InputError listing tensors that are missing, unexpected or of the wrong shape."""
    missing = [name for name in shapes if name not in specs]
    unexpected = [name for name in specs if name not in shapes]
    found = {name: tuple(specs[name][0]) for name in shapes if name in specs}
    wrong = [
        f"{name} is {_size(shape)}, not {_size(shapes[name])}" for name, shape in found.items() if shape != shapes[name]
    ]
    refuse(missing, unexpected, wrong)


def available(name: str, folder: pathlib.Path = FOLDER) -> bool:
    return (folder / name / WEIGHTS).exists()


def load_network(name: str, folder: pathlib.Path = FOLDER) -> dict[str, np.ndarray]:
    """The weights of a network other than "idm", by their published names.

    Raises InputError if they are missing or damaged.
    """
    tensors = open_safetensors([folder / name / WEIGHTS])
    check_shapes(tensors.specs, SOURCES[name].shapes())
    return {key: tensors[key] for key in tensors}


def find_idm(name: str) -> pathlib.Path | None:
    """The folder of an inverse dynamics model, by what --idm says: "vizdoom" for the shipped one, or a path.

    None for "vpt", whose weights lie where those of the other networks do. Raises InputError if there is none.
    """
    folder = {"vpt": None, "vizdoom": SHIPPED_IDM}.get(name, pathlib.Path(name))
    if folder and not ((folder / "config.json").exists() and (folder / WEIGHTS).exists()):
        what = f"a folder with config.json and {WEIGHTS} of an inverse dynamics model"
        raise InputError(f"--idm {name} is neither vpt, vizdoom nor {what}")
    return folder


def load_networks(
    names: Iterable[str], *, idm: pathlib.Path | None, folder: pathlib.Path
) -> tuple[dict, dict[str, str]]:
    """({name: network}, {name: what it is and how to get it} of those that are not there), as a Study takes them.

    A network is its weights by published name; "idm" is (sizes, parameters). idm: folder of an inverse dynamics model
    (default: the one below `folder`). Raises InputError for damaged weights.
    """
    networks, absent = {}, {}
    for name in sorted(names):
        if name == "idm" and (idm or available(name, folder)):
            cfg, params = load_idm(idm or folder / "idm")
            cfg = dataclasses.replace(cfg, frames_at_once=AT_ONCE if cfg.dim >= WIDE else 0)
            networks[name] = (cfg, jax.device_put(params))
        elif name != "idm" and available(name, folder):
            networks[name] = jax.device_put(load_network(name, folder))
        else:
            absent[name] = how_to_get(name, folder)
    return networks, absent


def save_idm(folder: pathlib.Path, cfg: IDMConfig, params: dict, dtype: str = "bfloat16") -> pathlib.Path:
    """Write an inverse dynamics model under VPT's key names, with its sizes beside it."""
    tensors = {name: np.asarray(array).astype(np.dtype(dtype)) for name, array in save(idm_table.ROWS, params)}
    with TensorWriter(folder / WEIGHTS, tensors) as stream:
        for name, array in tensors.items():
            stream.add(name, array)
        write_whole(folder / "config.json", json.dumps({"net": idm_table.config_to_json(cfg)}, indent=1) + "\n")
    return folder / WEIGHTS


def load_idm(folder: pathlib.Path, *, frames_at_once: int = 0) -> tuple[IDMConfig, dict]:
    """(sizes, float32 parameters) of an inverse dynamics model.

    Raises InputError for what is missing or does not fit.
    """
    tensors: Tensors = open_safetensors([folder / WEIGHTS]).renamed(idm_table.used)
    sizes = read_json(folder / "config.json").get("net")
    if not isinstance(sizes, dict):
        raise InputError(f"{folder / 'config.json'} is not that of an inverse dynamics model: it has no net")
    cfg = idm_table.config_from_json(sizes, frames_at_once=frames_at_once)
    shapes = idm_shapes(cfg)
    check(idm_table.ROWS, tensors.specs, shapes)
    return cfg, load(idm_table.ROWS, {name: tensors[name].astype(np.float32) for name in tensors}, shapes)
