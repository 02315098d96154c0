"""One C++ header of a trained network, with everything in it: transforms, layers, scores, and the weights.

Use it where events are processed in C++, one at a time: the header needs the standard library alone, takes no
memory of its own, throws nothing, and may be used by any number of threads. It is C++17; a C interface stands
in it, too. `docs/cpp.md` shows a whole program.

It computes what `timelike.model.predict` computes. Recurrent layers are those of the kernels to the last bit
where the compiler may not fuse multiplications and additions on its own (``-ffp-contract=off``), up to 512
units; the dense layers, the only part that PyTorch computes there, to rounding.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from timelike import __version__
from timelike.description import Description, describe
from timelike.errors import ConfigError, nearest
from timelike.files import replacing
from timelike.interop import cpparithmetic
from timelike.interop.cppinterface import c_declarations, c_definitions, c_macro, needs_scratch, one_score
from timelike.interop.cppnetwork import Walk, whole_by_steps
from timelike.interop.cpptransforms import transform
from timelike.interop.cppweights import Writer, constants_of_dense, constants_of_direction, quoted
from timelike.modelfile import ModelFile, read_model_file

__all__ = ["WEIGHTS", "CppHeader", "export_cpp"]

WEIGHTS = ("float32", "float16", "int8")
"""How weights may be stored in a header."""

_KEYWORDS = """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t class
compl const constexpr const_cast continue decltype default delete do double dynamic_cast else enum
explicit export extern false float for friend goto if inline int long mutable namespace new noexcept
not not_eq nullptr operator or or_eq private protected public register reinterpret_cast return short
signed sizeof static static_assert static_cast struct switch template this thread_local throw true
try typedef typeid typename union unsigned using virtual void volatile wchar_t while xor xor_eq std
"""


@dataclass(frozen=True)
class CppHeader:
    """What was written.

    Attributes
    ----------
    path : Path
    namespace : str
    weights : str
        How they are stored.
    streams : bool
        Whether there is a ``step``.
    scratch : int
        Numbers of memory for each step that ``score`` wants of its caller; mostly 0.
    """

    path: Path
    namespace: str
    weights: str
    streams: bool
    scratch: int


def export_cpp(
    model: ModelFile | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    namespace: str | None = None,
    weights: str | None = None,
) -> CppHeader:
    """Write a model as one C++ header.

    Parameters
    ----------
    model : ModelFile or path
        A model file, read or not; that of an ensemble gives the mean of its networks.
    path : path
        The header; an older one is replaced.
    namespace : str, optional
        Of everything in it, ``a::b`` allowed; by default the name of the header's file. Headers of different
        namespaces may stand in one program.
    weights : {"float32", "float16", "int8"}, optional
        How matrices are stored; see `timelike.smallweights`. By default, and of a network in float64 with
        float16 and int8 too, numbers are computed in the type of the network.

    Returns
    -------
    CppHeader

    Raises
    ------
    ConfigError
        If the namespace is none, the weights cannot be stored so, the network has something that cannot be
        written as C++, or the file cannot be written.
    ModelFileError
        If the model cannot be read.

    Examples
    --------
    >>> export_cpp("model.safetensors", "tagger.h", weights="int8")  # doctest: +SKIP
    CppHeader(path=PosixPath('tagger.h'), namespace='tagger', weights='int8', streams=True, scratch=0)
    """
    path = Path(path)
    file = model if isinstance(model, ModelFile) else read_model_file(model)
    namespace = _checked(namespace, path)
    networks = describe(file)
    _check(networks)
    dtype = networks[0].dtype
    if weights is not None and weights not in WEIGHTS:
        raise ConfigError(f"weights cannot be stored as {weights!r} in a header; {nearest(weights, WEIGHTS)}")
    if weights == "float32":
        dtype = np.dtype(np.float32)
    stored = weights or dtype.name
    to = Writer(dtype, stored)
    walks = [Walk(network, to) for network in networks]
    text = _document(file.meta, walks, namespace, to)
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
    return CppHeader(path, namespace, stored, walks[0].streams, walks[0].scratch)


def _checked(given: str | None, path: Path) -> str:
    """Give the namespace, or say why it is none."""
    if given is None:
        given = re.sub(r"\W", "_", path.stem, flags=re.ASCII)
        given = f"_{given}" if given[:1].isdigit() else given
        given = f"{given}_network" if given in _KEYWORDS.split() else given
    for part in given.split("::"):
        if (
            not re.fullmatch(r"[A-Za-z_]\w*", part, flags=re.ASCII)
            or "__" in part
            or part in _KEYWORDS.split()
        ):
            raise ConfigError(
                f"namespace {given!r}: not a name of C++; letters, digits and _, as in a::tagger"
            )
    return given


def _check(networks: tuple[Description, ...]) -> None:
    for network in networks:
        for dense in network.dense:
            if not cpparithmetic.has_activation(dense.activation):
                raise ConfigError(f"the activation {dense.activation!r} cannot be written as C++")


def _document(meta: dict[str, Any], walks: list[Walk], namespace: str, to: Writer) -> str:
    first = walks[0].network
    real = "float" if to.dtype == np.float32 else "double"
    guard = "TIMELIKE_" + re.sub(r"\W+", "_", namespace) + "_H"
    used_cells = {layer.cell for walk in walks for layer in walk.network.layers}
    used = {dense.activation for walk in walks for dense in walk.network.dense}
    networks = (
        _network(walks[0], to)
        if len(walks) == 1
        else "\n".join(
            f"namespace fold_{k} {{\n\n{_network(walk, to)}\n}}  // namespace fold_{k}\n"
            for k, walk in enumerate(walks)
        )
        + "\n"
        + _ensemble(walks)
    )
    parts = [
        _about(meta, walks, namespace, to),
        f"#ifndef {guard}\n#define {guard}\n",
        c_declarations(walks[0], namespace, real, sum(walk.state_numbers for walk in walks), len(walks)),
        "#ifdef __cplusplus\n\n#include <cmath>\n#include <cstddef>\n#include <cstdint>\n#include <cstring>\n"
        "#include <limits>\n#include <new>\n#include <string_view>\n",
        _INTRINSICS,
        f"namespace {namespace} {{\n\nusing real = {real};\n",
        _names("input_names", first.variables),
        _names("output_names", first.names),
        f"constexpr int input_count = {len(first.variables)}, output_count = {len(first.names)};\n",
        _OPEN,
        cpparithmetic.arithmetic(real, to.weights),
        cpparithmetic.cells(used_cells),
        cpparithmetic.activations(used),
        "// -- The network " + "-" * 93 + "\n",
        networks,
        one_score(walks[0], meta["signal"], len(walks)),
        f"}}  // of the instruction set\n}}  // namespace {namespace}\n",
        c_definitions(walks[0], namespace, real, len(walks)),
        "#undef TIMELIKE_UNROLL\n\n#endif  // __cplusplus\n#endif\n",
    ]
    text = "\n".join(part for part in parts if part)
    return text.replace("$CONTENT", hashlib.sha256(text.encode()).hexdigest()[:8])


_INTRINSICS = """\
#ifdef __FAST_MATH__
#error "this header needs arithmetic as it is written: compile without -ffast-math (and -Ofast)"
#endif

#if defined(__GNUC__) && !defined(TIMELIKE_ONE_LANE)
#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#endif

#if defined(__clang__)
#define TIMELIKE_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define TIMELIKE_UNROLL _Pragma("GCC unroll 8")
#else
#define TIMELIKE_UNROLL
#endif
"""

# Otherwise the linker would take either one's code, of files that are compiled for different processors, and
# a program either one's weights, of two libraries in which networks have the same name.
_OPEN = """\
// Files that are compiled for different instruction sets may stand in one program, and another network of the
// same name in another library: names go with the instruction set, and with what is in this file.
#if !defined(__GNUC__) || defined(TIMELIKE_ONE_LANE)
inline namespace one_lane_$CONTENT {
#elif defined(__AVX512F__)
inline namespace avx512_$CONTENT {
#elif defined(__FMA__)
inline namespace fma_$CONTENT {
#elif defined(__AVX__)
inline namespace avx_$CONTENT {
#else
inline namespace baseline_$CONTENT {
#endif
"""


def _network(walk: Walk, to: Writer) -> str:
    """Write transforms, weights and the walk of one network."""
    network = walk.network
    parts = [transform(network.transforms)]
    for index, layer in enumerate(network.layers):
        ends = ("_forward", "_backward") if layer.bidirectional else ("",)
        for end, weights in zip(ends, layer.weights, strict=True):
            own = {name: np.asarray(value, to.dtype) for name, value in weights.items()}
            about = f"// {layer.cell}{f', {end[1:]}' if end else ''}: {layer.input_size} inputs"
            parts.append(
                f"{about}\n{constants_of_direction(f'layer_{index}{end}', layer.cell, own, layer, to)}"
            )
    for index, dense in enumerate(network.dense):
        inputs = dense.weight.shape[1]
        about = f"// dense: {inputs} inputs, {dense.activation}"
        parts.append(f"{about}\n{constants_of_dense(f'dense_{index}', dense, to)}")
    return "\n".join([*parts, walk.text()])


def _ensemble(walks: list[Walk]) -> str:
    """Write the network that is the mean of others."""
    walk = walks[0]
    C, D = len(walk.network.names), len(walk.network.variables)
    members = [f"fold_{k}" for k in range(len(walks))]
    lines = [f"// The mean of {len(walks)} networks.", "struct Network {"]
    if walk.streams:
        lines += [
            "  struct State {",
            *(f"    {name}::Network::State {name};" for name in members),
            "  };",
            "",
        ]
        lines += [f"  // x [{D}]", "  static void step(State& state, const real* x) noexcept {"]
        lines += [f"    {name}::Network::step(state.{name}, x);" for name in members]
        lines += [
            "  }",
            "",
            f"  // out [{C}]",
            "  static void score(const State& state, real* out) noexcept {",
        ]
        lines += [f"    real one[{C}];", f"    for (int j = 0; j < {C}; ++j) out[j] = 0;"]
        for name in members:
            lines += [f"    {name}::Network::score(state.{name}, one);"]
            lines += [f"    for (int j = 0; j < {C}; ++j) out[j] += one[j] / {len(walks)};"]
        lines += ["  }", "", *whole_by_steps(D, C, walk.per_step)]
        return "\n".join([*lines, "};", ""])
    own = f"std::ptrdiff_t(steps) * {C}" if walk.per_step else str(C)
    extra = C if walk.per_step else 0
    if walk.scratch or extra:
        lines += [
            "  // Numbers of memory that score needs.",
            "  static constexpr std::size_t scratch_size(int steps) {",
            f"    return steps > 0 ? std::size_t(steps) * {walk.scratch + extra} : 0;",
            "  }",
            "",
        ]
    shape = f"[steps][{C}]" if walk.per_step else f"[{C}]"
    given = ", real* scratch" if walk.scratch or extra else ""
    lines += [
        f"  // x [steps][{D}], out {shape}" + (", scratch [scratch_size(steps)]" if given else ""),
        f"  static bool score(const real* x, int steps, real* out{given}) noexcept {{",
        f"    const std::ptrdiff_t n = {own};",
    ]
    if extra:
        lines += [
            "    if (steps < 0) return false;",
            f"    real* const one = scratch + std::ptrdiff_t(steps) * {walk.scratch};",
        ]
    else:
        lines.append(f"    real one[{C}];")
    passed = ", scratch" if walk.scratch else ""
    for k, name in enumerate(members):
        lines += [
            f"    if (!{name}::Network::score(x, steps, one{passed})) return false;",
            f"    for (std::ptrdiff_t j = 0; j < n; ++j) out[j] {'+' if k else ''}= one[j] / {len(walks)};",
        ]
    return "\n".join([*lines, "    return true;", "  }", "};", ""])


def _names(what: str, names: tuple[str, ...]) -> str:
    listed = ", ".join(map(quoted, names))
    return f"inline constexpr std::string_view {what}[{len(names)}] = {{{listed}}};"


def _about(meta: dict[str, Any], walks: list[Walk], namespace: str, to: Writer) -> str:
    """Write the head of the file: what the network is, what it reads, how it is called."""
    walk = walks[0]
    network = walk.network
    data, sequence = meta["data"], meta["sequence"]
    derived = data.get("new_variables") or {}
    lines = [f"{namespace}: a network trained with timelike {meta['timelike_version']}, as a C++17 header "]
    lines[0] += f"(written by timelike {__version__})."
    layers = [
        f"{layer.cell} {layer.units}{' in both directions' if layer.bidirectional else ''}"
        for layer in network.layers
    ]
    dense = [f"dense {len(one.weight)} {one.activation}" for one in network.dense]
    made = ", ".join([*layers, f"pooling {network.pooling}", *dense, network.output])
    lines += ["", f"{f'{len(walks)} networks, their mean, each: ' if len(walks) > 1 else ''}{made};"]
    lines += [f"weights in {to.weights}.", "", "Inputs of each step, in this order:"]
    for name in network.variables:
        lines.append(f"  {name}" + (f" = {derived[name]}" if name in derived else ""))
    order = [f"{key}: {value}" for key, value in sequence.items() if value is not None]
    if order:
        lines += [f"Steps as they were in training ({', '.join(order)}); nothing here sorts or cuts them."]
    lines += [f"Outputs: {', '.join(network.names)}.", ""]
    scratch = ", scratch" if needs_scratch(walk, len(walks)) else ""
    if scratch:
        lines.append(
            f"  std::vector<{namespace}::real> scratch({namespace}::Network::scratch_size(most_steps));"
        )
    out = "output_count * steps" if walk.per_step else "output_count"
    lines.append(
        f"  {namespace}::real out[{namespace}::{out}];" if not walk.per_step else f"  // out [{out}]"
    )
    lines.append(
        f"  {namespace}::Network::score(x, steps, out{scratch});  // false where steps is not possible"
    )
    if walk.streams:
        lines += [
            f"  {namespace}::Network::State state;  // or step by step",
            f"  {namespace}::Network::step(state, x);",
            f"  {namespace}::Network::score(state, out);",
        ]
    lines += [
        "",
        "Nothing is allocated, thrown or kept: all functions may be called by any number of threads. With",
        "-march=native the compiler takes wider registers; -ffp-contract=off makes the layers those of",
        "timelike to the last bit. For C, see the declarations below, and define",
        f"{c_macro(namespace)} before this header in one file of C++.",
    ]
    return "\n".join(f"// {_plain(line)}".rstrip() for line in lines) + "\n"


def _plain(text: str) -> str:
    """Keep a comment a comment: one line, no end of line that goes on."""
    return re.sub(r"[\r\n\v\f]", " ", text).rstrip("\\")
