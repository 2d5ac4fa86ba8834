"""Numbers from outside: finite, of their kind and within their range, or one line that says so."""

import contextlib
import dataclasses
import math
import numbers
from collections.abc import Iterator
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
        low, above, high = (_shown(bound) for bound in (self.least, self.above, self.most))
        if above:
            kind += f" above {above}"
        elif low and high:
            return f"{kind} from {low} to {high}"
        elif low:
            kind += f", at least {low}"
        return f"{kind}, at most {high}" if high else kind

    def holds(self, value: Any) -> bool:
        """Whether `value` is such a number. A bool is none."""
        if isinstance(value, bool) or not isinstance(value, numbers.Integral if self.whole else numbers.Real):
            return False
        try:
            if not self.whole and not math.isfinite(value):
                return False
        except OverflowError:  # a whole number that no float can hold
            return False
        low = self.least is None or value >= self.least
        low = low and (self.above is None or value > self.above)
        return low and (self.most is None or value <= self.most)


def _shown(bound: float | None) -> str:
    """Such as "0.5" or "4294967295"; "" for none."""
    if bound is None:
        return ""
    return str(int(bound)) if float(bound).is_integer() else f"{bound:g}"


# What many numbers are.
SEED = Range(least=0, most=2**32 - 1, whole=True)  # a larger one would be another seed in disguise
COUNT = Range(least=1, most=1_000_000_000, whole=True)
FRAMES = Range(least=1, most=10_000, whole=True)  # of a video
SIDE = Range(least=16, most=8192, whole=True)  # of a picture, in pixels
FPS = Range(least=0.01, most=1000)


def check_number(value: Any, name: str, allowed: Range) -> int | float:
    """The value. Raises InputError, naming it, for what is not such a number."""
    if not allowed.holds(value):
        raise InputError(f"{name} is {shown(value)}; it must be {allowed}")
    return value


@contextlib.contextmanager
def as_options() -> Iterator[None]:
    """Within it, a number out of its range is named as the option of a command is: guidance_skip as
    --guidance-skip."""
    try:
        yield
    except InputError as error:
        name, _, rest = str(error).partition(" ")
        raise InputError(f"--{name.replace('_', '-')} {rest}") from None


def shown(value: Any, most: int = 60) -> str:
    """A wrong value as an error shows it: not all of a long one."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 4 * most:
        return f"a number of about {value.bit_length() * 3 // 10} digits"
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


def ranged(default: Any = dataclasses.MISSING, allowed: Range | None = None, **bounds) -> Any:
    """A field of a Checked dataclass that must hold a number that is `allowed`, or within `bounds`, see Range."""
    return dataclasses.field(default=default, metadata={"range": allowed or Range(**bounds)})


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
