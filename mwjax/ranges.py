"""Numbers from outside: finite, of their kind and within their range, or one line that says so."""

import dataclasses
import math
import sys
from typing import Any, ClassVar

from mwjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Range:
    """What a number may be; bounds are included, but for `above`."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    whole: bool = False

    def __str__(self) -> str:
        """Such as "a whole number from 1 to 100"."""
        kind = "a whole number" if self.whole else "a number"
        if self.above is not None:
            kind += f" above {self.above:g}"
        elif self.least is not None and self.most is not None:
            return f"{kind} from {self.least:g} to {self.most:g}"
        elif self.least is not None:
            kind += f", at least {self.least:g}"
        return kind if self.most is None else f"{kind}, at most {self.most:g}"

    def holds(self, value: Any) -> bool:
        """Whether `value` is such a number. A bool is none."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if self.whole and not isinstance(value, int):
            return False
        if isinstance(value, float) and not math.isfinite(value):  # a whole number may be too large to ask
            return False
        low = self.least is None or value >= self.least
        low = low and (self.above is None or value > self.above)
        return low and (self.most is None or value <= self.most)


def shown(value: Any, most: int = 60) -> str:
    """A value for an error: as it is written, but short, whatever it is."""
    if isinstance(value, int) and abs(value) > sys.maxsize**4:  # more digits than Python writes
        return "a number of very many digits"
    text = repr(value[:most] if isinstance(value, str | list) else value)
    return text if len(text) <= most + 2 else f"{text[:most]}…"


def check_number(value: Any, name: str, allowed: Range) -> int | float:
    """The value. Raises InputError, naming it, for what is not such a number."""
    if not allowed.holds(value):
        raise InputError(f"{name} is {shown(value)}; it must be {allowed}")
    return value


def ranged(default: Any = dataclasses.MISSING, **bounds) -> Any:
    """A field of a Checked dataclass that must hold a number within `bounds`, see Range."""
    return dataclasses.field(default=default, metadata={"range": Range(**bounds)})


class Checked:
    """A dataclass whose fields made by `ranged` are checked when it is made; WHERE comes before their names in errors.

    A field that is a tuple has every entry checked.
    """

    WHERE: ClassVar[str] = ""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if "range" not in field.metadata:
                continue
            value = getattr(self, field.name)
            for entry in value if isinstance(value, tuple) else (value,):
                check_number(entry, f"{self.WHERE}{field.name}", field.metadata["range"])
