"""Compiled programs are kept on disk between processes."""

import os
import pathlib
import tempfile

import jax


def keep_compiled() -> None:
    """Keep programs in $JAX_COMPILATION_CACHE_DIR (default: ~/.cache/mwjax): a second process starts in seconds."""
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(home() / ".cache/mwjax")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def home() -> pathlib.Path:
    """The user's own folder; one below the temporary one for a user that the system does not know."""
    try:
        return pathlib.Path.home()
    except RuntimeError:
        return pathlib.Path(tempfile.gettempdir()) / f"mwjax-{os.getuid()}"
