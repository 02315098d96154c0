"""Turn the hourly oil temperatures of ETTh1 into sequences for forecasts of the next 24 hours.

The protocol is that of Informer (Zhou et al., AAAI 2021, arXiv:2012.07436): 12 months of 30 days for
training, 4 for validation, 4 for test; OT alone, standardised by the months for training; at each hour t a
forecast of the hours t + 1 to t + 24, all of them in the same part. That makes 2,857 forecasts for test.

The hours are cut into pieces. Of each the first 168 hours are for the network to read in, and belong to no
forecast; in the next 168 hours each has one. So every hour has its forecast once, made from 168 hours of
history or more, where there are as many. At each step stand

- OT, its change in the last hour and in the last 24, and sine and cosine of the hour of the day;
- change_1 to change_24: how OT had changed 1 to 24 hours after the hour that is 24 hours ago. This is nothing
  of the future: `horizon: 24` in the config makes it a forecast. NaN where that hour has no forecast.

    python prepare.py ETTh1.csv         # writes etth1.npz, and prints errors of naive forecasts
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from timelike.errors import DataError, TimelikeError
from timelike.files import replacing

HOURS = 24  # that are forecast
READ_IN = 168
LENGTH = 168  # hours of a piece that have a forecast
MONTH = 30 * 24
PARTS = {"train": (0, 12 * MONTH), "validation": (12 * MONTH, 16 * MONTH), "test": (16 * MONTH, 20 * MONTH)}
CHANGES = [f"change_{k}" for k in range(1, HOURS + 1)]
NAMES = ["OT", "hourly", "daily", "hour_sin", "hour_cos", *CHANGES]
DEFAULT_OUTPUT = Path(__file__).resolve().parent / "etth1.npz"


def read_csv(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the hour of the day [N] and the oil temperature [N] of all rows."""
    needed = PARTS["test"][1]
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [(row["date"], row["OT"]) for row in csv.DictReader(file)]
        hours = np.array([int(date[11:13]) for date, _ in rows])
        temperature = np.array([float(ot) for _, ot in rows])
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not ETTh1.csv, whose columns are date, ..., OT: {error}") from None
    if len(rows) < needed:
        raise DataError(f"{path}: {len(rows):,} hours; the protocol needs {needed:,}")
    return hours, temperature


def standardised(temperature: np.ndarray) -> np.ndarray:
    """Take the mean of the months for training off, and divide by their standard deviation."""
    first, last = PARTS["train"]
    return (temperature - temperature[first:last].mean()) / temperature[first:last].std()


def asked_of(part: str) -> range:
    """Give the hours with a forecast: from all of them the next 24 hours are in the part."""
    first, last = PARTS[part]
    return range(max(first - 1, HOURS), last - HOURS)


def columns(hours: np.ndarray, ot: np.ndarray) -> np.ndarray:
    """Compute what stands at each hour.

    Parameters
    ----------
    hours : array [N]
        Hour of the day.
    ot : array [N]
        Standardised temperature.

    Returns
    -------
    array [N, 5 + 24]
        As `NAMES`; changes over a time that begins before the first hour are 0.
    """

    def ago(k: int) -> np.ndarray:
        return np.concatenate([np.full(min(k, len(ot)), ot[0]), ot[: max(len(ot) - k, 0)]])

    angle = 2 * np.pi * hours / 24
    known = [ot, ot - ago(1), ot - ago(24), np.sin(angle), np.cos(angle)]
    changes = [ago(HOURS - k) - ago(HOURS) for k in range(1, HOURS + 1)]
    return np.stack([*known, *changes], axis=1)


def pieces(values: np.ndarray, asked: range) -> list[np.ndarray]:
    """Cut a part into pieces.

    Parameters
    ----------
    values : array [N, D]
        As `columns` gives them.
    asked : range
        The hours that have a forecast.

    Returns
    -------
    list of array [T, D]
        Hours to read in, hours with a forecast, and 24 more whose changes are what was to be forecast.
        Changes that belong to the forecast of another piece, or to none, are NaN.
    """
    found = []
    for first in asked[::LENGTH]:
        last = min(first + LENGTH, asked.stop)
        begin = max(first - READ_IN, 0)
        piece = values[begin : last + HOURS].copy()
        piece[: first + HOURS - begin, -HOURS:] = np.nan
        found.append(piece)
    return found


def naive(ot: np.ndarray, asked: range) -> dict[str, tuple[float, float]]:
    """Compute the mean squared and mean absolute errors of forecasts without any model.

    Returns
    -------
    dict of str to (float, float)
        Of "the last value", and of "the same hour of the day before".
    """
    now = np.array(asked)[:, None]
    ahead = now + np.arange(1, HOURS + 1)
    forecasts = {"the last value": ot[now], "the same hour of the day before": ot[ahead - 24]}
    errors = {name: forecast - ot[ahead] for name, forecast in forecasts.items()}
    return {name: (float(np.mean(e**2)), float(np.mean(np.abs(e)))) for name, e in errors.items()}


def prepare(path: Path, output: Path) -> dict[str, tuple[float, float]]:
    """Write the pieces of all parts to an .npz file, and give the errors of naive forecasts for test."""
    hours, temperature = read_csv(path)
    ot = standardised(temperature)
    values = columns(hours, ot)
    found = {part: pieces(values, asked_of(part)) for part in PARTS}
    every = [piece for of_part in found.values() for piece in of_part]
    with replacing(output) as aside, aside.open("wb") as file:
        np.savez(
            file,
            values=np.concatenate(every),
            offsets=np.cumsum([0, *map(len, every)]),
            names=np.array(NAMES),
            part=np.repeat(np.arange(len(PARTS)), [len(of_part) for of_part in found.values()]),
        )
    return naive(ot, asked_of("test"))


def main() -> None:
    """Read the command line, write the file and print the errors of naive forecasts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("csv", type=Path, help="ETTh1.csv of the ETDataset")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help=f"({DEFAULT_OUTPUT.name})")
    arguments = parser.parse_args()
    try:
        errors = prepare(arguments.csv, arguments.output)
    except TimelikeError as error:
        parser.error(str(error))
    print(f"{arguments.output}: {len(asked_of('test')):,} forecasts for test, of which naive ones have")
    for name, (squared, absolute) in errors.items():
        print(f"  {name}: MSE {squared:.4f}, MAE {absolute:.4f}")


if __name__ == "__main__":
    main()
