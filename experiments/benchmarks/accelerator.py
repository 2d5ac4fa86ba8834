"""What one accelerator does with these networks, in ten minutes: for a bare machine with one GPU or TPU and no network.

    python experiments/benchmarks/accelerator.py --minutes 9 --out results

Weights are drawn on the device. Parts are run in order of value, each in a process of its own: one that crashes, runs
out of memory or out of time costs only itself. results.json and results.md are written after every row, so a run that
is cut keeps what it has; a second run in the same folder, on the same device and versions, redoes the parts it is told
to and keeps the others. What a part printed is in NAME.log.

`--tiny` runs everything at toy sizes on a CPU, to see that it works; its numbers mean nothing.
Another part is a function that yields Rows (see accelerator_parts/) and a line of PARTS. How to bring everything to a
machine without network: README.md beside this file.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import pkgutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from typing import NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).parent))  # it is there already, unless the file is loaded by its path

from accelerator_parts.report import NotRun, Row, read, write

from mwjax.runtime.environment import environment, find_platform

LEAST = 8.0  # seconds; a part that has less is not started


class Part(NamedTuple):
    """What is measured, by which function of a module in accelerator_parts (imported only then), with which arguments
    (beside `tiny` and `attention`), and for how many seconds at most."""

    about: str
    function: str
    arguments: tuple[str, ...]
    seconds: int


PARTS = {  # in order of value
    "device": Part("the device, versions, a matrix product", "device:device", (), 60),
    "attention": Part("every attention backend that works here", "attention:attention_backends", (), 110),
    "attention_torch": Part("torch's scaled_dot_product_attention", "pytorch:scaled_dot_product", (), 40),
    "velocity_t2v": Part("one velocity of T2V-1.3B", "velocity:velocity", ("T2V-1.3B",), 80),
    "velocity_t2w": Part("one velocity of T2W with its ControlNet", "velocity:velocity", ("T2W-1.3B",), 80),
    "velocity_diffusers": Part("one velocity of T2V-1.3B by diffusers", "pytorch:velocity", ("T2V-1.3B",), 60),
    "velocity_14b": Part("one velocity of I2W-14B with adaLN", "velocity:velocity", ("I2W-14B",), 100),
    "vae_encode": Part("a clip through the encoder", "vae:vae_encode", (), 80),
    "vae_decode": Part("a clip through the decoder", "vae:vae_decode", (), 80),
    "train_lora": Part("a step of T2W's first stage", "training:training", ("lora",), 100),
    "train_action": Part("a step of T2W's second stage", "training:training", ("action",), 100),
    "tiny_train": Part("a step of the quickstart's second stage", "training:training", ("quickstart",), 60),
    "tiny_sample": Part("a step of the quickstart's sampling", "sampling:quickstart_sampling", (), 60),
}


def measure(name: str, *, tiny: bool, attention: str) -> None:
    """Run a part in this process; print what it finds as JSON, a line each."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print goes to the log

    def say(kind: str, value) -> None:
        out.write(json.dumps({kind: value}) + "\n")

    part = PARTS[name]
    try:
        function = pkgutil.resolve_name(f"accelerator_parts.{part.function}")
        for found in function(*part.arguments, tiny=tiny, attention=attention):
            if isinstance(found, Row):
                say("row", dataclasses.asdict(found))
            else:
                say("about", found)
    except NotRun as reason:
        say("state", f"not run: {reason}")
    except ModuleNotFoundError as error:
        traceback.print_exc()
        say("state", f"not run: {error.name} is not installed")
    except Exception as error:  # whatever a kernel or a compiler raises
        traceback.print_exc()
        say("state", f"failed: {type(error).__name__}: {str(error).partition(chr(10))[0][:200]}")


def run(name: str, report: dict, folder: pathlib.Path, *, seconds: float, tiny: bool) -> None:
    """Run a part in a process of its own, which is killed after `seconds`; write what it finds as it comes."""
    part = report["parts"][name] = {"state": "running", "seconds": 0.0, "rows": []}
    attention = report["about"].get("attention", "xla")
    command = [sys.executable, __file__, "--out", folder, "--measure", name, "--attention", attention]
    began = time.monotonic()
    with open(folder / f"{name}.log", "w") as log:
        child = subprocess.Popen(command + ["--tiny"] * tiny, stdout=subprocess.PIPE, stderr=log, text=True)
    timer = threading.Timer(seconds, child.kill)
    timer.start()
    try:
        for line in child.stdout:
            (kind, value), *_ = json.loads(line).items()
            if kind == "row":
                part["rows"].append(value)
            elif kind == "state":
                part["state"] = value
            elif value != report["about"]:  # what is there is of another device or other versions
                report |= {"about": value, "parts": {name: part}}
            write(folder, report)
        child.wait()
    finally:
        timer.cancel()
        child.kill()
    part["seconds"] = time.monotonic() - began
    if part["state"] == "running":
        late = part["seconds"] >= seconds
        ended = f"stopped after {seconds:.0f} s" if late else f"failed: exit code {child.returncode}, see {name}.log"
        part["state"] = "done" if child.returncode == 0 else ended
    write(folder, report)


def run_all(names: list[str], folder: pathlib.Path, *, minutes: float, tiny: bool) -> None:
    """The parts one after the other, as long as there is time."""
    began = time.monotonic()
    report = read(folder)
    for name in names:
        left = began + 60 * minutes - time.monotonic()
        if left >= LEAST:
            run(name, report, folder, seconds=min(left, PARTS[name].seconds), tiny=tiny)
        elif name not in report["parts"]:
            report["parts"][name] = {"state": "not run: time is up", "seconds": 0.0, "rows": []}
            write(folder, report)
        part = report["parts"][name]
        print(f"{name:20} {part['seconds']:5.0f} s  {part['state']}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="time for all parts together (default: %(default)s)")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("results"), help="folder (default: results)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="NAME", help="only these")
    parser.add_argument("--list", action="store_true", help="list the parts and stop")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, on a CPU")
    parser.add_argument("--measure", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--attention", default="xla", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.list:
        for name, part in PARTS.items():
            print(f"{name:20} {part.about} (at most {part.seconds} s)")
    elif args.measure:
        measure(args.measure, tiny=args.tiny, attention=args.attention)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the part that runs is ended too
        args.out.mkdir(parents=True, exist_ok=True)
        if args.tiny:
            os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}  # compiles quickly
        variables, _ = environment(*find_platform())
        os.environ |= variables  # as mwjax.launch does
        names = ["device", *(name for name in PARTS if name in args.parts and name != "device")]
        run_all(names, args.out, minutes=args.minutes, tiny=args.tiny)
        print((args.out / "results.md").read_text())
        print(f"wrote {args.out}/results.json and {args.out}/results.md")


if __name__ == "__main__":
    main()
