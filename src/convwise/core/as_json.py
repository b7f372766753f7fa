"""Any record as plain JSON values, and back: by its fields and their annotations, or in its own
form where it has `to_json` and `from_json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, fields
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints


def _key(declared: Field[Any]) -> str:
    """The name of a field in JSON: its own, or the one that older files have."""
    return str(declared.metadata.get("key", declared.name))


def to_json(record: Any) -> Any:
    """The record as plain JSON values, in its own form where it has one."""
    if hasattr(record, "to_json"):
        return record.to_json()
    if isinstance(record, Mapping):
        return {str(key): to_json(value) for key, value in record.items()}
    if hasattr(record, "__dataclass_fields__"):
        return {_key(each): to_json(getattr(record, each.name)) for each in fields(record)}
    if isinstance(record, (list, tuple)):
        return [to_json(value) for value in record]
    return record


def from_json(kind: Any, data: Any) -> Any:
    """The inverse of `to_json` for the record type (or annotation) `kind`."""
    if data is None or kind is Any:
        return tuple(data) if isinstance(data, list) else data
    if hasattr(kind, "from_json"):
        return kind.from_json(data)
    if hasattr(kind, "__dataclass_fields__"):
        kinds = get_type_hints(kind)
        known = {each.name: _key(each) for each in fields(kind)}
        given = {name: data[key] for name, key in known.items() if key in data}
        return kind(**{name: from_json(kinds[name], value) for name, value in given.items()})
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple:
        inner = arguments if arguments[-1] is not Ellipsis else (arguments[0],) * len(data)
        return tuple(from_json(each, value) for each, value in zip(inner, data, strict=True))
    if origin is UnionType:
        return from_json(next(each for each in arguments if each is not type(None)), data)
    return data
