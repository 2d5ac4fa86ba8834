"""What a run finds on its machine."""

import jax

from mwjax.errors import InputError

KINDS = {"gpu": ("gpu", "cuda", "rocm"), "tpu": ("tpu",), "cpu": ("cpu",), "": ()}


def report_devices(wanted: str = "") -> None:
    """Print the devices, once. Raises InputError if those that are `wanted` ("gpu", "tpu", "cpu"; "" for any) are not there: jax alone would go on with the CPU."""
    try:
        devices = jax.devices()
    except RuntimeError as error:
        raise InputError(f"jax finds no usable device ({str(error).partition(chr(10))[0][:200]}); check JAX_PLATFORMS and the driver") from None
    platform = devices[0].platform
    if wanted and platform not in KINDS[wanted]:
        extra = {"gpu": '"rocm" or "cuda"', "tpu": '"tpu"'}.get(wanted, "")
        hint = f"install the extra {extra} and check the driver" if extra else "unset JAX_PLATFORMS"
        raise InputError(f"--device {wanted} was asked for, but jax {jax.__version__} finds {len(devices)} × {platform}; {hint}")
    if jax.process_index() == 0:
        print(f"{describe(devices)}, {jax.process_count()} process{'es' if jax.process_count() > 1 else ''}, jax {jax.__version__}", flush=True)


def describe(devices: list[jax.Device]) -> str:
    """Such as "8 × AMD Instinct MI300X (gfx942, 206 GB)"."""
    first = devices[0]
    memory = (first.memory_stats() or {}).get("bytes_limit", 0) if first.platform != "cpu" else 0
    details = [str(d) for d in (getattr(first, "compute_capability", ""), f"{memory / 1e9:.0f} GB" if memory else "") if d]
    return f"{len(devices)} × {first.device_kind}" + (f" ({', '.join(details)})" if details else "")
