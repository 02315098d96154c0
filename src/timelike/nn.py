"""Recurrent layers for PyTorch: in place of those of `torch.nn`, with our kernels underneath.

- `LSTM` takes what `torch.nn.LSTM` takes (padded, batch-first, unbatched, packed) and gives what it gives.
- For batches of sequences of different lengths, give `Ragged`: no padding, no sorting, nothing copied.
  `timelike.sequences.Sequences` and jagged nested tensors are taken as they are, too.
- For padded tensors there is a mask: padding at either end, or holes.

The kernels run on the CPU, in float32 and float64. Under ``torch.autocast`` a layer keeps the precision of
its parameters: floating-point inputs are converted to it, and the outputs have it.

A sequence's results depend on nothing but that sequence: not on padding, on the layout, or on the others in
its batch, to the last bit.
"""

from __future__ import annotations

import torch

from timelike.layouts import Ragged
from timelike.recurrent import Recurrent, require_bool

__all__ = ["LSTM", "Ragged"]


class LSTM(Recurrent):
    """Long short-term memory, in place of `torch.nn.LSTM`: gates ``i f g o``, two biases.

    Each layer computes, for every step of every sequence::

        i = sigmoid(W_i x + U_i h' + b_i)    f = sigmoid(W_f x + U_f h' + b_f)
        g = tanh(W_g x + U_g h' + b_g)       o = sigmoid(W_o x + U_o h' + b_o)
        c = f c' + i g                       h = o tanh(c)

    where ``h'`` and ``c'`` are the states of the step before and ``b`` is the sum of both biases. At most one
    of these makes it another cell:

    - ``proj_size``: ``h = V (o tanh(c))``, a projection of the H units to R numbers;
    - ``peephole``: the gates see the cell state; ``p_i c'``, ``p_f c'``, ``p_o c`` are added in i, f and o;
    - ``coupled``: there is no forget gate, ``c = (1 - i) c' + i g``; gates ``i g o``.

    Parameters
    ----------
    input_size : int
        Inputs D of each step.
    hidden_size : int
        Units H.
    num_layers : int
        Layers, each fed with the hidden states of the one before.
    bias : bool
        Whether there are biases.
    batch_first : bool
        Whether padded batches are (B, T, D) instead of (T, B, D). States are (layers, B, H) all the same.
    dropout : float
        Probability with which each output of all layers but the last is dropped in training.
    bidirectional : bool
        Whether each layer also walks from the last step to the first; outputs are then twice as wide.
    proj_size : int
        Size R of the projection, below H; 0 for none.
    device, dtype : optional
        Of the parameters. Computation is on the CPU, in float32 or float64.
    peephole : bool
        Whether the gates see the cell state; not in torch.
    coupled : bool
        Whether the layer forgets as much as it takes in; not in torch.

    Attributes
    ----------
    weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, weight_hr_l0, weight_ih_l0_reverse, ... : Parameter
        W [4 H, D], U [4 H, R], the biases [4 H] and with ``proj_size`` the projection V [R, H] of each layer
        and direction, named, ordered and drawn as in `torch.nn.LSTM`: state dictionaries fit both ways.
    weight_peephole_l0, ... : Parameter
        The peepholes [3 H], in the order i f o.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `torch.nn.LSTM`; `TypeError` for dtypes other than float32 and float64, `ValueError` for two of
        ``proj_size``, ``peephole`` and ``coupled``.
    NotImplementedError
        At a call for parameters that are not on the CPU.

    References
    ----------
    Hochreiter & Schmidhuber, Neural Computation 9 (1997) 1735; Gers, Schmidhuber & Cummins, Neural
    Computation 12 (2000) 2451. Projection: Sak, Senior & Beaufays, Interspeech 2014, 338. Peepholes: Gers &
    Schmidhuber, IJCNN 2000, vol. 3, 189. Coupled gates: Greff et al., IEEE TNNLS 28 (2017) 2222 (there CIFG).

    Examples
    --------
    >>> lstm = LSTM(input_size=10, hidden_size=20, num_layers=2)
    >>> output, (h_n, c_n) = lstm(torch.randn(5, 3, 10))
    >>> output.shape, h_n.shape
    (torch.Size([5, 3, 20]), torch.Size([2, 3, 20]))
    """

    mode = _kind = "LSTM"
    _usual = Recurrent._usual | {"peephole": False, "coupled": False}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        peephole: bool = False,
        coupled: bool = False,
    ) -> None:
        require_bool(peephole=peephole, coupled=coupled)
        variants = {"projected": proj_size, "peephole": peephole, "coupled": coupled}
        chosen = [name for name, value in variants.items() if value]
        if len(chosen) > 1:
            raise ValueError(
                f"LSTM: given proj_size={proj_size}, peephole={peephole}, coupled={coupled}; "
                "possible: at most one of them"
            )
        super().__init__(
            "_".join(["lstm", *chosen]), input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, proj_size, device, dtype,
        )  # fmt: skip
        self.peephole = peephole
        self.coupled = coupled
