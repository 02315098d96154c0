"""`torch.nn`: through oneDNN where that has the cell (the float32 LSTM), step by step elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from bench.cases import PARAMETERS, Array, Case, arrays
from bench.worker import Job

_CELLS: dict[str, Callable[..., nn.Module]] = {
    "rnn_tanh": nn.RNN,
    "rnn_relu": lambda *sizes: nn.RNN(*sizes, nonlinearity="relu"),
    "lstm": nn.LSTM,
    "lstm_projected": lambda D, H: nn.LSTM(D, H, proj_size=H // 2),
    "gru": nn.GRU,
}


class PyTorch:
    """The layers of `torch.nn`."""

    def __init__(self, threads: int) -> None:
        self.set_threads(threads)

    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__}

    def set_threads(self, n: int) -> None:
        torch.set_num_threads(n)

    def forget(self) -> None:
        """Nothing is kept."""

    def variants(self, case: Case) -> tuple[str, ...]:
        if case.cell not in _CELLS or case.recompute:
            return ()
        return ("padded", "packed") if case.kind == "ragged" else ("",)

    def module(self, case: Case) -> nn.Module:
        return _CELLS[case.cell](case.size.D, case.size.H)

    def prepare(self, case: Case, variant: str, dtype: torch.dtype | None = None) -> Job:
        """As `Peer.prepare`; `dtype` to compute with the same numbers in another precision."""
        numbers = arrays(case)
        dtype = dtype or getattr(torch, case.dtype)
        given = {
            name: torch.from_numpy(values).to(dtype if values.dtype.kind == "f" else torch.int64)
            for name, values in numbers.items()
        }
        module = self.module(case).to(dtype)
        module.load_state_dict({PARAMETERS[name]: given[name] for name in PARAMETERS if name in given})
        if case.kind == "ragged":
            return self.ragged(module, given, variant)
        return inference(module, given) if case.kind in ("inference", "step") else training(module, given)

    def ragged(self, module: nn.Module, given: dict[str, Tensor], variant: str) -> Job:
        step, batch, order = places(given["lengths"])
        if variant == "padded":
            at = (step, batch)
            x, dy = (
                v.new_zeros(int(given["lengths"].max()), len(given["lengths"]), v.shape[1]).index_put_(at, v)
                for v in (given["x"], given["dy"])
            )
            return of_rows(module, x, lambda x: module(x)[0], dy, lambda v: v[at])
        counts = torch.bincount(step)

        def in_order(values: Tensor) -> Tensor:
            return torch.empty_like(values).index_put_((order,), values)

        # Sorted already: the longest first. Packing is not counted.
        def packed(x: Tensor) -> Tensor:
            return module(PackedSequence(x, counts))[0].data

        return of_rows(module, given["x"][order], packed, given["dy"][order], in_order)


def training(module: nn.Module, given: dict[str, Tensor]) -> Job:
    """Forward, and backward from the given gradients of all outputs."""
    x = given["x"].requires_grad_()
    upstream = [
        given[name] if name == "dy" else given[name][None] for name in ("dy", "dhT", "dcT") if name in given
    ]
    if not upstream:  # the case is the forward half
        return Job(lambda: module(x), dict)

    def call() -> list[Tensor]:
        x.grad = None
        module.zero_grad()
        outputs = flat(module(x))
        torch.autograd.backward(outputs, upstream)
        return outputs

    def results() -> dict[str, Array]:
        return named_outputs(call()) | gradients(x, module)

    return Job(call, results)


def inference(module: nn.Module, given: dict[str, Tensor]) -> Job:
    """Forward alone, from the given states if there are any."""
    module.eval()
    states = [given[name][None] for name in ("h0", "c0") if name in given]
    arguments: tuple[Any, ...] = (given["x"],)
    if states:
        arguments += (tuple(states) if len(states) == 2 else states[0],)

    def call() -> object:
        with torch.inference_mode():
            return module(*arguments)

    return Job(call, lambda: named_outputs(flat(call())))


def of_rows(
    module: nn.Module,
    x: Tensor,
    forward: Callable[[Tensor], Tensor],
    dy: Tensor,
    to_rows: Callable[[Tensor], Tensor],
) -> Job:
    """Forward and backward of a ragged batch in some layout; `to_rows` brings that to rows [N, ...]."""
    x = x.requires_grad_()

    def call() -> Tensor:
        x.grad = None
        module.zero_grad()
        y = forward(x)
        y.backward(dy)
        return y

    def results() -> dict[str, Array]:
        y = to_rows(call().detach()).numpy()
        found = gradients(x, module)
        return found | {"y": y, "dx": to_rows(torch.from_numpy(found["dx"])).numpy()}

    return Job(call, results)


def places(lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Step and sequence of each ragged row, sequences from the longest to the shortest, and packed order.

    Returns
    -------
    step, batch : Tensor [N]
        Where a ragged row lies in a padded batch.
    order : Tensor [N]
        The ragged row that each packed row is.
    """
    batch = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    step = torch.cat([torch.arange(int(n)) for n in lengths])
    rank = torch.argsort(torch.argsort(lengths, descending=True, stable=True))
    order = torch.argsort(step * len(lengths) + rank[batch])
    return step, batch, order


def flat(result: Any) -> list[Tensor]:
    """Outputs of a layer in one list: y, h and, if there is one, c."""
    y, states = result
    return [y, *states] if isinstance(states, tuple) else [y, states]


def named_outputs(outputs: list[Tensor]) -> dict[str, Array]:
    y, *states = (v.detach().numpy() for v in outputs)
    return {"y": y} | {name: v[0] for name, v in zip(("hT", "cT"), states, strict=False)}


def gradients(x: Tensor, module: nn.Module) -> dict[str, Array]:
    parameters = dict(module.named_parameters())
    found = {"dx": x} | {
        f"d{name}": parameters[theirs] for name, theirs in PARAMETERS.items() if theirs in parameters
    }
    return {name: v.grad.numpy().copy() for name, v in found.items()}


def peer(threads: int) -> PyTorch:
    return PyTorch(threads)
