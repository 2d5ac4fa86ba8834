"""Files that appear whole or not at all."""

import os
import pathlib


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
    """Write beside, then rename; folders are made. Whoever reads `path` finds the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(part, path)
