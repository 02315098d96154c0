"""What a task asks of the rest of a config: its loss, its output, its pooling.

======================  ===============================================  ============  ===================
task                    loss, the default first                          output        given by
======================  ===============================================  ============  ===================
classes                 cross_entropy, sigmoid_cross_entropy,            softmax,      labels, classes
                        squared_error, huber                             sigmoid
multilabel              sigmoid_cross_entropy                            multilabel    multilabel
regression              squared_error, huber, quantile                   linear        targets
counts                  poisson                                          exponential   targets
======================  ===============================================  ============  ===================

With ``data.per: step`` each step gives scores of its own, and there is no pooling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from timelike.config.training import metric_of
from timelike.errors import ConfigError

if TYPE_CHECKING:
    from timelike.config.data import DataConfig
    from timelike.config.network import NetworkConfig
    from timelike.config.training import TrainingConfig

__all__ = ["LOSSES_OF", "check_task", "with_defaults_of_task"]

LOSSES_OF = {
    "classes": ("cross_entropy", "sigmoid_cross_entropy", "squared_error", "huber"),
    "multilabel": ("sigmoid_cross_entropy",),
    "regression": ("squared_error", "huber", "quantile", "poisson"),
}
"""Kind of task -> the losses that it can have, the default first."""

_QUANTILES = [0.16, 0.5, 0.84]  # the median, and one standard deviation of a normal distribution


def with_defaults_of_task(values: Any) -> Any:
    """Put into the values of a config what follows from its task, where they do not say it.

    Parameters
    ----------
    values : mapping
        As from YAML. What is not the mapping that a config is, is given back as it is.
    """
    if not isinstance(values, Mapping) or not isinstance(data := values.get("data"), Mapping):
        return values
    training = dict(_mapping(values.get("training")))
    network = dict(_mapping(values.get("network")))
    head = dict(_mapping(network.get("head")))
    if not all(isinstance(values.get(key, {}), Mapping) for key in ("training", "network")) or (
        not isinstance(network.get("head", {}), Mapping)
    ):
        return values  # wrong, which is said where it is checked
    kind = "regression" if data.get("targets") else "multilabel" if data.get("multilabel") else "classes"
    if kind != "classes":
        training.setdefault("loss", LOSSES_OF[kind][0])
        counts = training["loss"] == "poisson"
        head.setdefault(
            "output", "multilabel" if kind == "multilabel" else "exponential" if counts else "linear"
        )
        if training["loss"] == "quantile":
            head["quantiles"] = head.get("quantiles") or _QUANTILES
        network["head"] = head
    if data.get("per") == "step":
        network.setdefault("pooling", "none")
    if network or training:
        return {**values, "training": training, "network": network}
    return values


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def check_task(data: DataConfig, network: NetworkConfig, training: TrainingConfig) -> None:
    """Refuse a loss, output or pooling that does not fit the task.

    Raises
    ------
    ValueError
        Naming the key, what was given and what is possible.
    """
    head, names, kind = network.head, data.class_names, data.kind
    if training.loss not in LOSSES_OF[kind]:
        key = {"classes": "labels or classes", "multilabel": "multilabel", "regression": "targets"}[kind]
        raise ValueError(
            f"training.loss: {training.loss} does not fit data.{key}; possible: {', '.join(LOSSES_OF[kind])}"
        )
    outputs = {
        "classes": ("softmax", "sigmoid"),
        "multilabel": ("multilabel",),
        "regression": ("exponential",) if training.loss == "poisson" else ("linear",),
    }[kind]
    if head.output not in outputs:
        raise ValueError(
            f"network.head.output: {head.output} does not fit the task; possible: {', '.join(outputs)}"
        )
    if head.output == "sigmoid" and len(names) != 2:
        raise ValueError(f"network.head.output: sigmoid is for two classes; there are {len(names)}")
    if (training.loss == "quantile") != bool(head.quantiles):
        raise ValueError("training.loss: quantile and network.head.quantiles belong together")
    if (data.per == "step") != (network.pooling == "none"):
        raise ValueError("data.per: step and network.pooling: none belong together")
    for phase in training.phases:
        if phase.early_stopping is not None:
            try:
                metric_of(phase.early_stopping.metric, kind)
            except ConfigError as error:
                raise ValueError(str(error)) from None
    if data.horizon and any(layer.bidirectional for layer in network.recurrent):
        raise ValueError(
            f"data.horizon: {data.horizon}, but a bidirectional layer reads the steps that are to be found"
        )
