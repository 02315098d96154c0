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

from timelike.errors import ConfigError, nearest, printable, require

typer = require("typer", "train")

__all__ = ["FORMATS", "Format", "export", "register"]


class Format(NamedTuple):
    """A format: the function that writes it, and what of the command's options it takes."""

    function: str  # module:function
    options: tuple[str, ...] = ()


FORMATS = {
    "onnx": Format("timelike.interop.onnx_export:export_onnx", ("dtype", "longest")),
    "cpp": Format("timelike.interop.cpp_check:export_checked_cpp", ("namespace", "weights")),
    "torch": Format("timelike.interop.torch_weights:export_torch"),
    "keras": Format("timelike.interop.keras_weights:export_keras", ("steps", "pad")),
    "lwtnn": Format("timelike.interop.lwtnn:export_lwtnn"),
    "hls4ml": Format("timelike.interop.hls4ml:export_hls4ml", ("steps", "precision", "backend", "limit")),
}
"""Name on the command line -> format."""

_EXPORT = """\b
Example:
  timelike export runs/jets/model.safetensors --to onnx -o jets.onnx
  timelike export runs/jets/model.safetensors --to cpp -o jets.h

\b
onnx     x [B, T, D] and lengths [B] to scores [B, C], transforms of variables included (jets.onnx)
cpp      one C++17 header without dependencies, weights as constants (jets.h)
torch    plain torch.nn: the weights (jets.safetensors) and beside them the code that builds it
keras    a model of Keras (jets.keras); padded steps hold -999, or what --pad says
lwtnn    its JSON (jets.json); lwtnn itself has not run it
hls4ml   a project for an FPGA (a folder), for sequences of --steps steps


Before anything takes its name, its scores are compared with Timelike's own: those of ONNX Runtime, of the
compiled header, PyTorch, Keras, the compiled firmware. What a format cannot express is refused. Pages:
docs/onnx.md, docs/cpp.md, docs/formats.md."""


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
        str | None, typer.Option(metavar="float32|float64", help="onnx: of the numbers. [that of the model]")
    ] = None,
    longest: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="onnx: steps of the longest sequences of the check. [120]"),
    ] = None,
    namespace: Annotated[
        str | None, typer.Option(metavar="NAME", help="cpp: of the header. [its file's name]")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="float32|float16|int8", help="cpp: how weights are stored. [as in the model]"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="keras, hls4ml: all sequences have so many steps.")
    ] = None,
    pad: Annotated[
        float | None, typer.Option(metavar="X", help="keras: what padded steps hold. [-999]")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="TYPE", help="hls4ml: of its numbers. [ap_fixed<24,8>]")
    ] = None,
    backend: Annotated[str | None, typer.Option(metavar="NAME", help="hls4ml: its backend. [Vivado]")] = None,
    limit: Annotated[
        float | None, typer.Option(metavar="X", help="hls4ml: the largest difference of a score. [0.1]")
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
    given = {
        "dtype": dtype,
        "longest": longest,
        "namespace": namespace,
        "weights": weights,
        "steps": steps,
        "pad": pad,
        "precision": precision,
        "backend": backend,
        "limit": limit,
    }
    options = {name: value for name, value in given.items() if value is not None}
    for name in options:
        if name not in chosen.options:
            raise ConfigError(f"--{name} has no meaning with --to {to}")
    module, _, name = chosen.function.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    typer.echo(printable(str(function(model, output, **options))))
