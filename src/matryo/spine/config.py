"""Configs: frozen keyword-only dataclasses to TOML and back, and how a command's flags are layered."""

import dataclasses
import hashlib
import json
import os
import tomllib
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tomli_w

from matryo.spine.errors import unknown

if TYPE_CHECKING:
    from cyclopts import App
    from cyclopts.argument import ArgumentCollection

T = TypeVar("T")


def to_dict(cfg: Any) -> dict[str, Any]:
    """Turn a config into plain values: nested dicts, lists, strings, numbers, booleans and None."""
    return _plain(cfg)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{value!r} is a {type(value).__name__}: a config holds only plain values, paths and dataclasses")


def from_dict(cls: type[T], data: Mapping[str, Any], where: str = "") -> T:
    """Build the config `cls` from plain values, refusing whatever does not fit.

    Args:
        cls: A dataclass.
        data: Field values, nested as the dataclasses are.
        where: Said in front of the field's name in errors, such as a file name.

    Raises:
        ValueError: A field is unknown (the nearest is offered), missing or of the wrong type; it is named.
    """
    return _read(cls, data, f"{where}: " if where else "", "")


def _read(hint: Any, value: Any, where: str, field: str) -> Any:
    origin, arms = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, Mapping):
            return _read_dataclass(hint, value, where, field)
    elif origin in (Union, types.UnionType):
        return _read_union(hint, value, where, field)
    elif origin is Literal:
        if value in arms and type(value) in {type(arm) for arm in arms}:
            return value
        raise _prefixed(where, unknown(field, str(value), map(str, arms)))
    elif origin in (tuple, list) and isinstance(value, list | tuple):
        if origin is list or arms[-1:] == (...,):
            return origin(_read(arms[0], item, where, f"{field}[{i}]") for i, item in enumerate(value))
        if len(value) == len(arms):
            return tuple(_read(a, v, where, f"{field}[{i}]") for i, (a, v) in enumerate(zip(arms, value, strict=True)))
    elif origin is dict and isinstance(value, Mapping):
        return {key: _read(arms[1], item, where, f"{field}.{key}") for key, item in value.items()}
    elif hint is Any or (hint is type(None) and value is None):
        return value
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif hint is Path and isinstance(value, str | Path):
        return Path(value)
    elif hint in (bool, int, str) and type(value) is hint:
        return value
    name = hint.__name__ if isinstance(hint, type) and not origin else str(hint).replace("typing.", "")
    raise ValueError(f"{where}{field} = {value!r}: expected {name}, got {type(value).__name__}")


def _read_dataclass(cls: type[T], data: Mapping[str, Any], where: str, field: str) -> T:
    dot, hints = f"{field}." if field else "", get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # pyright: ignore[reportArgumentType]
    for key in data:
        if key not in fields:
            raise _prefixed(where, unknown("field", f"{dot}{key}", [f"{dot}{name}" for name in fields]))
    values = {key: _read(hints[key], value, where, f"{dot}{key}") for key, value in data.items()}
    for name, f in fields.items():
        if name not in values and f.default is f.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where}the field {dot}{name} is missing: give it a value")
    return cls(**values)


def _read_union(hint: Any, value: Any, where: str, field: str) -> Any:
    arms = get_args(hint)
    if type(None) in arms and (value is None or (value == "none" and str not in arms)):
        return None
    real = [arm for arm in arms if arm is not type(None)]
    if len(real) == 1:
        return _read(real[0], value, where, field)
    for arm in sorted(real, key=lambda arm: arm is float):  # an int stays an int where both are allowed
        try:
            return _read(arm, value, where, field)
        except ValueError:
            continue
    raise ValueError(f"{where}{field} = {value!r}: expected {hint}, got {type(value).__name__}")


def _prefixed(where: str, error: ValueError) -> ValueError:
    return ValueError(f"{where}{error}")


def to_toml(cfg: Any, path: Path) -> None:
    """Write a config as TOML, atomically.

    TOML has no null: None is left out where it is the field's default, and the string "none" elsewhere.
    """
    write_text(path, tomli_w.dumps(_without_none(cfg)))


def from_toml(cls: type[T], path: Path) -> T:
    """Read the config `cls` from a TOML file; errors name the file and the field.

    Raises:
        ValueError: The file is not TOML, or as for `from_dict`.
        OSError: The file cannot be read.
    """
    return from_dict(cls, read_toml(path), where=str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file into a dict, with the file named in errors."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected TOML: {error}") from error


def _without_none(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        held = {f.name: (getattr(value, f.name), f.default) for f in dataclasses.fields(value)}
        value = {k: "none" if v is None and default is not None else v for k, (v, default) in held.items()}
    if isinstance(value, Mapping):
        return {str(key): _without_none(item) for key, item in value.items() if item is not None}
    return _plain(value)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: readers see the old file or the whole new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def digest(cfg: Any) -> str:
    """Hash a config to 8 hexadecimal digits, the same in every process and on every machine."""
    return hashlib.sha256(json.dumps(_plain(cfg), sort_keys=True).encode()).hexdigest()[:8]


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name every leaf of a nested dict by its dotted path.

    Example:
        >>> flatten({"sae": {"k": 32}, "seed": 0})
        {'sae.k': 32, 'seed': 0}
    """
    flat: dict[str, Any] = {}
    for key, value in data.items():
        nested = isinstance(value, Mapping) and value
        flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def diff(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """List the fields in which two configs differ, one string each.

    Example:
        >>> diff({"sae": {"k": 32}, "seed": 0}, {"sae": {"k": 64}, "seed": 0})
        ['sae.k: 32 -> 64']
    """
    old, new = flatten(a), flatten(b)
    return [
        f"{key}: {old.get(key, 'absent')!r} -> {new.get(key, 'absent')!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, ...) != new.get(key, ...)
    ]


_config_file: Path | None = None


def set_config_file(path: Path | None) -> None:
    """Name the TOML file of `--config`, from which `layered` fills what no flag gave."""
    global _config_file
    _config_file = path


def layered(
    recipe: Callable[[str], Mapping[str, Any]] | None = None,
) -> Callable[["App", tuple[str, ...], "ArgumentCollection"], None]:
    """Make a room's cyclopts config hook, by which flag > `--config` file > recipe > default.

    Args:
        recipe: Gives the field values of a named recipe (dotted for nested fields). The name is the command's
            parameter called `recipe`; values the command has no field for are passed over, as a recipe serves
            several commands. The file is strict: a key that is no field of the command is an error.
    """

    def hook(app: "App", commands: tuple[str, ...], arguments: "ArgumentCollection") -> None:
        from cyclopts.argument import update_argument_collection

        if _config_file is not None:
            values = flatten(read_toml(_config_file))
            for key in values:
                if not _has(arguments, key):
                    options = {".".join(a.keys) or a.field_info.name for a in arguments if a.name != "*"}
                    raise _prefixed(f"{_config_file}: ", unknown("config key", key, options))
            update_argument_collection(values, str(_config_file), arguments, root_keys=(), allow_unknown=False)
        for argument in arguments:
            if recipe is not None and argument.field_info.name == "recipe":
                name = argument.tokens[0].value if argument.tokens else argument.field_info.default
                if isinstance(name, str):
                    values = {k: v for k, v in flatten(recipe(name)).items() if _has(arguments, k)}
                    update_argument_collection(values, f"recipe {name}", arguments, root_keys=(), allow_unknown=False)

    return hook


def _has(arguments: "ArgumentCollection", key: str) -> bool:
    try:
        arguments.match(f"--{key}")
    except ValueError:
        return False
    return True
