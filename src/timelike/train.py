"""From a config to a trained model in a run's folder.

`train` reads the data, splits it, fits the transforms on the training events, fits the network, and writes

- ``model.safetensors``: the weights of the best epoch so far, with all that is needed to apply them;
- ``history.json``, ``history.csv``: the numbers of every epoch so far;
- ``config.yaml``: the config with every default, from which the run can be repeated and evaluated.

These are written after each epoch that gives something new, each aside and renamed: a training that is
interrupted or killed leaves the best model it had, and ``checkpoint.safetensors``, from which it can go on.
With ``training.inspect`` there are also

- ``inspection.jsonl``: what `timelike.inspect.Watch` saw, a line for each look;
- ``tensorboard``: the same and the numbers of the epochs in event files, where the config says so.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from timelike import data, kernels
from timelike.checkpoint import Snapshot, fingerprint, read_snapshot, write_snapshot
from timelike.config import Config, TrainingConfig, load_config
from timelike.data.split import split
from timelike.data.streaming import read_parts
from timelike.data.transforms import FittedTransforms
from timelike.distributed import Ranks, ranks
from timelike.errors import ConfigError, DataError, ModelFileError
from timelike.files import replacing
from timelike.fit import Epoch, fit, one_step
from timelike.inspect.runlog import LOGS, RunLog
from timelike.model import Model, save_model
from timelike.modelfile import read_model_file
from timelike.network import Network
from timelike.preparation import Prepared, prepare
from timelike.progress import Progress, Silent
from timelike.resuming import Change, completed, decisive, differences
from timelike.reweighting import Flattening
from timelike.sequences import Sequences

__all__ = [
    "CHECKPOINT",
    "CONFIG",
    "HISTORY",
    "MODEL",
    "TrainingInterrupted",
    "TrainingResult",
    "make_network",
    "prepare_events",
    "read_events",
    "read_splits",
    "record_of",
    "rehearse",
    "settings",
    "train",
]

# Names of files in a run's folder
CONFIG, HISTORY, MODEL = "config.yaml", "history.json", "model.safetensors"
CHECKPOINT, TABLE = "checkpoint.safetensors", "history.csv"
_OF_ANOTHER = (CHECKPOINT, "metrics.json", "report.html", "figures/*.png", "figures/*.pdf", *LOGS)


class TrainingInterrupted(KeyboardInterrupt):
    """A training was interrupted; the message says what it leaves."""


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """What a training leaves."""

    folder: Path
    model: Model  # with the weights of the best epoch
    history: tuple[Epoch, ...]
    best: Epoch

    @property
    def seconds(self) -> float:
        """Time of all epochs, without reading and writing."""
        return sum(epoch.seconds for epoch in self.history)


def train(
    config: Config | str | Path,
    *,
    progress: Progress | None = None,
    resume: bool = False,
    accept_changes: bool = False,
    events: Sequences | None = None,
    on_epoch: Callable[[tuple[Epoch, ...]], None] = lambda history: None,
) -> TrainingResult:
    """Train the network of a config and write the run's folder.

    The same config on the same machine gives the same weights to the bit, whether it was interrupted and
    resumed or not.

    Parameters
    ----------
    config : Config or path
        What to do, or the file that says so.
    progress : Progress, optional
        Where to show how it goes; see `timelike.progress`. Nothing is shown when not given.
    resume : bool
        Go on from the run's last checkpoint; from the beginning where there is none.
    accept_changes : bool
        On resuming, go on with another config than before, as far as `timelike.resuming` says is possible.
        From there on the learning rate is what the new schedule gives at that place.
    events : Sequences, optional
        The events of the config, where they have been read already.
    on_epoch : callable
        Called after each epoch with the history so far, when its files are written.

    Returns
    -------
    TrainingResult

    Raises
    ------
    ConfigError
        If the config cannot be carried out or the folder cannot be written.
    DataError
        If the files do not hold what the config says, or on resuming not what they held before.
    ModelFileError
        On resuming, if the checkpoint is damaged.
    TrainingError
        If the loss is no longer a finite number.
    TrainingInterrupted
        On Ctrl-C during the fit.
    """
    config = config if isinstance(config, Config) else load_config(config)
    progress = Silent() if progress is None else progress
    with ranks(config.training.backend) as found:
        return _train(config, progress, resume, accept_changes, events, on_epoch, found)


def _train(
    config: Config,
    progress: Progress,
    resume: bool,
    accept_changes: bool,
    events: Sequences | None,
    on_epoch: Callable[[tuple[Epoch, ...]], None],
    ranks: Ranks | None,
) -> TrainingResult:
    first = ranks is None or ranks.rank == 0
    progress = progress if first else Silent()
    if ranks and config.network.head.batch_norm:
        raise ConfigError("network.head.batch_norm: of several ranks each would take its own mean")
    folder = config.run_folder
    _check_writable(folder)
    if config.data.stream is not None:
        progress.say("data: a first pass over the files")
    prepared = prepare_events(config, events)
    with settings(config.training):
        names = config.data.class_names
        network = make_network(config, len(prepared.transforms.outputs))
        run = _Run(folder, config, network, prepared, on_epoch, first=first)
        progress.say(prepared.about(config.data))
        for skipped in prepared.skipped:
            progress.say(f"skipped: {skipped.error}")
        for line in (prepared.spooled, *prepared.news()):
            if line:
                progress.say(line)
        if ranks:
            ranks.check_same("config", json.dumps(run.about["config"]))
            ranks.check_same("content of the files", run.about["data"])
            progress.say(f"{ranks.size} ranks")
        begin = run.resumed(progress, accept_changes=accept_changes) if resume else None
        if not resume and run.unfinished():
            progress.say(f"an unfinished training in {folder} is replaced; --resume would go on with it")
        progress.say(f"network: {run.model().n_parameters:,} parameters; kernels for {kernels.isa()}")
        try:
            result = fit(
                network,
                prepared.training,
                prepared.validation,
                config.training,
                class_names=names if config.data.exclusive else None,
                signal=config.data.signal,
                progress=progress,
                on_epoch=(lambda history, improved: run.write(history, improved, progress))
                if first
                else lambda history, improved: None,
                watch=run.log.watch if run.log else None,
                begin=begin,
                rescheduled=run.changed,
                on_snapshot=run.snapshot if first else None,
                ranks=ranks,
            )
        except KeyboardInterrupt:
            raise TrainingInterrupted(run.left()) from None
        finally:
            prepared.close()
            if run.log:
                run.log.close()
    model = run.model(result.history, result.best, complete=True)
    if first:
        save_model(model, folder / MODEL)
    return TrainingResult(folder, model, result.history, result.best)


def rehearse(config: Config) -> str:
    """Read the data of a config, make its network, train one batch, and tell of all that; write nothing.

    Parameters
    ----------
    config : Config

    Returns
    -------
    str
        Lines: events, classes and weights of each split, variables and their ranges, layers and numbers of
        parameters, the loss before and after one step, and what a step takes.

    Raises
    ------
    ConfigError, DataError, TrainingError
        As `train`.
    """
    names = config.data.class_names if config.data.exclusive else None
    if config.data.stream is None:
        splits = _reweighted(read_splits(config), config)
        prepared = _in_memory(splits, config)
        lines = [prepared.about(config.data), *_about_events(splits, names)]
    else:
        prepared = prepare(config)
        skipped = [f"skipped: {skipped.error}" for skipped in prepared.skipped]
        spooled = [line for line in (prepared.spooled, *prepared.news()) if line]
        lines = [prepared.about(config.data), *skipped, *spooled]
    with settings(config.training):
        network = make_network(config, len(prepared.transforms.outputs))
        for layer in (*network.recurrent, *network.head):
            count = sum(p.numel() for p in layer.parameters())
            lines.append(f"  {layer}: {count:,} parameters")
        lines.append(f"network: {sum(p.numel() for p in network.parameters()):,} parameters")
        before, after, seconds = one_step(network, prepared.training, config.training, names)
        lines.append(
            f"one batch: loss {before:.4f}, after the step {after:.4f}; {1000 * seconds:.1f} ms. "
            "Nothing was written."
        )
    return "\n".join(lines)


def _about_events(splits: dict[str, Sequences], names: tuple[str, ...] | None) -> list[str]:
    """Tell of the events of each split and class, and of the variables of the training events."""
    lines, training = [], splits["train"]
    for part, events in splits.items():
        weights = np.ones(len(events)) if events.weights is None else events.weights
        for index, name in enumerate(names or ("all",)):
            own = weights if events.labels is None else weights[events.labels == index]
            total, negative = f"{own.sum():.6g}", int((own < 0).sum())
            lines.append(
                f"  {part}, {name}: {len(own):,} events, sum of weights {total}, {negative:,} negative"
            )
    lengths = training.lengths
    lines.append(f"steps of an event: {lengths.min()} to {lengths.max()}, {lengths.mean():.1f} in the mean")
    for d, name in enumerate(training.names):
        x = training.values[:, d]
        lines.append(f"  {name}: {np.nanmin(x):.4g} to {np.nanmax(x):.4g}, {np.nanmean(x):.4g} in the mean")
    return lines


def read_splits(config: Config, events: Sequences | None = None) -> dict[str, Sequences]:
    """Read the events of a config and share them out.

    Parameters
    ----------
    config : Config
    events : Sequences, optional
        The events, where they have been read already.

    Returns
    -------
    dict of str to Sequences
        "train", "validation" and "test"; not transformed.

    Raises
    ------
    DataError
        If the files do not hold what the config says.
    """
    if config.data.stream is not None:
        return read_parts(config)
    events = read_events(config) if events is None else events
    indices = split(events, config.split, class_names=config.data.class_names)
    return {name: events[index] for name, index in indices.items()}


def read_events(config: Config) -> Sequences:
    """Read the events of a config; raises `DataError` if the files do not hold what it says."""
    return data.read(config.data, config.sequence, base=config.base, dtype=config.training.dtype)


def _reweighted(splits: dict[str, Sequences], config: Config) -> dict[str, Sequences]:
    """Change the weights for training as the config says; those of the test events stay."""
    if config.training.flatten is None:
        return splits
    if not config.data.exclusive or config.data.per == "step":
        raise ConfigError("training.flatten: weights are flattened within classes of events; there are none")
    flat = Flattening.fit(splits["train"], config.training.flatten, config.data.class_names)
    return splits | {name: flat.apply(splits[name]) for name in ("train", "validation")}


def _in_memory(splits: dict[str, Sequences], config: Config) -> Prepared:
    transforms = FittedTransforms.fit(splits["train"], config.data)
    labels = [part.labels for part in splits.values() if part.labels is not None]
    labels += [
        part.step_labels[part.step_labels >= 0] for part in splits.values() if part.step_labels is not None
    ]
    classes = np.bincount(np.concatenate(labels), minlength=len(config.data.class_names)) if labels else ()
    return Prepared(
        transforms.apply(splits["train"]),
        transforms.apply(splits["validation"]),
        transforms,
        {name: len(part) for name, part in splits.items()},
        tuple(map(int, classes)),
        sum(part.n_rows for part in splits.values()),
        fingerprint(splits),
        per_step=config.data.per == "step",
    )


def prepare_events(config: Config, events: Sequences | None = None) -> Prepared:
    """Read the events of a config, share them out and transform them; or make ready to stream them.

    Parameters
    ----------
    config : Config
    events : Sequences, optional
        The events, where they have been read already.

    Raises
    ------
    DataError
        If the files do not hold what the config says.
    """
    if config.data.stream is not None:
        return prepare(config)
    return _in_memory(_reweighted(read_splits(config, events), config), config)


class _Run:
    """The folder of a run, and what goes into it after each epoch."""

    def __init__(
        self,
        folder: Path,
        config: Config,
        network: Network,
        prepared: Prepared,
        on_epoch: Callable[[tuple[Epoch, ...]], None],
        *,
        first: bool = True,
    ) -> None:
        self.folder, self.config, self.network, self.prepared = folder, config, network, prepared
        self._first = first
        self.changed = False  # the config, since the checkpoint was written
        self.best: Epoch | None = None
        self._on_epoch = on_epoch
        asked = config.training.inspect
        self.log = RunLog(folder, network, asked) if asked and first else None
        self._batches = 0  # since the last checkpoint
        self.about: dict[str, Any] = {"config": decisive(config), "data": prepared.fingerprint}
        self._begun = False

    def model(
        self, history: tuple[Epoch, ...] = (), best: Epoch | None = None, *, complete: bool = False
    ) -> Model:
        """Put together the network as it is now and all else that a model needs."""
        record = record_of(self.config.training, self.prepared.events, history, best, complete=complete)
        if self.prepared.skipped:
            record["skipped"] = [asdict(skipped) for skipped in self.prepared.skipped]
        if "changes" in self.about:
            record["changes"] = self.about["changes"]
        data, sequence = self.config.data, self.config.sequence
        return Model(self.network, self.prepared.transforms, data, sequence, record)

    def write(self, history: tuple[Epoch, ...], improved: bool, progress: Progress) -> None:
        """Write what the last epoch has changed."""
        self._begin()
        if improved:
            self.best = history[-1]
            save_model(self.model(history, self.best), self.folder / MODEL)
        if len(history) == 1:
            self._write_config()
        numbers = [asdict(epoch) for epoch in history]
        with replacing(self.folder / HISTORY) as part:
            part.write_text(json.dumps(numbers, indent=1) + "\n")
        with replacing(self.folder / TABLE) as part, part.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(numbers[0]))
            table.writeheader()
            table.writerows(numbers)
        if self.log:
            self.log.epoch(asdict(history[-1]))
        if self.prepared.skipped:
            progress.say(self.prepared.left_out())
        for line in self.prepared.news():
            progress.say(line)
        self._on_epoch(history)

    def _write_config(self) -> None:
        with replacing(self.folder / CONFIG) as part:
            part.write_text(self.config.written_for(self.folder), encoding="utf-8")

    def snapshot(self, state: Callable[[], Snapshot], within: bool) -> None:
        """Write a checkpoint after an epoch, and within one after so many batches."""
        self._batches = self._batches + 1 if within else 0
        if within and self._batches % self.config.training.checkpoint_every:
            return
        self._begin()
        write_snapshot(state(), self.folder / CHECKPOINT, self.about)

    def unfinished(self) -> bool:
        """Whether there is a training to go on with that has not come to its end."""
        if not (self.folder / CHECKPOINT).is_file():
            return False
        try:
            return not read_model_file(self.folder / MODEL).meta["training"].get("complete")
        except ModelFileError:  # none yet
            return True

    def resumed(self, progress: Progress, *, accept_changes: bool = False) -> Snapshot | None:
        """Read the last checkpoint, and check that it is of this config and these data."""
        path = self.folder / CHECKPOINT
        if not path.is_file():
            progress.say(f"no checkpoint in {self.folder}: the training begins anew")
            return None
        found, about = read_snapshot(path)
        changes = list(differences(completed(about.get("config")), self.about["config"]))
        _check_changes(path, changes, accept_changes=accept_changes)
        if about.get("data") != self.about["data"]:
            raise DataError(f"{path}: of other events than the files now hold; train anew, without --resume")
        history = found.values["history"]
        if found.values["best"]["epoch"]:
            self.best = Epoch(**found.values["best"]["epoch"])
        done = found.values["done"]
        after = f"epoch {len(history)}" + (f" and {done} batches" if done else "")
        progress.say(f"resumed after {after}" if self.unfinished() else f"complete after {after}")
        for change in changes:
            progress.say(f"changed: {change}")
        if before := about.get("changes", []):
            self.about["changes"] = before
        if changes:
            at = {"epochs": len(history), "batches": done}
            self.about["changes"] = [*before, *(at | asdict(change) for change in changes)]
            self.changed = True
            if self._first:
                self._write_config()
        self._begun = True
        if self.log:
            self.log.watch.steps = found.values["steps"]
            self.log.resume()
        return found

    def _begin(self) -> None:
        """Take away what another run has left."""
        if self._begun:
            return
        self._begun = True
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make the folder {self.folder}: {error.strerror}") from error
        for pattern in _OF_ANOTHER:  # they would be about another model now
            for file in self.folder.glob(pattern):
                file.unlink()
        if self.log:
            self.log.begin()

    def left(self) -> str:
        """Say what an interrupted training leaves."""
        if self.best is None:
            return "nothing was written, the first epoch was not done"
        return (
            f"the best model so far, of epoch {self.best.epoch}, is in {self.folder / MODEL}; "
            "timelike train --resume goes on"
        )


def record_of(
    config: TrainingConfig,
    events: Mapping[str, int],
    history: tuple[Epoch, ...],
    best: Epoch | None,
    *,
    complete: bool,
) -> dict[str, Any]:
    """Write down what a model keeps of its training.

    Parameters
    ----------
    config : TrainingConfig
    events : mapping of str to int
        Number of events in each split.
    history : tuple of Epoch
    best : Epoch, optional
        The epoch whose weights the model has.
    complete : bool
        Whether the training came to its end.
    """
    return {
        "events": dict(events),
        "epochs": len(history),
        "best": asdict(best) if best else None,
        "seconds": round(sum(epoch.seconds for epoch in history), 3),
        "complete": complete,
        "config": config.model_dump(mode="json"),
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "kernels": kernels.isa(),
    }


def _check_changes(path: Path, changes: list[Change], *, accept_changes: bool) -> None:
    """Refuse changes of the config that are not possible, or not accepted."""
    never = [change for change in changes if not change.possible]
    if never:
        raise ConfigError(f"{path}: of another config, {never[0]}; train anew, without --resume")
    if changes and not accept_changes:
        raise ConfigError(
            f"{path}: of another config, {changes[0]}; --accept-changes goes on with it, "
            "or train anew, without --resume"
        )


def _check_writable(folder: Path) -> None:
    """Raise before the work if the folder cannot be made or written."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ConfigError(f"cannot make the folder {folder}: {existing} is not a directory")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write in {existing}: permission denied")


@contextmanager
def settings(config: TrainingConfig) -> Iterator[None]:
    """Set threads and seed for a while; the caller's own are untouched afterwards."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def make_network(config: Config, n_variables: int) -> Network:
    """Make the network of a config; raises `ConfigError` if there is not enough memory for it."""
    try:
        return Network(
            config.network, n_variables, len(config.data.class_names), dtype=_dtype(config.training)
        )
    except RuntimeError as error:
        if "memory" not in str(error):  # torch has no type of its own for it on CPUs
            raise
        units = ", ".join(str(layer.units) for layer in config.network.recurrent)
        raise ConfigError(f"network.recurrent: {units} units need more memory than there is") from error


def _dtype(config: TrainingConfig) -> torch.dtype:
    return {"float32": torch.float32, "float64": torch.float64}[config.dtype]
