"""Files and folders that appear whole or not at all."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from mwjax.errors import InputError


@contextlib.contextmanager
def whole(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """A path beside `path` to write a file, or a folder, to; once that is done without an error, it becomes `path`.

    Folders above are made. Whoever reads a file finds the old one or the new one; an old folder makes way for the new.
    After an error the old content is there as before, and nothing else.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    remove(part)  # a killed process may have left it
    try:
        yield part
        if part.is_dir():
            remove(path)
        os.replace(part, path)
    finally:
        remove(part)


def write_whole(path: str | pathlib.Path, content: str | bytes) -> None:
    """Write a file of text (as UTF-8) or bytes that appears whole or not at all."""
    with whole(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def remove(path: pathlib.Path) -> None:
    """Remove a file or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def output_folder(path: str | pathlib.Path) -> pathlib.Path:
    """Create a folder for results, or say why it cannot be."""
    path = pathlib.Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"cannot write to {path}: {error.strerror}") from None
    return path
