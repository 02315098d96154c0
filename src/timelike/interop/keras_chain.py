"""The layers of a configuration of Keras, one behind the other, with where their weights are.

A Sequential model is a chain as it stands. A Functional one is a graph, which must be a chain too; the nodes
by which Keras computes the mask of a Masking layer (NotEqual, Any) are beside it, and are checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike.errors import ConfigError, ModelFileError, nearest
from timelike.interop.keras_archive import Archive

__all__ = ["IGNORED", "Item", "chain"]

# Layer -> its name among the weights. Others have none that are read.
_GROUPS = {
    "LSTM": "lstm",
    "GRU": "gru",
    "SimpleRNN": "simple_rnn",
    "Bidirectional": "bidirectional",
    "Dense": "dense",
    "BatchNormalization": "batch_normalization",
    "Normalization": "normalization",
}
IGNORED = ("Dropout", "SpatialDropout1D", "GaussianNoise", "GaussianDropout", "ActivityRegularization")
"""Layers that do nothing in inference."""
_OTHERS = ("Masking", "Rescaling", "GlobalAveragePooling1D", "GlobalMaxPooling1D", "Flatten", "Activation")
_KNOWN = (*_GROUPS, *_OTHERS, *IGNORED, "InputLayer")
_MASKS = ("NotEqual", "Any")
_DTYPES = ("float32", "float64")
_MOST_LAYERS, _MOST_UNITS = 1000, 1 << 20


@dataclass(frozen=True, eq=False)
class Item:
    """A layer of a configuration."""

    archive: Archive
    kind: str  # its class
    name: str
    config: dict[str, Any]
    place: str  # of its weights

    def refusal(self, how: str) -> ConfigError:
        """Make the error for a layer that has no counterpart as it is."""
        return ConfigError(f"{self.archive.path}: layer {short(self.name)}: {self.kind} {how}")

    def unknown(self) -> ConfigError:
        """Make the error for a layer that has no counterpart at all."""
        where = f"{self.archive.path}: layer {short(self.name)}"
        if self.kind == "Lambda":
            return ConfigError(f"{where}: a Lambda holds code, and code of a file is never run")
        return ConfigError(f"{where}: no counterpart of {short(self.kind)}; {nearest(self.kind, _KNOWN)}")

    def wrong(self, key: str, expected: str) -> ModelFileError:
        """Make the error for a value that is none of those that Keras writes."""
        given = short(self.config.get(key))
        return self.archive.error(f"layer {short(self.name)}: {key} is {given}, expected {expected}")

    def flag(self, key: str) -> bool:
        """Give a value that is true or false; false where it is missing."""
        value = self.config.get(key, False)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def integer(self, key: str) -> int:
        """Give a number of units."""
        value = self.config.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _MOST_UNITS:
            raise self.wrong(key, f"a number from 1 to {_MOST_UNITS}")
        return value

    def number(self, key: str) -> float:
        """Give a finite number."""
        value = self.config.get(key)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not _finite(value):
            raise self.wrong(key, "a finite number")
        return float(value)

    def numbers(self, key: str) -> npt.NDArray[np.float64]:
        """Give a finite number, or a list of as many as there are features."""
        value = self.config.get(key)
        while isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
            value = value[0]  # the axes of batch and steps
        flat = value if isinstance(value, list) else [value]
        if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and _finite(v) for v in flat):
            raise self.wrong(key, "a finite number, or one of each feature")
        return np.array(flat, np.float64)

    def choice(self, key: str, possible: Sequence[str]) -> str:
        """Give a name that is among those that have a counterpart."""
        value = self.config.get(key)
        if value not in possible:
            raise self.refusal(f"with {key}={short(value)}; possible: {', '.join(possible)}")
        return str(value)

    def inner(self, key: str, place: str) -> Item:
        """Give a layer within this one."""
        return _item(self.archive, self.config.get(key), f"{self.place}/{place}", self.name)


def chain(archive: Archive) -> tuple[int | None, int, list[Item]]:
    """Give the layers of a model in their order.

    Returns
    -------
    steps : int or None
        Steps of the input, where they are fixed.
    n_variables : int
    items : list of Item
        Without the input.

    Raises
    ------
    ModelFileError
        If the configuration is none of Keras.
    ConfigError
        If it is no chain of layers.
    """
    kind, config = archive.config.get("class_name"), archive.config.get("config")
    if kind not in ("Sequential", "Functional"):
        raise ConfigError(f"{archive.path}: a model of class {short(kind)}; possible: Sequential, Functional")
    layers = config.get("layers") if isinstance(config, dict) else None
    if not isinstance(config, dict) or not isinstance(layers, list) or len(layers) > _MOST_LAYERS:
        raise archive.error(f"the configuration has no list of at most {_MOST_LAYERS} layers")
    counted: dict[str, int] = {}
    items = []
    for layer in layers:
        name = layer.get("class_name") if isinstance(layer, dict) else None
        group = _GROUPS.get(name, "") if isinstance(name, str) else ""
        number = counted.setdefault(group, 0)
        counted[group] += 1
        items.append(_item(archive, layer, f"layers/{group}" + (f"_{number}" if number else ""), ""))
    if kind == "Functional":
        items = _in_a_row(archive, config, layers, items)
    shape = config.get("build_input_shape")
    if items and items[0].kind == "InputLayer":
        shape = items.pop(0).config.get("batch_shape")
    steps, size = _input(archive, shape)
    return steps, size, items


def _item(archive: Archive, layer: Any, place: str, outer: str) -> Item:
    config = layer.get("config") if isinstance(layer, dict) else None
    kind = layer.get("class_name") if isinstance(layer, dict) else None
    if not isinstance(config, dict) or not isinstance(kind, str):
        raise archive.error(f"a layer {f'in {short(outer)} ' if outer else ''}without class_name and config")
    item = Item(archive, kind, str(config.get("name", layer.get("name", outer))), config, place)
    dtype = config.get("dtype", "float32")
    if isinstance(dtype, dict):
        dtype = dtype["config"].get("name") if isinstance(dtype.get("config"), dict) else None
    if dtype not in _DTYPES and kind not in _MASKS:
        raise item.refusal(f"in {short(dtype)}; possible: {', '.join(_DTYPES)}")
    return item


def _input(archive: Archive, shape: Any) -> tuple[int | None, int]:
    """Give steps and variables of the input [batch, steps, variables]."""
    if not isinstance(shape, list) or len(shape) != 3:
        raise ConfigError(
            f"{archive.path}: an input of shape {short(shape)}; possible: [batch, steps, variables]"
        )
    for value in shape[1:]:
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise archive.error(f"an input of shape {short(shape)}")
    if shape[2] is None or shape[2] > _MOST_UNITS:
        raise ConfigError(f"{archive.path}: an input of shape {short(shape)}: the variables must be counted")
    return shape[1], shape[2]


def _in_a_row(
    archive: Archive, config: dict[str, Any], layers: Sequence[Any], items: Sequence[Item]
) -> list[Item]:
    """Check that a graph is a chain, and leave the nodes of masks out."""
    row: list[Item] = []
    masks: dict[str, str] = {}  # name of a node -> its class
    for layer, item in zip(layers, items, strict=True):
        if item.kind not in (*_KNOWN, *_MASKS):
            raise item.unknown()
        sources, masked_by = _sources(archive, layer, item)
        for name in masked_by:
            if masks.get(name) != "Any":
                raise item.refusal(f"with a mask of {short(name)}, which is not that of a Masking layer")
        if item.kind in _MASKS:
            of = masks.get(sources[0]) if sources else None
            from_input = len(row) >= 1 and row[0].kind == "InputLayer" and sources == [row[0].name]
            if not (from_input if item.kind == "NotEqual" else of == "NotEqual"):
                raise item.refusal("apart from the mask of a Masking layer at the input")
            masks[item.name] = item.kind
            continue
        if sources != ([row[-1].name] if row else []):
            raise item.refusal("in a graph with branches; possible: one layer behind the other")
        row.append(item)
    if masks and not any(item.kind == "Masking" for item in row):
        raise ConfigError(f"{archive.path}: masks without a Masking layer; possible: Masking at the input")
    ends = [_end(config.get(key)) for key in ("input_layers", "output_layers")]
    if not row or ends != [row[0].name, row[-1].name]:
        raise ConfigError(f"{archive.path}: inputs and outputs are not the two ends of one chain of layers")
    return row


def _end(given: Any) -> Any:
    """Give the name in [name, 0, 0], or in a list of one such."""
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], list):
        given = given[0]
    return given[0] if isinstance(given, list) and given and given[1:] == [0, 0] else None


def _sources(archive: Archive, layer: dict[str, Any], item: Item) -> tuple[list[str], list[str]]:
    """Give the names of the layers whose output a layer reads, and of those that give its mask."""
    calls = layer.get("inbound_nodes")
    if not isinstance(calls, list) or len(calls) > 1:
        raise item.refusal("called more than once; possible: one layer behind the other")
    if not calls:
        return [], []
    call = calls[0]
    args, kwargs = (call.get(k) if isinstance(call, dict) else None for k in ("args", "kwargs"))
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise archive.error(f"layer {short(item.name)}: inbound_nodes without args and kwargs")
    # `training` off is what inference is; the mask is looked at below.
    idle = (("training", False), ("mask", kwargs.get("mask")))
    plain = {k: v for k, v in kwargs.items() if v is not None and (k, v) not in idle}
    numbers = [a for a in args if isinstance(a, (int, float))]
    if plain or (numbers and item.kind != "NotEqual"):
        raise item.refusal("called with options; possible: one layer behind the other")
    return [name for a in args for name in _histories(a)], list(_histories(kwargs.get("mask")))


def _histories(value: Any) -> Iterator[str]:
    """Give the layers from which the tensors in a description of arguments come."""
    if isinstance(value, list):
        for one in value:
            yield from _histories(one)
    elif isinstance(value, dict):
        config = value.get("config")
        history = config.get("keras_history") if isinstance(config, dict) else None
        if isinstance(history, list) and history[1:] == [0, 0]:
            yield str(history[0])
        else:
            yield "?"


def _finite(value: float) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def short(value: Any) -> str:
    """Give a value of a file for an error: in one line, and not long.

    Examples
    --------
    >>> short("Dense" * 30)
    "'DenseDenseDenseDenseDenseDenseDenseDen..."
    """
    text = repr(value)
    return text if len(text) <= 42 else text[:39] + "..."
