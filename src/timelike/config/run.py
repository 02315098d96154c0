"""The whole config: sections put together, read from YAML, checked, written again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import (
    PrivateAttr,
    ValidationError,
    model_validator,
)

from timelike import __version__
from timelike.config.base import Section, Text
from timelike.config.data import DataConfig, SequenceConfig, SplitConfig
from timelike.config.network import NetworkConfig
from timelike.config.scan import ScanParameter
from timelike.config.task import check_task, with_defaults_of_task
from timelike.config.training import EvaluationConfig, TrainingConfig
from timelike.configerrors import first_error
from timelike.errors import ConfigError, nearest
from timelike.yamlfile import YamlDocument, read_yaml, write_yaml

__all__ = ["Config", "load_config"]


class Config(Section):
    """A whole run, from files to report.

    Examples
    --------
    >>> labels = {"qcd": "label == 0", "top": "label == 1"}
    >>> config = Config.from_dict({
    ...     "data": {"files": "jets.root", "variables": ["part_pt"], "labels": labels},
    ...     "training": {"epochs": 3},
    ... })
    >>> config.data.signal_name, config.training.epochs, config.network.recurrent[0].cell
    ('top', 3, 'lstm')
    """

    data: DataConfig
    sequence: SequenceConfig = SequenceConfig()
    split: SplitConfig = SplitConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    scan: dict[Text, ScanParameter] = {}  # by dotted key, such as training.optimiser.learning_rate
    output: Text = "runs/timelike"

    @model_validator(mode="after")
    def _check(self) -> Config:
        names = self.data.class_names
        check_task(self.data, self.network, self.training)
        if self.data.stream is not None and self.training.flatten:
            raise ValueError("data.stream: training.flatten needs all events in memory")
        counted = self.split.counts is not None
        if self.data.stream is not None and (counted or self.split.by in ("alternate", "block", "folds")):
            raise ValueError(
                f"split: {'counts' if counted else f'by: {self.split.by}'} needs all events in memory; "
                "with data.stream possible are by: event_number and by: random with fractions"
            )
        for part in ("train", "test") if self.split.counts else ():
            for name in getattr(self.split.counts, part):
                if name not in names:
                    raise ValueError(f"split.counts.{part}: {name!r} is not a class; {nearest(name, names)}")
        return self

    _base: Path = PrivateAttr(default=Path("."))

    @property
    def base(self) -> Path:
        """The folder that relative paths start from."""
        return self._base

    @property
    def run_folder(self) -> Path:
        """The folder that the results of this run are written to."""
        return Path(os.path.normpath(self._base / self.output))

    @classmethod
    def from_dict(
        cls,
        values: Mapping[str, Any],
        *,
        base: Path | str = ".",
        document: YamlDocument | None = None,
    ) -> Config:
        """Check a mapping of plain values (as from YAML or JSON) and make a config of it.

        Parameters
        ----------
        values : mapping
            The keys and values of a config.
        base : path
            The folder that relative paths start from.
        document : YamlDocument, optional
            Whose name and lines stand in errors.

        Raises
        ------
        ConfigError
            If a key does not exist or a value cannot be used.
        """
        of = document or YamlDocument("config", {})
        return _validated(YamlDocument(of.name, dict(values), of.lines), Path(base))

    def written_for(self, folder: Path) -> str:
        """Write the whole config, defaults included, as YAML text that works from another folder."""
        values = self.model_dump(mode="json", exclude={"scan"})  # a run is one point of it
        for section in ("data", "sequence"):  # where None means "not given"; elsewhere it is a choice
            values[section] = {
                key: value for key, value in values[section].items() if value not in (None, [], {})
            }
        for source in (values["data"], *values["data"].get("classes", {}).values()):
            source["files"] = [_relocated(name, self.base, folder) for name in source.get("files", [])]
        stream = values["data"].get("stream")
        if stream and isinstance(stream["spool"], str) and stream["spool"] != "auto":
            moved = _relocated(stream["spool"], self.base, folder)
            stream["spool"] = "./auto" if moved == "auto" else moved  # a folder of that name
        values["output"] = _relocated(self.output, self.base, folder)
        head = f"# Every value of this run, defaults included. Written by timelike {__version__}.\n"
        return head + write_yaml(values)


def _relocated(name: str, base: Path, folder: Path) -> str:
    return name if Path(name).is_absolute() else os.path.relpath(base / name, folder)


def load_config(path: Path | str, *, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a config from a YAML file.

    Parameters
    ----------
    path : path
        The file. Relative paths in it start from its folder.
    overrides : mapping, optional
        Values that replace those of the file, by dotted key: ``{"training.epochs": 3}``.

    Returns
    -------
    Config
        The checked config.

    Raises
    ------
    ConfigError
        If the file cannot be read or is no YAML, a key does not exist, or a value cannot be used: one line
        with the file, the line, the key, what was given and what is possible.
    """
    path = Path(path)
    document = read_yaml(path)
    for key, value in (overrides or {}).items():
        _override(document, key, value)
    return _validated(document, path.parent)


def _override(document: YamlDocument, key: str, value: Any) -> None:
    *sections, last = key.split(".")
    place: Any = document.values
    for depth, section in enumerate(sections):
        where = document.where(sections[: depth + 1])
        if isinstance(place, list):
            place = place[_index(section, place, f"{where}: {key}")]
        else:
            if place.get(section) is None:  # not there, or null as in `early_stopping: null`
                place[section] = {}
            place = place[section]
        if not isinstance(place, dict | list):
            raise ConfigError(f"{where}: {key}: {section!r} is neither a mapping nor a list")
    if isinstance(place, list):
        place[_index(last, place, f"{document.where(sections)}: {key}")] = value
    else:
        place[last] = value


def _index(text: str, values: list[Any], where: str) -> int:
    if not text.isdecimal() or int(text) >= len(values):
        raise ConfigError(f"{where}: {text!r}: the list has the entries 0..{len(values) - 1}")
    return int(text)


def _plain(value: Any) -> str:
    """Take a path as text; of other objects, a config made in Python must not have any."""
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    raise ConfigError(f"config: given {value!r}, a {type(value).__name__}; text, numbers, lists are possible")


def _validated(document: YamlDocument, base: Path) -> Config:
    try:
        # By way of JSON: in pydantic's strict mode a list is then good for a tuple, and nothing else changes.
        values = with_defaults_of_task(document.values)
        config = Config.model_validate_json(json.dumps(values, default=_plain))
    except ValidationError as error:
        raise ConfigError(first_error(error, document, Config)) from None
    config._base = base
    return config
