"""What a run finds on its machine."""

import importlib.util
import os

import jax
from jax.experimental import topologies

from mwjax.errors import InputError
from mwjax.ranges import Range, check_number

MOST_PLANNED = 4096  # devices that are made up on the CPU
KINDS = {"gpu": ("gpu", "cuda", "rocm"), "tpu": ("tpu",), "cpu": ("cpu",), "": ()}


def report_devices(wanted: str = "") -> None:
    """Print the devices, once. Raises InputError if those that are `wanted` ("gpu", "tpu", "cpu"; "" for any) are not
    there: jax alone would go on with the CPU."""
    try:
        devices = jax.devices()
    except RuntimeError as error:
        raise InputError(
            f"jax finds no usable device ({str(error).partition(chr(10))[0][:200]}); check JAX_PLATFORMS and the driver"
        ) from None
    platform = devices[0].platform
    if wanted and platform not in KINDS[wanted]:
        extra = {"gpu": '"rocm" or "cuda"', "tpu": '"tpu"'}.get(wanted, "")
        hint = f"install the extra {extra} and check the driver" if extra else "unset JAX_PLATFORMS"
        raise InputError(
            f"--device {wanted} was asked for, but jax {jax.__version__} finds {len(devices)} × {platform}; {hint}"
        )
    if jax.process_index() == 0:
        count = jax.process_count()
        processes = f"{count} processes" if count > 1 else "1 process"
        print(f"{describe(devices)}, {processes}, jax {jax.__version__}", flush=True)


def describe(devices: list[jax.Device]) -> str:
    """Such as "8 × AMD Instinct MI300X (gfx942, 206 GB)"."""
    first = devices[0]
    memory = (first.memory_stats() or {}).get("bytes_limit", 0) if first.platform != "cpu" else 0
    details = [
        str(d) for d in (getattr(first, "compute_capability", ""), f"{memory / 1e9:.0f} GB" if memory else "") if d
    ]
    return f"{len(devices)} × {first.device_kind}" + (f" ({', '.join(details)})" if details else "")


def planning_devices(where: str) -> tuple[list, str]:
    """(devices to compile for, their platform): "8" for as many made up on the CPU, "v5p:2x2x2" for a TPU topology.
    Nothing can run on them."""
    jax.config.update("jax_platforms", "cpu")
    if where.isascii() and where.isdigit() and int(where[:9]) > 0 and len(where) < 9:
        check_number(int(where), "--plan", Range(least=1, most=MOST_PLANNED, whole=True))
        jax.config.update("jax_num_cpu_devices", int(where))
        return jax.devices(), "cpu"
    if ":" not in where:
        raise InputError(f"--plan {where!r} is neither a number of devices nor a TPU topology such as v5p:2x2x2")
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(f'--plan {where} needs the TPU compiler: pip install -e ".[tpu]" (no TPU needed)')
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
    }.items():  # there is no TPU to ask
        os.environ.setdefault(name, value)
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=where).devices), "tpu"
    except Exception as error:  # whatever the TPU's library raises
        raise InputError(f"--plan {where}: {str(error).partition(chr(10))[0][:200]}") from None
