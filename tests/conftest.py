"""Eight CPU devices, no silent rank promotion and a cache of compiled programs that lasts as long as the tests; set
before jax is imported."""

import atexit
import os
import shutil
import sys
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if (
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true") == "true"
):  # compiling takes most of the time; false tests the very programs that users run
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_use_fusion_emitters=false"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers inherit it
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="mwjax-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["MWJAX_LARGE_PAGES"] = "0"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from jaxtyping import install_import_hook

install_import_hook(
    ["mwjax", "converters"], "typecheck.check"
)  # shapes and types of every signature are checked while testing


def pytest_collection_modifyitems(items):
    """Files with the longest tests first, so that the workers, which take file after file, end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
