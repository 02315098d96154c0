"""A learning rate from the data: the range test of Smith, arXiv:1506.01186, section 3.3.

A network of its own is trained over some batches while the learning rate rises exponentially. Where it is far
too small the loss stays, then it falls, and at last it explodes. Clipping, weight decay and regularisation
are those of the config, its schedule is not: the rate is what the test sets it to.

The loss that belongs to a rate is that of the batch behind its step, smoothed by a running mean with
Gaussian weights, forward and backward alike, so that nothing lags behind. **The rule:** the rate to begin
with is a tenth of that at which the smoothed loss is least, which lies before the explosion by about the
width of the valley; a rate of the steepest descent is told beside it.

Sizes: `K` steps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from timelike.batches import Batch, Batches
from timelike.canvas import INK, PALETTE, REST, drawing, render
from timelike.config import Config, load_config
from timelike.errors import ConfigError
from timelike.files import replacing
from timelike.fit import TrainingError, make_batches
from timelike.train import make_network, prepare_events, settings
from timelike.trainingstep import NotFinite, TrainingStep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["RateCurve", "checked_figure", "find_learning_rate", "plot_learning_rate", "write_rate_curve"]

Floats = npt.NDArray[np.float64]
_FEWEST = 20  # steps
_WIDTH = 0.02  # of the running mean: standard deviation, as a share of the steps
_DEVIATIONS = 5.0  # of the smoothed loss's noise: less is no fall, among hundreds of steps
_FORMS = (".png", ".pdf", ".svg")


@dataclass(frozen=True, eq=False)
class RateCurve:
    """The loss over the learning rate.

    Attributes
    ----------
    rates : tuple of K float
        Of the steps, rising.
    losses : tuple of K float
        Of the batch behind each step.
    smoothed : tuple of K float
    exploded : bool
        Whether the test ended before its highest rate, because the loss exploded.
    least, steepest : float or None
        Rates at which the smoothed loss is least and falls fastest; None where it does not fall by more
        than its noise.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    exploded: bool
    least: float | None
    steepest: float | None

    @property
    def suggestion(self) -> float | None:
        """A tenth of the rate of the least loss, to two digits."""
        return None if self.least is None else float(f"{self.least / 10:.1e}")


def find_learning_rate(
    config: Config | str | Path, *, low: float = 1e-6, high: float = 10.0, steps: int = 200
) -> RateCurve:
    """Train some batches at rising learning rates and see where the loss falls.

    Nothing is written, and a run of the config stays as it is. The same config gives the same curve.

    Parameters
    ----------
    config : Config or path
        Of any task.
    low, high : float
        The first rate and the last.
    steps : int
        How many steps, K at most.

    Raises
    ------
    ConfigError
        If the rates or steps have no meaning, or the config cannot be carried out.
    DataError
        If the files do not hold what the config says.
    TrainingError
        If the loss is not finite at the lowest rates already.
    """
    config = config if isinstance(config, Config) else load_config(config)
    if not (0 < low < high < math.inf):
        raise ConfigError(f"learning rates from {low:g} to {high:g}: both above 0, the second larger")
    if steps < _FEWEST:
        raise ConfigError(f"{steps} steps: {_FEWEST} at least, to tell a trend from noise")
    prepared = prepare_events(config)
    names = config.data.class_names if config.data.exclusive else None
    with settings(config.training):
        network = make_network(config, len(prepared.transforms.outputs))
        step = TrainingStep(network, config.training)
        network.train()
        batches = make_batches(network, prepared.training, config.training, names, epochs=steps + 1)
        rates, losses, exploded = np.geomspace(low, high, steps), list[float](), False
        try:
            for batch, rate in zip(_endless(batches), [*rates, high], strict=False):
                for group in step.optimiser.torch.param_groups:
                    group["lr"] = rate
                try:
                    losses.append(step.take(batch))
                except NotFinite as error:
                    if len(losses) <= _FEWEST:
                        before = rates[max(0, len(losses) - 1)]
                        raise TrainingError(f"{error} at the learning rate {before:g}") from None
                    exploded = True
                if exploded := exploded or _explodes(losses, steps):
                    break
        finally:
            batches.close()
            prepared.close()
    # The loss of the first batch is behind no step.
    return _curve(rates[: len(losses) - 1], np.array(losses[1:]), _WIDTH * steps, exploded=exploded)


def _endless(batches: Batches) -> Iterator[Batch]:
    """Give the batches of epoch after epoch."""
    while True:
        yield from batches.epoch()


def _explodes(losses: list[float], steps: int) -> bool:
    """Whether the loss has risen beyond where it began by twice what it had fallen, and by more than noise.

    Losses may be negative: a multiple of the least one would mean nothing.
    """
    first = steps // 10
    if len(losses) < 2 * first:
        return False
    begin, spread = float(np.mean(losses[:first])), float(np.std(losses[:first]))
    few = max(2, first // 4)
    means = np.convolve(losses, np.full(few, 1 / few), mode="valid")
    return bool(means[-1] > begin + 2 * (begin - means.min()) + _DEVIATIONS * spread)


def _curve(rates: Floats, losses: Floats, width: float, *, exploded: bool) -> RateCurve:
    """Smooth the losses, and find where they are least and fall fastest."""
    n = len(losses)
    k = np.arange(n)
    weights = np.exp(-0.5 * ((k[:, None] - k) / width) ** 2)  # [K, K]
    smoothed = weights @ losses / weights.sum(axis=1)
    first = max(_FEWEST // 2, n // 10)
    # Of a mean with Gaussian weights of that width, the effective number of losses is 2 sqrt(pi) width.
    noise = np.std(losses[:first], ddof=1) / math.sqrt(2 * math.sqrt(math.pi) * width)
    at = int(smoothed.argmin())
    least = steepest = None
    if smoothed[at] < losses[:first].mean() - _DEVIATIONS * noise:
        least = float(rates[at])
        steepest = float(rates[np.gradient(smoothed[: at + 1]).argmin()]) if at else least
    a, b, c = (tuple(map(float, of)) for of in (rates, losses, smoothed))
    return RateCurve(a, b, c, exploded, least, steepest)


def plot_learning_rate(curve: RateCurve, *, ax: Axes | None = None) -> Axes:
    """Draw the loss over the learning rate: of each batch, smoothed, and the rate that is suggested.

    Parameters
    ----------
    curve : RateCurve
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
    """
    low, high = min(curve.smoothed), max(curve.smoothed)
    with drawing(ax) as ax:
        ax.plot(curve.rates, curve.losses, ".", color=REST, markersize=3, label="batches")
        ax.plot(curve.rates, curve.smoothed, color=INK, label="smoothed")
        if curve.suggestion is not None:
            dashed = {"color": PALETTE[0], "linewidth": 1.4, "linestyle": (0, (4, 2))}
            ax.axvline(curve.suggestion, 0.0, 0.76, label=f"suggested: {curve.suggestion:g}", **dashed)
        ax.set(xscale="log", xlim=(curve.rates[0], curve.rates[-1]))
        margin = 0.1 * (high - low)
        ax.set_ylim(low - 2 * margin, high + 5 * margin)  # room for the legend; single batches may be beyond
        ax.set_xlabel("Learning rate")
        ax.set_ylabel("Loss")
        ax.legend(loc="upper left")
    return ax


def write_rate_curve(curve: RateCurve, path: str | Path) -> tuple[Path, Path]:
    """Write the figure of a curve, and beside it the numbers as JSON.

    Parameters
    ----------
    curve : RateCurve
    path : path
        Of the figure: .png, .pdf or .svg. Its folder must exist.

    Returns
    -------
    figure, numbers : Path

    Raises
    ------
    ConfigError
        If the suffix is another, or the files cannot be written.
    """
    path = checked_figure(path)
    numbers = path.with_suffix(".json")
    with replacing(path) as part:
        part.write_bytes(render(plot_learning_rate(curve), path.suffix[1:])[path.suffix[1:]])
    with replacing(numbers) as part:
        part.write_text(json.dumps(asdict(curve) | {"suggestion": curve.suggestion}, indent=1) + "\n")
    return path, numbers


def checked_figure(path: str | Path) -> Path:
    """Give the path of a figure; raises `ConfigError` if it is of no form that can be drawn."""
    path = Path(path)
    if path.suffix not in _FORMS:
        raise ConfigError(f"{path}: a figure is written as {', '.join(_FORMS)}")
    return path
