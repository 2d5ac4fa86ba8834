"""An inverse dynamics model, which reads keys and camera off clips; how well it reads levels it has never seen."""

import dataclasses
import pathlib
from collections.abc import Iterator

import grain
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from mwjax.config import build
from mwjax.data.clips import Clip, load_clip, read_table, to_pixels
from mwjax.data.latents import ClipConfig
from mwjax.errors import InputError
from mwjax.evaluation import control
from mwjax.evaluation.networks.idm import CAMERA_BINS, IDMConfig, InverseDynamics
from mwjax.evaluation.resize import opencv_linear
from mwjax.models.model import Model, Network
from mwjax.models.vae import VAE
from mwjax.ranges import FRAMES, Range, check_number, ranged
from mwjax.training.gameplay import Gameplay
from mwjax.training.memory import Memory
from mwjax.training.objectives import Objective
from mwjax.training.stages.stage import Stage
from mwjax.worlds.recorder import RecordConfig, check_framing, record, record_config

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class InverseDynamicsStage(Stage):
    """network: sizes, see IDMConfig. autoencoded: part of the clips, 0 to 1, that is seen a second time through the
    model's autoencoder: what is read later is generated. test: what to record for measuring, of levels not trained
    on."""

    NAME = "idm"
    KIND = "idm"
    TRAINS = ((r"params/", True),)

    network: IDMConfig
    autoencoded: float = ranged(0.0, least=0, most=1)
    test: RecordConfig

    def __post_init__(self):
        super().__post_init__()
        check_network(self.network)

    @classmethod
    def parsed(cls, values: dict, where: str) -> dict:
        """The values of a config with their sections built."""
        missing = [key for key in ("network", "test") if key not in values]
        if missing:
            raise InputError(f"config key {where}.{missing[0]} is missing")
        try:
            network = build(IDMConfig, values["network"], f"{where}.network")
            check_network(network)
        except InputError as error:
            raise InputError(f"{where}.network: {error}") from None
        return {**values, "network": network, "test": record_config(values["test"], f"{where}.test")}

    def check(self, clip: ClipConfig) -> None:
        check_framing(self.test, clip, "test")
        height, width = self.network.image_size
        if height > clip.height or width > clip.width:
            size = f"{clip.height}×{clip.width}"
            raise InputError(f"network.image_size {height}×{width} is larger than the clips, framing of {size}")

    def start(self, model: Model, *, seed: int, mesh: jax.sharding.Mesh | None = None) -> tuple[Model, dict]:
        del mesh
        video = jnp.zeros((1, 1, *self.network.image_size, 3), jnp.uint8)
        fresh = jax.jit(InverseDynamics(self.network).init)(jax.random.key(seed), video)
        return dataclasses.replace(model, networks=model.networks | {"idm": Network(self.network, {})}), fresh

    def batches(self, data: Gameplay, model: Model, *, seed: int, number: int) -> Iterator[dict]:
        del number
        arrays = self.prepared(load_all(data.clips, data.config), model, self.autoencoded)
        return shuffled_batches(arrays, batch=self.batch, seed=seed)

    def prepared(self, data: Arrays, model: Model, autoencoded: float) -> Arrays:
        """Clips at the network's size of picture, with a part of them once more as the autoencoder gives them back."""
        if autoencoded:
            data = autoencode(data, model, autoencoded)
        return resized(data, self.network.image_size)

    def objective(self, model: Model, memory: Memory, attention: str) -> Objective:
        del model, memory, attention
        return idm_objective(self.network)

    def finish(self, model: Model, variables: dict) -> Model:
        return dataclasses.replace(model, networks=model.networks | {"idm": Network(self.network, variables["params"])})

    def report(self, model: Model, config: ClipConfig, folder: pathlib.Path) -> dict:
        """Accuracy on clips of `test`, which are recorded into `folder`, and on the same ones autoencoded."""
        record(self.test, folder)
        data = self.prepared(load_all(read_table(folder), config), model, float(bool(self.autoencoded)))
        half = len(data["video"]) // (2 if self.autoencoded else 1)
        parts = {"unseen levels": slice(0, half)}
        if self.autoencoded:
            parts["unseen levels, autoencoded"] = slice(half, None)
        network = model.networks["idm"]
        return {name: accuracy(network, {key: a[part] for key, a in data.items()}) for name, part in parts.items()}


# What the sizes of a network may be.
SIZES = {
    "image_size": Range(least=8, most=1024, whole=True),
    "frames_at_once": Range(least=0, most=FRAMES.most, whole=True),
    "blocks": Range(least=0, most=64, whole=True),
}
SIZE = Range(least=1, most=65_536, whole=True)  # of the others


def check_network(network: IDMConfig) -> None:
    """Raises InputError for sizes that no network could have."""
    for field in dataclasses.fields(network):
        value = getattr(network, field.name)
        for entry in value if isinstance(value, tuple) else (value,):
            check_number(entry, field.name, SIZES.get(field.name, SIZE))
    if not network.channels:
        raise InputError("channels names no layer")
    if network.dim % network.num_heads:
        raise InputError(f"dim {network.dim} does not divide into num_heads {network.num_heads}")


def load_all(clips: list[Clip], config: ClipConfig) -> Arrays:
    """Every clip's video uint8 [n, f, h, w, 3], buttons [n, f, 20] and camera bins [n, f, 2]. Damaged clips are
    reported and left out."""
    videos, buttons, cameras = [], [], []
    for clip in tqdm(clips, desc="reading", unit="clip"):
        try:
            cut = dataclasses.replace(clip, end=clip.start + config.frames - 1)
            item = load_clip(cut, height=config.height, width=config.width, shrink=config.shrink)
        except InputError as error:
            tqdm.write(f"left out {clip.name}: {error}")
            continue
        pressed, degrees = control.labels((item["keyboard"], item["mouse"]))
        videos.append(item["video"])
        buttons.append(pressed)
        cameras.append(control.camera_bin(degrees))
    if not videos:
        raise InputError(f"none of the {len(clips)} clips could be read")
    return {
        "video": np.stack(videos),
        "buttons": np.stack(buttons).astype(np.int32),
        "camera": np.stack(cameras).astype(np.int32),
    }


def autoencode(data: Arrays, model: Model, part: float, batch: int = 8) -> Arrays:
    """The same clips with a part of them once more, as the autoencoder gives them back."""
    network, count = VAE(model.vae.config), int(part * len(data["video"]))
    picks = np.linspace(0, len(data["video"]) - 1, count).astype(int)
    filled = np.concatenate([picks, np.repeat(picks[-1:], -count % batch)])  # always the same shape: compiled once

    @jax.jit
    def run(params, pixels):
        (mean, _), _ = network.apply({"params": params}, pixels, method="encode", mutable=["cache"])
        frames, _ = network.apply({"params": params}, mean, method="decode", mutable=["cache"])
        return jnp.round((frames.clip(-1, 1) + 1) * 127.5).astype(jnp.uint8)

    seen = []
    for i in tqdm(range(0, len(filled), batch), desc="autoencoding", unit="batch"):
        seen.append(np.asarray(run(model.vae.params, to_pixels(data["video"][filled[i : i + batch]]))))
    again = {name: a[picks] for name, a in data.items()} | {"video": np.concatenate(seen)[:count]}
    return {name: np.concatenate([a, again[name]]) for name, a in data.items()}


def resized(data: Arrays, size: tuple[int, int], batch: int = 64) -> Arrays:
    """The same clips at the network's size of picture, as it is fed when it scores."""
    video = data["video"]
    parts = [np.asarray(opencv_linear(video[i : i + batch], *size)) for i in range(0, len(video), batch)]
    return data | {"video": np.concatenate(parts)}


def mirrored(item: Arrays) -> Arrays:
    """Left and right exchanged, in the picture, the keys and the camera."""
    left, right = (control.BUTTONS.index(b) for b in ("left", "right"))
    buttons, camera = item["buttons"].copy(), item["camera"].copy()
    buttons[..., [left, right]] = buttons[..., [right, left]]
    camera[..., 1] = CAMERA_BINS - 1 - camera[..., 1]
    return {"video": item["video"][..., ::-1, :], "buttons": buttons, "camera": camera}


def shuffled_batches(data: Arrays, *, batch: int, seed: int) -> grain.DatasetIterator:
    """Endless shuffled batches of clips, mirrored at random."""

    def element(i: int, rng: np.random.Generator) -> dict:
        item = {name: a[i] for name, a in data.items()}
        return mirrored(item) if rng.random() < 0.5 else item

    source = grain.MapDataset.range(len(data["video"])).seed(seed).shuffle().repeat().random_map(element)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    return iter(source.batch(batch, drop_remainder=True).to_iter_dataset(options))


def idm_objective(cfg: IDMConfig) -> Objective:
    """Cross-entropy of every button and of both camera bins, summed, mean over frames; of batches as `shuffled_batches`
    gives them."""
    model = InverseDynamics(cfg)

    def loss(variables, batch):
        logits, parts = model.apply(variables, batch["video"]), {}
        for name, scores in zip(("buttons", "camera"), logits, strict=True):
            chosen = jnp.take_along_axis(jax.nn.log_softmax(scores), batch[name][..., None], -1)[..., 0]
            parts[name] = -chosen.sum(-1).mean()
        return parts["buttons"] + parts["camera"], parts

    return Objective(lambda batch, rng: dict(batch), loss)


def read_all(network: Network, video: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """(buttons [n, f, 20], camera bins [n, f, 2]) that a network reads off videos of its own size."""
    run = jax.jit(InverseDynamics(network.config).apply)
    buttons, camera = [], []
    for i in tqdm(range(0, len(video), batch), desc="testing", unit="batch"):
        part = video[i : i + batch]
        filled = np.concatenate([part, np.repeat(part[-1:], batch - len(part), 0)])
        pressed, moved = (np.asarray(a)[: len(part)] for a in run({"params": network.params}, filled))
        buttons.append(pressed.argmax(-1))
        camera.append(moved.argmax(-1))
    return np.concatenate(buttons), np.concatenate(camera)


def accuracy(network: Network, data: Arrays, batch: int = 16) -> dict:
    """Accuracy of every task and of the camera's directions over all frames, and the recall of every class."""
    buttons, camera = read_all(network, data["video"], batch)
    out = {"clips": len(buttons), "frames": int(buttons[..., 0].size)}
    for task in control.OURS:
        read, asked = (control.classes(b, task).reshape(-1) for b in (buttons, data["buttons"]))
        table = control.confusion(read, asked, 3 if len(task) == 2 else 2)
        recall = (np.diag(table) / table.sum(1).clip(1)).round(4).tolist()
        out[control.task_name(task)] = {"accuracy": float(np.trace(table) / table.sum()), "recall": recall}
    read, asked = (control.bin_degrees(bins) for bins in (camera, data["camera"]))
    out["camera"] = {"direction": float(np.mean(control.direction(read) == control.direction(asked)))}
    for i, axis in enumerate(("pitch", "yaw")):
        right, turns = np.sign(read[..., i]) == np.sign(asked[..., i]), asked[..., i] != 0
        turned = float(np.sum(right & turns) / max(np.sum(turns), 1))
        out["camera"][axis] = {"sign": float(np.mean(right)), "sign where it turns": turned}
    return out
