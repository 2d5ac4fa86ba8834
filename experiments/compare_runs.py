"""Did a change of the code change a number? The commands' results at toy size, before and after.

    python experiments/compare_runs.py run OUT          # in the tree before the change, and again in the one after it
    python experiments/compare_runs.py compare A B      # files byte by byte; checkpoints, latents and videos as arrays

`run` records, encodes, trains every stage for a few steps (ControlNet, adaLN, autoencoder, base, inverse dynamics
model), samples and scores, with whatever the environment says: with JAX_DISABLE_MOST_OPTIMIZATIONS=true programs are
compiled as they are written, and all must be bit-identical; as users compile, fusions differ and results agree to
about 1e-6."""

import argparse
import csv
import json
import pathlib
import subprocess
import sys
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent

TINY = """
import ml_collections
from mwjax.worlds.levels import arenas

STEPS = {{"steps": 3, "batch": 2, "optimizer": "muon", "warmup": 1, "weight_decay": 0.0, "b2": 0.99, "log_every": 1}}
CLIPS = {{"scenes": 2, "clips": 4, "frames": 5, "size": (96, 160), "seed": 1}}
NETWORK = {{"image_size": (24, 40), "conv3d": 4, "channels": (4, 8, 8), "dim": 32, "num_heads": 2}}

def get_config(variant=""):
    config = ml_collections.ConfigDict()
    config.out, config.seed, config.dataset = "{out}", 0, "{dataset}"
    config.model = "{model}"
    config.framing = {{"frames": 5, "height": 32, "width": 48, "shrink": 2, "mirror": True}}
    config.sampling = {{"steps": 2, "shift": 3.0, "guidance": 3.0}}
    if variant == "idm":
        config.framing = {{"frames": 5, "height": 48, "width": 80, "shrink": 2}}
        test = {{"levels": arenas(2, 2000), **CLIPS}}
        idm = {{"name": "idm", "lr": 5e-3, "clip": 10.0, "network": NETWORK, "autoencoded": 0.5, "test": test, **STEPS}}
        config.stages = [idm]
    elif variant == "base":
        config.stages = [{{"name": "base", "lr": 1e-2, "clip": 1.0, **STEPS}}]
    else:
        vae = {{"name": "vae", "lr": 1e-3, "clip": 1.0, **STEPS}}
        config.stages = [{{"images": 2, **vae}}, vae]
    return config
"""


def run(out: pathlib.Path) -> None:
    """All commands, results under `out`; which files they are called by is looked up in this tree."""
    out = out.resolve()
    out.mkdir(parents=True)
    dataset = out / "dataset"
    levels = [f"arena:{theme}:{seed}" for theme, seed in (("gallery", 2000), ("night", 2001))]
    command(
        "collect", "--out", dataset, "--levels", *levels, "--scenes", 3, "--clips", 4, "--frames", 5, "--workers", 2
    )
    small = ["--config", ROOT / "tests/small_config.py", f"--config.dataset={dataset}"]
    short = [
        "--config.stages.0.steps=3",
        "--config.stages.1.steps=4",
        "--config.sampling.steps=2",
        "--config.sampling.action_guidance=2.0",
    ]
    for kind in ("controlnet", "adaln"):
        command("train", *small, *short, f"--config.control.kind={kind}", f"--config.out={out / kind}")
    for name, model in (("fresh", "new:tiny"), ("base", out / "fresh/model"), ("idm", "tiny")):
        path = out / f"{name}.py"
        path.write_text(TINY.format(out=out / name, dataset=dataset, model=model))
        command("train", "--config", f"{path}:{name}")
    guided = [
        "--steps",
        4,
        "--guidance",
        3,
        "--action-guidance",
        2,
        "--actions",
        "w*4, yaw:3*4",
        "--height",
        32,
        "--width",
        48,
    ]
    for name, options in {
        "one": ["--steps", 1, "--guidance", 1, "--action-guidance", 0],
        "unipc": [],
        "held": ["--guidance-every", 2, "--guidance-skip", 0.25, "--solver", "dpmpp"],
        "teacache": ["--teacache", 0.2, "--teacache-start", 1, "--teacache-polynomial", 1, 0, "--solver", "euler"],
    }.items():
        for kind in ("controlnet", "adaln"):
            files = [out / "sampled" / f"{kind}_{name}{suffix}" for suffix in (".mp4", ".safetensors")]
            command("sample", "--model", out / kind / "model", *guided, *options, "--out", *files)
    idm = ["--idm", "vizdoom"]
    command(
        "evaluate",
        "--videos",
        out / "adaln/samples",
        "--reference",
        out / "controlnet/samples",
        *idm,
        "--out",
        out / "beside",
    )
    command("evaluate", "--videos", out / "sampled", "--actions", out / "sampled", *idm, "--out", out / "report")


def command(name: str, *arguments) -> None:
    """Run a command of this tree."""
    began = time.perf_counter()
    call = [sys.executable, "-m", f"mwjax.{name}", *map(str, arguments)]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(call)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    print(f"{time.perf_counter() - began:6.1f} s  {name} {' '.join(map(str, arguments[:2]))}", flush=True)


def compare(before: pathlib.Path, after: pathlib.Path) -> int:
    """Print what differs and by how much; the number of things that do."""
    different = 0
    sides = [contents(folder) for folder in (before, after)]
    for name in sorted(sides[0].keys() | sides[1].keys()):
        if any(name not in side for side in sides):
            print(f"only {'before' if name in sides[0] else 'after'}: {name}")
            different += 1
            continue
        a, b = (side[name]() for side in sides)
        if isinstance(a, dict) and a.keys() != b.keys():
            print(f"other arrays: {name}: {sorted(a.keys() ^ b.keys())[:6]}")
            different += 1
            continue
        pairs = [(a, b, "")]
        if isinstance(a, dict):
            pairs = [(a[key], b[key], f" {key}") for key in a]
        wrong = [(apart(x, y), key) for x, y, key in pairs if not same(x, y)]
        if wrong:
            worst, key = max(wrong, key=lambda pair: pair[0])
            print(f"differs: {name}: {len(wrong)} of {len(pairs)}, at most {worst:.2e}{key}")
        different += bool(wrong)
    print(f"{len(sides[0])} things compared, {different} differ")
    return different


def same(a, b) -> bool:
    return a == b if isinstance(a, bytes) else np.shape(a) == np.shape(b) and np.array_equal(a, b, equal_nan=True)


def apart(a, b) -> float:
    """Relative error; infinite for other shapes and for bytes."""
    if isinstance(a, bytes) or np.shape(a) != np.shape(b):
        return np.inf
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(a), 1e-30))


RENAMED = {"average": "ema", "usual": "loss_ema"}  # parts of a training state
SKIPPED = ("tensorboard", ".part", "/videos/", "report.html", "report.md", ".orbax", "conversion.json")


def contents(folder: pathlib.Path) -> dict:
    """{name: function that reads it} of everything that a run leaves and that should not change."""
    out = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        parts = path.relative_to(folder).parts
        if "checkpoints" in parts:
            step = folder.joinpath(*parts[: parts.index("checkpoints") + 2])
            out[str(step.relative_to(folder))] = lambda step=step: checkpoint(step)
        elif any(part in f"/{name}" for part in SKIPPED) or path.suffix in (".py", ".png"):
            continue
        elif path.suffix == ".safetensors":
            out[name] = lambda path=path: tensors(path)
        elif name.endswith("metrics.csv"):
            out[name] = lambda path=path: losses(path)
        elif path.name == "report.json":
            out[name] = lambda path=path: json.dumps(json.loads(path.read_text())["rows"], sort_keys=True).encode()
        elif path.suffix in (".mp4", ".csv") or "metadata-detection" in name:
            out[name] = path.read_bytes
    return out


def tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    import ml_dtypes  # noqa: F401
    from safetensors.numpy import load_file

    return load_file(path)


def losses(path: pathlib.Path) -> dict[str, np.ndarray]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {key: np.array([float(row[key]) for row in rows]) for key in ("step", "loss", "grad_norm") if key in rows[0]}


def checkpoint(step: pathlib.Path) -> dict[str, np.ndarray]:
    """Every array of a training state."""
    import jax
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.restore(step.resolve() / "state")
    out = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path)
        for old, new in RENAMED.items():
            name = name.replace(f"['{old}']", f"['{new}']")
        out[name] = np.asarray(leaf)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "compare"])
    parser.add_argument("folders", nargs="+", type=pathlib.Path)
    args = parser.parse_args()
    if args.what == "run":
        run(args.folders[0])
    else:
        sys.exit(1 if compare(*args.folders) else 0)


if __name__ == "__main__":
    main()
