"""The commands: what they take and what they say. The work is elsewhere, and imported when it begins.

`timelike --help` and `timelike info` answer without importing PyTorch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from timelike import __version__, deploycommands, exportcommands, tmvacommands
from timelike.errors import ConfigError, printable, require
from timelike.files import shown
from timelike.studycommands import register

typer = require("typer", "train")

__all__ = ["run"]

# What typer raises for an option or argument that it cannot use; it has no name of its own there.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="timelike",
    help="Train, evaluate and apply recurrent networks on sequences of events.",
    epilog="""\b
Examples:
  timelike train jets.yaml             read, split, fit: the model goes to runs/jets
  timelike evaluate runs/jets          ROC, AUC, overtraining: runs/jets/report.html
  timelike apply runs/jets/model.safetensors --input more.root -o scores.root
  timelike inspect runs/jets/model.safetensors --input more.root --event 17 -o page.html
  timelike find-lr jets.yaml           a learning rate, from a few batches
  timelike crossval jets.yaml          a network for each fold, and scores by who has not seen an event
  timelike scan jets.yaml --space space.yaml --trials 50
  timelike submit crossval jets.yaml --to slurm
  timelike export runs/jets/model.safetensors --to onnx -o jets.onnx
  timelike quantise runs/jets/model.safetensors --input more.root -o small.safetensors
  timelike tmva convert macro.C        configs from a macro of ROOT's TMVA; weights and tables too
  timelike info                        version, instruction set, what is installed

\b
`timelike COMMAND --help` tells more of each.""",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text: help is also read in pipes and log files
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


app.add_typer(tmvacommands.app)


def run(argv: list[str]) -> int:
    """Run a command line and give its exit code; errors are raised.

    Raises
    ------
    ConfigError
        For an option or argument that does not exist or cannot be used.
    KeyboardInterrupt
        With what a training leaves as its message.
    """
    try:
        code = app(argv or ["--help"], prog_name="timelike", standalone_mode=False)
    except _Interrupted as interrupt:
        raise KeyboardInterrupt(*interrupt.args) from None
    except typer.Abort:  # of older versions of typer, on Ctrl-C
        raise KeyboardInterrupt from None
    except _UsageError as error:
        context = getattr(error, "ctx", None)
        message: str = error.format_message()  # type: ignore[attr-defined]
        if (given := _given(error)) is not None:
            message = message.partition(", unable to parse")[0]
            message = message.replace("Input should be", f"given {given!r}; it must be")
        hint = f" (see {context.command_path} --help)" if context else ""
        raise ConfigError(message[:1].lower() + message[1:].rstrip(".") + hint) from None
    if code == 130:
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def _given(error: Exception) -> str | None:
    """Give the value that an option cannot have, which typer's message leaves out."""
    errors = getattr(error.__cause__, "errors", None)  # typer has pydantic check them
    return str(errors()[0]["input"]) if errors else None


class _Interrupted(Exception):
    """Carries the message of a KeyboardInterrupt past typer, which turns these into an exit code."""


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"timelike {__version__}")
        raise typer.Exit


@app.callback()  # type: ignore[untyped-decorator]
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command(
    short_help="Train the network of a config.",
    epilog="""\b
The config names files, variables and labels; all else has defaults. The least that is needed:
  data:
    files: jets.root
    variables: [part_pt, part_eta, part_phi]
    labels: {qcd: "label == 0", top: "label == 1"}

\b
Examples:
  timelike train jets.yaml
  timelike train jets.yaml --epochs 2 --output runs/quick
  timelike train jets.yaml --resume --accept-changes --epochs 40

Paths in the config start from its folder. Ctrl-C ends the training; the best model so far stays.""",
)  # type: ignore[untyped-decorator]
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML file that describes the run.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="The run's folder, instead of the config's."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Instead of training.epochs.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="Instead of training.seed.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Instead of training.threads.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Instead of any key: --set network.head.units=[64]."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read the data, show all, train one batch, write nothing.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted training of this config stopped.")
    ] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="With --resume: go on with another config, if possible.")
    ] = False,
) -> None:
    """Train the network of a config: model, history and config go to the run's folder."""
    if accept_changes and not resume:
        raise ConfigError("--accept-changes has no meaning without --resume")
    from timelike.config import load_config
    from timelike.yamlfile import assignments

    given = {
        "output": None if output is None else str(output.absolute()),
        "training.epochs": epochs,
        "training.seed": seed,
        "training.threads": threads,
    }
    overrides = {key: value for key, value in given.items() if value is not None} | assignments(changes or [])
    checked = load_config(config, overrides=overrides)

    from timelike import progress
    from timelike.train import MODEL, TrainingInterrupted, rehearse, train

    if dry_run:
        typer.echo(rehearse(checked))
        return
    try:
        result = train(checked, progress=progress.on(), resume=resume, accept_changes=accept_changes)
    except TrainingInterrupted as interrupt:
        raise _Interrupted(str(interrupt)) from None
    best, folder = result.best, shown(result.folder)
    area = "" if best.validation_auc is None else f", AUC {best.validation_auc:.4f}"
    if best.validation_metric is not None and (stopping := checked.training.phases[-1].early_stopping):
        area += f", {stopping.metric} {best.validation_metric:.4g}"
    typer.echo(
        f"best epoch {best.epoch} of {len(result.history)}: "
        f"validation loss {best.validation_loss:.4f}{area}; {result.seconds:.1f} s"
    )
    typer.echo(f"model: {folder / MODEL}")
    typer.echo(f"next: timelike evaluate {folder}")


@app.command(
    short_help="Make metrics, figures and report of a run.",
    epilog="""\b
Example:
  timelike evaluate runs/jets

Events are read and split again as the run's config says, and scored by its model. The numbers go to
metrics.json, the figures to figures/, and both to report.html, in the run's folder.""",
)  # type: ignore[untyped-decorator]
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder that `timelike train` wrote.")],
) -> None:
    """Evaluate a run on its test and training events: metrics, figures, report."""
    from timelike.merits import lines_of_merit
    from timelike.runs import evaluate_run

    evaluation = evaluate_run(folder)
    for line in lines_of_merit(evaluation.metrics):
        typer.echo(line)
    typer.echo(f"report: {shown(evaluation.report)}")


@app.command(
    short_help="Compute the scores of files of events.",
    epilog="""\b
Examples:
  timelike apply runs/jets/model.safetensors --input data.root -o scores.root
  timelike apply runs/jets/model.safetensors --input day1.root day2.root -o scores.parquet
  timelike apply runs/jets/model.safetensors --input 'day*.root' -o scores.h5 --processes 8

\b
The table has one row per event, in input order, and the columns
  event_number       as the training's config says, else the running number of the entry
  score_<class>      probability of each class or label
  predicted_<target> of a regression; with quantiles predicted_<target>_q<share>
  <observer>         the observers of the training's config

Branches are found by name; labels and weights are not needed. Of a model that scores steps, each event has a
number for each of its steps. Files may be larger than memory. Finished pieces wait in <FILE>.parts; after an
interruption the same command goes on from them.""",
)  # type: ignore[untyped-decorator]
def apply(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The model file.")],
    more: Annotated[list[str] | None, typer.Argument(metavar="FILES", help="More input files.")] = None,
    files: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", metavar="FILES...", help="Files of events; globs allowed."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The table: .root, .parquet, .h5 or .npz."),
    ] = None,
    treename: Annotated[
        str | None, typer.Option(metavar="NAME", help="The tree to read, where it is not the training's.")
    ] = None,
    select: Annotated[
        bool, typer.Option("--select", help="Keep only events that pass the training's selection.")
    ] = False,
    out_of_fold: Annotated[
        bool,
        typer.Option("--out-of-fold", help="Of a cross validation: score events by who has not seen them."),
    ] = False,
    processes: Annotated[int, typer.Option(min=1, metavar="N", help="Processes that share the work.")] = 1,
    piece: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Entries that each process holds at once.")
    ] = None,
) -> None:
    """Apply a model to files of events: scores beside event numbers and observers."""
    inputs = [*(files or ()), *(more or ())]
    if not inputs:
        raise ConfigError("no input: timelike apply MODEL --input FILES... -o scores.root")
    if output is None:
        raise ConfigError("no output: timelike apply MODEL --input FILES... -o scores.root")

    from timelike.apply import PIECE, apply

    how: dict[str, Any] = {"treename": treename, "select": select, "out_of_fold": out_of_fold}
    how |= {"processes": processes, "piece": piece or PIECE}
    try:
        done = apply(model, inputs, output, **how)
    except KeyboardInterrupt as interrupt:
        raise _Interrupted(str(interrupt)) from None
    if done.n_resumed:
        typer.echo(f"{done.n_resumed} of {done.n_pieces} pieces were there from a run that was interrupted")
    columns = printable(", ".join(done.columns))
    typer.echo(f"scores of {done.n_events:,} events: {shown(done.output)} ({columns})")


@app.command(
    short_help="Look into the network, step by step, in one page.",
    epilog="""\b
Examples:
  timelike inspect runs/jets/model.safetensors --input data.root --event 17 -o page.html
  timelike inspect runs/jets/model.safetensors --input data.root --event 17 42 --class top -o page.html
  timelike inspect --example -o example.html

The page plays each event forward and backward through time: the cell with its numbers, the equations with
the values in them, maps of all gates, states and gradients. It needs nothing but a browser. --example shows
a worked example from the first forward step to the updated weights.

Event numbers are those of the branch that the training's config names, else the running numbers of the
entries; without any, the first five events are shown. Gradients are of the cross entropy, or where the files
have no labels of the logit of the signal.""",
)  # type: ignore[untyped-decorator]
def inspect(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL", help="The model file.", show_default=False)
    ] = None,
    files: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", metavar="FILES...", help="Files of events; globs allowed."),
    ] = None,
    event: Annotated[
        list[int] | None, typer.Option("--event", "-e", metavar="N...", help="Numbers of events.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The page: .html.")
    ] = None,
    treename: Annotated[
        str | None, typer.Option(metavar="NAME", help="The tree to read, where it is not the training's.")
    ] = None,
    class_name: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="Take gradients of the logit of this class.")
    ] = None,
    example: Annotated[
        bool, typer.Option("--example", help="Show the worked example; needs no model.")
    ] = False,
) -> None:
    """Look into the network: one page that plays events forward and backward, number by number."""
    if output is None:
        raise ConfigError("no output: timelike inspect MODEL --input FILES... --event N... -o page.html")
    if example:
        given = {
            "MODEL": words,
            "--input": files,
            "--event": event,
            "--treename": treename,
            "--class": class_name,
        }
        if superfluous := [name for name, value in given.items() if value is not None and value != []]:
            raise ConfigError(f"--example has its own model and input; leave out {', '.join(superfluous)}")
        from timelike.inspect import example_page

        typer.echo(f"page of the worked example: {shown(example_page(output))}")
        return
    # An option takes one value each time it is named: what else is given with it arrives as an argument.
    more = [word for word in words or () if not (event and word.isdecimal())]
    numbers = [*(event or ()), *(int(word) for word in words or () if event and word.isdecimal())]
    model, inputs = (more[0] if more else None), [*(files or ()), *more[1:]]
    if model is None:
        raise ConfigError("no model: timelike inspect MODEL --input FILES... --event N... -o page.html")
    if not inputs:
        raise ConfigError("no input: timelike inspect MODEL --input FILES... --event N... -o page.html")

    from timelike.inspect import inspect_events

    done = inspect_events(model, inputs, output, events=numbers, treename=treename, class_name=class_name)
    count = len(done.events)
    typer.echo(f"page of {count} event{'s' * (count != 1)}: {shown(done.page)}")
    typer.echo(
        f"gradients are of {done.loss}"
        + (f" (no labels: {done.without_labels})" if done.without_labels else "")
    )


@app.command(short_help="Show version, instruction set and what is installed.")  # type: ignore[untyped-decorator]
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON, for programs.")] = False,
) -> None:
    """Show version, processor, active instruction set and why, threads, and what is installed."""
    from timelike import info

    facts = info.collect()
    typer.echo(json.dumps(facts, indent=2) if as_json else "\n".join(info.lines(facts)))


register(app)
exportcommands.register(app)
deploycommands.register(app)
