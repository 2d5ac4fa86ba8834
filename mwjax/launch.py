"""Start a command with the environment that its devices want, which must be set before jax is imported.

    python -m mwjax.launch mwjax.train --config configs/t2w_controlnet.py --config.dataset=DIR
    python -m mwjax.launch --print

What the environment holds already is kept. XLA flags that the installed jaxlib does not know would end the process; they are
left out, and named.
"""

import argparse
import getpass
import glob
import os
import pathlib
import re
import subprocess
import sys

from mwjax.errors import InputError, command

# Variables by platform. Sources: AMD's guides for training with jax on Instinct; glibc's mallopt(3).
ENVIRONMENT: dict[str, dict[str, str]] = {
    "rocm": {
        "GPU_MAX_HW_QUEUES": "2",
        "HIP_FORCE_DEV_KERNARG": "1",
        "HSA_FORCE_FINE_GRAIN_PCIE": "1",
        "HSA_NO_SCRATCH_RECLAIM": "1",
        "MIOPEN_FIND_MODE": "2",
        "MIOPEN_USER_DB_PATH": "/tmp/miopen-{user}",  # on the node: its files are locked
        "MIOPEN_CUSTOM_CACHE_DIR": "/tmp/miopen-{user}",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.93",  # leaves room for RCCL
    },
    "cuda": {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.93"},
    "tpu": {},
    # Freed arrays stay with the process instead of going back to the system page by page.
    "cpu": {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "20000000000", "MALLOC_TOP_PAD_": "268435456"},
}
BY_TARGET = {"gfx950": {"RCCL_WARP_SPEED_AUTO": "0"}}
FLAGS: dict[str, tuple[str, ...]] = {
    "rocm": (
        "--xla_gpu_enable_latency_hiding_scheduler=true",
        "--xla_gpu_enable_command_buffer=",
        "--xla_gpu_enable_triton_gemm=false",
        "--xla_gpu_enable_cublaslt=true",
        "--xla_gpu_autotune_level=4",
    ),
    "cuda": ("--xla_gpu_enable_latency_hiding_scheduler=true",),
    "tpu": (),
    "cpu": (),
}


def find_platform(root: str = "/") -> tuple[str, str]:
    """(platform, AMD target such as "gfx942" or "") of this machine, from its device files."""
    if os.path.exists(f"{root}dev/kfd"):
        versions = [re.search(r"gfx_target_version (\d+)", pathlib.Path(p).read_text()) for p in glob.glob(f"{root}sys/class/kfd/kfd/topology/nodes/*/properties")]
        numbers = [int(v[1]) for v in versions if v and int(v[1])]
        return "rocm", f"gfx{numbers[0] // 10000}{numbers[0] // 100 % 100:x}{numbers[0] % 100:x}" if numbers else ""
    if os.path.exists(f"{root}dev/nvidiactl"):
        return "cuda", ""
    if glob.glob(f"{root}dev/accel*") or glob.glob(f"{root}dev/vfio/[0-9]*"):
        return "tpu", ""
    return "cpu", ""


def known(flags: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """(flags that the installed jaxlib takes, the others), by starting it once."""
    if not flags:
        return [], []
    environment = os.environ | {"XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"}
    out = subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], env=environment, capture_output=True, text=True, check=False)
    refused = re.search(r"Unknown flags? in XLA_FLAGS: (.*)", out.stderr)
    unknown = refused[1].split() if refused else []
    return [f for f in flags if f not in unknown], unknown


def environment(platform: str, target: str) -> tuple[dict[str, str], list[str]]:
    """(variables to set, flags left out)."""
    wanted = ENVIRONMENT[platform] | BY_TARGET.get(target, {})
    new = {name: value.format(user=getpass.getuser()) for name, value in wanted.items() if name not in os.environ}
    flags, unknown = known(FLAGS[platform])
    if flags:
        new["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")]).strip()  # the last of two wins
    return new, unknown


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mwjax.launch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--platform", choices=list(ENVIRONMENT), help="default: by the device files of this machine")
    parser.add_argument("--print", action="store_true", help="print the environment, for a shell, and stop")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="MODULE …", help="such as mwjax.train, and its arguments")
    args = parser.parse_args(argv)
    platform, target = find_platform()
    platform = args.platform or platform
    new, unknown = environment(platform, target)
    if unknown:
        print(f"left out, unknown to this jaxlib: {' '.join(unknown)}", file=sys.stderr)
    if args.print:
        print("\n".join(f'export {name}="{value}"' for name, value in new.items()))
        return
    if not args.command:
        raise InputError("no command; give a module, such as mwjax.train, and its arguments")
    print(f"{platform}{f' ({target})' if target else ''}: {', '.join(new) or 'nothing to set'}", file=sys.stderr, flush=True)
    os.execve(sys.executable, [sys.executable, "-m", *args.command], os.environ | new)


if __name__ == "__main__":
    main()
