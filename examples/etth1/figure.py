"""Draw forecasts of the months for test, and how the error grows with the hours ahead.

It needs the run of ``timelike train etth1.yaml``, and writes forecasts.png.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np

from timelike.config import Config, load_config
from timelike.files import replacing
from timelike.model import load_model, predict
from timelike.train import read_splits

mpl.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).resolve().parent
CONFIG = HERE / "etth1.yaml"
TEMPERATURE = {"data.variables": ["OT", "hourly", "daily", "hour_sin", "hour_cos"]}  # OT is for the figure
PIECE = 8  # which piece of the series is drawn
EVERY = 24  # hours between the forecasts that are drawn


def draw(config: Config, output: Path) -> None:
    """Apply the model of a run to the months for test, and draw.

    Parameters
    ----------
    config : Config
        Of the run, with `TEMPERATURE` for its variables.
    output : pathlib.Path
        The PNG file to write.
    """
    test = read_splits(config)["test"]
    found, truth = predict(load_model(config.run_folder / "model.safetensors"), test), test.step_targets
    assert truth is not None
    asked = ~np.isnan(truth).any(axis=1)
    hours = np.arange(1, truth.shape[1] + 1)
    piece = slice(*test.offsets[PIECE : PIECE + 2])
    ot, own, now = test.values[piece, 0], found[piece], np.flatnonzero(asked[piece])

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), width_ratios=[2, 1], layout="constrained")
    drawn = np.arange(now[0] - 24, len(ot))
    left.plot(drawn - now[0], ot[drawn], color="0.6", label="temperature")
    for k, t in enumerate(now[::EVERY]):
        ahead = np.array([0, *hours]) + t - now[0]
        left.plot(ahead, ot[t] + np.array([0.0, *own[t]]), "C0", label=None if k else "forecasts of 24 hours")
        left.plot(ahead[0], ot[t], "C0o", markersize=3)
    left.set(xlabel="hour", ylabel="oil temperature, standardised", xticks=np.arange(0, 193, 24))
    left.legend(frameon=False)

    right.plot(hours, np.mean(truth[asked] ** 2, axis=0), color="0.6", label="the last value")
    right.plot(hours, np.mean((found - truth)[asked] ** 2, axis=0), "C0", label="network")
    right.set(xlabel="hours ahead", ylabel="mean squared error", xticks=np.arange(0, 25, 6), ylim=(0, None))
    right.legend(frameon=False)
    with replacing(output) as aside:
        figure.savefig(aside, format="png", dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    draw(load_config(CONFIG, overrides=TEMPERATURE), HERE / "forecasts.png")
