"""One LSTM layer against `torch.nn.LSTM`: a training step, inference, and a training step on ragged batches.

    python bench/layers.py [--threads 1] [--seconds 1.0] [--json FILE]

Ragged: lengths uniform in 1 .. T, so that half of a padded batch is padding. Ours takes the rows as they
are; torch's time is the better one of padding (a mask on the gradients) and of packing.

Every case is first checked (outputs and all gradients against `torch.nn.LSTM` in float64), then timed:
ours and torch's in turn, so that a busy machine slows both. Times are medians of CPU time of the one
thread, or of wall time with more threads. GFLOP/s counts the operations of the layer's matrix products,
beside their share of what one large matrix product reaches in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import timelike.nn
from timelike import __version__, kernels

Size = tuple[int, int, int, int]
GRID: list[Size] = [  # B, T, D, H
    (100, 10, 30, 10),
    (256, 30, 32, 32),
    (32, 50, 16, 64),
    (128, 100, 16, 64),
    (64, 100, 64, 128),
    (64, 100, 128, 256),
    (32, 50, 512, 512),
    (1, 100, 16, 32),
    (1, 20, 16, 64),
]


def step(module: torch.nn.Module, x: torch.Tensor, upstream: list[torch.Tensor]) -> list[torch.Tensor]:
    """One training step without the optimiser: all outputs, then all gradients for N(0,1) upstream."""
    x.grad = None
    module.zero_grad()
    y, (h, c) = module(x)
    torch.autograd.backward([y, h, c], upstream)
    return [y, h, c, x.grad, *(p.grad for p in module.parameters())]


def relative_errors(got: list[torch.Tensor], exact: list[torch.Tensor]) -> list[float]:
    return [((a.double() - e).abs().max() / e.abs().max()).item() for a, e in zip(got, exact, strict=True)]


def ragged_step(
    module: torch.nn.Module, x: torch.Tensor, offsets: torch.Tensor, upstream: torch.Tensor
) -> list[torch.Tensor]:
    """The same for a ragged batch: x [N, D], N(0,1) upstream gradients [N, H] on the rows."""
    x.grad = None
    module.zero_grad()
    (y, _), _ = module(timelike.nn.Ragged(x, offsets))
    y.backward(upstream)
    return [y, x.grad, *(p.grad for p in module.parameters())]


def packed_step(
    module: torch.nn.Module, padded: torch.Tensor, lengths: torch.Tensor, upstream: torch.Tensor
) -> list[torch.Tensor]:
    """The same for torch's packed sequences, made from a padded batch [T, B, D]; upstream as packed."""
    padded.grad = None
    module.zero_grad()
    y, _ = module(torch.nn.utils.rnn.pack_padded_sequence(padded, lengths, enforce_sorted=False))
    y.data.backward(upstream)
    return [y.data, padded.grad, *(p.grad for p in module.parameters())]


def assert_close(
    size: Size, got: list[torch.Tensor], theirs: list[torch.Tensor], exact: list[torch.Tensor]
) -> float:
    """Largest relative error of `got`; it must be at most twice torch's own."""
    errors = relative_errors(got, exact)
    for mine, torchs in zip(errors, relative_errors(theirs, exact), strict=True):
        if not mine <= 2 * torchs + 8 * torch.finfo(torch.float32).eps:
            raise SystemExit(f"{size}: wrong result, relative error {mine:.1e}, torch's own is {torchs:.1e}")
    return max(errors)


def in_double(theirs: torch.nn.LSTM) -> torch.nn.LSTM:
    exact = torch.nn.LSTM(theirs.input_size, theirs.hidden_size).double()
    exact.load_state_dict(theirs.state_dict())
    return exact


def check(size: Size, ours: torch.nn.Module, theirs: torch.nn.LSTM) -> float:
    B, T, D, H = size
    x = torch.randn(T, B, D)
    upstream = [torch.randn(T, B, H), torch.randn(1, B, H), torch.randn(1, B, H)]
    exact = step(in_double(theirs), x.double().requires_grad_(), [u.double() for u in upstream])
    got, torchs = (step(m, x.clone().requires_grad_(), upstream) for m in (ours, theirs))
    return assert_close(size, got, torchs, exact)


def ragged_ratio(
    size: Size, ours: torch.nn.Module, theirs: torch.nn.LSTM, seconds: float, clock: Callable[[], float]
) -> tuple[float, float]:
    """Time of ours, and of torch's better way, for a training step on a ragged batch."""
    B, T, D, H = size
    lengths = torch.randint(1, T + 1, (B,))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    batch, time_step = (torch.arange(T)[None] < lengths[:, None]).nonzero().T  # of each ragged row
    order = torch.nn.utils.rnn.pack_padded_sequence(
        torch.empty(T, B, 1).index_put_((time_step, batch), torch.arange(len(batch)).float()[:, None]),
        lengths,
        enforce_sorted=False,
    ).data[:, 0]
    order = order.long()  # ragged row of each packed row
    padded = torch.zeros(T, B, D)
    padded[time_step, batch] = torch.randn(len(batch), D)
    x, dy = padded[time_step, batch].requires_grad_(), torch.randn(len(batch), H)
    dy_padded = torch.zeros(T, B, H).index_put_((time_step, batch), dy)
    dy_packed = dy[order].contiguous()
    padded.requires_grad_()

    exact = packed_step(
        in_double(theirs), padded.detach().double().requires_grad_(), lengths, dy_packed.double()
    )
    torchs = packed_step(theirs, padded, lengths, dy_packed)
    got = ragged_step(ours, x, offsets, dy)
    got[0], got[1] = got[0][order], torch.zeros(T, B, D).index_put_((time_step, batch), got[1])
    assert_close(size, got, torchs, exact)

    nothing = torch.zeros(1, B, H)
    mine, by_padding, by_packing = medians(
        [
            lambda: ragged_step(ours, x, offsets, dy),
            lambda: step(theirs, padded, [dy_padded, nothing, nothing]),
            lambda: packed_step(theirs, padded, lengths, dy_packed),
        ],
        seconds,
        clock,
    )
    return mine, min(by_padding, by_packing)


def medians(calls: list[Callable[[], object]], seconds: float, clock: Callable[[], float]) -> list[float]:
    """Median time of each call in seconds, the calls taken in turn for about the given time in all."""
    for call in calls:
        call()
    start = time.perf_counter()
    times: list[list[float]] = [[] for _ in calls]
    while len(times[0]) < 5 or time.perf_counter() - start < seconds:
        for call, taken in zip(calls, times, strict=True):
            begin = clock()
            call()
            taken.append(clock() - begin)
    return [statistics.median(taken) for taken in times]


def matrix_product_rate(seconds: float, clock: Callable[[], float]) -> float:
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return 2 * 1024**3 / medians([lambda: a @ b], seconds, clock)[0]


def measure(size: Size, seconds: float, clock: Callable[[], float]) -> dict[str, float]:
    B, T, D, H = size
    theirs, ours = torch.nn.LSTM(D, H), timelike.nn.LSTM(D, H)
    ours.load_state_dict(theirs.state_dict())
    error = check(size, ours, theirs)
    x = torch.randn(T, B, D, requires_grad=True)
    upstream = [torch.randn(T, B, H), torch.randn(1, B, H), torch.randn(1, B, H)]

    def predict(module: torch.nn.Module) -> object:
        with torch.inference_mode():
            return module(x)

    train = medians([lambda: step(ours, x, upstream), lambda: step(theirs, x, upstream)], seconds, clock)
    infer = medians([lambda: predict(ours), lambda: predict(theirs)], seconds, clock)
    ragged = ragged_ratio(size, ours, theirs, seconds, clock)
    operations = 2.0 * B * T * 4 * H * (D + H)
    return {
        "error": error,
        "train_ms": 1e3 * train[0],
        "train_torch_ms": 1e3 * train[1],
        "train_ratio": train[1] / train[0],
        "train_rate": 3 * operations / train[0],
        "inference_ms": 1e3 * infer[0],
        "inference_torch_ms": 1e3 * infer[1],
        "inference_ratio": infer[1] / infer[0],
        "ragged_ms": 1e3 * ragged[0],
        "ragged_torch_ms": 1e3 * ragged[1],
        "ragged_ratio": ragged[1] / ragged[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="time spent on each row and mode")
    parser.add_argument("--json", type=Path, help="also write all numbers to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    if options.threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    clock = time.thread_time if options.threads == 1 else time.perf_counter

    rate = matrix_product_rate(options.seconds, clock)
    print(
        f"timelike {__version__} ({kernels.isa()}) against torch {torch.__version__}, "
        f"{options.threads} thread(s); a large matrix product reaches {rate / 1e9:.0f} GFLOP/s\n"
    )
    print("| B, T, D, H | training step, ms | torch | ratio | GFLOP/s ", end="")
    print("| ragged step, ms | torch | ratio | inference, ms | torch | ratio | error |")
    print("|---" * 12 + "|")
    rows = []
    for size in GRID:
        row = measure(size, options.seconds, clock)
        rows.append({"size": size, **row})
        share = f"{row['train_rate'] / 1e9:.0f} ({row['train_rate'] / rate:.0%})"
        cells = [", ".join(map(str, size))]
        for mode in ("train", "ragged", "inference"):
            cells += [
                f"{row[f'{mode}_ms']:.3g}",
                f"{row[f'{mode}_torch_ms']:.3g}",
                f"{row[f'{mode}_ratio']:.2f}",
            ]
            cells += [share] if mode == "train" else []
        print("| " + " | ".join([*cells, f"{row['error']:.0e}"]) + " |", flush=True)
    means = {
        mode: statistics.geometric_mean(row[f"{mode}_ratio"] for row in rows)
        for mode in ("train", "ragged", "inference")
    }
    print("\ngeometric mean of the ratios: " + ", ".join(f"{k} {v:.2f}" for k, v in means.items()))
    if options.json:
        options.json.write_text(json.dumps({"matrix_product_rate": rate, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
