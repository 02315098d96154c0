"""What the tests of timelike.nn share: the kinds of layers, in pairs with torch's; inputs; gradients.

A layer is named by its kind, one of `KINDS`: a class of `timelike.nn` with arguments that make it one cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

import timelike.nn
from timelike import reference
from timelike.nn import Ragged

F64, F32 = torch.float64, torch.float32


class Kind(NamedTuple):
    """A class of layers, and the arguments that choose its cell."""

    name: str  # of the class, in timelike.nn and torch.nn
    law: str  # the cell of the reference
    options: Mapping[str, Any] = MappingProxyType({})
    in_torch: bool = False
    projected: bool = False


KINDS = {
    "rnn_tanh": Kind("RNN", "rnn_tanh", in_torch=True),
    "rnn_relu": Kind("RNN", "rnn_relu", {"nonlinearity": "relu"}, in_torch=True),
    "lstm": Kind("LSTM", "lstm", in_torch=True),
    "lstm_projected": Kind("LSTM", "lstm_projected", in_torch=True, projected=True),
    "gru": Kind("GRU", "gru", in_torch=True),
    "lstm_peephole": Kind("LSTM", "lstm_peephole", {"peephole": True}),
    "lstm_coupled": Kind("LSTM", "lstm_coupled", {"coupled": True}),
    "gru_reset_before": Kind("GRU", "gru_reset_before", {"reset_after": False}),
    "gru_single_bias": Kind("GRU", "gru_single_bias", {"inner_bias": False}),
    "gru_reset_before, one bias": Kind(
        "GRU", "gru_reset_before", {"reset_after": False, "inner_bias": False}
    ),
}
IN_TORCH = [name for name, kind in KINDS.items() if kind.in_torch]
SMOOTH = [name for name in KINDS if name != "rnn_relu"]  # the others have no second derivative somewhere


def state_sizes(kind: str, H: int) -> tuple[int, ...]:
    """Widths of the states of a layer of H units: of h, and of c where there is one."""
    R = max(1, H - 2) if KINDS[kind].projected else H
    return (R, H) if KINDS[kind].name == "LSTM" else (R,)


def _options(kind: str, H: int) -> dict[str, Any]:
    return dict(KINDS[kind].options) | (
        {"proj_size": state_sizes(kind, H)[0]} if KINDS[kind].projected else {}
    )


def layer(kind: str, D: int, H: int, *arguments: Any, dtype: torch.dtype = F64, **options: Any) -> Any:
    """Our layer, with the same weights for the same arguments."""
    torch.manual_seed(1)
    made = getattr(timelike.nn, KINDS[kind].name)
    return made(D, H, *arguments, **_options(kind, H), **options, dtype=dtype)


def torch_layer(kind: str, D: int, H: int, *arguments: Any, dtype: torch.dtype = F64, **options: Any) -> Any:
    """torch's layer, with the weights of ours."""
    torch.manual_seed(1)
    made = getattr(torch.nn, KINDS[kind].name)
    return made(D, H, *arguments, **_options(kind, H), **options, dtype=dtype)


def pair(D: int, H: int, *arguments: Any, kind: str = "lstm", **options: Any) -> tuple[Any, Any]:
    """torch's layer and ours, with the same weights."""
    theirs, ours = (make(kind, D, H, *arguments, **options) for make in (torch_layer, layer))
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def normal(*shape: int, seed: int, dtype: torch.dtype = F64) -> Tensor:
    """N(0, 1), the same for the same seed in every dtype up to rounding to float32."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


def states(kind: str, *axes: int, H: int, seed: int = 0, dtype: torch.dtype = F64) -> Any:
    """Initial states N(0, 1) as fresh leaves, in the form that the kind takes."""
    made = tuple(
        leaf(normal(*axes, size, seed=seed + k + 1, dtype=dtype))
        for k, size in enumerate(state_sizes(kind, H))
    )
    return made if len(made) == 2 else made[0]


def flat(hx: Any) -> tuple[Tensor, ...]:
    """The states in whatever form: none, a tensor or a tuple of two."""
    if hx is None:
        return ()
    return (hx,) if isinstance(hx, Tensor) else tuple(hx)


def values(output: Any) -> Tensor:
    """The rows of an output, whatever its layout."""
    if isinstance(output, PackedSequence):
        return output.data
    return output.values if isinstance(output, Ragged) else output


def everything(module: Any, x: Any, hx: Any = None, **options: Any) -> dict[str, Tensor]:
    """All outputs and, for an N(0, 1) gradient on every one of them, the gradient of every leaf there is."""
    output, last = module(x, hx, **options)
    found = {"y": values(output)} | dict(zip(("h_n", "c_n"), flat(last), strict=False))
    upstream = [normal(*t.shape, seed=11 + k, dtype=t.dtype) for k, t in enumerate(found.values())]
    leaves = {"x": values(x)} | dict(zip(("h0", "c0"), flat(hx), strict=False))
    leaves |= dict(module.named_parameters())
    leaves = {name: t for name, t in leaves.items() if t.requires_grad}
    gradients = torch.autograd.grad(tuple(found.values()), tuple(leaves.values()), upstream)
    found |= {f"d{name}": d for name, d in zip(leaves, gradients, strict=True)}
    return {name: t.detach() for name, t in found.items()}


ARGUMENTS = {
    "weight_ih": "W",
    "weight_hh": "U",
    "bias_ih": "b_ih",
    "bias_hh": "b_hh",
    "weight_hr": "projection",
    "weight_peephole": "peephole",
}


def by_reference(kind: str, module: Any, x: Ragged, hx: Any = None) -> dict[str, Tensor]:
    """What `everything` gives, by the reference: layer by layer and direction by direction."""
    law, K = reference.CELLS[KINDS[kind].law], 1 + module.bidirectional
    offsets, y = x.offsets.numpy(), x.values.detach().double().numpy()
    initial = [s.detach().double().numpy() for s in flat(hx)]
    runs, last = [], []
    for index in range(module.num_layers * K):
        suffix = f"_l{index // K}" + "_reverse" * (index % K)
        p = {
            argument: getattr(module, name + suffix).detach().double().numpy()
            for name, argument in ARGUMENTS.items()
            if hasattr(module, name + suffix)
        }
        p |= {name: s[index] for name, s in zip(("h0", "c0"), initial, strict=False)}
        runs.append(reference.forward(law, y, offsets, **p, reverse=index % K == 1))
        last.append((runs[-1].h_T, runs[-1].c_T))
        if index % K == K - 1:
            y = np.concatenate([run.y for run in runs[-K:]], axis=1)
    found = {"y": y, "h_n": np.stack([h for h, _ in last])}
    if law.has_cell_state:
        found["c_n"] = np.stack([c for _, c in last])
    d_outputs = [normal(*a.shape, seed=11 + k).numpy() for k, a in enumerate(found.values())]
    dy, d_last = d_outputs[0], [[d[index] for d in d_outputs[1:]] for index in range(len(runs))]
    gradients: dict[str, Any] = {}
    back = []
    for layer_index in reversed(range(module.num_layers)):
        widths = np.split(dy, K, axis=1)
        here = [
            reference.backward(law, runs[index], widths[k], *d_last[index])
            for k, index in enumerate(range(layer_index * K, layer_index * K + K))
        ]
        dy = sum(g.dx for g in here)
        back = here + back
    gradients["dx"] = dy
    for name in ("h0", "c0")[: len(initial)]:
        gradients[f"d{name}"] = np.stack([getattr(g, f"d{name}") for g in back])
    for name, _ in module.named_parameters():
        base, _, at = name.rpartition("_l")
        index = int(at.removesuffix("_reverse")) * K + at.endswith("_reverse")
        gradients[f"d{name}"] = getattr(back[index], "d" + ARGUMENTS[base])
    return {name: torch.tensor(a) for name, a in (found | gradients).items()}


def assert_close(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-12) -> None:
    """Compare relative to the largest reference value of each tensor."""
    assert list(got) == list(expected)
    for name, wanted in expected.items():
        assert got[name].shape == wanted.shape, name
        assert got[name].isfinite().all(), name
        if wanted.numel():
            error, scale = (got[name] - wanted).abs().max(), wanted.abs().max()
            assert error <= tolerance * scale, f"{name}: {error / scale:.2e}"


def assert_same_bits(got: Tensor, expected: Tensor, what: str = "") -> None:
    assert got.isfinite().all(), what
    assert got.shape == expected.shape, what
    assert torch.equal(got, expected), f"{what}: {(got - expected).abs().max():.1e} apart"


@contextmanager
def new_memory_full_of_nan() -> Iterator[None]:
    """Let torch fill new tensors with NaN, so that an element that is forgotten shows."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def offsets_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)
