"""Whether a C++ header computes the same: it is compiled and run before it takes its name.

Where there is no compiler, that is said, and the header is written all the same: it is text for another
machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike.description import describe
from timelike.errors import ExportError
from timelike.files import replacing, shown
from timelike.interop.checks import Probe, probe
from timelike.interop.cpp import CppHeader, export_cpp
from timelike.modelfile import ModelFile, read_model_file
from timelike.smallweights import SMALL, decoded, encoded

__all__ = ["export_checked_cpp"]

Array = npt.NDArray[Any]

_COMPILERS = ("c++", "g++", "clang++")

_PROGRAM = """\
#include "{header}"
#include <cstdint>
#include <fstream>
#include <vector>
namespace net = {namespace};
int main(int, char** arguments) {{
  std::ifstream in(arguments[1], std::ios::binary);
  std::ofstream out(arguments[2], std::ios::binary);
  for (std::int64_t steps; in.read(reinterpret_cast<char*>(&steps), sizeof steps);) {{
    std::vector<net::real> x(std::size_t(steps) * net::input_count + 1);
    std::vector<net::real> scores(std::size_t({rows}) * net::output_count);
    {scratch}
    in.read(reinterpret_cast<char*>(x.data()), std::streamsize((x.size() - 1) * sizeof(net::real)));
    if (!net::Network::score(x.data(), int(steps), scores.data(){passed})) return 1;
    out.write(reinterpret_cast<const char*>(scores.data()),
              std::streamsize(scores.size() * sizeof(net::real)));
  }}
  return out.flush() ? 0 : 1;
}}
"""


def export_checked_cpp(
    model: ModelFile | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    namespace: str | None = None,
    weights: str | None = None,
) -> str:
    """Write a model as one C++ header, when a program with it is seen to compute the same.

    Parameters
    ----------
    model, path, namespace, weights
        As of `timelike.interop.cpp.export_cpp`. With small ``weights`` the header is compared with the
        network whose weights are rounded so; `timelike.quantise` tells what that costs.

    Returns
    -------
    str
        What was written, and what was checked, in a line.

    Raises
    ------
    ConfigError, ModelFileError
        As `timelike.interop.cpp.export_cpp` does.
    ExportError
        If it cannot be compiled here, or the program computes something else. No header is written then.
    """
    path = Path(path)
    file = model if isinstance(model, ModelFile) else read_model_file(model)
    compiler = next((found for name in _COMPILERS if (found := shutil.which(name))), None)
    with tempfile.TemporaryDirectory() as folder, replacing(path) as part:
        made = export_cpp(file, Path(folder) / path.name, namespace=namespace, weights=weights)
        about = f"{shown(path)}: namespace {made.namespace}, weights {made.weights}"
        checked = "not run, as there is no C++ compiler here"
        if compiler is not None:
            checked = _checked(file, made, compiler)
        part.write_bytes(made.path.read_bytes())
    return f"{about}; {checked}"


def _checked(file: ModelFile, made: CppHeader, compiler: str) -> str:
    """Compile a program with a header, run it, and compare."""
    first = describe(file)[0]
    if made.weights in SMALL:
        file = replace(file, weights=decoded(encoded(file.weights, made.weights), first.dtype))
    dtype = made.weights if made.weights not in SMALL else str(first.dtype)
    tried = probe(file, first, dtype=dtype)
    got = _run(tried, made, compiler, per_step=first.pooling == "none")
    try:
        return tried.check(got, Path(compiler).name)
    except RuntimeError as error:
        raise ExportError(f"{made.path.name}: {error}; nothing was written") from None


def _run(tried: Probe, made: CppHeader, compiler: str, *, per_step: bool) -> Array:
    folder = made.path.parent
    program = _PROGRAM.format(
        header=made.path.name,
        namespace=made.namespace,
        rows="steps" if per_step else "1",
        scratch="std::vector<net::real> scratch(net::Network::scratch_size(int(steps)) + 1);"
        if made.scratch
        else "",
        passed=", scratch.data()" if made.scratch else "",
    )
    source, binary = folder / "check.cpp", folder / "check"
    source.write_text(program, encoding="utf-8")
    # Without fused products, as in our own kernels: what is left are the orders of the head's sums.
    command = [compiler, "-std=c++17", "-O1", "-ffp-contract=off", str(source), "-o", str(binary)]
    _done(command, f"{made.path.name} cannot be compiled by {compiler}")
    given, scores = folder / "given", folder / "scores"
    with given.open("wb") as into:
        for values in tried.sequences:
            into.write(np.int64(len(values)).tobytes())
            into.write(np.ascontiguousarray(values).tobytes())
    _done([str(binary), str(given), str(scores)], f"{made.path.name}: the program with it does not run")
    return np.fromfile(scores, tried.sequences.values.dtype).reshape(tried.expected.shape)


def _done(command: list[str], wrong: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        said = next((line for line in lines if "error" in line), lines[0])
        raise ExportError(f"{wrong}: {said}; nothing was written")
