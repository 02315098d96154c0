"""Judging a regression: bias, resolution, errors, coverage of quantiles, with uncertainties.

`evaluate_regression` makes the nested dictionary that becomes ``metrics.json``, as `timelike.evaluate` does
for classes; event weights of either sign are taken.

At the top: ``task`` ("regression"), ``unit`` ("event", or "step" where each step has targets), ``targets``,
``quantiles``, ``bootstrap``, ``overtraining`` and one entry per split, such as ``test``. In a split, beside
``events`` and ``sum_of_weights``, ``targets`` has for each target t with prediction p (of quantiles the one
nearest to the median), weighted means ``<.>``:

- ``rmse`` ``sqrt(<(p - t)^2>)``, ``mae`` ``<|p - t|>``, ``bias`` ``<p - t>``;
- ``r2`` ``1 - <(p - t)^2> / <(t - <t>)^2>``, ``correlation`` of p and t: None where all t are the same;
- ``median`` of p - t, and ``resolution``, half the width of the interval that holds the middle 68.3 % of it:
  the standard deviation, where p - t is normal, and blind to outliers;
- ``mean`` and ``spread``, mean and standard deviation of t;
- of counts the ``deviance`` ``2 <t log(t / p) - (t - p)>`` (McCullagh & Nelder, Generalized Linear Models,
  section 2.3);
- of quantiles ``quantiles``: for each share q the ``coverage`` (share of targets below the prediction, which
  is to be q) and the ``pinball`` loss ``<max(q d, (q - 1) d)>``, d = t - p; and ``interval`` between the
  outermost two: ``nominal``, ``coverage`` and mean ``width``.

``overtraining`` has for each target the difference of ``rmse``, test less train, and what follows for all.

Sizes: `B` rows, `K` targets, `Q` quantiles, `R` replicas and one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timelike.errors import ConfigError, DataError
from timelike.predictions import Estimates, unit_of
from timelike.ranking import measured
from timelike.statistics import bootstrap_weights

__all__ = ["evaluate_regression", "middle"]

Floats = NDArray[np.float64]

_MIDDLE = (0.15865525393145705, 0.5, 0.8413447460685429)  # one standard deviation of a normal distribution


def evaluate_regression(
    estimates: Mapping[str, Estimates],
    names: Sequence[str],
    *,
    quantiles: Sequence[float] = (),
    counts: bool = False,
    n_bootstrap: int = 200,
    seed: int = 0,
) -> dict[str, Any]:
    """Compute all metrics of all splits.

    Parameters
    ----------
    estimates : mapping of str to Estimates
        By split. With both "train" and "test", the two are compared for overtraining.
    names : sequence of str
        Of the K targets.
    quantiles : sequence of float
        The shares of which the model gives quantiles; none where it gives a number for each target.
    counts : bool
        Whether targets are counts, and the model gives the numbers that are expected.
    n_bootstrap : int
        Number of bootstrap replicas for the uncertainties; 0 for none.
    seed : int
        Seed of the replicas.

    Returns
    -------
    dict
        Nested, of plain Python numbers, strings and lists: see the head of this module.

    Raises
    ------
    DataError
        If a split cannot be evaluated.
    ConfigError
        If a negative number of replicas is given.

    Examples
    --------
    >>> t = np.array([[1.0], [2.0], [3.0], [4.0]])
    >>> found = Estimates(t + [[0.5], [-0.5], [0.5], [0.5]], t, np.ones(4), np.arange(4))
    >>> metrics = evaluate_regression({"test": found}, ["mass"], n_bootstrap=0)
    >>> mass = metrics["test"]["targets"]["mass"]
    >>> mass["rmse"]["value"], mass["bias"]["value"], mass["r2"]["value"]
    (0.5, 0.25, 0.8)
    """
    if n_bootstrap < 0:
        raise ConfigError(f"number of bootstrap replicas: given {n_bootstrap}, 0 or more is possible")
    if not estimates:
        raise DataError("no split to evaluate")
    for split, found in estimates.items():
        found.check(names, split, each=len(quantiles) or 1)
    metrics: dict[str, Any] = {
        "task": "regression",
        "unit": unit_of(estimates),
        "targets": list(names),
        "quantiles": list(quantiles),
        "bootstrap": {"replicas": n_bootstrap, "seed": seed},
    }
    for split, found in estimates.items():
        columns = [_Target(found, k, tuple(quantiles), counts) for k in range(len(names))]
        for block in bootstrap_weights(
            found.weights, None, n_bootstrap, (seed, *split.encode()), found.groups
        ):
            for column in columns:
                column.add(block)
        metrics[split] = {
            "events": len(found.targets) if found.groups is None else int(found.groups.max()) + 1,
            "rows": len(found.targets),
            "sum_of_weights": float(found.weights.sum()),
            "targets": {name: column.metrics() for name, column in zip(names, columns, strict=True)},
        }
    both = "train" in estimates and "test" in estimates
    metrics["overtraining"] = _overtraining(metrics) if both else None
    return metrics


def middle(quantiles: Sequence[float]) -> int:
    """Give the place of the quantile that stands for a target: that nearest to the median.

    Examples
    --------
    >>> middle([0.16, 0.5, 0.84]), middle([])
    (1, 0)
    """
    return int(np.argmin(np.abs(np.asarray(quantiles) - 0.5))) if len(quantiles) else 0


class _Target:
    """One target: gathers sums of replicas, then gives metrics."""

    def __init__(self, found: Estimates, k: int, quantiles: tuple[float, ...], counts: bool) -> None:
        each = len(quantiles) or 1
        t, said = found.targets[:, k], found.values[:, k * each : (k + 1) * each]
        p = said[:, middle(quantiles)]
        self._quantiles, self._counts = quantiles, counts
        # About their own middle, so that squares of large numbers do not cancel.
        self._at = float(np.average(t))
        x, y = t - self._at, p - self._at
        columns = [np.ones(len(t)), x, y, x * x, y * y, x * y, p - t, (p - t) ** 2, np.abs(p - t)]
        if counts:
            ratio = np.where(t > 0, t, 1.0) / np.maximum(p, np.finfo(np.float64).tiny)
            columns.append(2.0 * (t * np.log(ratio) - (t - p)))
        for q, value in zip(quantiles, said.T, strict=False):
            d = t - value
            columns += [(d <= 0).astype(np.float64), np.maximum(q * d, (q - 1.0) * d)]
        if len(quantiles) > 1:
            low, high = said[:, 0], said[:, -1]
            columns += [((t > low) & (t <= high)).astype(np.float64), high - low]
        self._columns = np.column_stack(columns)
        order = np.argsort(p - t, kind="stable")
        self._order, self._rising = order, (p - t)[order]
        self._sums: list[Floats] = []
        self._middles: list[Floats] = []

    def add(self, weights: Floats) -> None:
        """Sum with a block of sets of weights, [rows, B]."""
        self._sums.append(weights @ self._columns)
        running = np.cumsum(weights[:, self._order], axis=1)
        # With negative weights the sum may fall again: the first crossing counts.
        crossed = [np.argmax(running >= share * running[:, -1:], axis=1) for share in _MIDDLE]
        self._middles.append(self._rising[np.stack(crossed, axis=1)])

    def metrics(self) -> dict[str, Any]:
        sums, middles = np.concatenate(self._sums), np.concatenate(self._middles)
        total = sums[:, :1]
        # A replica in which negative weights prevail has no means: NaN all along.
        means = sums[:, 1:] / np.where(total > 0, total, np.nan)
        x, y, xx, yy, xy, bias, square, size = means[:, :8].T
        spread, spread_said = np.maximum(xx - x * x, 0.0), np.maximum(yy - y * y, 0.0)
        both = np.sqrt(spread * spread_said)
        with np.errstate(invalid="ignore"):
            rows = {
                "rmse": np.sqrt(square),
                "mae": size,
                "bias": bias,
                "r2": 1.0 - square / np.where(spread > 0, spread, np.nan),
                "correlation": (xy - x * y) / np.where(both > 0, both, np.nan),
                "median": middles[:, 1],
                "resolution": (middles[:, 2] - middles[:, 0]) / 2.0,
                "mean": x + self._at,
                "spread": np.sqrt(spread),
            }
        result = {name: _number(values) for name, values in rows.items()}
        rest = means[:, 8:]
        if self._counts:
            result["deviance"], rest = _number(rest[:, 0]), rest[:, 1:]
        if self._quantiles:
            result["quantiles"] = {
                f"{q:g}": {"coverage": _number(rest[:, 2 * k]), "pinball": _number(rest[:, 2 * k + 1])}
                for k, q in enumerate(self._quantiles)
            }
        if len(self._quantiles) > 1:
            result["interval"] = {
                "nominal": self._quantiles[-1] - self._quantiles[0],
                "coverage": _number(rest[:, -2]),
                "width": _number(rest[:, -1]),
            }
        return result


def _number(rows: Floats) -> dict[str, Any]:
    return measured(rows) if math.isfinite(rows[0]) else {"value": None, "error": None}


def _overtraining(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Compare the errors of train with those of test, target by target."""
    # Of several targets that all agree, one or more is beyond it in 2.3 % of cases.
    far = NormalDist().inv_cdf(1.0 - NormalDist().cdf(-2.0) / len(metrics["targets"]))
    each: dict[str, Any] = {}
    worse = []
    for name in metrics["targets"]:
        train, test = (metrics[split]["targets"][name]["rmse"] for split in ("train", "test"))
        if train["value"] is None or test["value"] is None:  # negative weights prevail where it is far off
            each[name] = {"value": None, "error": None}
            continue
        gap = test["value"] - train["value"]
        errors = (train["error"], test["error"])
        error = None if None in errors else math.hypot(*errors)
        each[name] = {"value": gap, "error": error}
        if error is not None and gap > far * error:
            worse.append(name)
    if worse:
        return {
            "rmse_difference": each,
            "status": "gap",
            "verdict": f"The error of {', '.join(worse)} is larger on new events than on those of the "
            "training, by more than chance explains: the network has learnt some by heart. "
            "Trust the test figures.",
        }
    return {
        "rmse_difference": each,
        "status": "none",
        "verdict": "No sign of overtraining: the errors on training and test events agree within their "
        "uncertainties.",
    }
