"""What the tests of timelike.nn share: layers in pairs, ragged sequences in every layout, all gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from timelike.nn import LSTM, Ragged

F64, F32 = torch.float64, torch.float32


def pair(*arguments: Any, dtype: torch.dtype = F64, **options: Any) -> tuple[torch.nn.LSTM, LSTM]:
    """torch's layer and ours, with the same weights."""
    torch.manual_seed(1)
    theirs = torch.nn.LSTM(*arguments, **options, dtype=dtype)
    ours = LSTM(*arguments, **options, dtype=dtype)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def normal(*shape: int, seed: int, dtype: torch.dtype = F64) -> Tensor:
    """N(0, 1), the same for the same seed in every dtype up to rounding to float32."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


def values(output: Any) -> Tensor:
    """The rows of an output, whatever its layout."""
    if isinstance(output, PackedSequence):
        return output.data
    return output.values if isinstance(output, Ragged) else output


def everything(
    lstm: Any, x: Any, hx: tuple[Tensor, Tensor] | None = None, **options: Any
) -> dict[str, Tensor]:
    """All outputs and, for an N(0, 1) gradient on every one of them, the gradient of every leaf there is."""
    output, (h_n, c_n) = lstm(x, hx, **options)
    found = {"y": values(output), "h_n": h_n, "c_n": c_n}
    upstream = [normal(*t.shape, seed=11 + k, dtype=t.dtype) for k, t in enumerate(found.values())]
    leaves = (
        {"x": values(x)} | dict(zip(("h0", "c0"), hx or (), strict=False)) | dict(lstm.named_parameters())
    )
    leaves = {name: t for name, t in leaves.items() if t.requires_grad}
    gradients = torch.autograd.grad(tuple(found.values()), tuple(leaves.values()), upstream)
    found |= {f"d{name}": d for name, d in zip(leaves, gradients, strict=True)}
    return {name: t.detach() for name, t in found.items()}


def assert_close(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-12) -> None:
    """Compare relative to the largest reference value of each tensor."""
    assert list(got) == list(expected)
    for name, reference in expected.items():
        assert got[name].shape == reference.shape, name
        assert got[name].isfinite().all(), name
        if reference.numel():
            error, scale = (got[name] - reference).abs().max(), reference.abs().max()
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
