"""Networks as scikit-learn knows estimators: `SequenceClassifier` and `SequenceRegressor`.

What `timelike.samples` tells of can be given as X, and by ``config`` everything of a config that has no
parameter. ``model_`` is a `timelike.model.Model`, which `timelike.model.save_model` writes for the command
line.

Use `timelike train` where events are in files, for the report, and to go on after an interruption; use these
where data are arrays, and for scikit-learn's searches, cross-validation and pipelines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from timelike.errors import DataError, require

require("sklearn", "sklearn")

from sklearn.base import ClassifierMixin, RegressorMixin  # noqa: E402
from sklearn.utils import compute_class_weight  # noqa: E402
from sklearn.utils.multiclass import check_classification_targets  # noqa: E402
from sklearn.utils.validation import check_is_fitted, validate_data  # noqa: E402

from timelike.estimator import Array, SequenceEstimator  # noqa: E402
from timelike.model import predict  # noqa: E402
from timelike.samples import as_sequences  # noqa: E402

__all__ = ["SequenceClassifier", "SequenceRegressor"]


class SequenceClassifier(ClassifierMixin, SequenceEstimator):  # type: ignore[misc]
    """A recurrent network that tells classes of sequences apart.

    Parameters
    ----------
    units : int
        Size of the state of each recurrent layer.
    cell : {"lstm", "gru", "rnn_tanh", "rnn_relu"}
    layers : int
        Recurrent layers on top of each other. With 0 the head reads the pooled variables.
    bidirectional : bool
        Whether each layer reads the steps in both directions.
    dropout : float
        Between recurrent layers.
    pooling : {"last", "mean", "max"}
        What becomes of the states of all steps: the last one, or the mean or largest of each number.
    head : sequence of int
        Units of the dense layers behind that; there is one more, with an output for each class.
    loss : {"cross_entropy", "sigmoid_cross_entropy", "squared_error", "huber"}
    learning_rate : float
        At the beginning; `config` may have a schedule.
    epochs : int
        At most.
    batch_size : int
        Sequences in a batch at most.
    patience : int or None
        Stop after so many epochs without a better validation loss. In any case the weights are in the end
        those of the epoch with the lowest one.
    validation_fraction : float
        Share of the sequences of each class, at least one, that is put aside to judge the epochs. With 0 the
        training sequences judge.
    class_weight : None, "balanced" or dict
        Factors on the weights of classes: none, such that all classes have the same sum of weights, or given.
    negative_weights : {"use", "ignore", "absolute"}
        What becomes of negative sample weights: they stay, become 0, or lose their sign.
    standardise : bool
        Whether the network sees ``(x - mean) / standard deviation`` of each variable, over the steps of the
        training sequences with the size of their weights.
    dtype : {"float32", "float64"}
        Of the weights.
    config : mapping, optional
        More of the sections ``network``, ``training`` and ``data`` (``transforms`` and ``mix``) of a config,
        as in its file. Where a parameter says the same, this counts.
    random_state : int, RandomState or None
        Of the initial weights, the split, the order of sequences and dropout. The same number gives the same
        bits. No global random state is touched; with None every fit has a seed of its own, kept in ``seed_``.
    threads : int
        For training. Predictions use what `timelike.set_num_threads` and torch say.
    verbose : int
        Above 0, show how the training goes on the error stream.

    Attributes
    ----------
    classes_ : array [C]
        The classes, sorted.
    model_ : timelike.model.Model
        What `timelike.model.save_model` writes; its class names are those of ``classes_`` as text.
    history_ : list of dict
        The numbers of each epoch, as in a run's ``history.json``.
    best_epoch_, n_iter_ : int
        The epoch whose weights these are, and how many there were.
    seed_ : int
        What random numbers were drawn from.
    n_features_in_ : int
        Number of variables.
    feature_names_in_ : array of str
        Their names, where there are any.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1], 50)
    >>> X = [rng.normal(size=(rng.integers(1, 8), 2)) + 2 * label for label in y]
    >>> found = SequenceClassifier(units=8, batch_size=16, epochs=10, random_state=1).fit(X, y)
    >>> bool(found.score(X, y) > 0.9), found.n_features_in_
    (True, 2)
    """

    def __init__(
        self,
        *,
        units: int = 32,
        cell: str = "lstm",
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        pooling: str = "last",
        head: tuple[int, ...] = (32,),
        loss: str = "cross_entropy",
        learning_rate: float = 0.003,
        epochs: int = 20,
        batch_size: int = 128,
        patience: int | None = None,
        validation_fraction: float = 0.1,
        class_weight: Any = None,
        negative_weights: str = "use",
        standardise: bool = True,
        dtype: str = "float32",
        config: Mapping[str, Any] | None = None,
        random_state: Any = None,
        threads: int = 1,
        verbose: int = 0,
    ) -> None:
        self.units = units
        self.cell = cell
        self.layers = layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.pooling = pooling
        self.head = head
        self.loss = loss
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.class_weight = class_weight
        self.negative_weights = negative_weights
        self.standardise = standardise
        self.dtype = dtype
        self.config = config
        self.random_state = random_state
        self.threads = threads
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SequenceClassifier:
        """Fit a network.

        Parameters
        ----------
        X : sequences
            See `timelike.samples`.
        y : array [B]
            Classes: numbers, texts, booleans.
        sample_weight : array [B], optional
            Weights of either sign. They are scaled to a mean of 1; each class must have a positive sum.

        Returns
        -------
        SequenceClassifier
            Itself.

        Raises
        ------
        ValueError
            If X, y or a parameter cannot be used. `ConfigError` and `DataError` are ValueErrors.
        TrainingError
            If the loss is no longer a finite number.
        """
        y = validate_data(self, y=y)
        check_classification_targets(y)
        sequences = self._sequences(X, sample_weight, y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise DataError(f"y has one class only, {self.classes_[0].item()!r}; two or more are needed")
        if self.class_weight is not None and self.class_weight != "balanced":
            factors = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
            given = 1.0 if sequences.weights is None else sequences.weights
            sequences = sequences.replace(weights=given * factors[labels])
        self.seed_ = self._seed()
        outputs: dict[str, Any] = {"classes": {name: {} for name in _class_names(self.classes_)}}
        config = self._config(sequences.names, outputs, self.class_weight == "balanced")
        self._keep(*self._model(sequences.replace(labels=labels), config))
        return self

    def decision_function(self, X: Any) -> Array:
        """Give the output for each class before softmax, [B, C], or of two the difference, [B]."""
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: Any) -> Array:
        """Give the probabilities of the classes, [B, C], in the order of ``classes_``."""
        check_is_fitted(self)
        return predict(self.model_, as_sequences(self, X, reset=False))

    def predict(self, X: Any) -> Array:
        """Give the most probable classes, [B]; of equally probable ones the first."""
        scores = self._scores(X)
        classes: Array = self.classes_[scores.argmax(axis=1)]
        return classes


def _class_names(classes: Array) -> list[str]:
    """Write classes as text, as names of a model; numbered where these would not do."""
    names = [str(label).strip() for label in classes]
    usable = len(set(names)) == len(names) and all(name and "\0" not in name for name in names)
    return names if usable else [f"class {c}" for c in range(len(names))]


class SequenceRegressor(RegressorMixin, SequenceEstimator):  # type: ignore[misc]
    """A recurrent network that finds numbers of sequences, one or several.

    Targets are standardised for the fit, by mean and deviation of all that are given, with the size of their
    weights; the last layer is then given that scale, so that the network itself answers in their units.
    Losses in ``history_`` are of standardised targets.

    Parameters
    ----------
    loss : {"squared_error", "huber"}
        The second grows in proportion beyond one standard deviation of the target.
    units, cell, layers, bidirectional, dropout, pooling, head : see `SequenceClassifier`
    learning_rate, epochs, batch_size, patience : see `SequenceClassifier`
    validation_fraction, negative_weights, standardise, dtype : see `SequenceClassifier`
    config, random_state, threads, verbose : see `SequenceClassifier`

    Attributes
    ----------
    model_, history_, best_epoch_, n_iter_, seed_ : see `SequenceClassifier`
    n_features_in_, feature_names_in_ : see `SequenceClassifier`

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.normal(size=(rng.integers(1, 6), 1)) for _ in range(200)]
    >>> y = np.array([x.sum() for x in X])
    >>> found = SequenceRegressor(units=8, learning_rate=0.02, batch_size=32, random_state=1).fit(X, y)
    >>> bool(found.score(X, y) > 0.9)
    True
    """

    def __init__(
        self,
        *,
        units: int = 32,
        cell: str = "lstm",
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        pooling: str = "last",
        head: tuple[int, ...] = (32,),
        loss: str = "squared_error",
        learning_rate: float = 0.003,
        epochs: int = 20,
        batch_size: int = 128,
        patience: int | None = None,
        validation_fraction: float = 0.1,
        negative_weights: str = "use",
        standardise: bool = True,
        dtype: str = "float32",
        config: Mapping[str, Any] | None = None,
        random_state: Any = None,
        threads: int = 1,
        verbose: int = 0,
    ) -> None:
        self.units = units
        self.cell = cell
        self.layers = layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.pooling = pooling
        self.head = head
        self.loss = loss
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.negative_weights = negative_weights
        self.standardise = standardise
        self.dtype = dtype
        self.config = config
        self.random_state = random_state
        self.threads = threads
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SequenceRegressor:
        """Fit a network.

        Parameters
        ----------
        X : sequences
            See `timelike.samples`.
        y : array [B] or [B, K]
            Targets, finite.
        sample_weight : array [B], optional
            Weights of either sign, of a positive sum. They are scaled to a mean of 1.

        Returns
        -------
        SequenceRegressor
            Itself.

        Raises
        ------
        ValueError
            If X, y or a parameter cannot be used. `ConfigError` and `DataError` are ValueErrors.
        TrainingError
            If the loss is no longer a finite number.
        """
        y = validate_data(self, y=y, y_numeric=True, multi_output=True)
        sequences = self._sequences(X, sample_weight, y)
        targets = np.asarray(y, dtype=np.float64).reshape(len(y), -1)
        weights = None if sequences.weights is None else np.abs(sequences.weights)
        mean = np.average(targets, axis=0, weights=weights)
        scale = np.sqrt(np.average((targets - mean) ** 2, axis=0, weights=weights))
        scale[scale == 0.0] = 1.0  # targets that are all the same
        self.seed_ = self._seed()
        names = [f"y{k}" for k in range(targets.shape[1])] if np.ndim(y) > 1 else ["y"]
        config = self._config(sequences.names, {"targets": {name: name for name in names}}, False)
        model, result = self._model(sequences.replace(targets=(targets - mean) / scale), config)
        model.network.rescale(mean, scale)
        self._keep(model, result)
        self._one = np.ndim(y) == 1
        return self

    def predict(self, X: Any) -> Array:
        """Give the numbers that the network finds, [B] or [B, K] as y was."""
        found = self._scores(X)
        return found[:, 0] if self._one else found
