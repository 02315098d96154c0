"""From pydantic's list of complaints to the one line that a user needs."""

from __future__ import annotations

import json
import re
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from timelike.errors import nearest
from timelike.yamlfile import YamlDocument

__all__ = ["first_error"]

_MUST = re.compile(r"^\w+ should")  # pydantic's "Input should be greater than 0", "String should have ..."
_KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "finite_number": "a finite number",
}


def first_error(error: ValidationError, document: YamlDocument, root: type[BaseModel]) -> str:
    """One line for the error that most likely caused the others: a misspelt key before a missing one."""
    errors = error.errors(include_url=False)
    # A list whose entries are bad is also called too short, which it is not.
    places = [e["loc"] for e in errors]
    errors = [e for e in errors if e["type"] != "too_short" or not any(_within(p, e["loc"]) for p in places)]
    errors.sort(key=lambda e: e["type"] != "extra_forbidden")
    first = errors[0]
    path = _path_in(document.values, first["loc"], missing=first["type"] == "missing")
    if first["type"] == "union_tag_invalid":
        path.append(first["ctx"]["discriminator"].strip("'"))
    place = f"{document.where(path)}: {'.'.join(map(str, path))}" if path else document.where()
    # A value of none of several kinds gives an error for each: they are one mistake.
    here = [e for e in errors if _path_in(document.values, e["loc"], missing=False) == path]
    needed = [what for e in here if (what := _needed(dict(e)))]
    if len(needed) > 1:
        kinds = list(dict.fromkeys(needed))
        reason = f"given {_shown(first['input'])}; {', '.join(kinds[:-1])} or {kinds[-1]} is needed"
    else:
        needed, reason = [""], _reason(dict(first), path, document.values, root)
    more = f" (and {len(errors) - len(needed)} more)" if len(errors) > len(needed) else ""
    return f"{place}: {reason}{more}"


def _needed(error: dict[str, Any]) -> str:
    """Name what a value should have been; nothing, for other mistakes than one of its kind."""
    if error["type"] == "literal_error":
        return str(error["ctx"]["expected"])
    return _KINDS.get(error["type"], "")


def _within(inner: tuple[str | int, ...], outer: tuple[str | int, ...]) -> bool:
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def _reason(
    error: dict[str, Any], path: list[str | int], values: dict[str, Any], root: type[BaseModel]
) -> str:
    kind, given, context = error["type"], error.get("input"), error.get("ctx", {})
    if kind == "extra_forbidden":
        known = _section_at(path[:-1], values, root).model_fields
        return f"unknown key; {nearest(str(path[-1]), known)}"
    if kind == "missing":
        return "this key is needed"
    if kind == "value_error":
        return str(context["error"])
    if kind in _KINDS:
        return f"given {_shown(given)}; {_KINDS[kind]} is needed"
    if kind == "literal_error":
        return f"given {_shown(given)}; {nearest(str(given), _quoted(context['expected']))}"
    if kind == "union_tag_invalid":
        return f"given {context['tag']!r}; {nearest(context['tag'], _quoted(context['expected_tags']))}"
    if kind == "too_short":
        return f"given {_shown(given)}; at least {context['min_length']} entry is needed"
    return f"given {_shown(given)}; {_MUST.sub('it must', error['msg'])}"


def _quoted(text: str) -> list[str]:
    """Names in a text such as "'relu', 'tanh' or 'elu'"."""
    return text.split("'")[1::2]


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _path_in(values: Any, loc: tuple[str | int, ...], *, missing: bool) -> list[str | int]:
    """Reduce pydantic's location to keys of the file: tags of unions and the like are not among them."""
    path: list[str | int] = []
    for depth, key in enumerate(loc):
        last = depth == len(loc) - 1
        in_list = isinstance(values, list) and isinstance(key, int) and key < len(values)
        if in_list or (isinstance(values, dict) and key in values):
            values = values[key]
            path.append(key)
        elif last and missing:
            path.append(key)
    return path


def _section_at(path: list[str | int], values: Any, root: type[BaseModel]) -> type[BaseModel]:
    """Find the section of the config that a path of keys leads to."""
    annotation: Any = root
    for key in path:
        options = _options(annotation)
        if get_origin(options[0]) is dict:
            annotation = get_args(options[0])[1]
        elif get_origin(options[0]) is tuple:
            annotation = get_args(options[0])[0]
        else:
            annotation = _chosen(options, values).model_fields[str(key)].annotation
        values = values[key]
    return _chosen(_options(annotation), values)


def _options(annotation: Any) -> list[Any]:
    """List the alternatives of a union, its decorations taken off."""
    if get_origin(annotation) in (Annotated, Union, UnionType):
        alternatives = get_args(annotation)[: 1 if get_origin(annotation) is Annotated else None]
        return [option for alternative in alternatives for option in _options(alternative)]
    return [annotation]


def _chosen(options: list[Any], values: Any) -> type[BaseModel]:
    """Choose the alternative that the key `name` or `cell` names; the first where there is none."""
    sections: list[type[BaseModel]] = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
    for section in sections:
        for key in ("name", "cell"):
            field = section.model_fields.get(key)
            if field is not None and values.get(key) in get_args(field.annotation):
                return section
    return sections[0]
