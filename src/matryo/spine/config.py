"""Configs: frozen keyword-only dataclasses to TOML and back, strict both ways."""

import dataclasses
import hashlib
import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tomli_w

from matryo.spine.errors import unknown

T = TypeVar("T")


def to_dict(value: Any) -> Any:
    """Turn a config into plain values: nested dicts, lists, strings, numbers, booleans and None."""
    if _is_config(value):
        return {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_dict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_dict(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{value!r} is a {type(value).__name__}: a config holds plain values, paths and dataclasses")


def _is_config(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def from_dict(cls: type[T], data: Mapping[str, Any], where: str = "") -> T:
    """Build the config `cls` from plain values, nested as the dataclasses are, refusing what does not fit.

    Raises:
        ValueError: A field is unknown (the nearest is offered), missing or of the wrong type. The field is named,
            and `where` (such as a file name) before it.
    """
    return _read(cls, data, f"{where}: " if where else "", "")


def _read(hint: Any, value: Any, where: str, field: str) -> Any:
    origin, arms = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return _read_fields(hint, value, where, f"{field}." if field else "")
    if origin in (Union, UnionType):
        if NoneType in arms and (value is None or (value == "none" and str not in arms)):
            return None
        for arm in sorted((a for a in arms if a is not NoneType), key=lambda arm: arm is float):
            try:
                return _read(arm, value, where, field)
            except ValueError:
                if len(arms) == 2 and NoneType in arms:
                    raise
    elif origin is Literal:
        if any(value == arm and type(value) is type(arm) for arm in arms):
            return value
        raise ValueError(f"{where}{unknown(field, str(value), map(str, arms))}")
    elif origin in (tuple, list) and isinstance(value, list | tuple):
        each = arms if origin is tuple and arms[-1] is not ... else arms[:1] * len(value)
        if len(each) == len(value):
            items = enumerate(zip(each, value, strict=True))
            return origin(_read(arm, item, where, f"{field}[{i}]") for i, (arm, item) in items)
    elif origin is dict and isinstance(value, Mapping):
        return {key: _read(arms[1], item, where, f"{field}.{key}") for key, item in value.items()}
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif hint is Path and isinstance(value, str | Path):
        return Path(value)
    elif hint is Any or (hint in (bool, int, str, NoneType) and type(value) is hint):
        return value
    name = hint.__name__ if isinstance(hint, type) and not origin else str(hint)
    raise ValueError(f"{where}{field} = {value!r}: expected {name}, got {type(value).__name__}")


def _read_fields(cls: Any, data: Mapping[str, Any], where: str, dot: str) -> Any:
    hints, fields = get_type_hints(cls), {f.name: f for f in dataclasses.fields(cls)}
    for key in data:
        if key not in fields:
            raise ValueError(f"{where}{unknown('field', f'{dot}{key}', [f'{dot}{name}' for name in fields])}")
    values = {key: _read(hints[key], value, where, f"{dot}{key}") for key, value in data.items()}
    for name, f in fields.items():
        if name not in values and f.default is f.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where}the field {dot}{name} is missing: give it a value")
    return cls(**values)


def to_toml(cfg: Any, path: Path) -> None:
    """Write a config as TOML, atomically.

    TOML has no null: None is left out where it is the field's default, and the string "none" elsewhere.
    """
    write_text(path, tomli_w.dumps(_without_none(cfg)))


def _without_none(value: Any) -> Any:
    if _is_config(value):
        held = {f.name: (getattr(value, f.name), f.default) for f in dataclasses.fields(value)}
        value = {k: "none" if v is None and default is not None else v for k, (v, default) in held.items()}
    if isinstance(value, Mapping):
        return {str(key): _without_none(item) for key, item in value.items() if item is not None}
    return to_dict(value)


def from_toml(cls: type[T], path: Path) -> T:
    """Read the config `cls` from a TOML file; errors name the file and the field, as in `from_dict`."""
    return from_dict(cls, read_toml(path), where=str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; what is no TOML is a ValueError that names the file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from error


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
    return hashlib.sha256(json.dumps(to_dict(cfg), sort_keys=True).encode()).hexdigest()[:8]


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name every leaf of nested dicts by its dotted path."""
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
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    return [f"{key}: {old.get(key, 'absent')!r} -> {new.get(key, 'absent')!r}" for key in changed]
