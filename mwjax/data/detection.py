"""Actions that had no effect, found from positions: a walk into a wall, a jump in the air."""

import numpy as np


def detect(
    positions: np.ndarray, scs: np.ndarray, *, threshold: float = 0.01, height_threshold: float = 0.01
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find collisions and invalid jumps, as the dataset's `detection.py` does.

    positions: float [f, 3], metres, height second. scs: int [f], 1 is jump.
    Returns delta positions [f, 3], collision [f] and invalid jumps [f] (0 or 1); row 0 is all zero.
    A frame that does not move sideways counts as a collision even when no key was pressed. Of a run of consecutive
    jumps that rise, only the first is valid.
    """
    delta = np.zeros_like(positions)
    delta[1:] = positions[1:] - positions[:-1]
    still = (np.abs(delta[:, 0]) <= threshold) & (np.abs(delta[:, 2]) <= threshold)
    rises = (scs == 1) & (delta[:, 1] > height_threshold)
    first = rises & ~np.concatenate([[False], rises[:-1]])
    invalid = (scs == 1) & ~first
    still[0] = False
    invalid[0] = False
    return delta, still.astype(int), invalid.astype(int)
