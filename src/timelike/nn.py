"""Recurrent layers for PyTorch: in place of those of `torch.nn`, with our kernels underneath.

- `RNN`, `LSTM` and `GRU` take what torch's take (padded, batch-first, unbatched, packed) and give what they
  give. What torch does not have is keyword-only: peepholes and coupled gates, other kinds of GRU.
- For batches of sequences of different lengths, give `Ragged`: no padding, no sorting, nothing copied.
  `timelike.sequences.Sequences` and jagged nested tensors are taken as they are, too.
- For sequences too long for one graph there is `windows`: truncated backpropagation through time.
- For padded tensors there is a mask: padding at either end, or holes.

The kernels run on the CPU, in float32 and float64. Under ``torch.autocast`` a layer keeps the precision of
its parameters: floating-point inputs are converted to it, and the outputs have it.

A sequence's results depend on nothing but that sequence: not on padding, on the layout, or on the others in
its batch, to the last bit.
"""

from __future__ import annotations

import torch

from timelike.cells import cell_of
from timelike.layouts import Ragged
from timelike.recurrent import Recurrent, require_bool
from timelike.truncated import windows

__all__ = ["GRU", "LSTM", "RNN", "Ragged", "windows"]


class RNN(Recurrent):
    """Simple recurrent layer, in place of `torch.nn.RNN`: one gate, two biases.

    Each layer computes, for every step of every sequence::

        h = tanh(W x + b_ih + U h' + b_hh)

    where ``h'`` is the state of the step before, or with ``nonlinearity="relu"`` the rectifier of the same.

    Parameters
    ----------
    input_size : int
        Inputs D of each step.
    hidden_size : int
        Units H.
    num_layers : int
        Layers, each fed with the hidden states of the one before.
    nonlinearity : {"tanh", "relu"}
        What is taken of the sum.
    bias : bool
        Whether there are biases.
    batch_first : bool
        Whether padded batches are (B, T, D) instead of (T, B, D). States are (layers, B, H) all the same.
    dropout : float
        Probability with which each output of all layers but the last is dropped in training.
    bidirectional : bool
        Whether each layer also walks from the last step to the first; outputs are then 2 H wide.
    device, dtype : optional
        Of the parameters. Computation is on the CPU, in float32 or float64.
    recompute : bool or int
        Whether to keep only some states for backward and compute the rest again: memory that grows with the
        square root of T, for the time of a second forward. An int is the number of steps from one kept state
        to the next. Not in torch.

    Attributes
    ----------
    weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, weight_ih_l0_reverse, ... : Parameter
        W [H, D], U [H, H] and the biases [H] of each layer and direction, named, ordered and drawn as in
        `torch.nn.RNN`: state dictionaries fit both ways.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `torch.nn.RNN`; `TypeError` for dtypes other than float32 and float64.
    NotImplementedError
        At a call for parameters that are not on the CPU.

    References
    ----------
    Elman, Cognitive Science 14 (1990) 179.

    Examples
    --------
    >>> rnn = RNN(10, 20, num_layers=2, nonlinearity="relu")
    >>> output, h_n = rnn(torch.randn(5, 3, 10))
    >>> output.shape, h_n.shape
    (torch.Size([5, 3, 20]), torch.Size([2, 3, 20]))
    """

    _kind = "RNN"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        recompute: bool | int = False,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
        super().__init__(
            f"rnn_{nonlinearity}", input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, 0, device, dtype, recompute=recompute,
        )  # fmt: skip
        self.nonlinearity = nonlinearity
        self.mode = f"RNN_{nonlinearity.upper()}"


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
    recompute : bool or int
        Whether to keep only some states for backward and compute the rest again: memory that grows with the
        square root of T, for the time of a second forward. An int is the number of steps from one kept state
        to the next. Not in torch.

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
        recompute: bool | int = False,
    ) -> None:
        require_bool(peephole=peephole, coupled=coupled)
        if bool(proj_size) + peephole + coupled > 1:
            raise ValueError(
                f"LSTM: given proj_size={proj_size}, peephole={peephole}, coupled={coupled}; "
                "possible: at most one of them"
            )
        options = {"projection": proj_size, "peephole": peephole, "coupled": coupled}
        super().__init__(
            cell_of({"cell": "lstm", **options}).cell, input_size, hidden_size, num_layers, bias, batch_first,
            dropout, bidirectional, proj_size, device, dtype, recompute=recompute,
        )  # fmt: skip
        self.peephole = peephole
        self.coupled = coupled


class GRU(Recurrent):
    """Gated recurrent unit, in place of `torch.nn.GRU`: gates ``r z n``, reset after, two biases.

    Each layer computes, for every step of every sequence::

        r = sigmoid(W_r x + b_ir + U_r h' + b_hr)    z = sigmoid(W_z x + b_iz + U_z h' + b_hz)
        n = tanh(W_n x + b_in + r (U_n h' + b_hn))
        h = (1 - z) n + z h'

    where ``h'`` is the state of the step before. With ``reset_after=False`` the reset acts before the state
    weights: ``n = tanh(W_n x + b_in + U_n (r h') + b_hn)``.

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
        Whether each layer also walks from the last step to the first; outputs are then 2 H wide.
    device, dtype : optional
        Of the parameters. Computation is on the CPU, in float32 or float64.
    reset_after : bool
        Whether the reset acts on ``U_n h' + b_hn``, as in torch, or on ``h'``, as in the paper.
    inner_bias : bool
        Whether there are second biases, of which b_hn stands inside the reset; else ``bias_ih`` is alone.
    recompute : bool or int
        Whether to keep only some states for backward and compute the rest again: memory that grows with the
        square root of T, for the time of a second forward. An int is the number of steps from one kept state
        to the next. Not in torch.

    Attributes
    ----------
    weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, weight_ih_l0_reverse, ... : Parameter
        W [3 H, D], U [3 H, H] and the biases [3 H] of each layer and direction, named, ordered and drawn as
        in `torch.nn.GRU`: state dictionaries fit both ways.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `torch.nn.GRU`; `TypeError` for dtypes other than float32 and float64.
    NotImplementedError
        At a call for parameters that are not on the CPU.

    References
    ----------
    Cho et al., EMNLP 2014, arXiv:1406.1078 (there reset before).

    Examples
    --------
    >>> gru = GRU(10, 20, bidirectional=True)
    >>> output, h_n = gru(torch.randn(5, 3, 10))
    >>> output.shape, h_n.shape
    (torch.Size([5, 3, 40]), torch.Size([2, 3, 20]))
    """

    mode = _kind = "GRU"
    _usual = Recurrent._usual | {"reset_after": True, "inner_bias": True}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        reset_after: bool = True,
        inner_bias: bool = True,
        recompute: bool | int = False,
    ) -> None:
        require_bool(reset_after=reset_after, inner_bias=inner_bias)
        options = {"reset_after": reset_after, "inner_bias": inner_bias}
        super().__init__(
            cell_of({"cell": "gru", **options}).cell, input_size, hidden_size, num_layers, bias, batch_first,
            dropout, bidirectional, 0, device, dtype, inner_bias=inner_bias, recompute=recompute,
        )  # fmt: skip
        self.reset_after = reset_after
        self.inner_bias = inner_bias
