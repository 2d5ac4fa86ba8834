"""Train an inverse dynamics model on recorded gameplay and say how well it reads clips of levels it has never seen.

    python -m mwjax.evaluation.train_idm --config configs/idm_vizdoom.py

Records what the config asks for, trains, and writes OUT/model: weights under VPT's key names, sizes, and a card with the accuracy.
"""

import argparse
import json
import pathlib

import grain
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from converters.evaluation import save_idm
from converters.folder import load_model, preflight
from mwjax.compilation import keep_compiled
from mwjax.config import OPTIONAL, build, load_config
from mwjax.data.clips import Clip, load_clip, read_table, to_pixels
from mwjax.errors import InputError, command
from mwjax.evaluation import control
from mwjax.evaluation.networks.idm import IDMConfig, InverseDynamics
from mwjax.evaluation.resize import opencv_linear
from mwjax.models.vae import VAE
from mwjax.pipeline import output_folder
from mwjax.training.loop import Stage, train
from mwjax.training.objectives import Objective
from mwjax.worlds.recorder import Recording, record

KEYS = ("out", "seed", "dataset", "record", "test", "size", "shrink", "autoencoder", "autoencoded", "network", "stage")


def check(config) -> None:
    """Raises InputError for unknown or missing keys."""
    for key in (set(config) - set(OPTIONAL)) ^ set(KEYS):
        raise InputError(f"config key {key} is {'unknown' if key in config else 'missing'}; an inverse dynamics model needs {', '.join(KEYS)}")
    if config.autoencoded:
        preflight(config.autoencoder)
    if not 0 <= config.autoencoded <= 1:
        raise InputError(f"autoencoded is {config.autoencoded}; it is a part of the clips, 0 to 1")


def load_all(clips: list[Clip], size: tuple[int, ...], shrink: int) -> dict[str, np.ndarray]:
    """Every clip's video uint8 [n, f, h, w, 3], buttons [n, f, 20] and camera bins [n, f, 2]. Damaged clips are reported and left out."""
    videos, buttons, cameras = [], [], []
    for clip in tqdm(clips, desc="reading", unit="clip"):
        try:
            item = load_clip(clip, height=size[0], width=size[1], shrink=shrink)
        except InputError as error:
            tqdm.write(f"left out {clip.name}: {error}")
            continue
        pressed, degrees = control.labels((item["keyboard"], item["mouse"]))
        videos.append(item["video"]), buttons.append(pressed), cameras.append(control.camera_bin(degrees))
    if not videos:
        raise InputError(f"none of the {len(clips)} clips could be read")
    return {"video": np.stack(videos), "buttons": np.stack(buttons).astype(np.int32), "camera": np.stack(cameras).astype(np.int32)}


def autoencode(data: dict[str, np.ndarray], model, part: float, batch: int = 8) -> dict[str, np.ndarray]:
    """The same clips with a part of them once more, as the autoencoder gives them back: what is read later is generated."""
    network, count = VAE(model.vae), int(part * len(data["video"]))
    picks = np.linspace(0, len(data["video"]) - 1, count).astype(int)
    filled = np.concatenate([picks, np.repeat(picks[-1:], -count % batch)])  # always the same shape: compiled once

    @jax.jit
    def run(params, pixels):
        (mean, _), _ = network.apply({"params": params}, pixels, method="encode", mutable=["cache"])
        frames, _ = network.apply({"params": params}, mean, method="decode", mutable=["cache"])
        return jnp.round((frames.clip(-1, 1) + 1) * 127.5).astype(jnp.uint8)

    groups = tqdm(range(0, len(filled), batch), desc="autoencoding", unit="batch")
    seen = np.concatenate([np.asarray(run(model.vae_params, to_pixels(data["video"][filled[i : i + batch]]))) for i in groups])
    return {k: np.concatenate([a, seen[:count] if k == "video" else a[picks]]) for k, a in data.items()}


def resized(data: dict[str, np.ndarray], size: tuple[int, int], batch: int = 64) -> dict[str, np.ndarray]:
    """The same clips at the network's size of picture, as it is fed when it scores."""
    video = data["video"]
    return data | {"video": np.concatenate([np.asarray(opencv_linear(video[i : i + batch], *size)) for i in range(0, len(video), batch)])}


def mirrored(item: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Left and right exchanged, in the picture, the keys and the camera."""
    left, right = (control.BUTTONS.index(b) for b in ("left", "right"))
    buttons, camera = item["buttons"].copy(), item["camera"].copy()
    buttons[..., [left, right]] = buttons[..., [right, left]]
    camera[..., 1] = 10 - camera[..., 1]
    return {"video": item["video"][..., ::-1, :], "buttons": buttons, "camera": camera}


def batches(data: dict[str, np.ndarray], *, batch: int, seed: int) -> grain.DatasetIterator:
    """Endless shuffled batches of clips, mirrored at random."""

    def element(i: int, rng: np.random.Generator) -> dict:
        item = {k: a[i] for k, a in data.items()}
        return mirrored(item) if rng.random() < 0.5 else item

    source = grain.MapDataset.range(len(data["video"])).seed(seed).shuffle().repeat().random_map(element)
    return iter(source.batch(batch, drop_remainder=True).to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))


def idm_objective(cfg: IDMConfig) -> Objective:
    """Cross-entropy of every button and of both camera bins, summed, mean over frames; of batches as `batches` gives them."""
    model = InverseDynamics(cfg)

    def loss(variables, batch):
        logits, parts = model.apply(variables, batch["video"]), {}
        for name, scores in zip(("buttons", "camera"), logits, strict=True):
            chosen = jnp.take_along_axis(jax.nn.log_softmax(scores), batch[name][..., None], -1)[..., 0]
            parts[name] = -chosen.sum(-1).mean()
        return parts["buttons"] + parts["camera"], parts

    return Objective(lambda batch, rng: dict(batch), loss)


def accuracy(network: IDMConfig, params: dict, data: dict[str, np.ndarray], batch: int = 16) -> dict:
    """Accuracy of every task and of the camera's directions over all frames, and the confusion of every task."""
    run = jax.jit(InverseDynamics(network).apply)
    buttons, camera = [], []
    for i in tqdm(range(0, len(data["video"]), batch), desc="testing", unit="batch"):
        part = data["video"][i : i + batch]
        filled = np.concatenate([part, np.repeat(part[-1:], batch - len(part), 0)])
        logits = [np.asarray(a)[: len(part)] for a in run({"params": params}, filled)]
        buttons.append(logits[0].argmax(-1)), camera.append(logits[1].argmax(-1))
    buttons, camera = np.concatenate(buttons), np.concatenate(camera)
    out = {"clips": len(buttons), "frames": int(buttons[..., 0].size)}
    for task in control.OURS:
        pair = [control.classes(b, task).reshape(-1) for b in (buttons, data["buttons"])]
        table = control.confusion(*pair, 3 if len(task) == 2 else 2)
        out[control.task_name(task)] = {"accuracy": float(np.trace(table) / table.sum()), "recall": (np.diag(table) / table.sum(1).clip(1)).round(4).tolist()}
    degrees = [control.bin_degrees(b) for b in (camera, data["camera"])]
    out["camera"] = {"direction": float(np.mean(control.direction(degrees[0]) == control.direction(degrees[1])))}
    for i, axis in enumerate(("pitch", "yaw")):
        asked, read = np.sign(degrees[1][..., i]), np.sign(degrees[0][..., i])
        out["camera"][axis] = {"sign": float(np.mean(read == asked)), "sign where it turns": float(np.sum((read == asked) & (asked != 0)) / max(np.sum(asked != 0), 1))}
    return out


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mwjax.evaluation.train_idm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/idm_vizdoom.py", help="(default: %(default)s); values as --config.NAME=VALUE")
    args, overrides = parser.parse_known_args(argv)
    config = load_config(args.config, overrides)
    check(config)
    keep_compiled()
    out, network, stage = output_folder(config.out), build(IDMConfig, config.network, "network"), build(Stage, config.stage, "stage")
    folders = {"dataset": pathlib.Path(config.dataset) if config.dataset else out / "dataset", "test": out / "test"}
    for name, plan in (("dataset", config.record), ("test", config.test)):
        if name == "test" or not config.dataset:
            counts = record(build(Recording, plan, name), folders[name])
            print(f"{name}: recorded " + ", ".join(f"{value} {what}" for what, value in counts.items()))
    data, test = (load_all(read_table(folders[name]), config.size, config.shrink) for name in ("dataset", "test"))
    if config.autoencoded:
        model = load_model(config.autoencoder)
        data, test = autoencode(data, model, config.autoencoded), autoencode(test, model, 1.0)
    data, test = (resized(part, network.image_size) for part in (data, test))
    params = jax.jit(InverseDynamics(network).init)(jax.random.key(config.seed), data["video"][:1])["params"]
    source = batches(data, batch=stage.batch, seed=config.seed)
    params = train(stage, {"params": params}, idm_objective(network), source, folder=out / "idm", seed=config.seed)["params"]
    path = save_idm(out / "model", network, params)
    half = len(test["video"]) // (2 if config.autoencoded else 1)
    report = {"unseen levels": accuracy(network, params, {k: a[:half] for k, a in test.items()})}
    if config.autoencoded:
        report["unseen levels, autoencoded"] = accuracy(network, params, {k: a[half:] for k, a in test.items()})
    (out / "model" / "accuracy.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    print(f"wrote {path}, {out / 'model' / 'accuracy.json'} and {out / 'idm' / 'loss.png'}")


if __name__ == "__main__":
    main()
