"""Scans of hyperparameters with Optuna: one training per trial, pruned by its validation metric.

`scan` proposes points of a space (`timelike.scanspace`), trains the config at each of them, and gives up
those that are worse than the others were at the same epoch. In the folder there are then

- ``trial-0007``: an ordinary run for each trial;
- ``scan.journal``: Optuna's record of the study, which many jobs can share on one file system;
- ``scan.json``, ``scan.html``, ``figures``: the trials, and which parameters mattered;
- ``best.yaml``: the config of the best trial, ready for `timelike train`, which gives its weights to the bit.

A trial is judged by the validation metric of the epoch whose weights it keeps. The default is the AUC, which
means the same whatever is scanned; a loss does not, where the loss itself is scanned.

Proposals are by tree-structured Parzen estimators (TPE), seeded with the config's seed and the number of the
trial: a scan that was interrupted goes on to the same trials. Of several jobs at once, each sees what the
others have reported so far, which is another thing each time.

References
----------
Akiba et al., KDD 2019 (Optuna); Bergstra et al., NeurIPS 2011 (TPE); Li et al., JMLR 18 (2018) (Hyperband).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from timelike.config import Config, ScanParameter
from timelike.errors import ConfigError, DataError, nearest, require
from timelike.files import replacing
from timelike.fit import Epoch, TrainingError
from timelike.progress import Progress, Silent
from timelike.scan_page import write_scan_page
from timelike.scanspace import Space
from timelike.sequences import Sequences
from timelike.train import TrainingInterrupted, read_events, train

__all__ = ["METRICS", "PRUNERS", "Scan", "join_scan", "scan"]

METRICS = {"auc": "maximize", "loss": "minimize"}
PRUNERS = ("median", "hyperband", "none")
JOURNAL, RESULTS, BEST = "scan.journal", "scan.json", "best.yaml"
# Of the median pruner: trials that come to their end before any is given up, and epochs that each may have.
_STARTUP, _WARMUP = 5, 2
_CHANGES_LOSS = ("loss", "regularisation", "class_balance", "negative_weights", "then")
_STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}


@dataclass(frozen=True, eq=False)
class Scan:
    """What a scan has found so far."""

    folder: Path
    results: dict[str, Any]  # as in scan.json
    best: Path | None  # best.yaml, where a trial came to its end


def scan(
    config: Config | str | Path,
    *,
    space: Mapping[str, Any] | str | Path | None = None,
    trials: int | None = None,
    minutes: float | None = None,
    folder: str | Path | None = None,
    metric: str = "auc",
    pruner: str = "median",
    job: int | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Scan:
    """Train a config at many points of a space, and find the best.

    Parameters
    ----------
    config : Config or path
        What to train, or the file that says so.
    space : mapping or path, optional
        Ranges and choices by dotted key; those under ``scan`` in the config when not given.
    trials : int, optional
        Number of trials of the study altogether, those of other jobs and of earlier runs included.
    minutes : float, optional
        Time after which no new trial begins. One of the two is needed.
    folder : path, optional
        Where all goes; the run's folder with ``-scan`` behind its name when not given.
    metric : {"auc", "loss"}
        Of the validation events.
    pruner : {"median", "hyperband", "none"}
        When to give a trial up.
    job : int, optional
        Number of this job, where several share the study: trials that were interrupted in it go on in it,
        and the results are not put together (`join_scan` does that).
    resume : bool
        Go on with the study in the folder, and with a trial that was interrupted.
    progress : Progress, optional
        Where to show how it goes.

    Returns
    -------
    Scan

    Raises
    ------
    ConfigError
        If there is neither `trials` nor `minutes`, the space cannot be used, the folder has a study already
        and `resume` was not said, or has one of another config.
    DataError
        If the files do not hold what the config says.
    TrainingInterrupted
        On Ctrl-C during a training.
    """
    if trials is None and minutes is None:
        raise ConfigError("a scan needs a budget: --trials N or --minutes M")
    if (trials is not None and trials < 1) or (minutes is not None and not minutes > 0):
        raise ConfigError(f"a scan of {trials if minutes is None else minutes}: the budget must be above 0")
    end = None if minutes is None else time.monotonic() + 60 * minutes
    study = _Study.of(config, space, folder, metric, pruner, resume, progress)
    with _quiet():
        study.go_on(job or 0)
        while (trials is None or study.n_trials < trials) and (end is None or time.monotonic() < end):
            study.one_more(job or 0)
        return study.joined(write=job is None)


def join_scan(
    config: Config | str | Path,
    *,
    space: Mapping[str, Any] | str | Path | None = None,
    folder: str | Path | None = None,
    metric: str = "auc",
    pruner: str = "median",
) -> Scan:
    """Put the results of a study together, as far as it is; see `scan`.

    Raises
    ------
    ConfigError
        If there is no study in the folder, or one of another config.
    """
    study = _Study.of(config, space, folder, metric, pruner, True, None, there=True)
    with _quiet():
        return study.joined(write=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna from telling of each trial; we do."""
    logging = require("optuna.logging", "scan")
    before = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(before)


class _Study:
    """An Optuna study and what its trials are made from."""

    def __init__(
        self, study: Any, space: Space, folder: Path, about: dict[str, Any], progress: Progress
    ) -> None:
        self.study, self.space, self.folder, self.about, self.progress = study, space, folder, about, progress
        self._events: Sequences | None = None

    @classmethod
    def of(
        cls,
        config: Config | str | Path,
        given: Mapping[str, Any] | str | Path | None,
        folder: str | Path | None,
        metric: str,
        pruner: str,
        resume: bool,
        progress: Progress | None,
        *,
        there: bool = False,
    ) -> _Study:
        """Check everything, and open the study."""
        for name, known, kind in ((metric, METRICS, "metric"), (pruner, PRUNERS, "pruner")):
            if name not in known:
                raise ConfigError(f"{kind} {name!r}: {nearest(name, known)}")
        optuna = require("optuna", "scan")
        space = Space.of(config, given)
        for key in space.parameters if metric == "loss" else ():
            if key.startswith(tuple(f"training.{name}" for name in _CHANGES_LOSS)):
                raise ConfigError(f"{key} changes what the loss means; compare by --metric auc")
        first = space.at(space.first)
        if metric == "auc" and first.data.targets:
            raise ConfigError("metric 'auc' is of classes; with data.targets take --metric loss")
        run = first.run_folder
        folder = (run.with_name(f"{run.name}-scan") if folder is None else Path(folder)).absolute()
        journal = folder / JOURNAL
        if journal.exists() and not resume:
            raise ConfigError(
                f"{folder} has a scan already: --resume goes on with it, or take another folder"
            )
        if there and not journal.exists():
            raise ConfigError(f"{folder}: no scan there, it has no {JOURNAL}")
        about = {
            "metric": metric,
            "pruner": pruner,
            "space": {
                key: p.model_dump(mode="json", exclude_unset=True) for key, p in space.parameters.items()
            },
            "config": first.model_dump(mode="json", exclude={"output", "evaluation", "scan"}),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make the folder {folder}: {error.strerror}") from error
        storages = require("optuna.storages", "scan")
        with _quiet():
            study = optuna.create_study(
                storage=storages.JournalStorage(storages.journal.JournalFileBackend(str(journal))),
                study_name="scan",
                direction=METRICS[metric],
                pruner=_pruner(pruner, space.epochs),
                load_if_exists=True,
            )
            _check_same(study, about, folder)
        return cls(study, space, folder, about, progress or Silent())

    @property
    def n_trials(self) -> int:
        return len(self.study.get_trials(deepcopy=False))

    @property
    def events(self) -> Sequences | None:
        """The events of all trials, read once; None where trials read others."""
        read = ("data", "sequence", "training.dtype")
        if self.space.at(self.space.first).data.stream is not None:
            return None
        if self._events is None and not any(key.startswith(read) for key in self.space.parameters):
            self._events = read_events(self.space.at(self.space.first))
        return self._events

    def go_on(self, job: int) -> None:
        """Go on with what was interrupted in this job."""
        optuna = require("optuna", "scan")
        for frozen in self.study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            if frozen.user_attrs.get("job", 0) == job:
                self.run(optuna.trial.Trial(self.study, frozen._trial_id), job, resume=True)

    def one_more(self, job: int) -> None:
        """Run a new trial."""
        self.run(self.study.ask(), job, resume=False)

    def run(self, trial: Any, job: int, *, resume: bool) -> None:
        """Train at one point, and tell the study how it went."""
        optuna = require("optuna", "scan")
        trial.set_user_attr("job", job)
        seed = self.about["config"]["training"]["seed"]
        seed = int(np.random.SeedSequence([seed, trial.number]).generate_state(1)[0])
        self.study.sampler = optuna.samplers.TPESampler(seed=seed)
        point = {key: self._suggested(trial, key, p) for key, p in self.space.parameters.items()}
        config = self.space.at(point, self.folder / f"trial-{trial.number:04d}")
        said = ", ".join(f"{key} {value}" for key, value in point.items())
        self.progress.say(f"trial {trial.number}: {said}")
        reported = set(self._frozen(trial).intermediate_values)

        def on_epoch(history: tuple[Epoch, ...]) -> None:
            if history[-1].epoch not in reported:
                trial.report(self._metric(history[-1]), history[-1].epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            if resume and reported and trial.should_prune():
                raise optuna.TrialPruned
            result = train(
                config, progress=self.progress, resume=resume, events=self.events, on_epoch=on_epoch
            )
        except optuna.TrialPruned:
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            self.progress.say(f"trial {trial.number} was given up")
        except TrainingError as error:
            trial.set_user_attr("error", str(error))
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
            self.progress.say(f"trial {trial.number} failed: {error}")
        except TrainingInterrupted:
            raise TrainingInterrupted(f"in trial {trial.number}; timelike scan --resume goes on") from None
        else:
            trial.set_user_attr("best_epoch", result.best.epoch)
            trial.set_user_attr("seconds", round(result.seconds, 3))
            self.study.tell(trial, self._metric(result.best))

    def _frozen(self, trial: Any) -> Any:
        return self.study.get_trials(deepcopy=False)[trial.number]

    def _metric(self, epoch: Epoch) -> float:
        if self.about["metric"] == "loss":
            return epoch.validation_loss
        if epoch.validation_auc is None:
            raise DataError("validation: each label holds for all events, or for none; an area needs both")
        return epoch.validation_auc

    def _suggested(self, trial: Any, key: str, parameter: ScanParameter) -> Any:
        if parameter.choices is not None:  # as JSON: Optuna takes no lists or mappings
            texts = [json.dumps(choice) for choice in parameter.choices]
            return json.loads(trial.suggest_categorical(key, texts))
        how: dict[str, Any] = {"log": parameter.log}
        if key in self.space.whole:
            return trial.suggest_int(key, parameter.low, parameter.high, step=parameter.step or 1, **how)
        return trial.suggest_float(key, parameter.low, parameter.high, step=parameter.step, **how)

    def joined(self, *, write: bool) -> Scan:
        """Put the results together."""
        trials = [self._of_trial(trial) for trial in self.study.get_trials(deepcopy=False)]
        complete = [trial for trial in trials if trial["state"] == "complete"]
        sign = -1 if self.about["metric"] == "auc" else 1
        best = min(complete, key=lambda trial: sign * float(trial["value"]), default=None)
        importance, why = self._importance(len(complete))
        results = {
            "metric": self.about["metric"],
            "pruner": self.about["pruner"],
            "space": self.about["space"],
            "best": best and best["number"],
            "importance": importance,
            "no_importance": why,
            "trials": trials,
        }
        text = None
        if best is not None:
            text = self.space.at(best["parameters"], self.folder / "best").written_for(self.folder)
        if write:
            write_scan_page(self.folder, results, text or "")
            with replacing(self.folder / RESULTS) as part:
                part.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
            if text is not None:
                with replacing(self.folder / BEST) as part:
                    part.write_text(text, encoding="utf-8")
        return Scan(self.folder, results, None if best is None else self.folder / BEST)

    def _of_trial(self, trial: Any) -> dict[str, Any]:
        choices = {key for key, p in self.space.parameters.items() if p.choices is not None}
        plain = {key: json.loads(v) if key in choices else v for key, v in trial.params.items()}
        return {
            "number": trial.number,
            "state": _STATES[trial.state.name],
            "value": trial.value if trial.value is not None and np.isfinite(trial.value) else None,
            "parameters": {key: plain[key] for key in self.space.parameters if key in plain},
            "epochs": max(trial.intermediate_values, default=0),
            **{key: v for key, v in trial.user_attrs.items() if key in ("best_epoch", "seconds", "error")},
        }

    def _importance(self, n: int) -> tuple[dict[str, float] | None, str]:
        """Give how much of the metric's changes each parameter explains, or why that is not known."""
        if n < _STARTUP:
            return None, f"{n} trials came to their end; {_STARTUP} are needed"
        importance = require("optuna.importance", "scan")
        try:
            found = importance.get_param_importances(self.study)
        except ImportError as error:  # the evaluator of Optuna 4 is made of scikit-learn's trees
            return None, f"this needs scikit-learn: pip install scikit-learn ({error})"
        return {key: round(float(share), 6) for key, share in found.items()}, ""


def _pruner(name: str, epochs: int) -> Any:
    pruners = require("optuna.pruners", "scan")
    if name == "median":
        return pruners.MedianPruner(n_startup_trials=_STARTUP, n_warmup_steps=_WARMUP)
    if name == "hyperband":
        return pruners.HyperbandPruner(min_resource=1, max_resource=epochs)
    return pruners.NopPruner()


def _check_same(study: Any, about: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on with another config, space, metric or pruner."""
    before = study.user_attrs.get("about")
    if before is None:
        study.set_user_attr("about", dict(about))
        return
    for key, value in about.items():
        if before[key] != json.loads(json.dumps(value)):
            raise ConfigError(f"{folder}: a scan with another {key} is there; take another folder")
