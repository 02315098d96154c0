"""Files of Keras 3, opened without Keras and without running anything that is in them.

A ``.keras`` file is a zip with ``config.json``, which describes the layers, and ``model.weights.h5``;
``.weights.h5`` alone is the second. Both are read here into memory, up to a limit, whatever sizes they
declare: an archive that unpacks to more is refused. Of the HDF5 file only plain arrays are read: no links to
elsewhere, no external or virtual storage, no filters, and no array whose declared shape is not what the layer
needs and the file holds.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike.errors import ModelFileError, require

__all__ = ["MAX_BYTES", "Archive", "open_archive"]

Array = npt.NDArray[Any]

MAX_BYTES = 256 << 20
"""Size up to which the weights are read: 256 MiB, some 67 million numbers."""

_MAX_CONFIG = 16 << 20
_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError)

_BROKEN_HDF5 = (OSError, LookupError, RuntimeError, ValueError, TypeError, ArithmeticError, MemoryError)


@dataclass(frozen=True, eq=False)
class Archive:
    """The configuration of a model, and its weights by their place in the HDF5 file."""

    path: Path
    config: dict[str, Any]
    weights: Any  # h5py.File

    def arrays(self, place: str, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        """Read the variables of a layer.

        Parameters
        ----------
        place : str
            The layer's group: "layers/lstm/cell".
        shapes : sequence of tuple of int
            What each variable must be; further ones are left.

        Returns
        -------
        list of array
            float32 or float64.

        Raises
        ------
        ModelFileError
            If one is missing, no plain array of numbers, or of another shape.
        """
        return [self._array(f"{place}/vars/{k}", shape) for k, shape in enumerate(shapes)]

    def _array(self, place: str, shape: tuple[int, ...]) -> Array:
        h5py = require("h5py", "keras")
        try:
            node = self.weights
            for name in place.split("/"):
                if not isinstance(node, h5py.Group) or not isinstance(
                    node.get(name, getlink=True), h5py.HardLink
                ):
                    raise self.error(f"weights: {place} is missing")
                node = node[name]
            if not isinstance(node, h5py.Dataset):
                raise self.error(f"weights: {place} is no array")
            if node.shape != shape:
                raise self.error(f"weights: {place} has shape {node.shape}, expected {shape}")
            if node.dtype.kind != "f" or node.dtype.itemsize not in (4, 8):
                raise self.error(f"weights: {place} is {node.dtype}; possible: float32, float64")
            creation = node.id.get_create_plist()
            plain = creation.get_layout() in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT)
            stored = node.id.get_storage_size()
            if not plain or creation.get_external_count() or stored != node.size * node.dtype.itemsize:
                raise self.error(f"weights: {place} is no plain array inside the file")
            array = np.asarray(node[()]).astype(node.dtype.newbyteorder("="))
        except _BROKEN_HDF5 as error:
            if isinstance(error, ModelFileError):
                raise
            raise self.error(f"weights: {place} cannot be read ({_one_line(error)})") from None
        if not np.isfinite(array).all():
            raise self.error(f"weights: {place} has numbers that are not finite")
        return array

    def error(self, problem: str) -> ModelFileError:
        """Make an error about this file."""
        return ModelFileError(f"{self.path}: {problem}")


def open_archive(
    path: str | os.PathLike[str],
    config: str | os.PathLike[str] | None = None,
    *,
    max_bytes: int = MAX_BYTES,
) -> Archive:
    """Open a file of Keras.

    Parameters
    ----------
    path : path
        ``.keras``, or ``.weights.h5``.
    config : path, optional
        With ``.weights.h5`` the model's ``to_json()``, in a file.
    max_bytes : int
        Size up to which the weights are read.

    Raises
    ------
    ModelFileError
        If a file is missing, damaged, too large, or another kind of file.
    MissingExtraError
        If h5py is not installed.
    """
    path = Path(path)
    if path.name.endswith(".keras"):
        if config is not None:
            raise ModelFileError(f"{path}: has its own configuration; no other can be given")
        text, content = _unzipped(path, max_bytes)
        described = path
    elif path.name.endswith(".weights.h5"):
        if config is None:
            raise ModelFileError(
                f"{path}: holds weights alone; give the model's configuration, a file with its to_json()"
            )
        described = Path(config)
        text, content = _whole(described, _MAX_CONFIG), _whole(path, max_bytes)
    else:
        raise ModelFileError(
            f"{path}: no file of Keras 3 by its name; possible: .keras, and .weights.h5 with a configuration"
        )
    return Archive(path, _parsed(text, described), _opened(content, path))


def _whole(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise ModelFileError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    if len(content) > limit:
        raise ModelFileError(f"{path}: larger than {limit} bytes, the most that is read")
    return content


def _unzipped(path: Path, max_bytes: int) -> tuple[bytes, bytes]:
    content = _whole(path, max_bytes + _MAX_CONFIG)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return (
                _member(archive, _CONFIG, _MAX_CONFIG, path),
                _member(archive, _WEIGHTS, max_bytes, path),
            )
    except _BROKEN_ZIP as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"{path}: no zip archive, or a damaged one ({_one_line(error)})") from None


def _member(archive: zipfile.ZipFile, name: str, limit: int, path: Path) -> bytes:
    if name not in archive.namelist():
        raise ModelFileError(f"{path}: no {name} in the archive; it was not saved by Keras 3")
    with archive.open(name) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ModelFileError(f"{path}: {name} unpacks to more than {limit} bytes, the most that is read")
    return content


def _parsed(text: bytes, path: Path) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: the configuration is not valid JSON ({_one_line(error)})") from None
    if not isinstance(config, dict):
        raise ModelFileError(f"{path}: the configuration is no JSON object")
    return config


def _opened(content: bytes, path: Path) -> Any:
    h5py = require("h5py", "keras")
    try:
        return h5py.File(io.BytesIO(content), "r")
    except _BROKEN_HDF5 as error:
        raise ModelFileError(f"{path}: the weights are no HDF5, or damaged ({_one_line(error)})") from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
