"""The commands ``timelike tmva ...``: for those who come from ROOT's TMVA. As in `timelike.commands`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from timelike.errors import ConfigError, printable, require
from timelike.files import replacing

typer = require("typer", "train")

__all__ = ["app"]

app = typer.Typer(
    name="tmva",
    help="Come over from TMVA: configs, weights, tables.",
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)  # type: ignore[untyped-decorator]
def _main(context: typer.Context) -> None:  # type: ignore[name-defined]
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(
    short_help="Turn a macro or an option string into configs.",
    epilog="""\b
Examples:
  timelike tmva convert TMVA_RNN_Classification.C -o configs
  timelike tmva convert --options "Layout=LSTM|10|30|10|0|0,DENSE|64|TANH,LINEAR:InputLayout=10|30"

A macro in C++ or Python gives a config for each booking of kDL in it. What could not be read, and what has no
counterpart, stands in the configs as comments. Nothing of the macro is executed.""",
)  # type: ignore[untyped-decorator]
def convert(
    macro: Annotated[
        Path | None, typer.Argument(metavar="MACRO", help="A macro (.C) or script (.py).", show_default=False)
    ] = None,
    options: Annotated[
        str | None, typer.Option(metavar="STRING", help="Options of BookMethod, in place of a macro.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="STRING", help="With --options: those of PrepareTrainingAndTestTree."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The folder of the configs.")
    ] = Path(),
) -> None:
    """Turn bookings of TMVA's method DL into configs for ``timelike train``."""
    if (macro is None) == (options is None):
        raise ConfigError("give either a macro or --options: timelike tmva convert MACRO [-o DIR]")
    if split is not None and options is None:
        raise ConfigError("--split goes with --options: a macro has its own")
    from timelike import tmva

    if macro is not None:
        found = tmva.convert_macro(_text_of(macro), macro.name)
    else:
        found = [("tmva", tmva.convert(options or "", split))]
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {output}: {error.strerror}") from error
    for name, text in found:
        path = output / f"{name}.yaml"
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8")
        unread = text.count("NOT READ")
        typer.echo(f"{path}" + (f" ({unread} places could not be read: NOT READ)" if unread else ""))
    typer.echo(f"next: timelike train {output / found[0][0]}.yaml")


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or str(error)).lower()}") from error


@app.command(
    short_help="Read a network that TMVA trained.",
    epilog="""\b
Example:
  timelike tmva read dataset/weights/TMVAClassification_TMVA_LSTM.weights.xml -o lstm.safetensors""",
)  # type: ignore[untyped-decorator]
def read(
    weights: Annotated[Path, typer.Argument(metavar="XML", help="A weight file of TMVA's method DL.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The model file.")],
    dtype: Annotated[str, typer.Option(metavar="TYPE", help="float32, or float64.")] = "float32",
) -> None:
    """Read a weight file of TMVA and write it as a model file."""
    if dtype not in ("float32", "float64"):
        raise ConfigError(f"--dtype {dtype}: possible: float32, float64")
    from timelike import tmva
    from timelike.model import save_model

    model = tmva.read_weights(weights, dtype=dtype)
    save_model(model, output)
    inputs = f"{len(model.variables)} variables a step, classes {', '.join(model.class_names)}"
    typer.echo(printable(f"{output}: {model.n_parameters:,} parameters, {inputs}"))


@app.command(
    short_help="Write a network as TMVA's weights.",
    epilog="""\b
Example:
  timelike tmva write runs/TMVA_LSTM/model.safetensors -o lstm.weights.xml --steps 10""",
)  # type: ignore[untyped-decorator]
def write(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The model file.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="XML", help="The weight file.")],
    steps: Annotated[
        int | None,
        typer.Option(min=1, metavar="T", help="Steps of every event, where the model leaves it open."),
    ] = None,
    method: Annotated[str, typer.Option(metavar="NAME", help="Name of the method.")] = "timelike",
) -> None:
    """Write a model as a weight file that TMVA's Reader takes."""
    from timelike import tmva
    from timelike.model import load_model

    tmva.write_weights(load_model(model), output, steps=steps, method=method)
    typer.echo(f"{output}")


@app.command(
    short_help="Evaluate a run as TMVA's Factory does.",
    epilog="""\b
Examples:
  timelike tmva evaluate runs/TMVA_LSTM
  timelike tmva evaluate runs/TMVA_LSTM -o tmva.root --signal 100 --background 5000""",
)  # type: ignore[untyped-decorator]
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a training.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="A ROOT file of histograms and trees."),
    ] = None,
    signal: Annotated[
        float | None, typer.Option(metavar="N", help="Expected signal events, for the best cut.")
    ] = None,
    background: Annotated[
        float | None, typer.Option(metavar="N", help="Expected background events, for the best cut.")
    ] = None,
) -> None:
    """Print the tables that TMVA's Factory prints, and write the file that it writes."""
    from timelike import tmva

    if output is not None:
        tmva.check_root_path(output)
    found = tmva.evaluate(run, signal_yield=signal, background_yield=background)
    typer.echo(printable(found.text))
    if output is not None:
        tmva.write_root(found, output)
        typer.echo(f"{output}")
