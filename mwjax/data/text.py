"""Text and JSON from outside: whatever is wrong with a file is one line that names it.

Text is UTF-8, with or without a mark; a file may not be larger, nor its JSON deeper, than anything that is meant.
"""

import json
import math
import os
import pathlib
import re
from typing import Any

from mwjax.errors import InputError

LARGEST = 256 * 1024**2  # bytes of a text file
DEEPEST = 100  # brackets within brackets of a JSON file


class DamagedError(InputError):
    """Content that is not what it must be: what a program has written itself, it can write again."""


def is_damage(error: InputError) -> bool:
    """Whether a file is there and may be read, but holds something else."""
    return isinstance(error, DamagedError)


def read_bytes(path: str | pathlib.Path, what: str = "") -> bytes:
    """The content of a file. what: comes before its name in errors, such as "--jobs"."""
    path = pathlib.Path(path)
    named = f"{what} {path}".strip()
    if os.path.isdir(path):
        raise InputError(f"{named} is a folder, not a file")
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)  # a pipe or a device does not say how much it holds
    except FileNotFoundError:
        raise InputError(f"{named} is missing") from None
    except PermissionError:
        raise InputError(f"{named} may not be read: no permission") from None
    except (OSError, ValueError) as error:  # a ValueError for a name with a null character
        raise InputError(f"{named} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(content) > LARGEST:
        raise InputError(f"{named} has more than {LARGEST >> 20} MiB; no text that is meant has")
    return content


def decoded(content: bytes, named: str) -> str:
    """Bytes as text. Raises InputError naming the line of the first byte that is no UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DamagedError(f"{named} line {line} is not UTF-8 text; save it as UTF-8") from None


def read_text(path: str | pathlib.Path, what: str = "") -> str:
    """The text of a file. what: as for read_bytes."""
    return decoded(read_bytes(path, what), f"{what} {path}".strip())


def parse_json(text: str, named: str) -> Any:
    """A JSON value, in which every number is finite. Raises InputError naming where it came from."""
    if depth(text) > DEEPEST:
        raise DamagedError(f"{named} is JSON of more than {DEEPEST} brackets within brackets")

    def refuse(word: str):
        raise DamagedError(f"{named} holds {word[:20]}, which is no number")

    def finite(word: str) -> float:
        number = float(word)
        return number if math.isfinite(number) else refuse(word)

    try:
        value = json.loads(text, parse_constant=refuse, parse_float=finite)
    except (json.JSONDecodeError, RecursionError, ValueError) as error:  # a ValueError for thousands of digits
        if isinstance(error, InputError):
            raise
        raise DamagedError(f"{named} is not JSON ({error})") from None
    return value


def read_json(path: str | pathlib.Path, what: str = "", *, kind: type = dict) -> Any:
    """The JSON value of a file, of a kind: dict or list. what: as for read_bytes."""
    named = f"{what} {path}".strip()
    value = parse_json(read_text(path, what), named)
    if not isinstance(value, kind):
        raise DamagedError(f"{named} is JSON, but no {'object' if kind is dict else 'list'}")
    return value


def depth(text: str) -> int:
    """How many brackets of JSON text lie within one another at most, or one more than DEEPEST; those in strings do not
    count."""
    deepest = now = 0
    for found in re.finditer(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', text, re.DOTALL):  # in one pass, whatever it holds
        bracket = found[0]
        if bracket in "[{":
            now += 1
            deepest = max(deepest, now)
            if deepest > DEEPEST:
                break
        elif bracket in "]}":
            now -= 1
    return deepest
