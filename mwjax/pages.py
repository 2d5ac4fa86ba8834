"""Memory in large pages; only the standard library is needed, since it comes before everything else."""

import contextlib
import itertools
import os
import pathlib
import sys

MARK = "MWJAX_LARGE_PAGES"  # set once it was tried


def large_pages() -> None:
    """Start `python -m mwjax.train` anew with memory in large pages, on machines without accelerator where Linux gives them on request (glibc 2.35 or later
    asks, at the start of a process only): a CPU's training step takes fresh memory for its temporaries every time. Must be called while Python still looks
    for the module, before jax is imported. Nothing else, such as a notebook, is started anew. MWJAX_LARGE_PAGES=0 prevents it."""
    if sys.argv[:1] != ["-m"] or ("-m", "mwjax.train") not in itertools.pairwise(sys.orig_argv) or MARK in os.environ:
        return
    from mwjax.launch import find_platform

    tunables, setting = os.environ.get("GLIBC_TUNABLES", ""), pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if find_platform()[0] == "cpu" and setting.exists() and "[madvise]" in setting.read_text():
        os.environ |= {MARK: "1", "GLIBC_TUNABLES": ":".join(filter(None, (tunables, "glibc.malloc.hugetlb=1")))}
        with contextlib.suppress(OSError):  # then in small ones
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
