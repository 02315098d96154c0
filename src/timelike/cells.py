"""The cells by name, and what belongs to each: its gates, its states, its parameters.

One table for all who need to know: kernels, layers, model files, inference. What the cells compute is told in
`timelike.reference`, under the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from timelike.errors import ConfigError, nearest

__all__ = ["CELLS", "Cell", "CellOptions", "cell_of", "parameter_shapes"]


class Cell(NamedTuple):
    """What belongs to a cell."""

    gates: str  # their letters, in the order of the blocks of H rows of W, U and the biases
    has_cell_state: bool = False
    has_peephole: bool = False
    has_projection: bool = False


CELLS: dict[str, Cell] = {
    "rnn_tanh": Cell("h"),
    "rnn_relu": Cell("h"),
    "lstm": Cell("ifgo", has_cell_state=True),
    "lstm_peephole": Cell("ifgo", has_cell_state=True, has_peephole=True),
    "lstm_coupled": Cell("igo", has_cell_state=True),
    "lstm_projected": Cell("ifgo", has_cell_state=True, has_projection=True),
    "gru": Cell("rzn"),
    "gru_reset_before": Cell("rzn"),
}
"""Name -> what belongs to the cell. A GRU with one bias is a ``gru`` without ``bias_hh``."""


class CellOptions(NamedTuple):
    """The cell that a family with options is, and what its parameters depend on besides."""

    cell: str
    proj_size: int = 0
    n_biases: int = 2


def cell_of(layer: Mapping[str, Any]) -> CellOptions:
    """Tell the cell of a layer of a config's network.

    Parameters
    ----------
    layer : mapping
        With ``cell``, and options of that cell, as `timelike.config` has them.

    Examples
    --------
    >>> cell_of({"cell": "lstm", "peephole": True})
    CellOptions(cell='lstm_peephole', proj_size=0, n_biases=2)
    """
    cell = layer["cell"]
    if cell == "lstm":
        variants = {"projected": layer.get("projection"), "peephole": layer.get("peephole")}
        variants["coupled"] = layer.get("coupled")
        cell = "_".join(["lstm", *(name for name, chosen in variants.items() if chosen)])
        return CellOptions(cell, proj_size=layer.get("projection", 0))
    if cell == "gru":
        reset_after, inner_bias = layer.get("reset_after", True), layer.get("inner_bias", True)
        return CellOptions("gru" if reset_after else "gru_reset_before", n_biases=2 if inner_bias else 1)
    return CellOptions(cell)


def parameter_shapes(
    cell: str, input_size: int, units: int, *, proj_size: int = 0, n_biases: int = 2
) -> dict[str, tuple[int, ...]]:
    """Give name and shape of each parameter of a layer's direction, in their order.

    Names are those of `torch.nn` without the end that counts the layer: ``weight_ih`` (W) is [G H, D],
    ``weight_hh`` (U) is [G H, R], ``bias_ih`` and ``bias_hh`` are [G H]; then ``weight_hr``, the projection
    [R, H], or, which torch does not have, ``weight_peephole`` [3 H] in the order i f o.

    Parameters
    ----------
    cell : str
        One of `CELLS`.
    input_size, units : int
        D and H.
    proj_size : int
        R of a cell with a projection; for the others, the hidden state has H numbers.
    n_biases : int
        0, 1 (``bias_ih`` alone) or 2.

    Raises
    ------
    ConfigError
        If there is no such cell.

    Examples
    --------
    >>> parameter_shapes("gru", 5, 2, n_biases=1)
    {'weight_ih': (6, 5), 'weight_hh': (6, 2), 'bias_ih': (6,)}
    """
    if cell not in CELLS:
        raise ConfigError(f"unknown cell {cell!r}; {nearest(cell, CELLS)}")
    kind = CELLS[cell]
    rows = len(kind.gates) * units
    shapes: dict[str, tuple[int, ...]] = {
        "weight_ih": (rows, input_size),
        "weight_hh": (rows, proj_size if kind.has_projection else units),
    }
    shapes |= dict.fromkeys(("bias_ih", "bias_hh")[:n_biases], (rows,))
    if kind.has_projection:
        shapes["weight_hr"] = (proj_size, units)
    if kind.has_peephole:
        shapes["weight_peephole"] = (3 * units,)
    return shapes
