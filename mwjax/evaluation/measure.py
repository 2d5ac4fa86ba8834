"""What is measured on one video: the raw values that every score is made of, and the networks that give them.

A measurement is a line of `PARTS`. Each is kept in a file of its own, so that what is there is never measured again.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import zipfile
from collections.abc import Callable

import jax
import numpy as np

from converters import evaluation as weights_of
from mwjax.evaluation import fvd, temporal, visual
from mwjax.evaluation.networks import amt, i3d
from mwjax.evaluation.networks.clip import CLIPConfig
from mwjax.evaluation.networks.idm import IDMConfig, InverseDynamics
from mwjax.evaluation.resize import opencv_linear
from mwjax.types import Array

Values = dict[str, np.ndarray]
VERSION = 1  # of the measurements; kept values of another one are not used


@dataclasses.dataclass(frozen=True)
class Part:
    """run(weights, frames, reference, options) gives raw values of a video, uint8 [f, h, w, 3].

    group: as in --metrics. network: whose weights it needs, "" none. against: whether a reference of as many frames (of any size) is needed.
    """

    group: str
    network: str
    against: bool
    run: Callable[..., dict]


@dataclasses.dataclass(frozen=True)
class Options:
    """prefixes: numbers of first frames for the Fréchet distance. rescaled: LPIPS of pictures in [-1, 1]."""

    prefixes: tuple[int, ...] = ()
    rescaled: bool = False


@functools.partial(jax.jit, static_argnums=0)
def read_off(cfg: IDMConfig, params: dict, frames):
    """(buttons [f, 20], camera bins [f, 2]) that an inverse dynamics model reads off a video."""
    buttons, camera = InverseDynamics(cfg).apply({"params": params}, opencv_linear(frames, *cfg.image_size)[None])
    return buttons[0].argmax(-1), camera[0].argmax(-1)


@functools.partial(jax.jit, static_argnums=0)
def probabilities(cfg: IDMConfig, params: dict, frames):
    """[f, 20]: how likely an inverse dynamics model finds that each of BUTTONS is pressed."""
    buttons, _ = InverseDynamics(cfg).apply({"params": params}, opencv_linear(frames, *cfg.image_size)[None])
    return jax.nn.softmax(buttons[0], -1)[..., 1]


def _control(model, frames, reference, options) -> dict[str, Array]:
    return dict(zip(("buttons", "camera"), read_off(*model, frames), strict=True))


def _lpips(weights, frames, reference, options) -> dict[str, Array]:
    parts = [slice(i, i + 16) for i in range(0, len(frames), 16)]
    return {"lpips": np.concatenate([visual.lpips(weights, frames[p], reference[p], rescaled=options.rescaled) for p in parts])}


def _logits(weights, frames, reference, options) -> dict[str, Array]:
    return {"logits": fvd.logits(weights, visual.prepare(frames), prefixes=options.prefixes)} if options.prefixes else {}


def _similar(weights, frames, reference, options) -> dict[str, Array]:
    return {"similar": temporal.similarities(np.asarray(temporal.frame_features(CLIPConfig(), weights, frames)))}


def _smooth(weights, frames, reference, options) -> dict[str, Array]:
    if min(frames.shape[1:3]) < amt.LEAST_SIDE or len(frames) < 3:
        return {}
    return {"smooth": temporal.motion_smoothness(frames, temporal.interpolated(weights, frames))[1]}


# name: what is measured → buttons [f, 20], camera [f, 2] (bins); mse, ssim [f]; lpips [f]; logits [p, 400]; similar [f − 1, 2]; smooth [g]; scenario [f / 2]
PARTS = {
    "control": Part("control", "idm", False, _control),
    "frames": Part("visual", "", True, lambda weights, frames, reference, options: visual.frame_errors(frames, reference)),
    "lpips": Part("visual", "lpips", True, _lpips),
    "fvd": Part("video", "i3d", False, _logits),
    "temporal": Part("temporal", "clip", False, _similar),
    "smoothness": Part("temporal", "amt", False, _smooth),
    "scenario": Part("temporal", "", False, lambda weights, frames, reference, options: {"scenario": temporal.scenario_distances(frames)}),
}
GROUPS = tuple(dict.fromkeys(part.group for part in PARTS.values()))


def load_networks(names: set[str], *, idm: pathlib.Path | None, folder: pathlib.Path) -> tuple[dict, dict[str, str]]:
    """({name: weights}, {name: how to get it} of those that are not there). Of "idm" the weights are (sizes, parameters).

    idm: folder of an inverse dynamics model (default: the one below `folder`). Raises InputError for damaged weights.
    """
    networks, absent = {}, {}
    for name in sorted(names):
        if name == "idm" and (idm or weights_of.available(name, folder)):
            cfg, params = weights_of.load_idm(idm or folder / "idm", frames_at_once=4)
            networks[name] = (dataclasses.replace(cfg, frames_at_once=0) if cfg.dim < 1024 else cfg), jax.device_put(params)
        elif name != "idm" and weights_of.available(name, folder):
            networks[name] = jax.device_put(weights_of.load_network(name, folder))
        else:
            absent[name] = weights_of.command(name, folder)
    return networks, absent


def prefixes(frames: int) -> tuple[int, ...]:
    return tuple(range(i3d.LEAST_FRAMES, frames + 1))


def identity(weights) -> str:
    """A hash that tells networks apart, from a part of every tensor."""
    digest = hashlib.sha1()
    for leaf in jax.tree.leaves(weights):
        flat = leaf.reshape(-1) if hasattr(leaf, "reshape") else np.array([hash(leaf)])
        digest.update(np.asarray(flat[:: max(1, flat.size // 64)]).tobytes())
    return digest.hexdigest()


def fingerprint(path: pathlib.Path) -> str:
    stat = path.stat()
    return f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"


def kept(path: pathlib.Path, key: dict, make: Callable[[], dict]) -> Values:
    """Values of `make()`, kept in a file: what is there under the same key is not made again."""
    text = json.dumps(key | {"version": VERSION}, sort_keys=True)
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["key"]) == text:
                return {name: file[name] for name in file.files if name != "key"}
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        pass
    values = {name: np.asarray(value) for name, value in make().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        np.savez(file, key=np.array(text), **values)
    part.replace(path)
    return values
