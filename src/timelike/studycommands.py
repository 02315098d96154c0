"""The commands beside a training: `find-lr` before it; `crossval`, `scan`, which are many, and `submit`.

`register` adds them to the program; like all commands they import what they need when they begin.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from timelike.errors import ConfigError, require
from timelike.files import shown
from timelike.statistics import format_measurement

typer = require("typer", "train")

__all__ = ["crossval", "find_lr", "register", "scan", "submit"]

_CONFIG = typer.Argument(metavar="CONFIG", help="The YAML file that describes the run.")
_SET = typer.Option("--set", metavar="KEY=VALUE", help="Instead of any key of the config.")
_RESUME = typer.Option("--resume", help="Go on where it was interrupted.")


def register(app: Any) -> None:
    """Add the commands to a typer app."""
    app.command("find-lr", short_help="Find a learning rate for a config.", epilog=_FIND_LR)(find_lr)
    app.command(short_help="Cross-validate a config: a network for each fold, without it.", epilog=_CROSSVAL)(
        crossval
    )
    app.command(short_help="Scan hyperparameters: train at many points, find the best.", epilog=_SCAN)(scan)
    app.command(short_help="Write job files for HTCondor or Slurm.", epilog=_SUBMIT)(submit)


_FIND_LR = """\b
Examples:
  timelike find-lr jets.yaml -o rate.png
  timelike find-lr jets.yaml --set training.optimiser.name=sgd --steps 400

\b
Trains a network of its own while the rate rises from batch to batch, until the loss explodes. The rate that
is suggested is a tenth of that of the least loss (smoothed). With -o there are a figure (.png, .pdf, .svg)
and beside it the numbers (.json). A run of the config stays as it is."""

_CROSSVAL = """\b
Examples:
  timelike crossval jets.yaml
  timelike crossval jets.yaml --folds 10 --by "floor(event_number / 100) % folds"
  timelike apply runs/jets-crossval/model.safetensors --out-of-fold --input jets.root -o scores.root

\b
--by is an expression of event_number, folds and the observers; TMVA's int([eventID]) % int([NumFolds]) is
event_number % folds, and the default. Without data.event_number in the config, events are shuffled.
The folder has a run for each fold, crossval.json, scores.parquet, report.html, and model.safetensors: all
networks in one file."""

_SCAN = """\b
Examples:
  timelike scan jets.yaml --space space.yaml --trials 50
  timelike scan jets.yaml --minutes 60 --resume

\b
The space, in a file or under the key `scan` of the config:
  training.optimiser.learning_rate: {low: 1e-4, high: 1e-1, log: true}
  network.recurrent.0.units: {low: 8, high: 64, step: 8}
  network.pooling: {choices: [last, mean, max]}

\b
The folder has a run for each trial, scan.json, scan.html, and best.yaml, ready for `timelike train`."""

_SUBMIT = """\b
Examples:
  timelike submit train jets.yaml --to condor
  timelike submit crossval jets.yaml --to slurm --memory 4GB -- --folds 10
  timelike submit scan jets.yaml --to slurm -n 20 --time 1-00:00:00 -- --trials 200 --space space.yaml

\b
What stands behind -- are options of the command. Nothing is submitted: submit.sh in the folder does that.
Jobs that are evicted go on from their last checkpoint. All nodes need to see the same files."""


def find_lr(
    config: Annotated[Path, _CONFIG],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The figure. [none]")
    ] = None,
    low: Annotated[float, typer.Option(metavar="RATE", help="The first rate.")] = 1e-6,
    high: Annotated[float, typer.Option(metavar="RATE", help="The last rate.")] = 10.0,
    steps: Annotated[int, typer.Option(metavar="N", help="Batches, each with its rate.")] = 200,
    changes: Annotated[list[str] | None, _SET] = None,
) -> None:
    """Find a learning rate: train a few batches while it rises, and see where the loss falls."""
    from timelike.fit import TrainingError
    from timelike.ratefinder import checked_figure, find_learning_rate, write_rate_curve

    if output is not None:
        checked_figure(output)  # before the work
    curve = find_learning_rate(_with(config, changes), low=low, high=high, steps=steps)
    last = "the loss explodes" if curve.exploded else "the last"
    typer.echo(
        f"{len(curve.rates)} batches, rates from {curve.rates[0]:.2g} to {curve.rates[-1]:.2g} ({last})"
    )
    if output is not None:
        figure, numbers = write_rate_curve(curve, output)
        typer.echo(f"figure: {shown(figure)}; numbers: {shown(numbers)}")
    if curve.suggestion is None:
        raise TrainingError(
            f"the loss falls nowhere between the rates {curve.rates[0]:.2g} and {curve.rates[-1]:.2g}: "
            "try other --low and --high, more --steps, or look at the data with timelike train --dry-run"
        )
    typer.echo(
        f"least loss at {curve.least:.2g}, steepest descent at {curve.steepest:.2g}; a tenth of the first:"
    )
    typer.echo(f"--set training.optimiser.learning_rate={curve.suggestion:g}")


def crossval(
    config: Annotated[Path, _CONFIG],
    folds: Annotated[int | None, typer.Option(min=2, metavar="K", help="Number of folds. [5]")] = None,
    by: Annotated[
        str | None, typer.Option(metavar="EXPRESSION", help="The fold of an event. [event_number % folds]")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="The folder. [the config's output + -crossval]"),
    ] = None,
    changes: Annotated[list[str] | None, _SET] = None,
    resume: Annotated[bool, _RESUME] = False,
    fold: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Train this fold only, as one job of many.")
    ] = None,
    join: Annotated[bool, typer.Option("--join", help="Join folds that are all trained.")] = False,
) -> None:
    """Train a network for each fold without it, and score every event by the one that has not seen it."""
    if join and (fold is not None or resume):
        raise ConfigError(f"--join trains nothing; leave out {'--resume' if fold is None else '--fold'}")
    from timelike import progress
    from timelike.crossval import cross_validate, join_folds, train_fold
    from timelike.crossval_sections import figures_of, headline
    from timelike.train import TrainingInterrupted

    given = _with(config, changes)
    how: dict[str, Any] = {"folds": folds, "by": by, "folder": output, "progress": progress.on()}
    try:
        if fold is not None:
            result = train_fold(given, fold, resume=resume, **how)
            typer.echo(f"fold {fold}: {shown(result.folder)}")
            typer.echo("next: timelike crossval --join, when all folds are trained")
            return
        done = join_folds(given, **how) if join else cross_validate(given, resume=resume, **how)
    except TrainingInterrupted as interrupt:
        raise _interrupted(interrupt) from None
    key, name = headline(done.metrics)
    together, over = figures_of(done.metrics["out_of_fold"])[key], done.metrics["over_folds"][key]
    typer.echo(
        f"{name}, of all events out of fold {format_measurement(together['value'], together['error'])}; "
        f"of {done.metrics['folds']} folds {format_measurement(over['mean'], over['standard_deviation'])} "
        "(mean and standard deviation)"
    )
    typer.echo(f"model: {shown(done.folder / 'model.safetensors')}")
    typer.echo(f"report: {shown(done.report)}")


def scan(
    config: Annotated[Path, _CONFIG],
    space: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The space, where it is not in the config.")
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Trials altogether, those of earlier runs included."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(metavar="M", help="Time after which no new trial begins.")
    ] = None,
    metric: Annotated[str, typer.Option(metavar="auc|loss", help="Of the validation events.")] = "auc",
    pruner: Annotated[
        str, typer.Option(metavar="median|hyperband|none", help="When to give a trial up.")
    ] = "median",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="The folder. [the config's output + -scan]"),
    ] = None,
    changes: Annotated[list[str] | None, _SET] = None,
    resume: Annotated[bool, _RESUME] = False,
    job: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="This is job N of several that share the scan.")
    ] = None,
    join: Annotated[
        bool, typer.Option("--join", help="Put the results together, as far as they are.")
    ] = False,
) -> None:
    """Scan hyperparameters with Optuna: train at many points of a space, and find the best."""
    from timelike import progress
    from timelike.scan import join_scan
    from timelike.scan import scan as run_scan
    from timelike.train import TrainingInterrupted

    given = _with(config, changes)
    how: dict[str, Any] = {"space": space, "folder": output, "metric": metric, "pruner": pruner}
    try:
        if join:
            found = join_scan(given, **how)
        else:
            how |= {"trials": trials, "minutes": minutes, "job": job, "resume": resume}
            found = run_scan(given, progress=progress.on(), **how)
    except TrainingInterrupted as interrupt:
        raise _interrupted(interrupt) from None
    states = [trial["state"] for trial in found.results["trials"]]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    typer.echo(f"{len(states)} trials: {counts}")
    if job is not None:
        typer.echo("next: timelike scan --join, when all jobs are done")
        return
    best = next((t for t in found.results["trials"] if t["number"] == found.results["best"]), None)
    if best is not None:
        point = ", ".join(f"{key} {value}" for key, value in best["parameters"].items())
        typer.echo(f"best: trial {best['number']}, validation {metric} {best['value']:.4f} ({point})")
        typer.echo(f"next: timelike train {shown(found.folder / 'best.yaml')}")
    typer.echo(f"page: {shown(found.folder / 'scan.html')}")


def submit(
    context: typer.Context,  # type: ignore[name-defined]
    work: Annotated[str, typer.Argument(metavar="train|crossval|scan", help="What the jobs do.")],
    config: Annotated[Path, _CONFIG],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[-- OPTIONS]", help="Options of that command.")
    ] = None,
    to: Annotated[str, typer.Option(metavar="condor|slurm", help="The farm.")] = "",
    jobs: Annotated[int, typer.Option("-n", min=1, metavar="JOBS", help="Jobs of a scan.")] = 1,
    cpus: Annotated[int, typer.Option(min=1, metavar="N", help="Cores of a job.")] = 1,
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Memory of a job.")] = "2GB",
    time: Annotated[str, typer.Option(metavar="HH:MM:SS", help="Longest time of a job.")] = "04:00:00",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="For job files. [the config's output + -jobs]"),
    ] = None,
) -> None:
    """Write job files for HTCondor or Slurm that train, cross-validate or scan, and go on where evicted."""
    from timelike.config import load_config
    from timelike.submit import write_jobs

    if not to:
        raise ConfigError("no farm: timelike submit train CONFIG --to condor, or --to slurm")
    checked = load_config(config)
    words = list(options or ())
    if work in ("train", "crossval", "scan"):
        jobs = _checked_jobs(context, work, config, words, jobs)
    run = checked.run_folder
    folder = run.with_name(f"{run.name}-jobs") if output is None else output
    how: dict[str, Any] = {"cpus": cpus, "memory": memory, "time": time}
    done = write_jobs(work, config, folder, to=to, jobs=jobs, options=words, **how)
    names = ", ".join(file.name for file in done.files)
    typer.echo(f"{done.jobs} job{'s' * (done.jobs != 1)} for {to}: {shown(done.folder)} ({names})")
    typer.echo(f"next: bash {shown(done.submit)}")


def _checked_jobs(context: Any, work: str, config: Path, words: list[str], jobs: int) -> int:
    """Check the options of a command as it would itself, make paths in them absolute, and count its jobs."""
    command = context.parent.command.commands[work]
    parsed = command.make_context(work, [str(config), *words], parent=context.parent).params
    for taken in ("resume", "fold", "join", "job"):
        if parsed.get(taken):
            raise ConfigError(f"--{taken} is for the job files to say; leave it out")
    for at, word in enumerate(words):  # jobs start from another folder
        if word in ("--output", "-o", "--space"):
            words[at + 1] = str(Path(words[at + 1]).absolute())
    if work == "scan":
        from timelike.scanspace import Space

        if parsed["trials"] is None and parsed["minutes"] is None:
            raise ConfigError("a scan needs a budget: -- --trials N or -- --minutes M")
        Space.of(config, parsed["space"])
        return jobs
    if work == "crossval":
        from timelike.crossval import fold_config

        if jobs > 1:
            raise ConfigError(f"-n {jobs}: a cross validation has a job for each fold; say -- --folds {jobs}")
        folds = fold_config(config, 0, folds=parsed["folds"], by=parsed["by"]).split.folds
        assert folds is not None
        return folds.number
    return jobs


def _with(config: Path, changes: list[str] | None) -> Any:
    """Read a config with what --set changes in it."""
    from timelike.config import load_config
    from timelike.yamlfile import assignments

    return load_config(config, overrides=assignments(changes or []))


def _interrupted(interrupt: BaseException) -> Exception:
    """Say what an interruption leaves, and end as interrupted programs do."""
    typer.echo(str(interrupt), err=True)
    stop: Exception = typer.Exit(130)
    return stop
