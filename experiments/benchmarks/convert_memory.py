"""Peak memory of a conversion at the released T2W size (2.16 B parameters, bfloat16):

    python experiments/benchmarks/convert_memory.py [DIR]

Writes a synthetic checkpoint in the released names, converts it with the project's own command in a process of its own,
and reports that process's peak resident memory beside the bound: 1.5 × the largest tensor + 1 GB. Needs 9 GB of disk.
"""

import argparse
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
from flax.traverse_util import flatten_dict

from converters import dit
from converters.dit import WORLD_ROWS
from converters.files import NUMPY, TensorWriter, write_json
from converters.tables import match, moves
from mwjax.models.shapes import world_shapes
from mwjax.models.variants import VARIANTS


def synthetic(folder: pathlib.Path) -> tuple[int, int]:
    """Write the checkpoint; returns (parameters, bytes of the largest tensor)."""
    world = VARIANTS["1.3B"].world("controlnet")
    shapes = world_shapes(world)
    names = [name for step in moves(WORLD_ROWS, WORLD_ROWS, shapes) for name in step.write]
    rng = np.random.default_rng(0)
    sizes = []
    with TensorWriter(folder / "diffusion_pytorch_model.safetensors", names) as out:
        for path, leaf in flatten_dict(shapes, sep="/").items():
            found = match(WORLD_ROWS, path, leaf.shape)
            shape = leaf.shape[1:] if found.stacked else leaf.shape
            for layer in found.layers:
                value = rng.integers(0, 2**14, shape, dtype=np.uint16).view(NUMPY["BF16"])
                for name, tensor in zip(layer, found.part(value), strict=True):
                    out.add(name, tensor)
                    sizes.append(tensor.nbytes)
    write_json(folder / "config.json", dit.config_to_json(world))
    return sum(sizes) // 2, max(sizes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", nargs="?", default=None, help="where to write (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as place:
        source = pathlib.Path(place) / "source/transformer"
        parameters, largest = synthetic(source)
        began = time.time()
        command = [sys.executable, "-m", "converters", "export", source.parent, f"{place}/out"]
        subprocess.run([*command, "--format", "micro-world"], check=True, stdout=subprocess.DEVNULL)
        seconds = time.time() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    bound = 1.5 * largest + 1e9
    print(f"{parameters:,} parameters in {seconds:.0f} s; peak memory {peak / 1e9:.2f} GB; bound {bound / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
