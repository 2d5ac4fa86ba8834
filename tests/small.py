"""What many tests need: drawn parameters, and what a refused command leaves behind."""

import jax
import numpy as np
import pytest


def drawn(shapes: dict, seed: int = 0) -> dict:
    """Parameters of these shapes with nothing at zero, about as large as fresh ones; scales near one. Nothing is compiled for them."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        near = 1.0 if path[-1].key in ("scale", "gamma", "alpha") else 0.0
        return (near + 0.14 * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def refused(main, arguments, says: str, capsys) -> None:
    """The command ends with exit code 2 and one line that says what is wrong."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    error = capsys.readouterr().err
    assert stop.value.code == 2, error
    assert says in error
    assert len(error.strip().splitlines()) == 1
