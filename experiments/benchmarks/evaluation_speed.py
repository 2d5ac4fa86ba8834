"""Clips per second of every metric on one clip of a given size, after compiling; weights are drawn, only their sizes matter.

    python experiments/benchmarks/evaluation_speed.py --frames 17 --height 352 --width 640
"""

import argparse
import functools
import json
import pathlib
import platform
import time

import jax
import numpy as np
from tqdm import tqdm

from converters.evaluation import SHIPPED_IDM, load_idm
from mwjax.evaluation import fvd, measure, temporal, visual
from mwjax.evaluation.networks import amt, clip, i3d, lpips
from mwjax.evaluation.networks.clip import CLIPConfig
from mwjax.evaluation.networks.idm import IDMConfig, InverseDynamics


def drawn(shapes: dict) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: (rng.standard_normal(shape) / np.sqrt(max(np.prod(shape[1:]), 1))).astype(np.float32) for name, shape in shapes.items()}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--frames", type=int, default=17)
    p.add_argument("--height", type=int, default=352)
    p.add_argument("--width", type=int, default=640)
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--without", nargs="*", default=[], help="metrics to leave out")
    p.add_argument("--out", default="evaluation_speed.json")
    args = p.parse_args()
    rng = np.random.default_rng(0)
    frames, reference = rng.integers(0, 256, (2, args.frames, args.height, args.width, 3), dtype=np.uint8)
    prefixes = tuple(range(i3d.LEAST_FRAMES, args.frames + 1))
    vpt = IDMConfig(frames_at_once=4)

    def vpt_reader():
        params = InverseDynamics(vpt).init(jax.random.key(0), np.zeros((1, 1, *vpt.image_size, 3), np.uint8))["params"]
        return lambda: measure.read_off(vpt, params, frames)

    def with_weights(shapes, run):
        def make():
            weights = drawn(shapes)
            return lambda: run(weights)

        return make

    jobs = {
        "PSNR, SSIM": lambda: lambda: visual.frame_errors(frames, reference),
        "LPIPS": with_weights(lpips.shapes(), lambda w: visual.lpips(w, frames, reference)),
        f"FVD, {len(prefixes)} prefixes": with_weights(i3d.shapes(), lambda w: fvd.logits(w, visual.prepare(frames), prefixes=prefixes)),
        "inverse dynamics, ViZDoom": lambda: functools.partial(measure.read_off, *load_idm(SHIPPED_IDM), frames),
        "inverse dynamics, VPT": vpt_reader,
        "temporal consistency": with_weights(clip.shapes(CLIPConfig()), lambda w: temporal.frame_features(CLIPConfig(), w, frames)),
        "motion smoothness": with_weights(amt.shapes(), lambda w: temporal.interpolated(w, frames)),
        "scenario consistency": lambda: lambda: temporal.scenario_distances(frames),
    }
    rows = {}
    for name, make in tqdm(jobs.items(), unit="metric"):
        if any(word in name for word in args.without):
            continue
        run, seconds = make(), []
        for _ in range(args.repeats + 1):
            began = time.perf_counter()
            jax.block_until_ready(run())
            seconds.append(time.perf_counter() - began)
        rows[name] = {"first": seconds[0], "seconds": float(np.median(seconds[1:]))}
    size = f"{args.frames} × {args.height}×{args.width}"
    print(f"| metric, a clip of {size} | seconds | clips a second | first, compiled |\n|---|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | {row['seconds']:.2f} | {1 / row['seconds']:.2f} | {row['first']:.1f} s |")
    about = {"size": size, "device": jax.devices()[0].device_kind, "processor": platform.processor(), "jax": jax.__version__}
    pathlib.Path(args.out).write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
