"""Config files: a get_config() that returns an ml_collections ConfigDict; `PATH.py[:VARIANT]`, or the name of one that
ships with the package."""

import ast
import dataclasses
import difflib
import importlib.util
import inspect
import pathlib
import sys
import traceback
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from mwjax.errors import InputError
from mwjax.ranges import shown

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
    unknown, and for a file that is no config."""
    name, _, variant = spec.partition(":")
    path = find_config(name)
    get_config = config_function(path)
    takes_variant = bool(inspect.signature(get_config).parameters)
    if variant and not takes_variant:
        raise InputError(f"{path} has no variants, {variant!r} was asked for")
    try:
        config = get_config(variant) if takes_variant else get_config()
    except InputError:
        raise
    except Exception as error:  # whatever a user's code raises
        raise InputError(f"{path}: {_reason(error, path)}") from None
    if isinstance(config, dict):
        config = ml_collections.ConfigDict(config)
    if not isinstance(config, ml_collections.ConfigDict):
        raise InputError(f"{path}: get_config() gives {type(config).__name__}, not an ml_collections.ConfigDict")
    for section, default in OPTIONAL.items():
        if section not in config:
            config[section] = default
    for override in overrides:
        _override(config, override)
    return config


def config_function(path: pathlib.Path) -> Callable:
    """get_config() of a file. Raises InputError for a file that is no config."""
    if path.suffix != ".py":
        raise InputError(f"config {path} is not a Python file (.py) with a function get_config()")
    module_spec = importlib.util.spec_from_file_location("mwjax_config", path)
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever a user's code raises
        if isinstance(error, PermissionError):
            raise InputError(f"config {path} may not be read: no permission") from None
        raise InputError(f"config {path} cannot be run: {_reason(error, path)}") from None
    function = getattr(module, "get_config", None)
    if not inspect.isfunction(function):
        raise InputError(f"config {path} has no function get_config()")
    return function


def _reason(error: BaseException, path: pathlib.Path) -> str:
    """What went wrong in a user's file, and in which line of it."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == str(path) else (lines or [None])[-1]
    where = f"line {line}, " if line and not isinstance(error, ValueError) else ""
    text = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())[:200]
    if type(error) is ValueError and text:  # as configs raise for a variant that they do not have
        return text
    return f"{where}{type(error).__name__}" + (f" ({text})" if text else "")


def _override(config: ml_collections.ConfigDict, text: str) -> None:
    name, equals, value = text.removeprefix("--config.").partition("=")
    if not text.startswith("--config.") or not equals:
        raise InputError(f"argument {shown(text)} is unknown; config values are set as --config.NAME=VALUE")
    node: Any = config
    *parents, last = name.split(".")
    for part in parents:
        node = _child(node, part, name)
    try:
        new = ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        new = value
    is_section = isinstance(node, ml_collections.ConfigDict | dict)
    if parents and is_section and last not in node:  # an option left at its default; `build` knows them all
        node[last] = new
        return
    old = _child(node, last, name)
    if isinstance(old, str) and not isinstance(new, str):  # a name such as 2024
        new = value
    if isinstance(old, float) and isinstance(new, int) and not isinstance(new, bool):
        new = float(new) if new.bit_length() < 1024 else new
    both_lists = isinstance(old, tuple | list) and isinstance(new, tuple | list)
    if old is not None and type(new) is not type(old) and not both_lists:
        raise InputError(f"config value {name} is {type(old).__name__} ({shown(old)}); {shown(value)} is not")
    if isinstance(node, tuple):
        raise InputError(f"config value {name}: {'.'.join(parents)} is set as a whole, as in {shown(node)}")
    node[int(last) if isinstance(node, list) else last] = new


def _child(node, part: str, name: str):
    if isinstance(node, list | tuple):
        if part.isascii() and part.isdigit() and len(part) < 10 and int(part) < len(node):
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
    """A dataclass from config values; unknown and missing keys, and values of another type or out of their range, are
    an InputError that names them.

    A class with a table RENAMED takes keys under their old names as well.
    """
    values = renamed(section(values, where), getattr(cls, "RENAMED", {}), where)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise InputError(f"config key {where}.{key} is unknown{hint(str(key), list(fields))}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise InputError(f"config key {where}.{name} is missing")
    given = {key: _as_tuple(value) for key, value in values.items()}
    for key, value in given.items():
        if not fits(value, fields[key].type):
            raise InputError(f"config value {where}.{key} is {_shown(fields[key].type)}, not {shown(values[key])}")
    try:
        return cls(**given)
    except InputError as error:
        named = str(error).partition(" ")[0] in fields  # as of a number out of its range
        raise InputError(f"config value {where}.{error}" if named else str(error)) from None


def section(values: Any, where: str) -> dict[str, Any]:
    """The values of a section of a config. Raises InputError if it is none."""
    if not isinstance(values, Mapping | ml_collections.ConfigDict):
        raise InputError(f"config section {where} is {shown(values)}; it must have names and values")
    return dict(values.items())


def _as_tuple(value):
    """Lists as tuples, all the way down."""
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value


def fits(value: Any, wanted: Any) -> bool:
    """Whether a value is of a type as fields have it. A whole number fits a float; True and False are no numbers."""
    if wanted in (int, float, bool, str):
        allowed = int | float if wanted is float else wanted
        return isinstance(value, allowed) and isinstance(value, bool) <= (wanted is bool)
    origin, parts = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(parts) == 2 and parts[1] is Ellipsis:
            return all(fits(entry, parts[0]) for entry in value)
        return len(value) == len(parts) and all(map(fits, value, parts))
    return isinstance(value, wanted) if isinstance(wanted, type) else True


def _shown(wanted: Any) -> str:
    """A type as an error names it."""
    return wanted.__name__ if typing.get_origin(wanted) is None and isinstance(wanted, type) else str(wanted)
