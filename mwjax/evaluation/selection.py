"""Which videos of a folder can be scored together, by their headers alone."""

import collections
import pathlib

from mwjax.data.video import Header, find_videos, read_header
from mwjax.errors import InputError

Headers = dict[pathlib.Path, Header | None]


def headers_of(folder: pathlib.Path, limit: int) -> Headers:
    """The headers of the first `limit` videos of a folder, by name, None for those that cannot be read.

    Raises InputError if there is none to score.
    """
    paths = find_videos(folder)[:limit]
    if not paths:
        raise InputError(f"{folder} holds no .mp4 file" if folder.is_dir() else f"{folder} is not a folder")
    headers = {path: read_header(path) for path in paths}
    if not any(headers.values()):
        raise InputError(f"{folder}: none of the {len(paths)} files can be read")
    return headers


def usual_frames(headers: list[Header]) -> int:
    """How many frames most videos have."""
    return collections.Counter(header.frames for header in headers).most_common(1)[0][0]


def alike(headers: Headers, frames: int, *, cut: bool) -> tuple[list[pathlib.Path], list[str]]:
    """(videos of the usual size with `frames` frames, why each of the others is left out).

    cut: longer ones will do. Raises InputError if none is left.
    """
    sizes = collections.Counter((header.height, header.width) for header in headers.values() if header)
    height, width = sizes.most_common(1)[0][0]
    good, excluded = [], []
    for path, header in headers.items():
        if not header:
            excluded.append(f"{path}: cannot be read")
        elif header.frames < frames or (header.frames > frames and not cut):
            excluded.append(f"{path}: {header.frames} frames, not {frames}")
        elif (header.height, header.width) != (height, width):
            excluded.append(f"{path}: {header.height}×{header.width}, the others are {height}×{width}")
        else:
            good.append(path)
    if not good:
        raise InputError(f"{path.parent}: none of the {len(headers)} videos can be scored; {excluded[0]}")
    return good, excluded
