"""Config files: a get_config() that returns an ml_collections ConfigDict; `PATH.py[:VARIANT]`, or the name of one that
ships with the package."""

import ast
import dataclasses
import difflib
import importlib.util
import inspect
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from mwjax.errors import InputError

PACKAGE = pathlib.Path(__file__).resolve().parent
SHIPPED = (PACKAGE / "configs", PACKAGE.parent / "configs")  # of an installed package, of a clone

# Sections that a config may leave out, and what they are then.
OPTIONAL: dict[str, Any] = {
    "control": {"kind": "none"},
    "record": None,
    "sampling": {},
    "lora_scale": 1.0,
    "mesh": {},
    "memory": {},
}


def find_config(name: str) -> pathlib.Path:
    """A file, or the shipped one of that name ("tiny_t2w_controlnet"). Raises InputError if there is neither."""
    path = pathlib.Path(name)
    if path.is_file():
        return path
    wanted = path.name.removesuffix(".py") + ".py"
    for folder in SHIPPED:
        if str(path) in (wanted, wanted.removesuffix(".py"), f"configs/{wanted}") and (folder / wanted).is_file():
            return folder / wanted
    known = sorted({p.stem for folder in SHIPPED for p in folder.glob("*.py")})
    raise InputError(f"config {name!r} is not a file, nor one that ships with mwjax: {', '.join(known)}")


def load_config(spec: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """The config of `NAME` or `NAME:variant`, with overrides such as `--config.seed=1`. Raises InputError for anything
    unknown."""
    name, _, variant = spec.partition(":")
    path = find_config(name)
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
    for section, default in OPTIONAL.items():
        if section not in config:
            config[section] = default
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
    is_section = isinstance(node, ml_collections.ConfigDict | dict)
    if parents and is_section and last not in node:  # an option left at its default; `build` knows them all
        node[last] = new
        return
    old = _child(node, last, name)
    if isinstance(old, float) and isinstance(new, int):
        new = float(new)
    both_lists = isinstance(old, tuple | list) and isinstance(new, tuple | list)
    if old is not None and type(new) is not type(old) and not both_lists:
        raise InputError(f"config value {name} is {type(old).__name__} ({old!r}); {value!r} is not")
    node[int(last) if isinstance(node, list | tuple) else last] = new


def _child(node, part: str, name: str):
    if isinstance(node, list | tuple):
        if part.isdigit() and int(part) < len(node):
            return node[int(part)]
        raise InputError(f"config value {name}: {part!r} is not an index below {len(node)}")
    known = list(node) if isinstance(node, ml_collections.ConfigDict | dict) else []
    if part not in known:
        raise InputError(f"config value {name} is unknown{hint(part, known)}")
    return node[part]


def hint(word: str, known: Sequence[str]) -> str:
    """What may have been meant: the closest of the known words, or all of them."""
    close = difflib.get_close_matches(word, known, 1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known here: {', '.join(known)}" if known else ""


def renamed(values: Mapping[str, Any], names: Mapping[str, str], where: str) -> dict[str, Any]:
    """The values with old names of keys replaced; says so on stderr, in a line each."""
    for old, new in names.items():
        if old in values:
            print(f"config key {where}.{old} is now called {new}", file=sys.stderr)
    return {names.get(key, key): value for key, value in values.items()}


def build(cls: type, values: Mapping[str, Any] | ml_collections.ConfigDict, where: str):
    """A dataclass from config values; unknown and missing keys are an InputError that names them.

    A class with a table RENAMED takes keys under their old names as well.
    """
    values = renamed(dict(values.items()), getattr(cls, "RENAMED", {}), where)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise InputError(f"config key {where}.{key} is unknown{hint(key, list(fields))}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise InputError(f"config key {where}.{name} is missing")
    for key, value in values.items():
        wanted = fields[key].type
        allowed = int | float if wanted is float else wanted
        if wanted in (bool, int, float, str) and not isinstance(value, allowed):
            raise InputError(f"config value {where}.{key} is {wanted.__name__}, not {value!r}")
    return cls(**{key: tuple(value) if isinstance(value, list | tuple) else value for key, value in values.items()})
