"""What is measured on one video: the raw values that every score is made of, and the networks that give them."""

import dataclasses
import functools
import hashlib
import json
import pathlib
import zipfile

import jax
import numpy as np

from converters import evaluation as weights_of
from mwjax.evaluation import fvd, temporal, visual
from mwjax.evaluation.networks import amt, i3d
from mwjax.evaluation.networks.clip import CLIPConfig
from mwjax.evaluation.networks.idm import IDMConfig, InverseDynamics
from mwjax.evaluation.resize import opencv_linear

Values = dict[str, np.ndarray]
NETWORKS = ("idm", "lpips", "i3d", "clip", "amt")  # beside these, PSNR, SSIM and scenario consistency need none


@dataclasses.dataclass(frozen=True)
class Tools:
    """The networks that are there ({name: weights}; of "idm" a pair of sizes and parameters) and how videos are measured.

    prefixes: numbers of first frames for the Fréchet distance. rescaled: LPIPS of pictures in [-1, 1].
    """

    networks: dict
    prefixes: tuple[int, ...] = ()
    rescaled: bool = False

    @functools.cached_property
    def identity(self) -> str:
        """What measurements depend on, but for the videos."""
        digest = hashlib.sha1(repr((self.prefixes, self.rescaled)).encode())
        for name in sorted(self.networks):
            leaves = jax.tree.leaves(self.networks[name][1] if name == "idm" else self.networks[name])
            digest.update(name.encode() + b"".join(np.asarray(leaf).reshape(-1)[:64].tobytes() for leaf in leaves))
        return digest.hexdigest()


def load_tools(*, idm: pathlib.Path | None, folder: pathlib.Path, names: tuple[str, ...], frames: int, rescaled: bool = False) -> tuple[Tools, dict[str, str]]:
    """The networks of `names` that are there, and for each that is not, the command that gets it. Raises InputError for damaged weights.

    idm: folder of an inverse dynamics model (default: the one below `folder`). frames: of a video, for the prefixes of the Fréchet distance.
    """
    networks, absent = {}, {}
    for name in names:
        if name == "idm":
            place = idm or folder / "idm"
            if (place / weights_of.WEIGHTS).exists():
                networks[name] = weights_of.load_idm(place, frames_at_once=4)
                if networks[name][0].dim < 1024:  # small enough for all frames at once
                    networks[name] = (dataclasses.replace(networks[name][0], frames_at_once=0), networks[name][1])
                continue
        elif weights_of.available(name, folder):
            networks[name] = weights_of.load_network(name, folder)
            continue
        absent[name] = weights_of.command(name)
    prefixes = tuple(range(i3d.LEAST_FRAMES, frames + 1)) if "i3d" in networks else ()
    return Tools(networks, prefixes, rescaled), absent


@functools.partial(jax.jit, static_argnums=0)
def read_off(cfg: IDMConfig, params: dict, frames):
    buttons, camera = InverseDynamics(cfg).apply({"params": params}, opencv_linear(frames, *cfg.image_size)[None])
    return buttons[0].argmax(-1), camera[0].argmax(-1)


def measure(tools: Tools, frames: np.ndarray, reference: np.ndarray | None = None) -> Values:
    """Raw values of a video, uint8 [f, h, w, 3]; those of `visual` only against a reference of as many frames (of any size).

    buttons [f, 20], camera [f, 2] (bins); mse, ssim, lpips [f]; logits [p, 400]; similar [f − 1, 2]; smooth [g]; scenario [f / 2].
    """
    out: Values = {"scenario": temporal.scenario_distances(frames)}
    if "idm" in tools.networks:
        cfg, params = tools.networks["idm"]
        out["buttons"], out["camera"] = read_off(cfg, params, frames)
    if reference is not None:
        errors = visual.frame_errors(frames, reference)
        out |= {"mse": errors["mse"], "ssim": errors["ssim"]}
        if "lpips" in tools.networks:
            parts = [slice(i, i + 16) for i in range(0, len(frames), 16)]
            out["lpips"] = np.concatenate([visual.lpips(tools.networks["lpips"], frames[p], reference[p], rescaled=tools.rescaled) for p in parts])
    if tools.prefixes:
        out["logits"] = fvd.logits(tools.networks["i3d"], frames, prefixes=tools.prefixes)
    if "clip" in tools.networks:
        out["similar"] = temporal.similarities(np.asarray(temporal.frame_features(CLIPConfig(), tools.networks["clip"], frames)))
    if "amt" in tools.networks and min(frames.shape[1:3]) >= amt.LEAST_SIDE and len(frames) > 2:
        out["smooth"] = temporal.motion_smoothness(frames, temporal.interpolated(tools.networks["amt"], frames))[1]
    return {name: np.asarray(value) for name, value in out.items()}


def fingerprint(path: pathlib.Path) -> str:
    stat = path.stat()
    return f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"


def kept(path: pathlib.Path, key: dict, make) -> Values:
    """Values of `make()`, kept in a file: what is there under the same key is not measured again."""
    text = json.dumps(key, sort_keys=True)
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["key"]) == text:
                return {name: file[name] for name in file.files if name != "key"}
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        pass
    values = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        np.savez(file, key=np.array(text), **values)
    part.replace(path)
    return values
