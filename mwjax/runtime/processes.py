"""Several processes as one run: how they find each other, wait for each other and share arrays."""

import dataclasses
import os
import sys
import threading
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from mwjax.errors import InputError
from mwjax.runtime.environment import find_platform


@dataclasses.dataclass(frozen=True)
class Processes:
    """Which process of how many this is, and where process 0 is. tasks: how many a cluster's scheduler has started."""

    coordinator: str = ""
    count: int = 0
    index: int = -1
    tasks: int = 1
    nodes: int = 1

    @property
    def several(self) -> bool:
        return bool(self.coordinator) or self.count > 0 or self.index >= 0 or self.tasks > 1

    @property
    def who(self) -> str:
        if not self.coordinator:
            return "this process"
        names = ", ".join(map(str, range(self.count)))
        return f"process {self.index} of {self.count} ({names}) at {self.coordinator}"


def find_processes(coordinator: str, count: int, index: int, environment: Mapping[str, str] | None = None) -> Processes:
    """From flags ("", 0 and -1: not given), from MWJAX_COORDINATOR, MWJAX_PROCESSES and MWJAX_PROCESS, or by Slurm or
    Open MPI. Raises InputError for what does not fit together."""
    environment = os.environ if environment is None else environment

    def number(name: str, default: int) -> int:
        text = environment.get(name, str(default))
        try:
            return int(text)
        except ValueError:
            raise InputError(f"the environment variable {name} is {text!r}, not a number") from None

    coordinator = coordinator or environment.get("MWJAX_COORDINATOR", "")
    count = count or number("MWJAX_PROCESSES", 0)
    index = index if index >= 0 else number("MWJAX_PROCESS", -1)
    slurm = number("SLURM_NTASKS", 1) if "SLURM_PROCID" in environment else 1
    tasks = max(slurm, number("OMPI_COMM_WORLD_SIZE", 1))
    nodes = number("SLURM_NNODES", 0) or tasks // max(number("OMPI_COMM_WORLD_LOCAL_SIZE", 1), 1)
    given = {"coordinator": bool(coordinator), "processes": count > 0, "process": index >= 0}
    if any(given.values()) and not all(given.values()):
        missing = ", ".join(name for name, there in given.items() if not there)
        raise InputError(f"several processes need coordinator, processes and process together; missing: {missing}")
    port = coordinator.rpartition(":")[2]
    if coordinator and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65_536):
        raise InputError(f"coordinator {coordinator!r} is not of the form HOST:PORT, such as node0:9999")
    if coordinator and index >= count:
        raise InputError(f"process {index} is not below the number of processes, {count}")
    return Processes(coordinator, count, index, tasks, nodes)


def join(processes: Processes, *, timeout: int = 300) -> None:
    """Join the other processes of this run, if there are any; before anything touches a device.

    Ends the process with one line and exit code 2 if some other does not join within `timeout` seconds.
    """
    if not processes.several:
        return
    who = processes.who

    def give_up():  # before jax does, which would abort with a stack trace
        message = f"{who} waited {timeout} s for the others; check that all are started and can reach the coordinator"
        print(f"error: {message}", file=sys.stderr, flush=True)
        os._exit(2)

    if os.environ.get("JAX_PLATFORMS") == "cpu" or find_platform()[0] == "cpu":
        os.environ.setdefault("NPROC", "1")  # one thread: independent collectives at once would mix up their messages
    alarm = threading.Timer(timeout, give_up)
    alarm.daemon = True
    alarm.start()
    address = {}
    if processes.coordinator:
        address = {
            "coordinator_address": processes.coordinator,
            "num_processes": processes.count,
            "process_id": processes.index,
        }
    try:
        jax.distributed.initialize(**address, initialization_timeout=timeout + 60)
    except ValueError as error:
        others = processes.tasks - 1
        advice = "give --coordinator, --processes and --process"
        raise InputError(f"jax does not find the other {others} tasks of this job ({error}); {advice}") from None
    except RuntimeError as error:
        reason = str(error).partition("\n")[0][:200]
        raise InputError(f"{who} cannot start ({reason}); check --coordinator") from None
    finally:
        alarm.cancel()
    if processes.nodes == (processes.count or processes.tasks):
        # One process a node has all its devices; jax gives each task of a cluster one.
        for platform in ("cuda", "rocm"):
            jax.config.update(f"jax_{platform}_visible_devices", "all")


def place(array: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """An array that every process holds whole, laid out over all devices; each takes its own part."""
    if jax.process_count() == 1:
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def barrier(name: str) -> None:
    """Wait until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def gather(tree):
    """The tree as whole numpy arrays, in every process; one array at a time."""

    def whole(leaf):
        if not isinstance(leaf, jax.Array):
            return leaf
        here = leaf.is_fully_addressable
        return np.asarray(leaf if here else multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(whole, tree)
