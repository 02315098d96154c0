"""The network of a config as a torch module, and a trained one with all that is needed to apply it.

- `Network`: recurrent layers on ragged batches, pooling over steps, dense head; what training works on;
- `Model`: a network with its variables, transforms and way of reading events; what a model file holds;
- `Ensemble`: the models of the folds of a cross validation, in one file;
- `predict`: class probabilities of sequences, in input order.

Transforms are applied to the rows once, before batches are made, and are no part of the network: a fixed
affine map would otherwise be computed again in every epoch, and one that looks at a whole column could not
be a layer at all.

Sizes: `B` sequences, `N` rows, `D` variables, `H` units, `C` classes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from timelike.config import (
    DataConfig,
    FoldsConfig,
    GRUConfig,
    LSTMConfig,
    NetworkConfig,
    RNNConfig,
    SequenceConfig,
)
from timelike.data.folds import fold_numbers
from timelike.data.transforms import FittedTransforms
from timelike.errors import ConfigError, DataError, ModelFileError
from timelike.initialisers import initialise
from timelike.modelfile import read_model_file, write_model_file
from timelike.nn import GRU, LSTM, RNN, Ragged
from timelike.sequences import Sequences

__all__ = [
    "Ensemble",
    "Model",
    "Network",
    "cuts",
    "evaluating",
    "load_model",
    "logits",
    "pool",
    "predict",
    "ragged",
    "save_model",
]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "elu": nn.functional.elu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
    "sigmoid": torch.sigmoid,
    "softsign": nn.functional.softsign,
    "symmrelu": torch.abs,
    "gauss": lambda x: torch.exp(-x.square()),
    "linear": lambda x: x,
}
# Rows of a batch where only scores are wanted: enough to keep the kernels busy, a few MB of activations.
_ROWS_AT_ONCE = 1 << 16


class Network(nn.Module):
    """Recurrent layers, pooling over the steps of each sequence, dense layers: a ragged batch to logits.

    Parameters
    ----------
    config : NetworkConfig
        Layers, pooling and head.
    n_variables : int
        Inputs of each step, D.
    n_classes : int
        Logits, C.
    dtype : torch.dtype
        float32 or float64.
    """

    def __init__(
        self, config: NetworkConfig, n_variables: int, n_classes: int, *, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.config, self.n_classes = config, n_classes
        self.recurrent = nn.ModuleList()
        size = n_variables
        for layer in config.recurrent:
            made = _layer(layer, size, dtype)
            self.recurrent.append(made)
            size = made.output_size
        size *= config.steps or 1
        self.head, self.norms = nn.ModuleList(), nn.ModuleDict()
        norm = config.head.batch_norm
        for index, units in enumerate((*config.head.units, 1 if self.sigmoid else n_classes)):
            if norm is not None and index in norm.before:
                self.norms[str(index)] = nn.BatchNorm1d(
                    size, eps=norm.epsilon, momentum=norm.momentum, dtype=dtype
                )
            self.head.append(nn.Linear(size, units, dtype=dtype))
            size = units
        initialise(self, config.initialiser)

    def rescale(self, mean: npt.NDArray[np.float64], scale: npt.NDArray[np.float64]) -> None:
        """Let what the network gives, y [C], be ``mean + scale y`` from now on.

        Parameters
        ----------
        mean, scale : array [C]
        """
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            # In float64 and then rounded once, so that a large mean costs no more than it must.
            weight, bias = (parameter.double().numpy() for parameter in (last.weight, last.bias))
            last.weight.copy_(torch.from_numpy(weight * scale[:, None]))
            last.bias.copy_(torch.from_numpy(mean + scale * bias))

    @property
    def sigmoid(self) -> bool:
        """Whether there is one score for two classes."""
        return self.config.head.output == "sigmoid"

    def forward(self, batch: Ragged) -> Tensor:
        """Compute the logits of a batch.

        Parameters
        ----------
        batch : Ragged
            Values [N, D] and offsets [B+1].

        Returns
        -------
        Tensor
            Logits [B, C].
        """
        final = None
        for index, layer in enumerate(self.recurrent):
            if index:
                dropped = nn.functional.dropout(batch.values, self.config.dropout, self.training)
                batch = Ragged(dropped, batch.offsets)
            batch, last = layer(batch)
            final = last[0] if isinstance(last, tuple) else last
        x = pool(batch, final, self.config.pooling, self.config.steps)
        for index, (layer, activation) in enumerate(
            zip(self.head, self.config.head.activations, strict=False)
        ):
            x = _ACTIVATIONS[activation](layer(self._normed(index, x)))
            x = nn.functional.dropout(x, self.config.head.dropout, self.training)
        scores: Tensor = self.head[-1](self._normed(len(self.head) - 1, x))
        # The sigmoid of a number is the softmax of it and 0.
        return nn.functional.pad(scores, (1, 0)) if self.sigmoid else scores

    def _normed(self, index: int, x: Tensor) -> Tensor:
        """Give the inputs of a dense layer, normalised where the config says so."""
        normed: Tensor = self.norms[str(index)](x) if str(index) in self.norms else x
        return normed


def _layer(config: LSTMConfig | GRUConfig | RNNConfig, size: int, dtype: torch.dtype) -> LSTM | GRU | RNN:
    options: dict[str, Any] = {"bidirectional": config.bidirectional, "dtype": dtype}
    made: LSTM | RNN
    if isinstance(config, GRUConfig):
        options |= {"reset_after": config.reset_after, "inner_bias": config.inner_bias}
        return GRU(size, config.units, **options)
    if isinstance(config, LSTMConfig):
        options |= {"proj_size": config.projection, "peephole": config.peephole, "coupled": config.coupled}
        made = LSTM(size, config.units, **options)
    else:
        made = RNN(size, config.units, nonlinearity=config.cell.removeprefix("rnn_"), **options)
    for name, parameter in made.named_parameters():
        if name.startswith("bias_hh") and not config.inner_bias:
            parameter.requires_grad_(False).zero_()
    return made


def pool(batch: Ragged, final: Tensor | None, how: str, steps: int | None = None) -> Tensor:
    """Reduce the hidden states of each sequence to one vector; zeros for a sequence without steps.

    Parameters
    ----------
    batch : Ragged
        Hidden states [N, H dirs] of all steps, and offsets [B+1].
    final : Tensor [dirs, B, H], or None
        Each direction's state after its last step, for "last".
    how : {"last", "mean", "max", "flatten"}
        "last" takes the final states, so for the backward direction that at the first step; "flatten" the
        states of all steps one behind the other.
    steps : int, optional
        With "flatten" the number T of steps that every sequence must have.

    Returns
    -------
    Tensor
        Shape [B, H dirs], with "flatten" [B, T H dirs].

    Raises
    ------
    DataError
        With "flatten", if a sequence has another number of steps.
    """
    if how == "flatten":
        assert steps is not None
        wrong = (batch.offsets.diff() != steps).nonzero()
        if len(wrong):
            b = int(wrong[0])
            n = int(batch.offsets[b + 1] - batch.offsets[b])
            raise DataError(
                f"a sequence has {n} steps; the network takes {steps}, not more, not less (pooling: flatten)"
            )
        return batch.values.reshape(len(batch.offsets) - 1, -1)
    if how == "last":
        assert final is not None
        # After no step the state is still the initial one, zero.
        return final.transpose(0, 1).flatten(1)
    lengths = batch.offsets.diff()[:, None]
    if how == "mean":
        total: Tensor = torch.segment_reduce(batch.values, "sum", offsets=batch.offsets, axis=0)
        return total / lengths.clamp(min=1)
    highest: Tensor = torch.segment_reduce(batch.values, "max", offsets=batch.offsets, axis=0)
    return highest.masked_fill(lengths == 0, 0.0)


def ragged(sequences: Sequences, dtype: torch.dtype) -> Ragged:
    """Give sequences as a batch for a network; the rows are shared where their type allows."""
    return Ragged(_tensor(sequences.values).to(dtype), _tensor(sequences.offsets))


def _tensor(array: npt.NDArray[Any]) -> Tensor:
    # torch has no read-only tensors and warns of such arrays
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def logits(network: Network, sequences: Sequences) -> Tensor:
    """Compute logits [B, C] without gradients, in batches of many rows.

    Parameters
    ----------
    network : Network
    sequences : Sequences
        Transformed already, variables in the network's order.
    """
    dtype = next(network.parameters()).dtype
    with evaluating(network), torch.no_grad():
        parts = [
            network(ragged(sequences[start:stop], dtype))
            for start, stop in cuts(sequences.offsets, _ROWS_AT_ONCE)
        ]
    return torch.cat(parts) if parts else torch.empty(0, network.n_classes, dtype=dtype)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into the mode of inference for a block; each of its parts gets its own mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def cuts(offsets: npt.NDArray[np.int64], rows: int) -> Iterator[tuple[int, int]]:
    """Cut sequences into runs of at most so many rows, of at least one sequence."""
    start, end = 0, len(offsets) - 1
    while start < end:
        stop = int(np.searchsorted(offsets, offsets[start] + rows, side="right")) - 1
        stop = min(max(stop, start + 1), start + rows, end)
        yield start, stop
        start = stop


@dataclass(frozen=True, eq=False)
class Model:
    """A trained network and all that is needed to apply it to events."""

    network: Network
    transforms: FittedTransforms
    data: DataConfig
    sequence: SequenceConfig
    training: Mapping[str, Any] = field(default_factory=dict)  # the record of the training

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the inputs of each step, in the network's order."""
        return self.transforms.names

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what the network reads at each step: the variables, or what transforms make of them."""
        return self.transforms.outputs

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the scores; of a regression those of its targets."""
        return self.data.class_names

    @property
    def signal(self) -> str:
        """The class whose score is the discriminant."""
        return self.data.signal_name

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the weights, and of the values that they are applied to."""
        return np.dtype(str(next(self.network.parameters()).dtype).removeprefix("torch."))

    @property
    def n_parameters(self) -> int:
        """Number of trained numbers."""
        return sum(p.numel() for p in self.network.parameters())


class Ensemble(Model):
    """The models of the folds of a cross validation, which score events together.

    Whatever looks into one network raises `ConfigError`; `members` has the single models.

    Parameters
    ----------
    members : sequence of Model
        Member k has not seen the events of fold k. All read the same inputs with the same layers.
    folds : FoldsConfig
        How an event's fold is found.
    training : mapping
        The record of the cross validation.
    """

    members: tuple[Model, ...]
    folds: FoldsConfig

    def __init__(self, members: Sequence[Model], folds: FoldsConfig, training: Mapping[str, Any]) -> None:
        common = {"data": members[0].data, "sequence": members[0].sequence, "training": training}
        for name, value in {**common, "members": tuple(members), "folds": folds}.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"Ensemble({len(self.members)} networks of {self.members[0].n_parameters} parameters)"

    @property
    def network(self) -> Network:
        """An ensemble has no network of its own; raises `ConfigError`."""
        raise self._not_one()

    def _not_one(self) -> ConfigError:
        return ConfigError(
            f"this is an ensemble of {len(self.members)} networks, and one is needed: take that of a fold, "
            "fold-0/model.safetensors beside its file, or members[0]"
        )

    @property
    def transforms(self) -> FittedTransforms:
        """Each member has its own; raises `ConfigError` as `network` does."""
        raise self._not_one()

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the inputs of each step."""
        return self.members[0].variables

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what the networks read at each step."""
        return self.members[0].inputs

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the weights."""
        return self.members[0].dtype

    @property
    def n_parameters(self) -> int:
        """Number of trained numbers of all networks together."""
        return sum(member.n_parameters for member in self.members)


def predict(model: Model, sequences: Sequences, *, out_of_fold: bool = False) -> npt.NDArray[np.float64]:
    """Compute class probabilities of sequences, or the targets of a regression; of an ensemble, their mean.

    Parameters
    ----------
    model : Model
    sequences : Sequences
        As read, not transformed. Variables are matched by name: their order is free, others are ignored.
    out_of_fold : bool
        With an ensemble, score each event by the one network that has not seen its fold: for events that
        the cross validation was made with, which the other networks know.

    Returns
    -------
    array [B, C] of float64
        Probabilities of the classes, or targets, in input order.

    Raises
    ------
    ConfigError
        If `out_of_fold` is asked of one network, or of an ensemble whose folds were shuffled.
    DataError
        If a variable of the model is missing, or an event's number leads to no fold.
    """
    if not isinstance(model, Ensemble):
        if out_of_fold:
            raise ConfigError("out_of_fold needs the ensemble of a cross validation; this is one network")
        scores = logits(model.network, model.transforms.apply(sequences)).double()
        own: npt.NDArray[np.float64] = (scores if model.data.targets else scores.softmax(dim=1)).numpy()
        return own
    if not out_of_fold:
        mean: npt.NDArray[np.float64] = np.mean([predict(m, sequences) for m in model.members], axis=0)
        return mean
    if model.folds.by is None:
        raise ConfigError("out_of_fold: the folds were shuffled; nothing tells the fold of an event")
    numbers = fold_numbers(sequences, model.folds)
    found = np.full((len(sequences), len(model.class_names)), np.nan)
    for fold, member in enumerate(model.members):
        found[numbers == fold] = predict(member, sequences[numbers == fold])
    return found


def save_model(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a model file.

    Parameters
    ----------
    model : Model
    path : path
        The file; an older one is replaced.

    Raises
    ------
    ConfigError
        If the file cannot be written there.
    """
    members = model.members if isinstance(model, Ensemble) else (model,)
    meta = {
        "network": members[0].network.config.model_dump(mode="json"),
        "variables": list(model.variables),
        "inputs": list(model.inputs),
        "transforms": {} if isinstance(model, Ensemble) else model.transforms.to_dict(),
        "classes": list(model.class_names),
        "signal": model.signal,
        "data": model.data.model_dump(mode="json"),
        "sequence": model.sequence.model_dump(mode="json"),
        "training": dict(model.training),
    }
    weights = {}
    for fold, member in enumerate(members):
        before = f"fold.{fold}." if isinstance(model, Ensemble) else ""
        for name, value in member.network.state_dict().items():
            if value.is_floating_point():  # batch normalisation counts its batches, for training alone
                weights[before + name] = value.numpy()
    if isinstance(model, Ensemble):
        each = [{"transforms": m.transforms.to_dict(), "training": dict(m.training)} for m in members]
        meta["ensemble"] = {"folds": model.folds.model_dump(mode="json"), "members": each}
    write_model_file(path, weights, meta)


def load_model(path: str | os.PathLike[str]) -> Model:
    """Read a model file.

    Parameters
    ----------
    path : path
        The file.

    Raises
    ------
    ModelFileError
        If the file is missing, damaged, foreign, or from a newer version.
    """
    path = Path(path)
    file = read_model_file(path)
    meta, ensemble = file.meta, "ensemble" in file.meta
    try:
        # from JSON: in strict mode a list is then good for a tuple
        config = NetworkConfig.model_validate_json(json.dumps(meta["network"]))
        data = DataConfig.model_validate_json(json.dumps(meta["data"]))
        sequence = SequenceConfig.model_validate_json(json.dumps(meta["sequence"]))
        folds = FoldsConfig.model_validate_json(json.dumps(meta["ensemble"]["folds"])) if ensemble else None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise ModelFileError(f"{path}: the header cannot be used: {key}: {first['msg']}") from None
    if data.class_names != tuple(meta["classes"]) or data.signal_name != meta["signal"]:
        raise ModelFileError(f"{path}: 'classes' and 'signal' in the header disagree with 'data'")
    made = []
    for k, about in enumerate(meta["ensemble"]["members"] if ensemble else (meta,)):
        before = f"fold.{k}." if ensemble else ""
        transforms = _transforms(about["transforms"], meta, path)
        weights = {
            name.removeprefix(before): torch.from_numpy(weight)
            for name, weight in file.weights.items()
            if name.startswith(before)
        }
        dtype = next(iter(weights.values())).dtype
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn for nothing; leave no trace of it
            network = Network(config, len(transforms.outputs), len(meta["classes"]), dtype=dtype)
        network.load_state_dict(network.state_dict() | weights)
        made.append(Model(network.eval(), transforms, data, sequence, about["training"]))
    return made[0] if folds is None else Ensemble(made, folds, meta["training"])


def _transforms(given: dict[str, Any], meta: Mapping[str, Any], path: Path) -> FittedTransforms:
    try:
        transforms = FittedTransforms.from_dict(given)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: the header cannot be used: {error}") from None
    if transforms.names != tuple(meta["variables"]) or transforms.outputs != tuple(
        meta.get("inputs", meta["variables"])
    ):
        raise ModelFileError(f"{path}: 'variables' and 'transforms' in the header disagree")
    return transforms
