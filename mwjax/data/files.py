"""Files and folders that appear whole or not at all, and of which one process at a time writes."""

import contextlib
import fcntl
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
        flush(part)
        if part.is_dir() and path.is_dir():  # a file is not replaced by a folder: the system refuses
            remove(path)
        os.replace(part, path)
        flush(path.parent, deep=False)
    finally:
        remove(part)


def flush(path: pathlib.Path, *, deep: bool = True) -> None:
    """Have the system write a file, or a folder with all that is in it, to the disk: a power cut loses nothing."""
    for place in [path, *path.rglob("*")] if deep and path.is_dir() else [path]:
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError:  # a file system that cannot
            pass
        finally:
            os.close(handle)


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


def reason_of(error: BaseException) -> str:
    """Why something failed, in a few words: as the system says it, without its number."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:200]


def output_folder(path: str | pathlib.Path) -> pathlib.Path:
    """Create a folder for results. Raises InputError, before any work, if nothing can be written there."""
    path = pathlib.Path(path)
    try:
        if path.exists() and not path.is_dir():
            raise InputError(f"cannot write to {path}: it is a file, not a folder")
        path.mkdir(parents=True, exist_ok=True)
        _try(path / f".mwjax-trial-{os.getpid()}")
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write to {path}: {reason_of(error)}") from None
    return path


def _try(path: pathlib.Path) -> None:
    """Make a file and remove it: a byte in it, as a full disk still takes empty ones."""
    try:
        path.write_bytes(b"0")
    finally:
        with contextlib.suppress(OSError, ValueError):
            remove(path)


def check_output(path: str | pathlib.Path, what: str = "--out") -> None:
    """Raises InputError, before any work, if the file `path` could not be written. what: where the name comes from."""
    path = pathlib.Path(path)
    if not path.name or path.name in (".", ".."):
        raise InputError(f"{what} {str(path)!r} is no name of a file")
    try:
        if path.is_symlink() or (path.exists() and not path.is_file() and not path.is_dir()):
            raise InputError(f"{what} {path} is a link or a device; give the name of a file")
        if path.is_dir():
            raise InputError(f"{what} {path} is a folder; give the name of a file")
        output_folder(path.parent)
        _try(path.with_name(path.name + ".part"))
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{what}: cannot write {path}: {reason_of(error)}") from None


@contextlib.contextmanager
def locked(folder: str | pathlib.Path, what: str = "run") -> Iterator[None]:
    """While this process writes in a folder. Raises InputError if another one does; one that was killed does not
    count. The file that says so goes with it."""
    folder = pathlib.Path(folder)
    with _lock(folder / ".lock", f"{folder} is being written", f"wait for that {what} or choose another"):
        yield


@contextlib.contextmanager
def held(path: str | pathlib.Path) -> Iterator[None]:
    """As `locked`, of a single file (or folder) that is to be written."""
    path = pathlib.Path(path)
    place = path.with_name(f".{path.name}.lock")
    with _lock(place, f"{path} is being written", "wait for it or choose another name"):
        yield


@contextlib.contextmanager
def _lock(place: pathlib.Path, what: str, advice: str) -> Iterator[None]:
    while True:
        try:
            file = place.open("a+", encoding="utf-8", errors="replace")
        except OSError as error:
            raise InputError(f"cannot write to {place.parent}: {reason_of(error)}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(100).strip() or "another process"
            file.close()
            raise InputError(f"{what} by {holder}; {advice}") from None
        except OSError:  # a file system without locks
            pass
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(file.fileno()), place.stat()):
                break
        file.close()  # whoever held it has just removed it: once more
    try:
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        with contextlib.suppress(OSError):
            file.flush()
        yield
    finally:
        with contextlib.suppress(OSError):  # while it is still held
            place.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            file.close()
