"""A trained network with all that is needed to apply it, and its file.

- `Model`: a network with its variables, transforms and way of reading events; what a model file holds;
- `Ensemble`: the models of the folds of a cross validation, in one file;
- `predict`: class probabilities of sequences, in input order.

Transforms are applied to the rows once, before batches are made, and are no part of the network: a fixed
affine map would otherwise be computed again in every epoch, and one that looks at a whole column could not
be a layer at all.

Sizes: `B` sequences, `C` classes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from timelike.config import DataConfig, FoldsConfig, NetworkConfig, SequenceConfig
from timelike.data.folds import fold_numbers
from timelike.data.transforms import FittedTransforms
from timelike.description import output_names
from timelike.errors import ConfigError, ModelFileError
from timelike.modelfile import ModelFile, read_model_file, write_model_file
from timelike.network import Network, logits, outputs
from timelike.sequences import Sequences

__all__ = ["Ensemble", "Model", "load_model", "model_of", "predict", "save_model"]


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
    def output_names(self) -> tuple[str, ...]:
        """Names of the numbers that the network gives; see `timelike.description.output_names`."""
        return output_names(self.class_names, self.network.config.head.quantiles)

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
    def output_names(self) -> tuple[str, ...]:
        """Names of the numbers that the networks give."""
        return self.members[0].output_names

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the weights."""
        return self.members[0].dtype

    @property
    def n_parameters(self) -> int:
        """Number of trained numbers of all networks together."""
        return sum(member.n_parameters for member in self.members)


def predict(model: Model, sequences: Sequences, *, out_of_fold: bool = False) -> npt.NDArray[np.float64]:
    """Compute what a model says of sequences: probabilities, or numbers; of an ensemble, their mean.

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
        Probabilities of the classes or labels, or targets, in input order: the numbers that
        ``model.output_names`` names. Of a model that has scores for each step [N, C].

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
        own: npt.NDArray[np.float64] = outputs(scores, model.network.config.head.output).numpy()
        return own
    if not out_of_fold:
        mean: npt.NDArray[np.float64] = np.mean([predict(m, sequences) for m in model.members], axis=0)
        return mean
    if model.folds.by is None:
        raise ConfigError("out_of_fold: the folds were shuffled; nothing tells the fold of an event")
    numbers = fold_numbers(sequences, model.folds)
    of_rows = np.repeat(numbers, sequences.lengths) if model.data.per == "step" else numbers
    found = np.full((len(of_rows), len(model.output_names)), np.nan)
    for fold, member in enumerate(model.members):
        found[of_rows == fold] = predict(member, sequences[numbers == fold])
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
    return model_of(read_model_file(path), path)


def model_of(file: ModelFile, path: str | os.PathLike[str]) -> Model:
    """Make the model that a model file holds.

    Parameters
    ----------
    file : ModelFile
        As `timelike.modelfile.read_model_file` gives it, checked.
    path : path
        Where it was read, for errors.

    Raises
    ------
    ModelFileError
        If the header does not say a network that can be made.
    """
    path = Path(path)
    meta, ensemble = file.meta, "ensemble" in file.meta
    data = DataConfig.from_header(meta["data"], path)
    config = NetworkConfig.from_header(meta["network"], path)
    if data.targets and config.head.output == "softmax":  # so it was written before there were others
        head = config.head.model_copy(update={"output": "linear"})
        config = config.model_copy(update={"head": head})
    sequence = SequenceConfig.from_header(meta["sequence"], path)
    folds = FoldsConfig.from_header(meta["ensemble"]["folds"], path) if ensemble else None
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
