"""YAML as people expect it: YAML 1.2 scalars, keys that are text and stand once, errors with a place.

PyYAML follows YAML 1.1, where `1e-3` is text, and `no`, `on` and `y` are truth values; a config with a class
named `no` or a learning rate of `1e-3` would then mean something else than it says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from timelike.errors import ConfigError, require

__all__ = ["YamlDocument", "assignments", "parse_yaml", "read_yaml", "write_yaml"]

# At most as many digits as a double has before its point: of some thousands, Python raises.
_INT = re.compile(r"[-+]?[0-9]{1,308}|0o[0-7]{1,340}|0x[0-9a-fA-F]{1,255}")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
# What PyYAML finds for nodes without a tag, by YAML 1.1 (`_scalar` overrules it); any other was written out.
_KINDS = ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge", "value")
_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in _KINDS)
_MOST = 200_000  # values: with aliases of aliases a few lines stand for more than any memory holds
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass(frozen=True)
class YamlDocument:
    """The values of a YAML file and the line that each key stands on."""

    name: str  # what errors call the file
    values: dict[str, Any]
    lines: Mapping[tuple[str | int, ...], int] = field(default_factory=dict)  # path of keys -> line, from 1

    def where(self, path: Sequence[str | int] = ()) -> str:
        """File and line of a key, or of the nearest of the keys above it that has a line."""
        for depth in range(len(path), 0, -1):
            line = self.lines.get(tuple(path[:depth]))
            if line is not None:
                return f"{self.name}:{line}"
        return self.name


def read_yaml(path: Path) -> YamlDocument:
    """Read a YAML file that holds one mapping.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    YamlDocument
        Its values: mappings, lists, text, numbers, truth values and None.

    Raises
    ------
    ConfigError
        If the file cannot be read, is no YAML, holds a key twice, is no mapping, or has more than 200,000
        values.
    """
    yaml = require("yaml", "data")
    name = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{name}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not a text file in UTF-8 (byte {error.start})") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise ConfigError(f"{place}: not valid YAML: {_one_line(error.problem or error.context)}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {_one_line(str(error))}") from None
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply") from None
    if node is None:
        raise ConfigError(f"{name}: empty; a config with at least 'data' is needed")
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{name}: holds {_kind(node)}; a mapping of keys to values is needed")
    lines: dict[tuple[str | int, ...], int] = {}
    return YamlDocument(name, _construct(node, (), name, lines, frozenset()), lines)


def parse_yaml(text: str, name: str) -> Any:
    """Read one value as it would stand behind a key: a scalar, a list in brackets, a mapping in braces.

    Raises
    ------
    ConfigError
        If it is no YAML.

    Examples
    --------
    >>> parse_yaml("{name: sgd, learning_rate: 1e-2}", "--set")
    {'name': 'sgd', 'learning_rate': 0.01}
    """
    yaml = require("yaml", "data")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        reason = _one_line(str(getattr(error, "problem", None) or error))
        raise ConfigError(f"{name}: not valid YAML: {reason}") from None
    return None if node is None else _construct(node, (), name, {}, frozenset())


def assignments(texts: Sequence[str]) -> dict[str, Any]:
    """Read the ``key=value`` of options --set, each value as it would stand in a config.

    Raises
    ------
    ConfigError
        If one is no such thing.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {text}: KEY=VALUE is needed, like training.epochs=3")
        found[key.strip()] = parse_yaml(value, f"--set {text}")
    return found


def write_yaml(values: Mapping[str, Any]) -> str:
    """Write a mapping as YAML that `read_yaml` reads as the same values.

    Parameters
    ----------
    values : mapping
        Mappings, lists, text, numbers, truth values and None.

    Examples
    --------
    >>> print(write_yaml({"weights": "1e-3", "rate": 1e-3}), end="")
    weights: '1e-3'
    rate: 0.001
    """
    yaml = require("yaml", "data")

    class Dumper(yaml.SafeDumper):  # type: ignore[misc, name-defined]
        """PyYAML's, which quotes what YAML 1.1 takes for something else than text; some of 1.2 is missing."""

    def represent_text(dumper: Any, text: str) -> Any:
        plain = isinstance(_value_of(text), str)
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else "'")

    Dumper.add_representer(str, represent_text)
    written: str = yaml.dump(dict(values), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)
    return written


def _construct(
    node: Any,
    path: tuple[str | int, ...],
    name: str,
    lines: dict[tuple[str | int, ...], int],
    above: frozenset[int],
) -> Any:
    """Make Python values of a composed node; `above` are the nodes that it lies in."""
    line = node.start_mark.line + 1
    if id(node) in above:
        raise ConfigError(f"{name}:{line}: an alias that contains itself")
    if node.tag not in _TAGS:
        raise ConfigError(f"{name}:{line}: tag {node.tag!r} has no meaning in a config")
    if node.id == "scalar":
        return _scalar(node)
    if len(lines) > _MOST:
        raise ConfigError(f"{name}:{line}: more than {_MOST} values, aliases included")
    above = above | {id(node)}
    if node.id == "sequence":
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
        return [_construct(item, (*path, i), name, lines, above) for i, item in enumerate(node.value)]
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        at = f"{name}:{key_node.start_mark.line + 1}"
        if key_node.id != "scalar":
            raise ConfigError(f"{at}: {_kind(key_node)} as a key; a key is text")
        key = key_node.value
        if key in values:
            raise ConfigError(
                f"{at}: {'.'.join(map(str, (*path, key)))}: given twice, first on line {lines[(*path, key)]}"
            )
        lines[(*path, key)] = key_node.start_mark.line + 1
        values[key] = _construct(value_node, (*path, key), name, lines, above)
    return values


def _scalar(node: Any) -> Any:
    text: str = node.value
    # Quoted, or a block: text whatever it looks like.
    return text if node.style is not None else _value_of(text)


def _value_of(text: str) -> Any:
    """Give what a plain scalar stands for."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if _FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def _kind(node: Any) -> str:
    return {"scalar": "a single value", "sequence": "a list", "mapping": "a mapping"}[node.id]


def _one_line(text: str | None) -> str:
    return " ".join((text or "unknown error").split())
