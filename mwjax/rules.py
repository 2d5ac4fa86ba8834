"""Ordered regex tables over parameter paths: the first match wins and every path must be covered."""

import re
from collections.abc import Iterable, Sequence
from typing import Any


def first_match(rules: Sequence[tuple[str, Any]], path: str) -> Any:
    """The value of the first rule whose regex matches the start of `path`; a ValueError if none does."""
    for pattern, value in rules:
        if re.match(pattern, path):
            return value
    raise ValueError(f"no rule covers parameter {path}")


def split(rules: Sequence[tuple[str, bool]], paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """(paths whose rule says True, the others)."""
    chosen, rest = [], []
    for path in paths:
        (chosen if first_match(rules, path) else rest).append(path)
    return chosen, rest
