"""What a file holds, as a hash: read once, and again only when the file system says that the file was touched."""

import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable

from mwjax.data.files import write_whole
from mwjax.data.text import read_json
from mwjax.errors import InputError

SETTLED = 2_000_000_000  # nanoseconds; of a file touched more lately, the next change may not show in its times


def hash_file(path: pathlib.Path) -> str:
    """Raises InputError if the file cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except PermissionError:
        raise InputError(f"{path} may not be read: no permission") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from None


class Remembered:
    """Strings made from files, remembered in a JSON file under the size, the times and the number of their inode.

    A file that is written, replaced or renamed has another of these, whatever its time of modification is set to; so
    content alone decides. others: files of other processes, which are read and not written.
    """

    def __init__(self, path: pathlib.Path, others: list[pathlib.Path] | None = None):
        self.path = path
        self._known: dict[str, list] = {}
        for place in [*(others or []), path]:
            if place.exists():
                try:
                    self._known |= read_json(place)
                except InputError as error:
                    print(f"{error}; it is made again", flush=True)
        self._kept: dict[str, list] = {}

    def get(self, name: str, path: pathlib.Path, make: Callable[[], str]) -> str:
        """What make() gives for the content of a file; name: of what is made. Raises InputError as `make` does."""
        key = f"{name} {path.absolute()}"
        began = time.time_ns()
        seen = _state(path)
        known = self._known.get(key)
        if seen and isinstance(known, list) and len(known) == 2 and known[0] == seen and isinstance(known[1], str):
            self._kept[key] = known
            return known[1]
        value = make()
        if seen and seen == _state(path) and began - max(seen[1:3]) > SETTLED:
            self._kept[key] = [seen, value]
        return value

    def save(self) -> None:
        """Write what was asked for; the rest is forgotten."""
        write_whole(self.path, json.dumps(self._kept))


def _state(path: pathlib.Path) -> list[int]:
    """What tells a file from itself before it was touched; [] if it is not there."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return []
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
