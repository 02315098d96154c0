"""The commands that make a model ready for where it runs: ``quantise``. As in `timelike.commands`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from timelike.errors import ConfigError, require
from timelike.files import shown

typer = require("typer", "train")

__all__ = ["quantise", "register"]

_QUANTISE = """\b
Examples:
  timelike quantise runs/jets/model.safetensors --input jets.root -o small.safetensors
  timelike quantise runs/jets/model.safetensors --to float16 --input jets.root --limit 1e-4 -o half.st

\b
The events are scored with the weights as they are and with the small ones. Where a score changes by more
than the limit, nothing is written and the exit code is 2."""


def register(app: Any) -> None:
    """Add the commands to a typer app."""
    app.command(short_help="Store weights in 8 or 16 bits, within a limit on scores.", epilog=_QUANTISE)(
        quantise
    )


def quantise(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The model file.")],
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[FILES]...", help="More input.", hidden=True)
    ] = None,
    to: Annotated[str, typer.Option(metavar="TYPE", help="int8, or float16.")] = "int8",
    files: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", metavar="FILES...", help="Files of events; globs allowed."),
    ] = None,
    limit: Annotated[float, typer.Option(metavar="X", help="By how much a score may change.")] = 0.002,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The new model file.")
    ] = None,
    treename: Annotated[
        str | None, typer.Option(metavar="NAME", help="The tree to read, where it is not the training's.")
    ] = None,
) -> None:
    """Store a model's weights in 8 or 16 bits, if the scores of given events stay within a limit."""
    from timelike.smallweights import SMALL

    usage = "timelike quantise MODEL --to int8 --input FILES... -o small.safetensors"
    if to not in SMALL:
        raise ConfigError(f"--to {to}: possible: {', '.join(SMALL)}")
    if not files:
        raise ConfigError(f"no input: {usage}")
    if output is None:
        raise ConfigError(f"no output: {usage}")

    from timelike import quantise as module

    done = module.quantise(model, output, [*files, *(more or ())], to=to, limit=limit, treename=treename)
    before, after = done.sizes
    typer.echo(f"{done.events:,} events: scores change by at most {done.largest:.2g}, rms {done.rms:.2g}")
    if done.auc is None:
        typer.echo(f"no AUC: {done.without_auc}")
    else:
        typer.echo(f"AUC {done.auc[0]:.6f} before, {done.auc[1]:.6f} with weights in {to}")
    typer.echo(f"size: {before:,} bytes before, {after:,} after ({after / before:.0%})")
    typer.echo(f"model: {shown(done.output)}")
