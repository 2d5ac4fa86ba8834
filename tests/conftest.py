"""Eight CPU devices and no silent rank promotion in every test; set before jax is imported."""

import os
import sys

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from jaxtyping import install_import_hook

install_import_hook(["mwjax", "converters"], "typecheck.check")  # shapes and types of every signature are checked while testing
