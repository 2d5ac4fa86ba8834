"""What a training step of the tiny model's action stage takes on this machine, and what each saving saves.

    python experiments/benchmarks/training_step.py        # about ten minutes, most of them compiling

Every way is run in processes of its own, in turn, so that a noisy machine disturbs all alike.
"""

import argparse
import dataclasses
import os
import subprocess
import sys
import time

import jax
import numpy as np
from tqdm import tqdm

from converters.folder import add_control, load_model
from mwjax.models import lora
from mwjax.training.loop import TRAINABLE, Stage, optimizer_of
from mwjax.training.objectives import flow_objective
from mwjax.training.state import make_step, new_state, partition

WAYS = {  # name: (adapters summed into their kernels, blocks unrolled, memory in large pages); each adds one to the one before
    "adapters apart, a loop over blocks": (False, False, False),
    "adapters summed into their kernels": (True, False, False),
    "and blocks unrolled": (True, True, False),
    "and memory in large pages": (True, True, True),
}


def measure(folded: bool, unroll: bool, steps: int) -> float:
    """Median seconds of a step of 16 clips."""
    model = load_model("tiny")
    model.lora = lora.init(model.world_params["backbone"], 16, 8.0, jax.random.key(0))
    model = add_control(model, "controlnet", action_dim=192, seed=0)
    world, rng = model.world, np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal((16, *shape)).astype(np.float32)
    batch = {"mean": draw(5, 6, 10, 16), "logvar": draw(5, 6, 10, 16) - 5, "text": draw(96, 64), "keyboard": draw(17, 7), "mouse": draw(17, 2)}
    objective = flow_objective(dataclasses.replace(world, backbone=dataclasses.replace(world.backbone, unroll=unroll)), motion=0.2)
    trainable, frozen = partition(model.variables, TRAINABLE["action"])
    _, optimizer = optimizer_of(Stage("action", 1000, 16, 1e-2, optimizer="muon", warmup=50, weight_decay=0.0, clip=1.0, b2=0.99))
    state, step = jax.jit(lambda t: new_state(t, optimizer))(trainable), make_step(objective, optimizer, 0)
    frozen, seconds = lora.folded(frozen) if folded else frozen, []
    for _ in range(steps + 2):
        began = time.perf_counter()
        state, values = step(state, frozen, batch)
        jax.block_until_ready(values)
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds[2:]))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--steps", type=int, default=20, help="timed steps of a process (default: %(default)s)")
    p.add_argument("--rounds", type=int, default=2, help="processes of each way (default: %(default)s)")
    p.add_argument("--way", type=int, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.way is not None:
        print(measure(*list(WAYS.values())[args.way][:2], args.steps))
        return
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    for _, (i, name) in tqdm([(r, way) for r in range(args.rounds) for way in enumerate(WAYS)], unit="process"):
        tunables = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if WAYS[name][2] else {}
        command = [sys.executable, __file__, "--way", str(i), "--steps", str(args.steps)]
        out = subprocess.run(command, env=os.environ | tunables, capture_output=True, text=True, check=True)
        taken[name].append(float(out.stdout))
    first = np.median(next(iter(taken.values())))
    for name, seconds in taken.items():
        print(f"{name:36} {np.median(seconds):.3f} s a step, {np.median(seconds) / first:.2f} of the first; all: {', '.join(f'{s:.3f}' for s in seconds)}")


if __name__ == "__main__":
    main()
