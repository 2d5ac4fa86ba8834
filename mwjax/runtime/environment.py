"""What a process should find in its environment, by device; jax must not be imported before it is set."""

import getpass
import glob
import os
import pathlib
import re
import subprocess
import sys

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
    "cpu": {  # freed arrays stay with the process instead of going back to the system page by page
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": "20000000000",
        "MALLOC_TOP_PAD_": "268435456",
    },
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
        nodes = glob.glob(f"{root}sys/class/kfd/kfd/topology/nodes/*/properties")
        versions = [
            re.search(r"gfx_target_version (\d+)", pathlib.Path(p).read_text(encoding="utf-8", errors="replace"))
            for p in nodes
        ]
        numbers = [int(v[1]) for v in versions if v and int(v[1])]
        if not numbers:
            return "rocm", ""
        major, minor, step = numbers[0] // 10000, numbers[0] // 100 % 100, numbers[0] % 100
        return "rocm", f"gfx{major}{minor:x}{step:x}"
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
    start = [sys.executable, "-c", "import jax; jax.devices()"]
    out = subprocess.run(
        start, env=environment, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False
    )
    refused = re.search(r"Unknown flags? in XLA_FLAGS: (.*)", out.stderr)
    unknown = refused[1].split() if refused else []
    return [f for f in flags if f not in unknown], unknown


def who() -> str:
    """The user's name, or number where the system has no name for it, as in a container."""
    try:
        return re.sub(r"[^\w.-]", "_", getpass.getuser()) or str(os.getuid())
    except (KeyError, OSError, ImportError):
        return str(os.getuid())


def environment(platform: str, target: str) -> tuple[dict[str, str], list[str]]:
    """(variables to set, flags left out)."""
    wanted = ENVIRONMENT[platform] | BY_TARGET.get(target, {})
    user = who()
    new = {name: value.format(user=user) for name, value in wanted.items() if name not in os.environ}
    flags, unknown = known(FLAGS[platform])
    if flags:
        new["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")]).strip()  # the last of two wins
    return new, unknown
