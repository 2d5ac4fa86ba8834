"""Config files: `configs/NAME.py[:VARIANT]` with a get_config() that returns an ml_collections ConfigDict."""

import ast
import dataclasses
import difflib
import importlib.util
import inspect
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from mwjax.errors import InputError

OPTIONAL = ("mesh", "memory")  # sections that a config may leave out


def load_config(spec: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """The config of `path.py` or `path.py:variant`, with overrides such as `--config.seed=1`. Raises InputError for anything unknown."""
    path, _, variant = spec.partition(":")
    if not pathlib.Path(path).is_file():
        raise InputError(f"config {path!r} is not a file; the configs are in configs/, such as configs/tiny_t2w_controlnet.py")
    module_spec = importlib.util.spec_from_file_location("mwjax_config", path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    takes_variant = bool(inspect.signature(module.get_config).parameters)
    if variant and not takes_variant:
        raise InputError(f"{path} has no variants, {variant!r} was asked for")
    try:
        config = module.get_config(variant) if takes_variant else module.get_config()
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    for section in OPTIONAL:
        if section not in config:
            config[section] = {}
    for override in overrides:
        _override(config, override)
    return config


def _override(config: ml_collections.ConfigDict, text: str) -> None:
    name, equals, value = text.removeprefix("--config.").partition("=")
    if not text.startswith("--config.") or not equals:
        raise InputError(f"argument {text!r} is unknown; config values are set as --config.NAME=VALUE")
    node: Any = config
    *parents, last = name.split(".")
    for part in parents:
        node = _child(node, part, name)
    try:
        new = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        new = value
    if parents and isinstance(node, ml_collections.ConfigDict | dict) and last not in node:  # an option left at its default; `build` knows them all
        node[last] = new
        return
    old = _child(node, last, name)
    if isinstance(old, float) and isinstance(new, int):
        new = float(new)
    if old is not None and type(new) is not type(old) and not (isinstance(old, tuple | list) and isinstance(new, tuple | list)):
        raise InputError(f"config value {name} is {type(old).__name__} ({old!r}); {value!r} is not")
    node[int(last) if isinstance(node, list | tuple) else last] = new


def _child(node, part: str, name: str):
    if isinstance(node, list | tuple):
        if part.isdigit() and int(part) < len(node):
            return node[int(part)]
        raise InputError(f"config value {name}: {part!r} is not an index below {len(node)}")
    if not isinstance(node, ml_collections.ConfigDict | dict) or part not in node:
        known = list(node) if isinstance(node, ml_collections.ConfigDict | dict) else []
        raise InputError(f"config value {name} is unknown{_hint(part, known)}")
    return node[part]


def _hint(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(known)}" if known else ""


def build(cls: type, values: Mapping[str, Any] | ml_collections.ConfigDict, where: str):
    """A dataclass from config values; unknown and missing keys are an InputError that names them."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise InputError(f"config key {where}.{key} is unknown{_hint(key, list(fields))}")
    required = [n for n, f in fields.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    for key in required:
        if key not in values:
            raise InputError(f"config key {where}.{key} is missing")
    for key, value in values.items():
        if (wanted := fields[key].type) in (bool, int, float, str) and not isinstance(value, int | float if wanted is float else wanted):
            raise InputError(f"config value {where}.{key} is {wanted.__name__}, not {value!r}")
    return cls(**{k: tuple(v) if isinstance(v, list | tuple) else v for k, v in values.items()})
