"""The walk through a network as C++: ``Network`` with ``score``, and where it streams ``State`` and ``step``.

Layers that go forward alone are walked step by step, all of them at once, so that nothing of the past is kept
but their states. A layer in two directions needs all steps of what is below it: layers are taken in groups,
each of which walks over all steps, and what a group gives the next one stands in memory of the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass

from timelike.cells import CELLS
from timelike.description import Description
from timelike.interop.cppweights import Writer

__all__ = ["Walk", "whole_by_steps"]


@dataclass(frozen=True)
class Walk:
    """How a network is walked.

    Attributes
    ----------
    network : Description
    to : Writer
        Knows how far arrays are padded.
    """

    network: Description
    to: Writer

    @property
    def streams(self) -> bool:
        """Whether there is a score after every step."""
        return self.network.pooling != "flatten" and not any(
            layer.bidirectional for layer in self.network.layers
        )

    @property
    def per_step(self) -> bool:
        """Whether every step has scores of its own."""
        return self.network.pooling == "none"

    @property
    def width(self) -> int:
        """Numbers that the last layer gives at each step."""
        layers = self.network.layers
        return layers[-1].output_size if layers else len(self.network.inputs)

    @property
    def pooled(self) -> int:
        """Numbers that the dense layers read."""
        return self.width * (self.network.steps or 1)

    @property
    def groups(self) -> list[list[int]]:
        """Layers that are walked together, by their indices."""
        groups: list[list[int]] = []
        both = True  # whether the last one has two directions, and stands alone
        for index, layer in enumerate(self.network.layers):
            if layer.bidirectional or both:
                groups.append([])
            groups[-1].append(index)
            both = layer.bidirectional
        return groups or [[]]

    @property
    def kept(self) -> list[int]:
        """Numbers that each group leaves in memory at each step; 0 where it leaves none."""
        sizes = [self.network.layers[group[-1]].output_size for group in self.groups[:-1]]
        last = self.groups[-1]
        both = bool(last) and self.network.layers[last[-1]].bidirectional
        return [*sizes, self.width if self.per_step and both else 0]

    @property
    def state_numbers(self) -> int:
        """Numbers of ``State``."""
        sizes = [
            self.to.padded(layer.state_size) + CELLS[layer.cell].has_cell_state * self.to.padded(layer.units)
            for layer in self.network.layers
        ]
        return sum(sizes) + self.width

    @property
    def scratch(self) -> int:
        """Numbers of memory for each step: what groups leave, every other one at the same place."""
        return max(self.kept[0::2], default=0) + max(self.kept[1::2], default=0)

    # -- text ----------------------------------------------------------------------------------------------

    def text(self) -> str:
        """Write the struct ``Network``."""
        head = f"struct Network {{\n{self._head()}"
        return head + (self._streaming() if self.streams else self._whole()) + "};\n"

    def _head(self) -> str:
        """Write ``dense``: from the pooled numbers to the scores."""
        lines, at, size = [], "pooled", self.pooled
        for index, dense in enumerate(self.network.dense):
            rows = len(dense.weight)
            if dense.scale is not None:
                lines += [
                    f"    real normed_{index}[{size}];",
                    f"    for (int j = 0; j < {size}; ++j)",
                    f"      normed_{index}[j] = {at}[j] * dense_{index}::scale[j] + dense_{index}::shift[j];",
                ]
                at = f"normed_{index}"
            to = f"y_{index}"
            lines += [
                f"    real {to}[{self.to.padded(rows)}];",
                f"    copy(dense_{index}::bias, {to});",
                f"    add_product({at}, dense_{index}::weight, {to});",
            ]
            if dense.activation != "linear":
                lines += [
                    f"    for (int j = 0; j < {rows}; j += lanes)",
                    f"      store({to} + j, {dense.activation}(load({to} + j)));",
                ]
            at, size = to, rows
        lines += _OUTPUTS[self.network.output](at, size)
        body = "\n".join(lines)
        about = f"  // Dense layers, and the {self.network.output} of what they give.  pooled [{self.pooled}]"
        return f"{about}\n  static void dense(const real* pooled, real* out) noexcept {{\n{body}\n  }}\n\n"

    def _streaming(self) -> str:
        """Write State, step and score of layers that go forward alone."""
        D = len(self.network.variables)
        states, calls, top = (
            [],
            [f"    real inputs[{len(self.network.inputs)}];", "    transform(x, inputs);"],
            "inputs",
        )
        for index, layer in enumerate(self.network.layers):
            arguments = [top, f"state.h_{index}"]
            states.append(f"    real h_{index}[{self.to.padded(layer.state_size)}] = {{}};")
            if CELLS[layer.cell].has_cell_state:
                states.append(f"    real c_{index}[{self.to.padded(layer.units)}] = {{}};")
                arguments.append(f"state.c_{index}")
            calls.append(f"    {layer.cell}<layer_{index}>({', '.join(arguments)});")
            top = f"state.h_{index}"
        pooling, final = self.network.pooling, top
        if pooling in ("mean", "max") or not self.network.layers:
            what = {"mean": "their sum", "max": "the largest so far"}.get(pooling, "of the last step")
            states.append(f"    real pooled[{self.width}] = {{}};  // {what}")
            calls += _pooling(pooling, top, "state.pooled", self.width, "state.steps == 0")
            final = "state.pooled"
        calls.append("    ++state.steps;")
        score = [f"    dense({final}, out);"]
        if pooling == "mean":
            score = [
                f"    real mean[{self.width}];",
                "    const real n = state.steps > 0 ? real(state.steps) : real(1);",
                f"    for (int j = 0; j < {self.width}; ++j) mean[j] = state.pooled[j] / n;",
                "    dense(mean, out);",
            ]
        names = [
            "  // A sequence so far; it begins as State{}.",
            "  struct State {",
            "    std::int64_t steps = 0;",
        ]
        lines = [
            *names,
            *states,
            "  };",
            "",
            f"  // Takes one more step.  x [{D}]",
            "  static void step(State& state, const real* x) noexcept {",
            *calls,
            "  }",
            "",
            f"  // Gives the scores {'of the last step' if self.per_step else 'of the steps so far'}.  "
            f"out [{len(self.network.names)}]",
            "  static void score(const State& state, real* out) noexcept {",
            *score,
            "  }",
            "",
            *whole_by_steps(D, len(self.network.names), self.per_step),
        ]
        return "\n".join(lines) + "\n"

    def _whole(self) -> str:
        """Write score of layers of which some go backward, or of whose steps all are read at once."""
        C, D, pooling = len(self.network.names), len(self.network.variables), self.network.pooling
        wanted = "steps < 0" if pooling != "flatten" else f"steps != {self.network.steps}"
        lines = []
        if self.scratch:
            lines += [
                "  // Numbers of memory that score needs.",
                "  static constexpr std::size_t scratch_size(int steps) {",
                f"    return steps > 0 ? std::size_t(steps) * {self.scratch} : 0;",
                "  }",
                "",
            ]
        more = ", real* scratch" if self.scratch else ""
        shape = f"[steps][{C}]" if self.per_step else f"[{C}]"
        lines += [
            f"  // Scores a sequence.  x [steps][{D}], out {shape}"
            + (", scratch [scratch_size(steps)]" if self.scratch else ""),
            f"  static bool score(const real* x, int steps, real* out{more}) noexcept {{",
            f"    if ({wanted}) return false;",
        ]
        if self.scratch and max(self.kept[1::2], default=0):
            lines.append(
                f"    real* const scratch_1 = scratch + std::ptrdiff_t(steps) * {max(self.kept[0::2])};"
            )
        if not self.per_step:
            lines.append(f"    real pooled[{self.pooled}] = {{}};")
        for number, group in enumerate(self.groups):
            lines += self._group(number, group)
        if not self.per_step:
            if pooling == "mean":
                lines += [
                    "    if (steps > 0)",
                    f"      for (int j = 0; j < {self.width}; ++j) pooled[j] /= real(steps);",
                ]
            lines.append("    dense(pooled, out);")
        elif self.kept[-1]:
            place = _place(len(self.groups) - 1)
            lines += [
                "    for (std::ptrdiff_t t = 0; t < steps; ++t)",
                f"      dense({place} + t * {self.width}, out + t * {C});",
            ]
        return "\n".join([*lines, "    return true;", "  }"]) + "\n"

    def _group(self, number: int, group: list[int]) -> list[str]:
        """Write a group's walks over all steps: one, or one for each direction."""
        layers = self.network.layers
        both = bool(group) and layers[group[0]].bidirectional
        lines = []
        for direction in ("forward", "backward") if both else ("",):
            name = ", ".join(f"layer {index}" for index in group) or "the inputs"
            states, calls = [], []
            if number:
                below = self.kept[number - 1]
                top = "below"
                calls.append(f"const real* const below = {_place(number - 1)} + t * {below};")
            else:
                top = "inputs"
                calls += [
                    f"real inputs[{len(self.network.inputs)}];",
                    f"transform(x + t * {len(self.network.variables)}, inputs);",
                ]
            for index in group:
                layer, h = layers[index], f"h_{index}"
                arguments = [top, h]
                states.append(f"real {h}[{self.to.padded(layer.state_size)}] = {{}};")
                if CELLS[layer.cell].has_cell_state:
                    arguments.append(f"c_{index}")
                    states.append(f"real c_{index}[{self.to.padded(layer.units)}] = {{}};")
                end = f"_{direction}" if direction else ""
                calls.append(f"{layer.cell}<layer_{index}{end}>({', '.join(arguments)});")
                top = h
            size = layers[group[-1]].state_size if group else self.width
            offset = size if direction == "backward" else 0
            given, after = self._given(number, top, size, offset, direction)
            loop = "std::ptrdiff_t t = 0; t < steps; ++t"
            if direction == "backward":
                loop = "std::ptrdiff_t t = steps - 1; t >= 0; --t"
            lines += [
                f"    {{  // {name}{f', {direction}' if direction else ''}",
                *(f"      {line}" for line in states),
                f"      for ({loop}) {{",
                *(f"        {line}" for line in (*calls, *given)),
                "      }",
                *(f"      {line}" for line in after),
                "    }",
            ]
        return lines

    def _given(
        self, number: int, top: str, size: int, offset: int, direction: str
    ) -> tuple[list[str], list[str]]:
        """Write what is done with the numbers that a group gives: at each step, and after the last."""
        pooling, kept = self.network.pooling, self.kept[number]
        each = f"for (int j = 0; j < {size}; ++j)"
        behind = f" + {offset}" if offset else ""
        if kept:
            return [
                f"real* const to = {_place(number)} + t * {kept}{behind};",
                f"{each} to[j] = {top}[j];",
            ], []
        if pooling == "last":
            return [], [f"{each} pooled[j{behind}] = {top}[j];"]
        if pooling == "flatten":
            return [f"{each} pooled[t * {self.width} + j{behind}] = {top}[j];"], []
        if pooling == "none":
            return [f"dense({top}, out + t * {len(self.network.names)});"], []
        first = "t == steps - 1" if direction == "backward" else "t == 0"
        to = f"(pooled{behind})" if behind else "pooled"
        return [line.strip() for line in _pooling(pooling, top, to, size, first)], []


def _place(number: int) -> str:
    """Where a group leaves its numbers."""
    return "scratch_1" if number % 2 else "scratch"


def _pooling(how: str, top: str, to: str, size: int, first: str) -> list[str]:
    each = f"    for (int j = 0; j < {size}; ++j)"
    if how == "mean":
        return [f"{each} {to}[j] += {top}[j];"]
    if how == "max":  # a NaN stays
        return [
            each,
            f"      if ({first} || std::isnan({top}[j]) || {top}[j] > {to}[j]) {to}[j] = {top}[j];",
        ]
    return [f"{each} {to}[j] = {top}[j];"]


def whole_by_steps(D: int, C: int, per_step: bool) -> list[str]:
    """Write score of all steps of a network of D inputs and C outputs that streams."""
    shape = f"[steps][{C}]" if per_step else f"[{C}]"
    each = ["    for (std::ptrdiff_t t = 0; t < steps; ++t) {", f"      step(state, x + t * {D});"]
    if per_step:
        each.append(f"      score(state, out + t * {C});")
    return [
        f"  // Scores a sequence.  x [steps][{D}], out {shape}",
        "  static bool score(const real* x, int steps, real* out) noexcept {",
        "    if (steps < 0) return false;",
        "    State state;",
        *each,
        "    }",
        *([] if per_step else ["    score(state, out);"]),
        "    return true;",
        "  }",
    ]


def _softmax(s: str, n: int) -> list[str]:
    return [
        f"    real largest = {s}[0], sum = 0;",
        f"    for (int j = 1; j < {n}; ++j)",
        f"      if (std::isnan({s}[j]) || {s}[j] > largest) largest = {s}[j];",
        f"    for (int j = 0; j < {n}; j += lanes) store({s} + j, exp(load({s} + j) - largest));",
        f"    for (int j = 0; j < {n}; ++j) sum += {s}[j];",
        f"    for (int j = 0; j < {n}; ++j) out[j] = {s}[j] / sum;",
    ]


def _sigmoid(s: str, n: int) -> list[str]:
    return [
        f"    {s}[1] = -{s}[0];",
        f"    for (int j = 0; j < 2; j += lanes) store({s} + j, sigmoid(load({s} + j)));",
        f"    out[0] = {s}[1];",
        f"    out[1] = {s}[0];",
    ]


def _multilabel(s: str, n: int) -> list[str]:
    return [
        f"    for (int j = 0; j < {n}; j += lanes) store({s} + j, sigmoid(load({s} + j)));",
        *_linear(s, n),
    ]


def _linear(s: str, n: int) -> list[str]:
    return [f"    for (int j = 0; j < {n}; ++j) out[j] = {s}[j];"]


def _exponential(s: str, n: int) -> list[str]:
    # The library's: ours stays at its border, where this goes on to 0 and to infinity.
    return [f"    for (int j = 0; j < {n}; ++j) out[j] = std::exp({s}[j]);"]


_OUTPUTS = {
    "softmax": _softmax,
    "sigmoid": _sigmoid,
    "multilabel": _multilabel,
    "linear": _linear,
    "exponential": _exponential,
}
