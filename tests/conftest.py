"""Eight CPU devices, no silent rank promotion and a cache of compiled programs that lasts as long as the tests; set before jax is imported."""

import atexit
import os
import shutil
import sys
import tempfile

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers inherit it
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="mwjax-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")  # compiling takes most of the time; set it to false to test the very programs that users run
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from jaxtyping import install_import_hook

install_import_hook(["mwjax", "converters"], "typecheck.check")  # shapes and types of every signature are checked while testing


def pytest_collection_modifyitems(items):
    """The longest first, so that the workers end together."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
