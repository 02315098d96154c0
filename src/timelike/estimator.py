"""What the estimators of `timelike.sklearn` share: parameters to a config, samples to a model.

A config is made of the parameters, and everything else is `timelike.fit`: the same events, split and seed
give the same weights as `timelike.train`, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike.config import Config
from timelike.errors import ConfigError, DataError, nearest, require
from timelike.samples import as_sequences
from timelike.sequences import Sequences

require("sklearn", "sklearn")

import torch  # noqa: E402
from sklearn.base import BaseEstimator  # noqa: E402
from sklearn.utils import check_consistent_length  # noqa: E402
from sklearn.utils.validation import _check_sample_weight, check_is_fitted  # noqa: E402

from timelike.data.transforms import FittedTransforms  # noqa: E402
from timelike.fit import FitResult, fit  # noqa: E402
from timelike.model import Model  # noqa: E402
from timelike.network import Network, logits  # noqa: E402
from timelike.progress import Silent, on  # noqa: E402
from timelike.train import record_of, settings  # noqa: E402

__all__ = ["SequenceEstimator"]

Array = npt.NDArray[Any]
# What of a config can be given beside the parameters; the rest says where events are, and X is there.
_SECTIONS, _OF_DATA = ("network", "training", "data"), ("transforms", "mix")
_NOWHERE = "(arrays)"  # in place of the files that a model of arrays has not


class SequenceEstimator(BaseEstimator):  # type: ignore[misc]
    """What both do: parameters to a config, samples to a model."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _sequences(self, X: Any, sample_weight: Any, y: Array) -> Sequences:
        """Take X to fit to, with its weights."""
        sequences = as_sequences(self, X, reset=True)
        check_consistent_length(sequences, y)
        if sequences.weights is not None:
            raise DataError("X has weights; give them as sample_weight, and X.replace(weights=None) as X")
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, y, dtype=np.float64)
        return sequences.replace(weights=sample_weight, labels=None, targets=None)

    def _config(self, variables: tuple[str, ...], outputs: Mapping[str, Any], balance: bool) -> Config:
        """Make the config that the parameters stand for."""
        for name, kind in (("standardise", bool), ("layers", int), ("config", Mapping | None)):
            given = getattr(self, name)
            if not isinstance(_plain(given), kind) or (name == "layers" and (given is True or given < 0)):
                raise self._error(f"{name}: given {given!r}; {_NEEDED[name]}")
        layer = {"cell": self.cell, "units": self.units, "bidirectional": self.bidirectional}
        sections: dict[str, Any] = {
            "data": {
                "files": _NOWHERE,
                "variables": variables,
                "transforms": {"default": "standardise" if self.standardise else "none"},
                **outputs,
            },
            "network": {
                "recurrent": [layer] * int(self.layers),
                "dropout": self.dropout,
                "pooling": self.pooling,
                "head": {"units": self.head},
            },
            "training": {
                "loss": self.loss,
                "optimiser": {"learning_rate": self.learning_rate},
                "epochs": self.epochs,
                "batch_size": self.batch_size,
                "early_stopping": None if self.patience is None else {"patience": self.patience},
                "class_balance": balance,
                "negative_weights": self.negative_weights,
                "dtype": self.dtype,
                "seed": self.seed_,
                "threads": self.threads,
            },
        }
        for section, values in (self.config or {}).items():
            if section not in _SECTIONS:
                raise self._error(f"config: {section!r} is no section of it; {nearest(section, _SECTIONS)}")
            for key in values if section == "data" and _is_mapping(values) else ():
                if key not in _OF_DATA:
                    raise self._error(f"config: data.{key} cannot be given; {nearest(key, _OF_DATA)}")
        try:
            return Config.from_dict(_merged(_plain(sections), _plain(self.config or {})))
        except ConfigError as error:
            raise self._error(str(error).removeprefix("config: ")) from None

    def _error(self, text: str) -> ConfigError:
        return ConfigError(f"{type(self).__name__}: {text}")

    def _model(self, sequences: Sequences, config: Config) -> tuple[Model, FitResult]:
        """Fit a model to sequences with labels or targets."""
        rest, aside = self._split(sequences)
        parts = {"train": sequences[rest], "validation": sequences[aside if len(aside) else rest]}
        data, training = config.data, config.training
        transforms = FittedTransforms.fit(parts["train"], data)
        with settings(training):
            dtype = getattr(torch, training.dtype)
            network = Network(config.network, len(transforms.outputs), len(data.class_names), dtype=dtype)
            result = fit(
                network,
                transforms.apply(parts["train"]),
                transforms.apply(parts["validation"]),
                training,
                class_names=None if sequences.labels is None else data.class_names,
                signal=None if sequences.labels is None else data.signal_name,
                progress=on() if self.verbose else Silent(),
            )
        events = {"train": len(rest), "validation": len(aside)}
        record = record_of(training, events, result.history, result.best, complete=True)
        return Model(network.eval(), transforms, data, config.sequence, record), result

    def _split(self, sequences: Sequences) -> tuple[Array, Array]:
        """Share out the sequences as `timelike.data.split` does, but leave no class without validation."""
        share, labels = self.validation_fraction, sequences.labels
        if isinstance(share, bool) or not isinstance(share, int | float | np.number) or not 0 <= share < 1:
            raise self._error(f"validation_fraction: given {share!r}; a number from 0 to below 1 is needed")
        if share == 0:
            return np.arange(len(sequences)), np.arange(0)
        labels = np.zeros(len(sequences), dtype=np.int64) if labels is None else labels
        rng = np.random.default_rng(self.seed_)
        rest, aside = [], []
        for label in np.unique(labels):
            members = rng.permutation(np.flatnonzero(labels == label))
            if len(members) < 2:
                of_class = "" if sequences.labels is None else f" of class {self.classes_[label].item()!r}"
                raise DataError(
                    f"y: only one sample{of_class}, and one is needed for validation; "
                    "validation_fraction=0 puts none aside"
                )
            n = min(max(int(np.rint((1 - share) * len(members))), 1), len(members) - 1)
            rest.append(members[:n])
            aside.append(members[n:])
        return np.sort(np.concatenate(rest)), np.sort(np.concatenate(aside))

    def _seed(self) -> int:
        """Draw the seed that ``random_state`` stands for."""
        given = self.random_state
        if given is None:
            return int(np.random.default_rng().integers(2**31))
        if isinstance(given, np.random.RandomState):
            return int(given.randint(2**31 - 1))
        if isinstance(given, int | np.integer) and not isinstance(given, bool):
            return int(given)  # the config checks its range
        raise self._error(f"random_state: given {given!r}; a whole number, a RandomState or None is needed")

    def _scores(self, X: Any) -> Array:
        """Compute what the network gives, [B, C] in float64."""
        check_is_fitted(self)
        sequences = as_sequences(self, X, reset=False)
        scores: Array = logits(self.model_.network, self.model_.transforms.apply(sequences)).double().numpy()
        return scores

    def _keep(self, model: Model, result: FitResult) -> None:
        self.model_ = model
        self.history_ = [asdict(epoch) for epoch in result.history]
        self.best_epoch_ = result.best.epoch
        self.n_iter_ = len(result.history)


_NEEDED = {
    "standardise": "True or False is needed",
    "layers": "a whole number, 0 or more, is needed",
    "config": "a mapping of sections of a config, or None, is needed",
}


def _plain(value: Any) -> Any:
    """Turn NumPy's scalars, which searches over parameters give, and tuples into what JSON holds."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.item() if isinstance(value, np.generic) else value


def _merged(values: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Put mappings into each other; of any other two values the second counts."""
    both = [key for key, value in more.items() if _is_mapping(values.get(key)) and _is_mapping(value)]
    return {**values, **more, **{key: _merged(values[key], more[key]) for key in both}}


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)
