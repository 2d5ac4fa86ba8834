"""What a training step of the tiny model's action stage takes on this machine, and what each saving saves.

    python experiments/benchmarks/training_step.py        # about ten minutes, most of them compiling

Every way is run in processes of its own, in turn, so that a noisy machine disturbs all alike.
"""

import argparse
import os
import subprocess
import sys
import time
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from converters.folder import load_model
from mwjax.config import load_config
from mwjax.models import lora
from mwjax.training.job import stage_of
from mwjax.training.memory import Memory
from mwjax.training.stages.action import ControlConfig
from mwjax.training.state import make_step, new_state, partition

CLIP = (5, 6, 10)  # latents of 17 frames at 48×80


class Way(NamedTuple):
    """folded: adapters summed into their kernels. unroll: blocks compiled one after the other."""

    folded: bool
    unroll: bool
    large_pages: bool


WAYS = {  # each adds one to the one before
    "adapters apart, a loop over blocks": Way(folded=False, unroll=False, large_pages=False),
    "adapters summed into their kernels": Way(folded=True, unroll=False, large_pages=False),
    "and blocks unrolled": Way(folded=True, unroll=True, large_pages=False),
    "and memory in large pages": Way(folded=True, unroll=True, large_pages=True),
}


def measure(way: Way, steps: int) -> float:
    """Median seconds of a step of the quickstart's action stage."""
    config = load_config("tiny_t2w_controlnet")
    control = ControlConfig(**config.control)
    adapters, stage = (stage_of(values, "stages", {"control": control}) for values in config.stages)
    model = adapters.finish(*adapters.start(load_model("tiny"), seed=0))
    model, variables = stage.start(model, seed=0)
    rng = np.random.default_rng(0)
    shapes = stage.batch_shapes(model, CLIP, 0)
    batch = {name: rng.standard_normal((stage.batch, *shape)).astype(np.float32) for name, shape in shapes.items()}
    batch["logvar"] -= 5
    trainable, frozen = partition(variables, stage.TRAINS)
    if way.folded:
        frozen = lora.fold_frozen(frozen)
    _, optimizer = stage.schedule_and_optimizer()
    objective = stage.objective(model, Memory(unroll=way.unroll), "xla")
    state = jax.jit(lambda trainable: new_state(trainable, optimizer))(trainable)
    step = make_step(objective, optimizer, 0, stage)
    seconds = []
    for _ in range(steps + 2):
        began = time.perf_counter()
        state, values = step(state, frozen, batch)
        jax.block_until_ready(values)
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds[2:]))


def measure_apart(name: str, steps: int) -> float:
    """`measure` in a process of its own."""
    tunables = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if WAYS[name].large_pages else {}
    command = [sys.executable, __file__, "--way", name, "--steps", str(steps)]
    out = subprocess.run(command, env=os.environ | tunables, stdout=subprocess.PIPE, text=True, check=True)
    return float(out.stdout)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--steps", type=int, default=20, help="timed steps of a process (default: %(default)s)")
    p.add_argument("--rounds", type=int, default=2, help="processes of each way (default: %(default)s)")
    p.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.way:
        print(measure(WAYS[args.way], args.steps))
        return
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    for name in tqdm([name for _ in range(args.rounds) for name in WAYS], unit="process"):
        taken[name].append(measure_apart(name, args.steps))
    first = np.median(next(iter(taken.values())))
    for name, seconds in taken.items():
        median, every = np.median(seconds), ", ".join(f"{s:.3f}" for s in seconds)
        print(f"{name:36} {median:.3f} s a step, {median / first:.2f} of the first; all: {every}")


if __name__ == "__main__":
    main()
