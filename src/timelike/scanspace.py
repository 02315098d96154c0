"""The space of a scan: which keys of a config take which values, and the config at a point of it.

The space is a mapping from dotted keys to ranges or choices, in a file of its own or under ``scan`` in the
config. A number in a key is a place in a list: ``network.recurrent.0.units``. All is checked as a config is
before anything runs: each key at both ends of its range and at each of its choices.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from timelike.config import Config, ScanParameter, ScanSpace
from timelike.configerrors import first_error
from timelike.errors import ConfigError
from timelike.yamlfile import YamlDocument, read_yaml

__all__ = ["Space"]

_NOT_OF_A_TRIAL = ("output", "scan", "evaluation")


@dataclass(frozen=True, eq=False)
class Space:
    """What a scan may change of a config, and the config without it; made by `Space.of`.

    Attributes
    ----------
    parameters : dict of str to ScanParameter
        By dotted key.
    whole : frozenset of str
        Keys of ranges in which whole numbers alone are tried.
    epochs : int
        The most that a training of any of the checked points may have.
    """

    parameters: dict[str, ScanParameter]
    _values: dict[str, Any]
    _base: Path
    _document: YamlDocument
    whole: frozenset[str] = field(default_factory=frozenset)
    epochs: int = 0

    @classmethod
    def of(cls, config: Config | str | Path, space: Mapping[str, Any] | str | Path | None = None) -> Space:
        """Bring config and space together, and check them.

        Parameters
        ----------
        config : Config or path
            The config, or its file.
        space : mapping or path, optional
            Ranges and choices by dotted key, or the file that holds them; else they are those under ``scan``
            in the config.

        Raises
        ------
        ConfigError
            If there is no space, a key does not exist, or a value cannot be used: with file, line and key.
        """
        if isinstance(config, Config):
            document = YamlDocument("config", config.model_dump(mode="json", exclude_unset=True))
            base = config.base
        else:
            document, base = read_yaml(Path(config)), Path(config).parent
        values = copy.deepcopy(document.values)
        inline = values.pop("scan", None)
        if space is None:
            if not inline:
                raise ConfigError(
                    f"{document.name}: no space to scan: give --space FILE, or a key 'scan' in it"
                )
            given = document
        else:
            given = _document(space)
        parameters = _parameters(given)
        made = cls(parameters, values, base, _for_errors(given, parameters))
        return made._checked()

    def at(self, point: Mapping[str, Any], output: Path | None = None) -> Config:
        """Give the config at a point.

        Parameters
        ----------
        point : mapping of str to value
            By dotted key.
        output : path, optional
            The run's folder.

        Raises
        ------
        ConfigError
            If that is no config.
        """
        values = copy.deepcopy(self._values)
        for key, value in point.items():
            self._put(values, key, value)
        if output is not None:
            values["output"] = str(output)
        return Config.from_dict(values, base=self._base, document=self._document)

    @property
    def first(self) -> dict[str, Any]:
        """A point: the lower end of each range, the first of choices."""
        return {key: _values(parameter)[0] for key, parameter in self.parameters.items()}

    def _checked(self) -> Space:
        """Check each parameter, with the others at their first values, and see which take whole numbers."""
        whole, epochs = set(), 0
        for key, parameter in self.parameters.items():
            if key.partition(".")[0] in _NOT_OF_A_TRIAL:
                raise ConfigError(f"{self._where(key)}: {key}: this is not what a trial can change")
            for value in _values(parameter):
                config = self.at({**self.first, key: value})
                epochs = max(epochs, sum(phase.epochs for phase in config.training.phases))
            if parameter.choices is None and self._takes_whole_numbers_only(key, parameter):
                whole.add(key)
        return Space(self.parameters, self._values, self._base, self._document, frozenset(whole), epochs)

    def _takes_whole_numbers_only(self, key: str, parameter: ScanParameter) -> bool:
        low, high, step = parameter.low, parameter.high, parameter.step
        if not all(isinstance(value, int | None) for value in (low, high, step)):
            return False
        assert low is not None
        assert high is not None
        try:
            self.at({**self.first, key: low + 0.5 * (high - low) + (0.25 if (high - low) % 2 == 0 else 0.0)})
        except ConfigError:
            return True
        return False

    def _put(self, values: Any, key: str, value: Any) -> None:
        *above, last = [int(part) if part.isdecimal() else part for part in key.split(".")]
        for part in above:
            if isinstance(part, int):
                values = self._entry(values, part, key)[part]
            else:
                values = values.setdefault(part, {}) if isinstance(values, dict) else None
                if values is None:
                    raise ConfigError(f"{self._where(key)}: {key}: {part!r} is in no mapping of the config")
        if isinstance(last, int):
            self._entry(values, last, key)[last] = value
        elif isinstance(values, dict):
            values[last] = value
        else:
            raise ConfigError(f"{self._where(key)}: {key}: {last!r} is in no mapping of the config")

    def _entry(self, values: Any, index: int, key: str) -> list[Any]:
        if not isinstance(values, list) or index >= len(values):
            raise ConfigError(
                f"{self._where(key)}: {key}: the config has no entry {index} there; write it out"
            )
        return values

    def _where(self, key: str) -> str:
        return self._document.where(_path(key))


def _values(parameter: ScanParameter) -> list[Any]:
    return list(parameter.choices) if parameter.choices is not None else [parameter.low, parameter.high]


def _path(key: str) -> tuple[str | int, ...]:
    return tuple(int(part) if part.isdecimal() else part for part in key.split("."))


def _document(space: Mapping[str, Any] | str | Path) -> YamlDocument:
    """Give a space as if it were in a config."""
    if isinstance(space, Mapping):
        return YamlDocument("space", {"scan": dict(space)})
    read = read_yaml(Path(space))
    lines = {("scan", *path): line for path, line in read.lines.items()}
    return YamlDocument(read.name, {"scan": read.values}, lines)


def _parameters(given: YamlDocument) -> dict[str, ScanParameter]:
    values = {"scan": given.values["scan"]}
    try:
        return ScanSpace.model_validate_json(json.dumps(values)).scan
    except ValidationError as error:
        raise ConfigError(
            first_error(error, YamlDocument(given.name, values, given.lines), ScanSpace)
        ) from None


def _for_errors(given: YamlDocument, parameters: Mapping[str, ScanParameter]) -> YamlDocument:
    """Let errors in what a point changes name the line where the space says so."""
    lines = {_path(key): line for key in parameters if (line := given.lines.get(("scan", key)))}
    return YamlDocument(given.name, {}, lines)
