"""Looking inside while a network learns: every so many steps, gates and gradients of that very step.

`Watch` keeps what the layers compute in every k-th training step and sums it up in a `Look`: norms of the
gradients by distance, how far the memory reaches, saturated gates, dead units, and what is wrong by
`timelike.inspect.diagnosis`. The step computes the same bits with it and without. A look goes wherever one
likes: `TensorBoard` takes it, and so does ``list.append``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from timelike.errors import ConfigError, DataError, require
from timelike.inspect.diagnosis import Finding, examine
from timelike.inspect.flow import label, mean_norms
from timelike.inspect.layertrace import LayerTrace
from timelike.inspect.records import layers_of
from timelike.recording import recording

__all__ = ["LayerLook", "Look", "TensorBoard", "Watch"]

BINS = 20
"""Of the histograms of gates, between the ends of their range."""
PROBES = 16
"""Random rows by which the norm of a Jacobian is estimated: a look is to cost little."""
DISTANCES = 64
"""At so many distances from the end at most is the gradient flow kept: evenly over the longest sequence."""


@dataclass(frozen=True)
class LayerLook:
    """One layer in one direction, in one training step.

    Attributes
    ----------
    layer : str
        Name and direction.
    distance : tuple of int
        Steps to the end of the walk.
    dh, dc : tuple of float, or None
        Mean over the sequences that reach so far of the norm of dL/dh_t and dL/dc_t there; no dc without
        cell state.
    horizon : float or None
        Steps after which less than a tenth of the gradient is left: median over some sequences, by exact
        Jacobians; inf where that is more than the sequences have, None where there is nothing to remember.
    length : float
        Median length of the sequences that have two steps or more; 0 where none has.
    low, high, means : dict of str to float
        By gate: share of the values within 0.05 of either end of its range, and their mean.
    dead : int
        Units that never move.
    gates : dict of str to tuple of int
        By gate: values in each of 20 bins of equal width between the ends of its range.
    gradients, weights : dict of str to float
        Frobenius norms of dW, dU, db ... and of W, U, b ... .
    findings : tuple of Finding
    """

    layer: str
    distance: tuple[int, ...]
    dh: tuple[float, ...]
    dc: tuple[float, ...] | None
    horizon: float | None
    length: float
    low: dict[str, float]
    high: dict[str, float]
    means: dict[str, float]
    dead: int
    gates: dict[str, tuple[int, ...]]
    gradients: dict[str, float]
    weights: dict[str, float]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Look:
    """All layers in one training step.

    Attributes
    ----------
    step : int
        From 1.
    layers : tuple of LayerLook
        In the order in which they ran; none where the batch had no steps.
    """

    step: int
    layers: tuple[LayerLook, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong, in all layers."""
        return tuple(finding for layer in self.layers for finding in layer.findings)

    def to_dict(self) -> dict[str, Any]:
        """Give it ready for JSON, which has no inf and no nan: they become text."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Look:
        """Read what `to_dict` gave.

        Raises
        ------
        DataError
            If it is something else.
        """
        try:
            layers = []
            for found in values["layers"]:
                given = {name: _numbers(value) for name, value in found.items()}
                findings = tuple(
                    Finding(**{**one, "evidence": _numbers(one["evidence"])}) for one in found["findings"]
                )
                layers.append(LayerLook(**{**given, "findings": findings}))
            return cls(int(values["step"]), tuple(layers))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"not a look into a training: {error!r}") from None


_WORDS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _numbers(part) for name, part in value.items()}
    if isinstance(value, list):
        return tuple(_numbers(part) for part in value)
    return _WORDS.get(value, value) if isinstance(value, str) else value


class Watch:
    """Look inside a network in every k-th step of its training.

    A look costs as much as five to twenty plain steps, most of it for the horizon.

    Parameters
    ----------
    module : torch.nn.Module
        With layers of `timelike.nn` in it.
    every : int
        The first step is looked at, and then every so many.
    to : sequence of callable
        Each is given every `Look`.
    sequences : int
        So many sequences of a batch are asked for their horizon. Each takes as many backward runs as the
        layer has hidden states, but 16 at most, of random rows: see `timelike.inspect.memory`.

    Raises
    ------
    ConfigError
        If `every` or `sequences` is less than 1.

    Examples
    --------
    >>> import torch
    >>> from timelike.nn import GRU
    >>> layer, looks = GRU(3, 4), []
    >>> optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    >>> watch = Watch(layer, every=2, to=[looks.append])
    >>> for _ in range(5):
    ...     optimiser.zero_grad()
    ...     with watch.step():
    ...         layer(torch.randn(7, 2, 3))[0].sum().backward()
    ...     optimiser.step()
    >>> [look.step for look in looks]
    [1, 3, 5]
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        every: int = 100,
        to: Sequence[Callable[[Look], object]] = (),
        sequences: int = 16,
    ) -> None:
        for name, value in (("every", every), ("sequences", sequences)):
            if value < 1:
                raise ConfigError(f"{name}: {value}; 1 at least is needed")
        self.module, self.every, self.to, self.sequences = module, every, tuple(to), sequences
        self.steps = 0
        """Steps so far."""

    @contextmanager
    def step(self) -> Iterator[None]:
        """Take forward and backward of one training step as the block; looks where it is its turn.

        Raises
        ------
        ConfigError
            If it is its turn, and no layer of `timelike.nn` ran forward and backward in the block.
        """
        self.steps += 1
        if (self.steps - 1) % self.every:
            yield
            return
        with recording() as kept:
            yield
        done = [record for record in kept if record.gradients is not None]
        if not done:
            raise ConfigError(
                f"{type(self.module).__name__}: no layer of timelike.nn ran forward and backward in the step"
            )
        look = Look(
            self.steps,
            tuple(_look_at(layer, self.sequences) for layer in layers_of(self.module, done) if layer.n_steps),
        )
        for take in self.to:
            take(look)


def _look_at(layer: LayerTrace, sequences: int) -> LayerLook:
    examined, (dh, dc, count) = examine(layer, most=sequences, probes=PROBES), mean_norms(layer)
    gates, horizon = examined.saturation, examined.memory
    long_enough = layer.lengths[layer.lengths >= 2]
    last = len(count) - 1
    at = np.unique(np.linspace(0, last, min(DISTANCES, last + 1)).round().astype(int))
    return LayerLook(
        layer=label(layer),
        distance=tuple(at.tolist()),
        dh=tuple(dh[at].tolist()),
        dc=None if dc is None else tuple(dc[at].tolist()),
        horizon=None if horizon is None else horizon.horizon,
        length=float(np.median(long_enough)) if len(long_enough) else 0.0,
        low=gates.low,
        high=gates.high,
        means=gates.means,
        dead=len(gates.dead),
        gates={letter: _histogram(letter, layer.gates[letter]) for letter in gates.low},
        gradients={f"d{name}": float(np.linalg.norm(w)) for name, w in layer.dweights.items()},
        weights={name: float(np.linalg.norm(w)) for name, w in layer.weights.items()},
        findings=examined.findings,
    )


def _histogram(letter: str, values: Any) -> tuple[int, ...]:
    return tuple(np.histogram(values, BINS, _ends(letter))[0].tolist())


def _ends(letter: str) -> tuple[float, float]:
    """Give the range of a gate: those of a tanh begin at -1."""
    return (-1.0, 1.0) if letter in "gnh" else (0.0, 1.0)


class TensorBoard:
    """Write looks, and other numbers of a training, to event files of TensorBoard.

    Parameters
    ----------
    folder : path
        Made if it is not there; ``tensorboard --logdir FOLDER`` shows what is in it.
    after : int
        What older files of the folder have of later steps is no longer shown.

    Raises
    ------
    ConfigError
        If the folder cannot be written.
    MissingExtraError
        If TensorBoard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str], *, after: int = 0) -> None:
        require("tensorboard", "inspect")
        from torch.utils.tensorboard import SummaryWriter

        self.folder = Path(folder)
        try:
            self._writer = SummaryWriter(str(folder), purge_step=after + 1 if after else None)
        except OSError as error:
            raise ConfigError(f"cannot write to {folder}: {error.strerror or error}") from error

    def __call__(self, look: Look) -> None:
        """Write the numbers of every layer, and histograms of its gates."""
        for layer in look.layers:
            numbers = {
                "gradient/of h, at the last step": layer.dh[0],
                "gradient/of h, at the first step": layer.dh[-1],
                "units/dead": float(layer.dead),
                "findings": float(len(layer.findings)),
            }
            if layer.dc is not None:
                numbers["gradient/of c, at the last step"] = layer.dc[0]
                numbers["gradient/of c, at the first step"] = layer.dc[-1]
            if layer.horizon is not None:
                # Beyond the sequences is as good as all of them, and a curve has no place for inf.
                numbers["memory/horizon"] = min(layer.horizon, layer.length)
            for letter, low in layer.low.items():
                numbers[f"saturated/{letter}"] = low + layer.high[letter]
                numbers[f"mean/{letter}"] = layer.means[letter]
            numbers |= {f"norm/{name}": norm for name, norm in (layer.weights | layer.gradients).items()}
            self.scalars(look.step, {f"{layer.layer}/{name}": value for name, value in numbers.items()})
            for letter, counts in layer.gates.items():
                self._histogram(f"{layer.layer}/gate {letter}", look.step, letter, counts)
        self._writer.flush()

    def scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        """Write numbers by their tags."""
        for tag, value in numbers.items():
            self._writer.add_scalar(tag, value, step)

    def _histogram(self, tag: str, step: int, letter: str, counts: Sequence[int]) -> None:
        low, high = _ends(letter)
        edges = np.linspace(low, high, len(counts) + 1)
        centres = (edges[:-1] + edges[1:]) / 2
        if not sum(counts):  # all beyond the ends, so not finite
            return
        self._writer.add_histogram_raw(
            tag,
            min=low,
            max=high,
            num=sum(counts),
            sum=float(np.dot(centres, counts)),
            sum_squares=float(np.dot(centres**2, counts)),
            bucket_limits=edges[1:].tolist(),
            bucket_counts=list(counts),
            global_step=step,
        )

    def close(self) -> None:
        """Write what is left and close the file."""
        self._writer.close()
