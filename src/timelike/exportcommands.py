"""The command `timelike export`: a trained network in another format.

`FORMATS` is all that a new format needs: its name, and the function that writes it, imported when it is asked
for. Such a function takes the model file and the path to write, options by name, raises `TimelikeError` where
the format cannot express the network, and returns what is to be said of the result in one line.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from timelike.errors import ConfigError, nearest, require

typer = require("typer", "train")

__all__ = ["FORMATS", "Format", "export", "register"]


class Format(NamedTuple):
    """A format: the function that writes it, and what of the command's options it takes."""

    function: str  # module:function
    options: tuple[str, ...] = ()


FORMATS = {
    "onnx": Format("timelike.interop.onnx_export:export_onnx", ("dtype", "longest")),
}
"""Name on the command line -> format."""

_EXPORT = """\b
Example:
  timelike export runs/jets/model.safetensors --to onnx -o jets.onnx

\b
onnx   x [B, T, D] and lengths [B] to scores [B, C], transforms of variables included; before the file is
       there, ONNX Runtime computes scores with it, and they are compared with Timelike's own."""


def register(app: Any) -> None:
    """Add the command to a typer app."""
    app.command(short_help="Write a trained network in another format.", epilog=_EXPORT)(export)


def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The model file.")],
    to: Annotated[str, typer.Option(metavar="|".join(FORMATS), help="The format.")] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="float32|float64", help="Of the numbers. [that of the model]")
    ] = None,
    longest: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Steps of the longest sequences of the check. [120]"),
    ] = None,
) -> None:
    """Write a trained network in another format, when it is seen to compute the same."""
    if not to:
        raise ConfigError(
            f"no format: timelike export MODEL --to FORMAT -o FILE; possible: {', '.join(FORMATS)}"
        )
    if to not in FORMATS:
        raise ConfigError(f"no format {to!r}; {nearest(to, FORMATS)}")
    if output is None:
        raise ConfigError(f"no output: timelike export MODEL --to {to} -o FILE")
    chosen = FORMATS[to]
    given = {"dtype": dtype, "longest": longest}
    options = {name: value for name, value in given.items() if value is not None}
    for name in options:
        if name not in chosen.options:
            raise ConfigError(f"--{name} has no meaning with --to {to}")
    module, _, name = chosen.function.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    typer.echo(function(model, output, **options))
