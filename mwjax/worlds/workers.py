"""Processes that play: they end with the one that started them, and leave nothing behind."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import pathlib
import signal
import tempfile
import threading
from collections.abc import Iterator

from mwjax.data.files import remove
from mwjax.worlds.world import WORLDS, Kind

SCRATCH = ".scratch"  # below the folder that is written to: where games put their files


@contextlib.contextmanager
def workers(folder: pathlib.Path, count: int | None = None) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """`count` processes (default: one per core) whose temporary files lie below `folder`. What a run that was killed
    left there is cleared first. After an error, nothing more is begun."""
    scratch = folder / SCRATCH
    remove(scratch)
    scratch.mkdir(parents=True)
    pool = concurrent.futures.ProcessPoolExecutor(
        count or os.cpu_count() or 1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(WORLDS, str(scratch)),
    )
    try:
        with pool:
            try:
                yield pool
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        with contextlib.suppress(OSError):
            remove(scratch)


def _begin(kinds: dict[str, Kind], scratch: str) -> None:
    """Let a new process know the worlds that were added to the table while the program ran, and watch its parent."""
    WORLDS.update(kinds)
    tempfile.tempdir = scratch
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process, and the games that it has started, as soon as its parent is gone."""
    multiprocessing.parent_process().join()
    for child in _children(os.getpid()):
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)
    os._exit(1)


def _children(process: int) -> list[int]:
    """Processes that a process has started, as Linux lists them; elsewhere none."""
    found = []
    for status in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = status.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
            if int(parent) == process:
                found.append(int(status.parent.name))
    return found
