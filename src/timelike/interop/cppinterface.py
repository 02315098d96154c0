"""The faces of a header besides ``Network``: one number for those who want no more, and functions for C."""

from __future__ import annotations

import re

from timelike.interop.cppnetwork import Walk

__all__ = ["c_declarations", "c_definitions", "c_macro", "needs_scratch", "one_score"]


def needs_scratch(walk: Walk, members: int) -> bool:
    """Tell whether ``score`` wants memory of its caller."""
    return bool(walk.scratch) or (members > 1 and walk.per_step and not walk.streams)


def c_macro(namespace: str) -> str:
    """Give the macro with which a file of C++ defines the functions for C."""
    return f"{_prefix(namespace).upper()}_DEFINE_C_INTERFACE"


def one_score(walk: Walk, signal: str, members: int) -> str:
    """Write ``score(x, steps)``, where one number says all: of one output, or of two that add up to 1.

    Parameters
    ----------
    walk : Walk
    signal : str
        The class whose probability is given.
    members : int
        Networks of an ensemble, or 1.
    """
    network = walk.network
    two = len(network.names) == 2 and network.output in ("softmax", "sigmoid")
    if walk.per_step or not (two or len(network.names) == 1):
        return ""
    index = network.names.index(signal) if two else 0
    given, passed = (", real* scratch", ", scratch") if needs_scratch(walk, members) else ("", "")
    what = f"the probability of {network.names[index]}" if two else network.names[index]
    return (
        f"// {what}; NaN where steps is not possible.\n"
        f"inline real score(const real* x, int steps{given}) noexcept {{\n"
        "  real out[output_count];\n"
        f"  return Network::score(x, steps, out{passed}) ? out[{index}] : "
        "std::numeric_limits<real>::quiet_NaN();\n}\n"
    )


def c_declarations(walk: Walk, namespace: str, real: str, numbers: int, members: int) -> str:
    """Declare the functions for C.

    Parameters
    ----------
    walk : Walk
    namespace : str
    real : {"float", "double"}
    numbers : int
        Those of the states, of all networks.
    members : int
        Networks of an ensemble, or 1.
    """
    name, D, C = _prefix(namespace), len(walk.network.variables), len(walk.network.names)
    scratch = needs_scratch(walk, members)
    more = f", {real}* scratch" if scratch else ""
    shape = f"[steps][{C}]" if walk.per_step else f"[{C}]"
    lines = [
        "// -- For C " + "-" * 97,
        "",
        "#include <stddef.h>",
        "",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        f"int {name}_input_count(void);",
        f"int {name}_output_count(void);",
        f"const char* {name}_input_name(int index);  // null beyond them",
        f"const char* {name}_output_name(int index);",
    ]
    if scratch:
        lines.append(f"size_t {name}_scratch_size(int steps);  // numbers of memory that score needs")
    lines += [
        f"// x [steps][{D}], out {shape}; gives 0, or 1 where steps is not possible",
        f"int {name}_score(const {real}* x, int steps, {real}* out{more});",
    ]
    if walk.streams:
        lines += [
            f"typedef struct {name}_state {{",
            f"  long long steps[{members}];",
            f"  {real} numbers[{numbers}];",
            f"}} {name}_state;",
            f"void {name}_begin({name}_state* state);",
            f"void {name}_step({name}_state* state, const {real}* x);  // x [{D}]",
            f"void {name}_read(const {name}_state* state, {real}* out);  // out [{C}]",
        ]
    return "\n".join([*lines, "#ifdef __cplusplus", "}", "#endif", ""])


def c_definitions(walk: Walk, namespace: str, real: str, members: int) -> str:
    """Define the functions for C, where the macro `c_macro` asks for them."""
    name = _prefix(namespace)
    scratch = needs_scratch(walk, members)
    given, passed = (f", {real}* scratch", ", scratch") if scratch else ("", "")
    here = f"{namespace}::"
    lines = [f"#ifdef {c_macro(namespace)}", 'extern "C" {']
    for what, count in (("input", "input_count"), ("output", "output_count")):
        lines += [
            f"int {name}_{count}(void) {{ return {here}{count}; }}",
            f"const char* {name}_{what}_name(int index) {{",
            f"  return index >= 0 && index < {here}{count} ? {here}{what}_names[index].data() : nullptr;",
            "}",
        ]
    if scratch:
        lines += [
            f"size_t {name}_scratch_size(int steps) {{ return {here}Network::scratch_size(steps); }}",
        ]
    lines += [
        f"int {name}_score(const {real}* x, int steps, {real}* out{given}) {{",
        f"  return {here}Network::score(x, steps, out{passed}) ? 0 : 1;",
        "}",
    ]
    if walk.streams:
        state = f"{here}Network::State"
        lines += [
            f"static_assert(sizeof({state}) <= sizeof({name}_state) &&",
            f"                  alignof({state}) <= alignof({name}_state),",
            '              "the state of C has room for that of C++");',
            f"void {name}_begin({name}_state* state) {{ new (static_cast<void*>(state)) {state}{{}}; }}",
            f"void {name}_step({name}_state* state, const {real}* x) {{",
            f"  {here}Network::step(*std::launder(reinterpret_cast<{state}*>(state)), x);",
            "}",
            f"void {name}_read(const {name}_state* state, {real}* out) {{",
            f"  {here}Network::score(*std::launder(reinterpret_cast<const {state}*>(state)), out);",
            "}",
        ]
    return "\n".join([*lines, "}", "#endif", ""])


def _prefix(namespace: str) -> str:
    return re.sub(r"\W+", "_", namespace)
