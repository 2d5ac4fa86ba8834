"""The mesh of devices, and the start of several processes."""

import dataclasses
import math
import os
import sys
import threading
import warnings

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh

from mwjax.errors import InputError
from mwjax.launch import find_platform
from mwjax.parallel.sharding import AXES


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Devices along each axis; one of them may be -1 and takes what is left. See parallel/sharding.py."""

    data: int = 1
    fsdp: int = -1
    sequence: int = 1
    tensor: int = 1

    def sizes(self, devices: int) -> tuple[int, int, int, int]:
        """Sizes that multiply to `devices`, or an InputError."""
        sizes = [getattr(self, axis) for axis in AXES]
        text = " × ".join(f"{axis} {size}" for axis, size in zip(AXES, sizes, strict=True))
        if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
            raise InputError(f"mesh {text}: sizes are at least 1, and one of them may be -1")
        known = math.prod(size for size in sizes if size != -1)
        if -1 in sizes and devices % known == 0:
            sizes[sizes.index(-1)] = devices // known
        if math.prod(sizes) != devices:
            raise InputError(f"mesh {text} does not multiply to the {devices} devices that are here; give one axis -1, or start {known} devices")
        return tuple(sizes)


def make_mesh(shape: MeshShape, devices: list | None = None) -> Mesh:
    """A mesh over `devices` (default: all)."""
    devices = jax.devices() if devices is None else devices
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about devices without coordinates
        return jax.make_mesh(shape.sizes(len(devices)), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def batch_parts(mesh: Mesh) -> int:
    """Into how many parts a batch is cut."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def start_processes(coordinator: str = "", processes: int = 0, process: int = -1, *, timeout: int = 300) -> None:
    """Join the other processes of this run, if there are any: given by flags, by MWJAX_COORDINATOR, MWJAX_PROCESSES and MWJAX_PROCESS, or by Slurm or Open MPI.

    Must come before anything touches a device. Ends the process with one line and exit code 2 if some other does not join within `timeout` seconds.
    """
    coordinator = coordinator or os.environ.get("MWJAX_COORDINATOR", "")
    processes = processes or _number("MWJAX_PROCESSES", 0)
    process = process if process >= 0 else _number("MWJAX_PROCESS", -1)
    given = {"coordinator": bool(coordinator), "processes": processes > 0, "process": process >= 0}
    tasks = max(_number("SLURM_NTASKS", 1) if "SLURM_PROCID" in os.environ else 1, _number("OMPI_COMM_WORLD_SIZE", 1))
    if not any(given.values()) and tasks == 1:
        return
    if any(given.values()) and not all(given.values()):
        raise InputError(f"several processes need coordinator, processes and process together; missing: {', '.join(k for k, v in given.items() if not v)}")
    if coordinator and not coordinator.rpartition(":")[2].isdigit():
        raise InputError(f"coordinator {coordinator!r} is not of the form HOST:PORT, such as node0:9999")
    if any(given.values()) and process >= processes:
        raise InputError(f"process {process} is not below the number of processes, {processes}")
    options = {"coordinator_address": coordinator, "num_processes": processes, "process_id": process} if all(given.values()) else {}
    who = f"process {process} of {processes} ({', '.join(str(i) for i in range(processes))}) at {coordinator}" if options else "this process"

    def give_up():  # before jax does, which would abort with a stack trace
        print(f"error: {who} waited {timeout} s for the others; check that all are started and can reach the coordinator", file=sys.stderr, flush=True)
        os._exit(2)

    if os.environ.get("JAX_PLATFORMS") == "cpu" or find_platform()[0] == "cpu":  # with one thread a process: independent collectives at once would mix up their messages
        os.environ.setdefault("NPROC", "1")
    alarm = threading.Timer(timeout, give_up)
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(**options, initialization_timeout=timeout + 60)
    except ValueError as error:
        raise InputError(f"jax does not find the other {tasks - 1} tasks of this job ({error}); give --coordinator, --processes and --process") from None
    except RuntimeError as error:
        raise InputError(f"{who} cannot start ({str(error).partition(chr(10))[0][:200]}); check --coordinator") from None
    finally:
        alarm.cancel()
    nodes = _number("SLURM_NNODES", 0) or (tasks // max(_number("OMPI_COMM_WORLD_LOCAL_SIZE", 1), 1))
    if nodes == (processes or tasks):  # one process a node has all its devices; jax gives each task of a cluster one
        for platform in ("cuda", "rocm"):
            jax.config.update(f"jax_{platform}_visible_devices", "all")


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise InputError(f"the environment variable {name} is {text!r}, not a number") from None


def place(array: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """An array that every process holds whole, laid out over all devices; each takes its own part."""
    if jax.process_count() == 1:
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def barrier(name: str) -> None:
    """Wait until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def fetch(tree):
    """The tree as whole numpy arrays, in every process; one array at a time."""
    whole = lambda a: np.asarray(multihost_utils.process_allgather(a, tiled=True) if not a.is_fully_addressable else a)
    return jax.tree.map(lambda a: whole(a) if isinstance(a, jax.Array) else a, tree)
