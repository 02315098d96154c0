"""Train the network of a config from several seeds; print figures of merit, mean and standard deviation.

Events and split stay as the config says; a seed changes first weights, order of the events and dropout. The
figures are of the test events, each of which is looked at once for a seed. Whoever chooses settings by them
looks at `--part validation` instead.

    python five_seeds.py digits/digits.yaml
    python five_seeds.py digits/digits.yaml --part validation --set training.optimiser.learning_rate=0.01
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from timelike.config import Config, load_config
from timelike.errors import ConfigError, TimelikeError
from timelike.evaluate import evaluate
from timelike.model import Model, predict
from timelike.runs import predictions_of
from timelike.sequences import Sequences
from timelike.train import read_events, read_splits, train
from timelike.yamlfile import assignments


def figures_of_classes(model: Model, events: Sequences) -> dict[str, float]:
    """Give accuracy and AUC, and of two classes the background rejection at half the signal."""
    of = {"events": predictions_of(model, events)}
    metrics = evaluate(of, model.class_names, signal=model.signal, n_bootstrap=0)["events"]
    if len(model.class_names) > 2:
        return {"accuracy": metrics["accuracy"]["value"], "AUC": metrics["auc_macro"]["value"]}
    rejection = metrics["rejection"]["at_signal_0.5"]["value"]
    return {
        "accuracy": metrics["accuracy"]["value"],
        "AUC": metrics["auc"]["value"],
        "rejection at 50 %": np.inf if rejection is None else rejection,
    }


def figures_of_targets(model: Model, events: Sequences) -> dict[str, float]:
    """Give mean squared and mean absolute error over all targets of all events, or steps, that have any."""
    targets = events.targets if events.step_targets is None else events.step_targets
    if targets is None:
        raise ConfigError("the events have no targets")
    asked = ~np.isnan(targets).any(axis=1)
    errors = (predict(model, events) - targets)[asked]
    return {"MSE": float(np.mean(errors**2)), "MAE": float(np.mean(np.abs(errors)))}


def figures(config: Config, model: Model, events: Sequences) -> dict[str, float]:
    """Give the figures of merit of a model, by the kind of its task."""
    if config.data.kind == "regression" and config.training.loss != "quantile":
        return figures_of_targets(model, events)
    if config.data.kind == "classes" and config.data.per == "event":
        return figures_of_classes(model, events)
    raise ConfigError("figures are there of classes of events, and of targets without quantiles")


def table(rows: Mapping[int, Mapping[str, float]]) -> str:
    """Write a row for each seed, then one of mean and standard deviation.

    Examples
    --------
    >>> print(table({1: {"AUC": 0.91, "seconds": 3.0}, 2: {"AUC": 0.93, "seconds": 4.0}}))
    | seed | AUC | seconds |
    |---|---|---|
    | 1 | 0.9100 | 3.0 |
    | 2 | 0.9300 | 4.0 |
    | mean ± std | 0.9200 ± 0.0141 | 3.5 ± 0.7 |
    """
    names = list(next(iter(rows.values())))
    numbers = np.array([[row[name] for name in names] for row in rows.values()])
    digits = [4 if column.max() <= 1 else 1 for column in numbers.T]
    lines = [["seed", *names], ["---"] * (len(names) + 1)]
    for seed, row in zip(rows, numbers, strict=True):
        lines.append([str(seed), *(f"{x:.{d}f}" for x, d in zip(row, digits, strict=True))])
    if len(rows) > 1:
        both = zip(numbers.mean(axis=0), numbers.std(axis=0, ddof=1), digits, strict=True)
        lines.append(["mean ± std", *(f"{mean:.{d}f} ± {std:.{d}f}" for mean, std, d in both)])
    texts = [f"| {' | '.join(line)} |" for line in lines]
    texts[1] = texts[1].replace(" ", "")
    return "\n".join(texts)


def run(
    path: Path, seeds: Sequence[int], part: str, overrides: Mapping[str, Any]
) -> dict[int, dict[str, float]]:
    """Train once for each seed, and give the figures of each, with the time of the training."""
    rows = {}
    config = load_config(path, overrides=overrides)
    events = read_events(config)
    judged = read_splits(config, events)[part]
    for seed in seeds:
        own = {"training.seed": seed, "output": f"{config.output}-seed{seed}"}
        config_of_seed = load_config(path, overrides={**overrides, **own})
        result = train(config_of_seed, events=events)
        rows[seed] = {**figures(config_of_seed, result.model, judged), "seconds": result.seconds}
        print(f"seed {seed}: {', '.join(f'{k} {x:.4g}' for k, x in rows[seed].items())}", file=sys.stderr)
    return rows


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="(1 2 3 4 5)")
    parser.add_argument("--part", choices=["test", "validation"], default="test", help="(test)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="values of the config")
    arguments = parser.parse_args()
    try:
        print(table(run(arguments.config, arguments.seeds, arguments.part, assignments(arguments.set))))
    except TimelikeError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
