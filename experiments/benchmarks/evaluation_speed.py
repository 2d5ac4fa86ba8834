"""Clips per second of everything that metrics measure, on one clip of a given size, after compiling.

    python experiments/benchmarks/evaluation_speed.py --frames 17 --height 352 --width 640

Weights are drawn; only their sizes matter.
"""

import argparse
import json
import pathlib
import platform
import time

import jax
import numpy as np
from tqdm import tqdm

from converters.metrics import SHIPPED_IDM, load_idm
from mwjax.evaluation.metrics import choose
from mwjax.evaluation.networks import amt, clip, i3d, lpips
from mwjax.evaluation.networks.clip import CLIPConfig
from mwjax.evaluation.networks.idm import IDMConfig, InverseDynamics


def drawn(shapes: dict) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)

    def draw(shape: tuple[int, ...]) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(max(np.prod(shape[1:]), 1))).astype(np.float32)

    return {name: draw(shape) for name, shape in shapes.items()}


def vpt() -> tuple[IDMConfig, dict]:
    cfg = IDMConfig(frames_at_once=4)
    params = InverseDynamics(cfg).init(jax.random.key(0), np.zeros((1, 1, *cfg.image_size, 3), np.uint8))["params"]
    return cfg, params


# name of a network: what it is called in the table, and how to make it. A network may come more than once.
NETWORKS = {
    "": [("", lambda: None)],
    "lpips": [("", lambda: drawn(lpips.shapes()))],
    "i3d": [("", lambda: drawn(i3d.shapes()))],
    "clip": [("", lambda: drawn(clip.shapes(CLIPConfig())))],
    "amt": [("", lambda: drawn(amt.shapes()))],
    "idm": [(", ViZDoom", lambda: load_idm(SHIPPED_IDM)), (", VPT", vpt)],
}


def measured(run, repeats: int) -> dict[str, float]:
    """Seconds of the first run, which compiles, and the median of the others."""
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - began)
    return {"first": seconds[0], "seconds": float(np.median(seconds[1:]))}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--frames", type=int, default=17)
    p.add_argument("--height", type=int, default=352)
    p.add_argument("--width", type=int, default=640)
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--without", nargs="*", default=[], help="rows to leave out: parts of their names")
    p.add_argument("--out", default="evaluation_speed.json")
    args = p.parse_args()
    rng = np.random.default_rng(0)
    frames, reference = rng.integers(0, 256, (2, args.frames, args.height, args.width, 3), dtype=np.uint8)
    titles: dict[str, list[str]] = {}
    for metric in choose():
        titles.setdefault(metric.measurement.name, []).append(metric.family or metric.title)
    measurements = {metric.measurement.name: metric.measurement for metric in choose()}
    jobs = {
        ", ".join(dict.fromkeys(titles[name])) + which: (measurement, make)
        for name, measurement in measurements.items()
        for which, make in NETWORKS[measurement.needs.network]
    }
    rows = {}
    for name, (measurement, make) in tqdm(jobs.items(), unit="measurement"):
        if any(word in name for word in args.without):
            continue
        network = make()
        rows[name] = measured(lambda m=measurement, n=network: m.run(n, frames, reference), args.repeats)
    size = f"{args.frames} × {args.height}×{args.width}"
    print(f"| metric, a clip of {size} | seconds | clips a second | first, compiled |\n|---|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | {row['seconds']:.2f} | {1 / row['seconds']:.2f} | {row['first']:.1f} s |")
    device = jax.devices()[0].device_kind
    about = {"size": size, "device": device, "processor": platform.processor(), "jax": jax.__version__}
    pathlib.Path(args.out).write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
