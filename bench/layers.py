"""One LSTM layer against `torch.nn.LSTM`: a training step and inference, float32.

    python bench/layers.py [--threads 1] [--seconds 1.0] [--json FILE]

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

GRID = [  # B, T, D, H
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


def check(size: tuple[int, int, int, int], ours: torch.nn.Module, theirs: torch.nn.Module) -> float:
    """Largest relative error of ours in any output or gradient; it must be at most twice torch's own."""
    B, T, D, H = size
    x = torch.randn(T, B, D)
    upstream = [torch.randn(T, B, H), torch.randn(1, B, H), torch.randn(1, B, H)]
    exact_module = torch.nn.LSTM(D, H).double()
    exact_module.load_state_dict(theirs.state_dict())
    exact = step(exact_module, x.double().requires_grad_(), [u.double() for u in upstream])
    our_errors = relative_errors(step(ours, x.clone().requires_grad_(), upstream), exact)
    torch_errors = relative_errors(step(theirs, x.clone().requires_grad_(), upstream), exact)
    for mine, torchs in zip(our_errors, torch_errors, strict=True):
        if not mine <= 2 * torchs + 8 * torch.finfo(torch.float32).eps:
            raise SystemExit(f"{size}: wrong result, relative error {mine:.1e}, torch's own is {torchs:.1e}")
    return max(our_errors)


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


def measure(size: tuple[int, int, int, int], seconds: float, clock: Callable[[], float]) -> dict[str, float]:
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
    print(
        "| B, T, D, H | training step, ms | torch | ratio | GFLOP/s | inference, ms | torch | ratio | error |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    rows = []
    for size in GRID:
        row = measure(size, options.seconds, clock)
        rows.append({"size": size, **row})
        print(
            f"| {', '.join(map(str, size))} | {row['train_ms']:.3g} | {row['train_torch_ms']:.3g} "
            f"| {row['train_ratio']:.2f} | {row['train_rate'] / 1e9:.0f} ({row['train_rate'] / rate:.0%}) "
            f"| {row['inference_ms']:.3g} | {row['inference_torch_ms']:.3g} | {row['inference_ratio']:.2f} "
            f"| {row['error']:.0e} |",
            flush=True,
        )
    means = [statistics.geometric_mean(r[key] for r in rows) for key in ("train_ratio", "inference_ratio")]
    print(f"\ngeometric mean of the ratios: training {means[0]:.2f}, inference {means[1]:.2f}")
    if options.json:
        options.json.write_text(json.dumps({"matrix_product_rate": rate, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
