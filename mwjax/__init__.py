"""mwjax: action-controlled interactive world models in pure-functional JAX."""

import os

__version__ = "0.1.0"

# XLA greets every program it loads from its own cache with a warning about tuning hints of the processor; what matters
# comes as exceptions.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
