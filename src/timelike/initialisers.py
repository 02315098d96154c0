"""Initial weights as TMVA draws them: for every gate's matrix by itself, with biases of 0.

``m`` rows (outputs) and ``n`` columns (inputs) of a matrix:

===============  ============================================================================
gauss            N(0, s) with s = sqrt(2 / n)
uniform          uniform within +- sqrt(2 / n)
xavier           N(0, s) with s = sqrt(6 / (n + m)), drawn again beyond 2 s
xavier_uniform   uniform within +- sqrt(6 / (n + m))
identity         ones on the diagonal
zero             zeros
===============  ============================================================================

References
----------
Glorot & Bengio, AISTATS 2010 (xavier_uniform); He et al., arXiv:1502.01852 (gauss); the formulas are those of
ROOT's TMVA, which differ from both by name or number.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from timelike.errors import ConfigError, nearest
from timelike.recurrent import Recurrent

__all__ = ["INITIALISERS", "initialise"]

INITIALISERS = ("torch", "xavier", "xavier_uniform", "gauss", "uniform", "identity", "zero")


def initialise(module: nn.Module, how: str) -> None:
    """Draw all weights of the recurrent and the dense layers of a module anew, and set their biases to 0.

    Parameters
    ----------
    module : torch.nn.Module
    how : str
        One of `INITIALISERS`; "torch" leaves the weights as they are.

    Raises
    ------
    ConfigError
        If there is no such initialiser.

    Examples
    --------
    >>> layer = nn.Linear(8, 3)
    >>> initialise(layer, "identity")
    >>> layer.weight.sum().item(), layer.bias.sum().item()
    (3.0, 0.0)
    """
    if how not in INITIALISERS:
        raise ConfigError(f"initialiser {how!r}: {nearest(how, INITIALISERS)}")
    if how == "torch":
        return
    with torch.no_grad():
        for part in module.modules():
            if not isinstance(part, Recurrent | nn.Linear):
                continue
            for name, weight in part.named_parameters(recurse=False):
                if weight.ndim < 2:
                    weight.zero_()
                    continue
                # The gates of a recurrent layer lie one below the other; a projection has none.
                height = part.hidden_size if isinstance(part, Recurrent) and "hr" not in name else len(weight)
                for gate in torch.split(weight, height):
                    _draw(gate, how)


def _draw(weight: Tensor, how: str) -> None:
    m, n = weight.shape
    if how == "gauss":
        nn.init.normal_(weight, std=math.sqrt(2 / n))
    elif how == "uniform":
        nn.init.uniform_(weight, -math.sqrt(2 / n), math.sqrt(2 / n))
    elif how == "xavier":
        std = math.sqrt(6 / (n + m))
        nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
    elif how == "xavier_uniform":
        limit = math.sqrt(6 / (n + m))
        nn.init.uniform_(weight, -limit, limit)
    elif how == "identity":
        nn.init.eye_(weight)
    else:
        weight.zero_()
