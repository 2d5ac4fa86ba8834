"""Peak memory of a conversion at the released T2W size (2.16 B parameters, bfloat16): python experiments/benchmarks/convert_memory.py [DIR].

Writes a synthetic checkpoint in the released names, converts it with the project's own command in a process of its own, and
reports that process's peak resident memory beside the bound: 1.5 × the largest tensor + 1 GB. Needs 9 GB of disk.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from converters import dit
from converters.files import Stream
from converters.shapes import world_shapes
from converters.tables import match, moves
from mwjax.models.variants import VARIANTS


def synthetic(folder: pathlib.Path) -> tuple[int, int]:
    """Write the checkpoint; returns (parameters, bytes of the largest tensor)."""
    world = VARIANTS["1.3B"].world("controlnet")
    shapes = world_shapes(world)
    names, rng = [], np.random.default_rng(0)
    for step in moves(dit.WORLD, dit.WORLD, shapes):
        names += step.write
    out = Stream(folder / "diffusion_pytorch_model.safetensors", names)
    sizes = {}
    for path, leaf in flatten_dict(shapes, sep="/").items():
        found = match(dit.WORLD, path, leaf.shape)
        for layer in found.layers:
            shape = leaf.shape[1:] if found.stacked else leaf.shape
            value = rng.integers(0, 2**14, shape, dtype=np.uint16).view(jax.numpy.bfloat16)
            for name, tensor in zip(layer, found.part(value), strict=True):
                out.add(name, tensor)
                sizes[name] = tensor.nbytes
    out.close()
    (folder / "config.json").write_text(json.dumps(dit.config_to_json(world)))
    return sum(sizes.values()) // 2, max(sizes.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", nargs="?", default=None, help="where to write (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as place:
        source = pathlib.Path(place) / "source/transformer"
        parameters, largest = synthetic(source)
        began = time.time()
        command = [sys.executable, "-m", "converters", "export", str(source.parent), f"{place}/out", "--format", "micro-world"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"{parameters:,} parameters in {time.time() - began:.0f} s; peak memory {peak / 1e9:.2f} GB; bound {(1.5 * largest + 1e9) / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
