"""A model file, ready to score: `load` and what it gives.

Sizes: `B` sequences, `N` rows (the steps of all of them), `T` steps, `D` variables, `C` scores.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from timelike.description import describe
from timelike.errors import ConfigError, DataError, ModelFileError
from timelike.modelfile import ModelFile, read_model_file
from timelike.scorer.prepared import Prepared, Together
from timelike.scorer.streams import Streams
from timelike.sequences import Sequences

__all__ = ["Scorer", "load"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


class _Folds(NamedTuple):
    number: int
    by: str | None


Given: TypeAlias = "Sequences | Array | Sequence[npt.ArrayLike]"


def load(path: str | os.PathLike[str]) -> Scorer:
    """Read a model file and prepare it for scoring, without PyTorch.

    Parameters
    ----------
    path : path
        As `timelike train` writes it, of one network or of an ensemble.

    Returns
    -------
    Scorer

    Raises
    ------
    ModelFileError
        If the file is missing, damaged, foreign, or from a newer version: one line with the file and why.

    Examples
    --------
    >>> import timelike
    >>> timelike.load("nowhere.safetensors")
    Traceback (most recent call last):
    timelike.errors.ModelFileError: nowhere.safetensors: no such file or directory
    """
    file = read_model_file(path)
    try:
        return Scorer(file)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: the header cannot be used: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        why = " ".join(str(error).split())
        raise ModelFileError(f"{path}: the header cannot be used: {type(error).__name__} for {why}") from None


class Scorer:
    """A trained model that gives scores of NumPy arrays; made by `load`.

    Nothing in it changes after it is made: any number of threads may use one at a time. It may be pickled,
    and it survives ``fork``.

    Attributes
    ----------
    variables : tuple of str
        Inputs of each step, in the order of the columns of an array.
    output_names : tuple of str
        Names of the C numbers that `predict` gives: classes, labels, targets, or quantiles of targets.
    class_names : tuple of str
        Classes, labels or targets.
    signal : str
        The class whose score is the discriminant.
    dtype : dtype
        Of the weights.
    per_step : bool
        Whether each step has scores of its own.
    n_networks : int
        1, or the members of an ensemble.
    n_parameters : int
        Numbers of all networks together.
    data, sequence, training : mapping
        Sections of the config that say how events were read and in which order their steps stand, and the
        record of the training.

    Examples
    --------
    A model as a training would write it, but that its weights are all 0.5:

    >>> import tempfile
    >>> from timelike.modelfile import expected_shapes, write_model_file
    >>> network = {"recurrent": [{"cell": "gru", "units": 4, "bidirectional": False}], "head": {"units": []}}
    >>> shapes = expected_shapes(network, n_variables=2, n_classes=2)
    >>> weights = {name: np.full(shape, 0.5, "float32") for name, shape in shapes.items()}
    >>> weights["head.0.bias"] = np.array([2, 0], "float32")
    >>> fitted = {"names": ["pt", "eta"], "kinds": ["none"] * 2, "mean": [0.0] * 2, "scale": [1.0] * 2}
    >>> meta = {"network": network, "variables": ["pt", "eta"], "transforms": fitted, "data": {}}
    >>> meta |= {"sequence": {}, "training": {}, "classes": ["qcd", "top"], "signal": "top"}
    >>> file = f"{tempfile.mkdtemp()}/model.safetensors"
    >>> write_model_file(file, weights, meta)

    Whoever applies it begins here:

    >>> model = load(file)
    >>> model.output_names
    ('qcd', 'top')
    >>> jet = np.array([[0.3, 1.0], [0.1, -1.0], [2.0, 0.5]])
    >>> model.predict(jet).round(4)
    array([0.8808, 0.1192])
    >>> model.predict([jet, jet[:1], jet[:0]]).shape
    (3, 2)

    Step by step:

    >>> session = model.stream()
    >>> for step in jet:
    ...     scores = session.step(step)
    >>> bool((scores == model.predict(jet)).all())
    True
    """

    def __init__(self, file: ModelFile) -> None:
        meta = file.meta
        members = tuple(map(Prepared, describe(file)))
        self._members = members
        self._network = members[0] if "ensemble" not in meta else Together(members)
        first = members[0].description
        self.variables, self.output_names, self.dtype = first.variables, first.names, first.dtype
        self.class_names: tuple[str, ...] = tuple(meta["classes"])
        self.signal: str = meta["signal"]
        self.per_step = first.pooling == "none"
        self.n_networks = len(members)
        self.n_parameters = sum(weight.size for weight in file.weights.values())
        self.data: Mapping[str, Any] = meta["data"]
        self.sequence: Mapping[str, Any] = meta["sequence"]
        self.training: Mapping[str, Any] = meta["training"]
        self._folds: Mapping[str, Any] | None = meta["ensemble"]["folds"] if "ensemble" in meta else None
        self._file = file

    def __repr__(self) -> str:
        described = self._members[0].description
        layers = [
            f"{layer.cell} {layer.units}{' bidirectional' if layer.bidirectional else ''}"
            for layer in described.layers
        ]
        of = f"ensemble of {self.n_networks}: " if self._folds else ""
        return (
            f"Scorer({of}{', '.join(self.variables)} -> {', '.join([*layers, described.pooling])} -> "
            f"{', '.join(self.output_names)}; {self.n_parameters} parameters of {self.dtype})"
        )

    @cached_property
    def mark(self) -> npt.NDArray[np.uint8]:
        """What tells this model from others [16]: a hash of all that its scores depend on."""
        import hashlib  # 3 ms, for those alone who keep the states of streams

        digest = hashlib.blake2b(digest_size=16)
        used = ("network", "variables", "transforms", "classes", "ensemble")
        digest.update(json.dumps({key: self._file.meta.get(key) for key in used}, sort_keys=True).encode())
        for name, weight in sorted(self._file.weights.items()):
            digest.update(name.encode() + weight.tobytes())
        return np.frombuffer(digest.digest(), np.uint8)

    # Whole sequences

    def predict(
        self,
        x: Given,
        *,
        lengths: npt.ArrayLike | None = None,
        threads: int | None = None,
        out_of_fold: bool = False,
    ) -> Floats:
        """Compute what the model says of sequences: probabilities, or numbers; of an ensemble, their mean.

        The numbers are those of `timelike.model.predict`, to the rounding of the weights' type.

        Parameters
        ----------
        x : Sequences, list of arrays [T, D], array [B, T, D], or array [T, D]
            As read, not transformed, of float32 or float64; the steps in the order that the training read
            them in (see `sequence`). Variables of `Sequences` are matched by name: their order is free, and
            others are ignored. Columns of arrays are those of `variables`. An array of two axes is one
            sequence.
        lengths : array_like of int [B], optional
            With an array of three axes the steps of each sequence; what is behind them is not read. By
            default all T.
        threads : int, optional
            Use at most so many, by default as many as `timelike.get_num_threads` says. The layers' results do
            not depend on it.
        out_of_fold : bool
            With an ensemble, score each event by the one network that has not seen its fold; see
            `timelike.model.predict`.

        Returns
        -------
        array [B, C] of float64
            In input order; `output_names` names the columns. Of one sequence [C], whose last bits may be
            others than in company, where they do not depend on what else there is. Of a model that has scores
            for each step [N, C], the steps of all sequences one after another.

        Raises
        ------
        ConfigError
            If `out_of_fold` is asked of one network, or of an ensemble whose folds were shuffled.
        DataError
            If a variable is missing, an array has another shape or type than these, or, where the network
            takes a fixed number of steps, a sequence has another.
        """
        if threads is not None and threads < 1:
            raise ConfigError(f"threads: {threads}; at least 1, or None for timelike.get_num_threads()")
        if out_of_fold:
            return self._held_out(x, threads)
        values, offsets = self._read(x, lengths)
        return self._network.scores(values, offsets, threads)

    def _read(self, x: Given, lengths: npt.ArrayLike | None) -> tuple[Array, Array | None]:
        """Give the rows, their columns being `variables`, and the offsets; none of one sequence."""
        offsets: Array | None = None
        if lengths is not None and not (isinstance(x, np.ndarray) and x.ndim == 3):
            raise DataError("lengths belong to an array [sequences, steps, variables]")
        if isinstance(x, Sequences):
            return self._members[0].transforms.chosen(x), x.offsets
        if not isinstance(x, np.ndarray):
            if len(x) == 0:
                return np.empty((0, len(self.variables)), self.dtype), np.zeros(1, np.int64)
            sequences = Sequences.from_list(x)
            values, offsets = sequences.values, sequences.offsets
        elif x.ndim == 2:
            values = x
        elif x.ndim == 3 and lengths is None:
            B, T, _ = x.shape
            values, offsets = x.reshape(B * T, x.shape[2]), np.arange(B + 1) * T
        else:
            sequences = Sequences.from_padded(x, lengths=lengths)
            values, offsets = sequences.values, sequences.offsets
        self._check(values)
        return values, offsets

    def _check(self, values: Array) -> None:
        """Refuse rows of another width or type."""
        if values.shape[-1] != len(self.variables):
            raise DataError(
                f"x has {values.shape[-1]} columns; the model reads {len(self.variables)}: "
                f"{', '.join(self.variables)}"
            )
        if values.dtype.char not in "fd":
            raise DataError(f"x is {values.dtype}; possible: float32, float64")

    def _held_out(self, sequences: Given, threads: int | None) -> Floats:
        from timelike.data.folds import fold_numbers

        if not isinstance(sequences, Sequences):
            raise DataError("out_of_fold needs Sequences, which have the numbers of the events")
        if self._folds is None:
            raise ConfigError("out_of_fold needs the ensemble of a cross validation; this is one network")
        if self._folds.get("by") is None:
            raise ConfigError("out_of_fold: the folds were shuffled; nothing tells the fold of an event")
        numbers = fold_numbers(sequences, _Folds(self._folds["number"], self._folds["by"]))
        of_rows = np.repeat(numbers, sequences.lengths) if self.per_step else numbers
        found = np.full((len(of_rows), len(self.output_names)), np.nan)
        for fold, member in enumerate(self._members):
            own = sequences[numbers == fold]
            found[of_rows == fold] = member.scores(member.transforms.chosen(own), own.offsets, threads)
        return found

    # One step at a time

    def stream(self, streams: int = 1, *, ordered: bool = False, threads: int | None = None) -> Streams:
        """Begin to score step by step, as steps come; see `Streams`.

        Parameters
        ----------
        streams : int
            How many sequences are on their way at once.
        ordered : bool
            The steps will come in the order that the network reads them in. Must be said where the training
            sorted, cut or turned round the steps of an event, which takes all of them.
        threads : int, optional
            As for `predict`.

        Raises
        ------
        ConfigError
            If the network cannot score step by step: it reads backwards, or a fixed number of steps.
        """
        return Streams(self, self._network, streams, ordered=ordered, threads=threads)
