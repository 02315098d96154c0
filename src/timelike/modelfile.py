"""The model file: one safetensors file whose header says, as JSON, all that is needed to apply the weights.

NumPy and safetensors are enough to read it; nothing in it can run code. The header's text under the key
"timelike" holds

- ``format_version``: raised when an older reader could not use the file any more;
- ``timelike_version``: what wrote it;
- ``network``: the network as in a config; it fixes the name and shape of every tensor (`expected_shapes`);
- ``variables``, ``transforms``: the variables of each step, in order, and what is done to them;
- ``inputs``: what the network reads of that, where it is not the same;
- ``classes``, ``signal``: names of the scores;
- ``data``, ``sequence``: how events are read, as in a config;
- ``training``: the record of the training;
- ``stored``, where matrices are small (`timelike.smallweights`): ``as``, int8 or float16, and the ``dtype``
  that they stand for, in which they are given when the file is read;
- ``ensemble``, where the file holds the networks of a cross validation: ``folds`` (``number``, and the
  expression ``by``), and ``members``, of each its ``transforms`` and ``training``. Tensors of member k have
  ``fold.{k}.`` before their names; ``transforms`` above is then empty, and all else is common to them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike import __version__
from timelike.cells import cell_of, parameter_shapes
from timelike.errors import ConfigError, DataError, ModelFileError
from timelike.files import replacing
from timelike.modelheader import LENGTH, brief, check_network, parsed
from timelike.smallweights import SMALL, decoded, encoded

__all__ = ["FORMAT_VERSION", "ModelFile", "expected_shapes", "read_model_file", "write_model_file"]

FORMAT_VERSION = 3  # the newest: of small weights; an ensemble is still written as 2, and one network as 1

_KEY = "timelike"
_MEANING: dict[str, type] = {  # key of the header -> what stands there
    "timelike_version": str,
    "network": dict,
    "variables": list,
    "transforms": dict,
    "classes": list,
    "signal": str,
    "data": dict,
    "sequence": dict,
    "training": dict,
}


@dataclass(frozen=True)
class ModelFile:
    """What a model file holds."""

    weights: dict[str, npt.NDArray[Any]]  # by the names of `expected_shapes`, in float32 or float64
    meta: dict[str, Any]  # the header, see the module; without ``stored``
    stored: str = ""  # how matrices are stored where they are small: int8, float16


def expected_shapes(
    network: Mapping[str, Any], n_variables: int, n_classes: int
) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor of a network.

    Recurrent layer `l` has torch's names: ``recurrent.{l}.weight_ih_l0`` is [G H, D], ``weight_hh_l0`` is
    [G H, R], and two biases are [G H], with whatever else belongs to the cell (`timelike.cells`); names with
    ``_reverse`` belong to the backward direction. Dense layer `k` of the head has ``head.{k}.weight``
    [out, in] and ``head.{k}.bias`` [out], and where its inputs are normalised ``norms.{k}.weight``, ``bias``,
    ``running_mean`` and ``running_var`` [in].

    Parameters
    ----------
    network : mapping
        The network as in a config.
    n_variables : int
        Inputs of each step.
    n_classes : int
        Classes, labels or targets; of targets with quantiles there is a score for each of these.

    Examples
    --------
    >>> network = {"recurrent": [{"cell": "lstm", "units": 3, "bidirectional": False}], "head": {"units": []}}
    >>> expected_shapes(network, 5, 2)["recurrent.0.weight_ih_l0"]
    (12, 5)
    """
    shapes: dict[str, tuple[int, ...]] = {}
    size = n_variables
    for index, layer in enumerate(network["recurrent"]):
        cell, proj_size, n_biases = cell_of(layer)
        directions = ("", "_reverse") if layer["bidirectional"] else ("",)
        of_layer = parameter_shapes(cell, size, layer["units"], proj_size=proj_size, n_biases=n_biases)
        for suffix in directions:
            shapes |= {f"recurrent.{index}.{name}_l0{suffix}": shape for name, shape in of_layer.items()}
        size = (proj_size or layer["units"]) * len(directions)
    size *= network.get("steps") or 1
    head = network["head"]
    n_scores = 1 if head.get("output") == "sigmoid" else n_classes * (len(head.get("quantiles") or ()) or 1)
    normed = (head.get("batch_norm") or {}).get("before", ())
    for index, units in enumerate((*head["units"], n_scores)):
        if index in normed:
            names = ("weight", "bias", "running_mean", "running_var")
            shapes |= {f"norms.{index}.{name}": (size,) for name in names}
        shapes[f"head.{index}.weight"] = (units, size)
        shapes[f"head.{index}.bias"] = (units,)
        size = units
    return shapes


def write_model_file(
    path: str | os.PathLike[str],
    weights: Mapping[str, npt.NDArray[Any]],
    meta: Mapping[str, Any],
    *,
    store: str = "",
) -> None:
    """Write a model file; whoever reads meanwhile sees the old one or the whole new one.

    Parameters
    ----------
    path : path
        The file.
    weights : mapping of str to array
        Tensors by the names of `expected_shapes`.
    meta : mapping
        The header, without the versions, which are added.
    store : {"", "int8", "float16"}
        How matrices are stored, where not as they are.

    Raises
    ------
    ConfigError
        If the file cannot be written there, or its header would be longer than what is read.
    DataError
        If a weight has no small form.
    """
    from safetensors.numpy import save

    version = FORMAT_VERSION if store else 2 if "ensemble" in meta else 1
    if store:
        meta = {**meta, "stored": {"as": store, "dtype": next(iter(weights.values())).dtype.name}}
        weights = encoded(weights, store)
    header = {"format_version": version, "timelike_version": __version__, **meta}
    text = json.dumps(header, ensure_ascii=False, allow_nan=False)
    if len(text) > LENGTH:
        raise ConfigError(
            f"cannot write {path}: its header would have {len(text)} characters; {LENGTH} are read"
        )
    # safetensors stores memory as it lies, whatever the strides say
    content = save({k: np.ascontiguousarray(v) for k, v in weights.items()}, metadata={_KEY: text})
    with replacing(path) as part:
        part.write_bytes(content)


def read_model_file(path: str | os.PathLike[str]) -> ModelFile:
    """Read a model file and check it whole.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    ModelFile
        Its weights and its header.

    Raises
    ------
    ModelFileError
        If the file is missing, damaged, foreign, or from a newer version: one line with the file and why.
    """
    path = Path(path)
    weights, text = _open(path)
    if text is None:
        raise ModelFileError(
            f"{path}: a safetensors file, but not a timelike model (no key {_KEY!r} in its header)"
        )
    meta = _header(text, path)
    stored = meta.pop("stored", None)
    if stored is not None:
        weights = _full(weights, stored, path)
    _check_tensors(weights, meta, path)
    return ModelFile(weights, meta, "" if stored is None else stored["as"])


def _open(path: Path) -> tuple[dict[str, npt.NDArray[Any]], str | None]:
    from safetensors import SafetensorError, safe_open

    try:
        path.open("rb").close()  # for the operating system's own words
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(_KEY)
            return {name: file.get_tensor(name) for name in file.keys()} if text else {}, text  # noqa: SIM118
    except OSError as error:
        raise ModelFileError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except (SafetensorError, TypeError, AttributeError) as error:
        # The last two: a tensor of a type that NumPy does not know.
        reason = "damaged or cut short" if _begins_well(path) else "not a safetensors file"
        raise ModelFileError(f"{path}: {reason} ({_one_line(error)})") from None


def _begins_well(path: Path) -> bool:
    """Whether a file begins as a safetensors file does: 8 bytes of length, then JSON."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _one_line(said: Exception | str) -> str:
    return " ".join(str(said).split())[:300]


def _header(text: str, path: Path) -> dict[str, Any]:
    try:
        meta = parsed(text)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from None
    version = meta.get("format_version") if isinstance(meta, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ModelFileError(f"{path}: the header has no format_version; it was not written by timelike")
    if version > FORMAT_VERSION:
        writer = str(meta.get("timelike_version", "unknown"))[:40]
        raise ModelFileError(
            f"{path}: written by timelike {_one_line(writer)} in model format {version}; "
            f"this is timelike {__version__}, which reads up to {FORMAT_VERSION}: install a newer one"
        )
    for key, kind in _MEANING.items():
        if key not in meta:
            raise ModelFileError(f"{path}: the header lacks {key!r}")
        if not isinstance(meta[key], kind):
            raise ModelFileError(f"{path}: {key!r} in the header is no {kind.__name__}")
    for key in ("variables", "classes", *(["inputs"] if "inputs" in meta else [])):
        if (
            not isinstance(meta[key], list)
            or not meta[key]
            or not all(isinstance(name, str) for name in meta[key])
        ):
            raise ModelFileError(f"{path}: {key!r} in the header is no list of names")
    if meta["signal"] not in meta["classes"]:
        raise ModelFileError(f"{path}: signal {brief(meta['signal'])} in the header is not among the classes")
    if "ensemble" in meta:
        _check_ensemble(meta["ensemble"], path)
    return dict(meta)


def _full(tensors: Mapping[str, npt.NDArray[Any]], stored: Any, path: Path) -> dict[str, npt.NDArray[Any]]:
    """Give the weights that small ones stand for."""
    known = isinstance(stored, dict) and stored.get("as") in SMALL
    if not known or stored.get("dtype") not in ("float32", "float64"):
        raise ModelFileError(f"{path}: 'stored' in the header does not say how weights are stored")
    try:
        return decoded(tensors, stored["dtype"])
    except DataError as error:
        raise ModelFileError(f"{path}: {error}") from None


def _check_ensemble(given: Any, path: Path) -> None:
    """Refuse an ensemble whose members cannot be told."""
    folds = given.get("folds") if isinstance(given, dict) else None
    members = given.get("members") if isinstance(given, dict) else None
    if not isinstance(folds, dict) or not isinstance(members, list) or len(members) != folds.get("number"):
        raise ModelFileError(f"{path}: 'ensemble' in the header lacks its folds, or a member for each")
    if isinstance(folds["number"], bool) or not members or not isinstance(folds.get("by"), str | None):
        raise ModelFileError(f"{path}: 'ensemble' in the header: folds that are not {{number, by}}")
    for k, member in enumerate(members):
        for key in ("transforms", "training"):
            if not isinstance(member, dict) or not isinstance(member.get(key), dict):
                raise ModelFileError(f"{path}: member {k} of 'ensemble' in the header lacks {key!r}")


def _check_tensors(weights: Mapping[str, npt.NDArray[Any]], meta: Mapping[str, Any], path: Path) -> None:
    try:
        check_network(meta["network"])
        inputs = meta.get("inputs", meta["variables"])
        shapes = expected_shapes(meta["network"], len(inputs), len(meta["classes"]))
        if "ensemble" in meta:
            members = range(len(meta["ensemble"]["members"]))
            shapes = {f"fold.{k}.{name}": shape for k in members for name, shape in shapes.items()}
    except (ConfigError, ModelFileError) as error:
        raise ModelFileError(f"{path}: 'network' in the header: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{path}: 'network' in the header is incomplete ({_one_line(error)})") from None
    if meta["network"]["head"].get("output") == "sigmoid" and len(meta["classes"]) != 2:
        raise ModelFileError(
            f"{path}: one sigmoid in the header, and {len(meta['classes'])} classes; it tells two"
        )
    for name, shape in shapes.items():
        if name not in weights:
            raise ModelFileError(f"{path}: tensor {name!r} is missing")
        if weights[name].shape != shape:
            raise ModelFileError(f"{path}: tensor {name!r} has shape {weights[name].shape}, expected {shape}")
    for name, weight in weights.items():
        if name not in shapes:
            raise ModelFileError(f"{path}: tensor {brief(name)} does not belong to the network")
        if weight.dtype not in (np.float32, np.float64):
            raise ModelFileError(f"{path}: tensor {name!r} is {weight.dtype}, expected float32 or float64")
        if not np.isfinite(weight).all():
            raise ModelFileError(f"{path}: tensor {name!r} holds a value that is not finite")
    if len({weight.dtype for weight in weights.values()}) > 1:
        raise ModelFileError(f"{path}: tensors of float32 and of float64; expected one of them")
