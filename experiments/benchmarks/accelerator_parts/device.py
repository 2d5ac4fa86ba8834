"""What is here."""

import contextlib
import importlib.metadata
import pathlib
import platform
import subprocess
from collections.abc import Iterator

import jax

from accelerator_parts.measure import measured, memory_stat, spec
from accelerator_parts.report import Row
from mwjax.models.attention import choose
from mwjax.runtime.devices import describe
from mwjax.training.flops import peak

VERSIONS = ("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu", "flax", "mwjax", "torch", "diffusers")


def installed() -> dict[str, str]:
    """Versions of what is installed (nothing is imported), and the commit, if this is a clone."""
    found = {"python": platform.python_version()}
    for name in VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found | ({"commit": commit()} if commit() else {})


def commit() -> str:
    """Of the clone that this file is in; "" without one."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    with contextlib.suppress(OSError):
        folder = pathlib.Path(__file__).parent
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout.strip()
    return ""


def device(*, tiny: bool, attention: str) -> Iterator[Row | dict]:
    """What is here, the attention backend that all other parts use, and how fast a large product is."""
    del attention
    first = jax.devices()[0]
    yield {
        "device": describe([first]),
        "driver": " ".join(first.client.platform_version.split()),
        "peak": peak(first),
        "memory": memory_stat("bytes_limit"),
        "attention": choose("auto", "bfloat16"),
        "versions": installed(),
        "tiny": tiny,
    }

    def product(_, a, b):
        return a @ b

    side = 256 if tiny else 8192
    yield measured(f"product of {side}×{side} matrices", product, None, spec(side, side), spec(side, side), by="jax")
