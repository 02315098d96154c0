"""The order in which each framework stacks the gates of a cell, and the way from one order to another.

A framework keeps one weight array for all gates of a layer, the gates' blocks of H rows one below the other:
[G*H, D], [G*H, H] or [G*H]. The order of the blocks is a convention, and each framework has its own. Here
the gates carry one set of letters throughout; other letters for the same gate:

========  ================================  =====================================
letter    gate                              called elsewhere
========  ================================  =====================================
i f o     input, forget, output             the same everywhere
g         candidate of an LSTM              c (ONNX, Keras, TMVA)
r         reset                             the same everywhere
z         update, h = (1 - z) n + z h_prev  u (TMVA); in all four it keeps h_prev
n         candidate of a GRU                h (ONNX, Keras), c (TMVA)
h         the one block of a simple RNN
========  ================================  =====================================

Order is all that is told here. What else differs between frameworks (Keras keeps its weights transposed,
[D, G*H]; the reset gate of a GRU acts before or after the state weights; one bias or two) is the business
of whoever converts.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from timelike.errors import ConfigError, DataError, nearest

__all__ = ["GATE_ORDERS", "gate_order", "gate_permutation", "reorder_gates"]

GATE_ORDERS: dict[str, dict[str, str]] = {
    "rnn": {"timelike": "h", "torch": "h", "onnx": "h", "keras": "h", "tmva": "h"},
    "lstm": {"timelike": "ifgo", "torch": "ifgo", "onnx": "iofg", "keras": "ifgo", "tmva": "ifgo"},
    "gru": {"timelike": "rzn", "torch": "rzn", "onnx": "zrn", "keras": "zrn", "tmva": "rzn"},
    # the stacked diagonal weights [3H] from the cell state to i, f and o
    "lstm_peepholes": {"timelike": "ifo", "onnx": "iof"},
}
"""Cell -> framework -> gates in the order of their blocks, one letter each."""


def gate_order(cell: str, framework: str) -> str:
    """Give the letters of a cell's gates in the order in which a framework stacks them.

    Parameters
    ----------
    cell : {"rnn", "lstm", "gru", "lstm_peepholes"}
        Cell.
    framework : {"timelike", "torch", "onnx", "keras", "tmva"}
        Framework; Timelike's own order is that of torch.

    Returns
    -------
    str
        One letter per gate.

    Raises
    ------
    ConfigError
        If the cell is not known, or the framework has no such cell.

    Examples
    --------
    >>> gate_order("lstm", "onnx")
    'iofg'
    """
    if cell not in GATE_ORDERS:
        raise ConfigError(f"gate order of unknown cell {cell!r}; {nearest(cell, GATE_ORDERS)}")
    orders = GATE_ORDERS[cell]
    if framework not in orders:
        raise ConfigError(f"no gate order of {cell} in {framework!r}; {nearest(framework, orders)}")
    return orders[framework]


def gate_permutation(cell: str, *, source: str, target: str) -> tuple[int, ...]:
    """Say for each block of the target's order which block of the source's order it is.

    Parameters
    ----------
    cell : str
        Cell, as in `gate_order`.
    source, target : str
        Frameworks, as in `gate_order`.

    Returns
    -------
    tuple of int
        G indices; block k of the target is block ``permutation[k]`` of the source.

    Raises
    ------
    ConfigError
        If the cell is not known, or one of the frameworks has no such cell.

    Examples
    --------
    >>> gate_permutation("lstm", source="torch", target="onnx")
    (0, 3, 1, 2)
    """
    source_order = gate_order(cell, source)
    return tuple(source_order.index(letter) for letter in gate_order(cell, target))


def reorder_gates(stacked: npt.NDArray[Any], cell: str, *, source: str, target: str) -> npt.NDArray[Any]:
    """Reorder the gates' blocks of a stacked array along its first axis.

    Parameters
    ----------
    stacked : array [G*H, ...]
        Weights or biases, gates stacked in the order of `source`.
    cell : str
        Cell, as in `gate_order`.
    source, target : str
        Frameworks, as in `gate_order`.

    Returns
    -------
    array [G*H, ...]
        A copy, gates stacked in the order of `target`.

    Raises
    ------
    ConfigError
        If the cell is not known, or one of the frameworks has no such cell.
    DataError
        If the first axis cannot be cut into G equal blocks.

    Examples
    --------
    >>> import numpy as np
    >>> reorder_gates(np.array([1, 1, 2, 2, 3, 3]), "gru", source="torch", target="keras")
    array([2, 2, 1, 1, 3, 3])
    """
    permutation = gate_permutation(cell, source=source, target=target)
    G = len(permutation)
    if stacked.ndim == 0 or len(stacked) % G:
        raise DataError(f"gates of {cell}: a first axis of {G}*H is needed, got shape {stacked.shape}")
    blocks = stacked.reshape(G, len(stacked) // G, *stacked.shape[1:])
    return blocks[list(permutation)].reshape(stacked.shape)
