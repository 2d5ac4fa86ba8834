"""Memory in large pages; only the standard library is needed, since it comes before everything else."""

import contextlib
import itertools
import os
import pathlib
import sys

from mwjax.runtime.environment import find_platform

MARK = "MWJAX_LARGE_PAGES"  # set once it was tried; 0 set by hand prevents it
SETTING = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def large_pages(module: str) -> None:
    """Start `python -m MODULE` anew with memory in large pages, on machines without accelerator where Linux gives
    them on request: a CPU's training step takes fresh memory for its temporaries every time.

    glibc 2.35 or later asks for them, at the start of a process only. Must be called before jax is imported, by the
    module that was started; called by another process, such as a notebook's, it does nothing.
    """
    if ("-m", module) not in itertools.pairwise(sys.orig_argv) or MARK in os.environ or find_platform()[0] != "cpu":
        return
    if not SETTING.exists() or "[madvise]" not in SETTING.read_text(encoding="utf-8"):
        return
    tunables = ":".join(filter(None, (os.environ.get("GLIBC_TUNABLES", ""), "glibc.malloc.hugetlb=1")))
    os.environ |= {MARK: "1", "GLIBC_TUNABLES": tunables}
    with contextlib.suppress(OSError):  # then in small ones
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
