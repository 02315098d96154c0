"""What the network is made of."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from timelike.config.base import Fraction, Section, by_default, listed

__all__ = ["BatchNormConfig", "GRUConfig", "HeadConfig", "LSTMConfig", "NetworkConfig", "RNNConfig"]


class _RecurrentLayer(Section):
    units: PositiveInt = 32
    bidirectional: bool = False

    @property
    def summary(self) -> str:
        """Cell and units, and what differs from the defaults: "gru 16 bidirectional"."""
        values = self.model_dump(mode="json")
        words = [values.pop("cell"), str(values.pop("units"))]
        for name, value in values.items():
            if value != type(self).model_fields[name].default:
                words.append(name if value is True else f"{name} {json.dumps(value)}")
        return " ".join(words)


class LSTMConfig(_RecurrentLayer):
    """Long short-term memory; at most one of its options, which `timelike.nn.LSTM` tells about."""

    cell: Literal["lstm"] = "lstm"
    projection: NonNegativeInt = 0  # size of the hidden state; 0: as many as units
    peephole: bool = False
    coupled: bool = False
    inner_bias: bool = True  # false: the second bias stays 0, so that the sum of both is not learnt twice

    @model_validator(mode="after")
    def _check(self) -> LSTMConfig:
        chosen = [name for name in ("projection", "peephole", "coupled") if getattr(self, name)]
        if len(chosen) > 1:
            raise ValueError(f"given {' and '.join(chosen)}; at most one of them is possible")
        if self.projection >= self.units:
            raise ValueError(
                f"given a projection of {self.units} units to {self.projection}; it must be to fewer"
            )
        return self


class GRUConfig(_RecurrentLayer):
    """Gated recurrent unit; `timelike.nn.GRU` tells about its options."""

    cell: Literal["gru"]
    reset_after: bool = True
    inner_bias: bool = True


class RNNConfig(_RecurrentLayer):
    """Simple recurrent layer."""

    cell: Literal["rnn_tanh", "rnn_relu"]
    inner_bias: bool = True  # false: the second bias stays 0, so that the sum of both is not learnt twice


RecurrentLayer = Annotated[
    LSTMConfig | GRUConfig | RNNConfig, Field(discriminator="cell"), by_default("lstm", key="cell")
]


Activation = Literal[
    "relu", "tanh", "elu", "gelu", "silu", "sigmoid", "softsign", "symmrelu", "gauss", "linear"
]  # symmrelu: |x|; gauss: exp(-x^2)


Output = Literal["softmax", "sigmoid", "multilabel", "linear", "exponential"]


class BatchNormConfig(Section):
    """Batch normalisation of the inputs of dense layers (Ioffe & Szegedy, arXiv:1502.03167)."""

    before: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0,)  # which, from 0
    # Share of a new batch in the running mean; None: all batches count the same.
    momentum: Annotated[float, Field(gt=0.0, le=1.0)] | None = 0.1
    epsilon: PositiveFloat = 1e-5


class HeadConfig(Section):
    """The dense layers between the pooled state and the class scores."""

    units: tuple[PositiveInt, ...] = (32,)
    activation: Annotated[tuple[Activation, ...], Field(min_length=1), BeforeValidator(listed)] = ("relu",)
    dropout: Fraction = 0.0
    batch_norm: BatchNormConfig | None = None
    # softmax: a number for each class; sigmoid: of two classes one number, for the last of them;
    # multilabel: a sigmoid for each label; linear: the numbers themselves; exponential: of counts
    output: Output = "softmax"  # in a whole config by default what the task needs
    quantiles: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...] = ()  # of each target, for loss: quantile

    @property
    def activations(self) -> tuple[str, ...]:
        """Activation of each dense layer but the last; one that is given alone is that of all."""
        return self.activation * len(self.units) if len(self.activation) == 1 else self.activation

    @model_validator(mode="after")
    def _check(self) -> HeadConfig:
        if len(self.activations) != len(self.units):
            raise ValueError(f"{len(self.units)} layers of units have {len(self.activations)} activations")
        for k in self.batch_norm.before if self.batch_norm else ():
            if k > len(self.units):
                raise ValueError(f"batch_norm before dense layer {k}: the layers are 0..{len(self.units)}")
        if list(self.quantiles) != sorted(set(self.quantiles)):
            raise ValueError(f"quantiles {list(self.quantiles)}: they must rise")
        if len({f"{q:g}" for q in self.quantiles}) < len(self.quantiles):  # so columns and metrics are named
            raise ValueError(f"quantiles {list(self.quantiles)}: they must differ in six digits")
        if self.quantiles and self.output != "linear":
            raise ValueError(f"'quantiles' have no meaning with output: {self.output}")
        return self


Initialiser = Literal["torch", "xavier", "xavier_uniform", "gauss", "uniform", "identity", "zero"]


class NetworkConfig(Section):
    """Recurrent layers on top of each other, pooling over steps, dense head.

    Without recurrent layers the head reads the variables themselves.
    """

    recurrent: tuple[RecurrentLayer, ...] = (LSTMConfig(),)
    dropout: Fraction = 0.0  # between recurrent layers
    pooling: Literal["last", "mean", "max", "flatten", "none"] = (
        "last"  # none: each step gives its own scores
    )
    steps: PositiveInt | None = None  # with flatten: so many has every sequence
    head: HeadConfig = HeadConfig()
    initialiser: Initialiser = "torch"

    @model_validator(mode="after")
    def _check(self) -> NetworkConfig:
        if not self.recurrent and self.pooling == "last":
            raise ValueError("without recurrent layers there is no last state; pooling: mean, max or flatten")
        if self.pooling == "flatten" and self.steps is None:
            raise ValueError("pooling: flatten needs 'steps', the number of steps of every sequence")
        if self.pooling != "flatten" and self.steps is not None:
            raise ValueError(f"'steps' has no meaning with pooling: {self.pooling}")
        return self
