"""What every contender is held to: the same case in float64.

By PyTorch where it has the cell, which is fast; else, and for cases that are in float64 themselves, by
`timelike.reference`, which shares nothing with any of them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from bench.applications import Application
from bench.cases import Array, Case, arrays
from bench.epochs import Epoch, events, weights
from bench.peers.loop import Classifier, Loop
from bench.peers.pytorch import PyTorch
from bench.peers.scores_torch import Modules
from bench.scores import Scores
from timelike import reference

__all__ = ["allowed", "check", "errors", "exact"]

# the contenders that this project answers for
_OWN = ("ours", "session", "header", "fit", "scorer", "applied")


@lru_cache(maxsize=2)
def exact(case: Case | Epoch | Scores) -> dict[str, Array]:
    """Results of a case, computed in float64 from the case's own numbers."""
    if isinstance(case, Application):
        return _applied(replace(case, files=False), torch.float64)
    if isinstance(case, Epoch):
        return _losses(case, torch.float64)
    if isinstance(case, Scores):
        return _scores(case, torch.float64)
    theirs = _in_torch(replace(case, recompute=False), torch.float64) if case.dtype == "float32" else None
    return _by_the_reference(case) if theirs is None else theirs


def errors(got: dict[str, Array], right: dict[str, Array]) -> dict[str, float]:
    """Largest difference of each result, relative to the largest number in it; NaN where one is NaN."""
    if got.keys() != right.keys():
        raise ValueError(f"results are {sorted(got)}, expected {sorted(right)}")
    for name in right:
        if got[name].shape != right[name].shape:
            raise ValueError(f"{name} has shape {got[name].shape}, expected {right[name].shape}")
    return {
        name: float(np.max(np.abs(got[name] - right[name])) / np.max(np.abs(right[name]))) for name in right
    }


@lru_cache(maxsize=1)
def allowed(case: Case | Epoch | Scores) -> dict[str, float]:
    """Error that ours may have: at most twice that of PyTorch in the same precision.

    8 eps are for results that PyTorch happens to have exact. For a cell that PyTorch lacks, its LSTM or
    GRU of the same size is the measure, and for results that has not, the largest of its errors.
    """
    if isinstance(case, Application):
        found = errors(_applied(case, torch.float32), exact(case))
    elif isinstance(case, Epoch):
        found = errors(_losses(case, torch.float32), exact(case))
    elif isinstance(case, Scores):
        found = errors(_scores(case, torch.float32), exact(case))
    else:
        nearest = replace(case, recompute=False)
        if not PyTorch(1).variants(nearest):
            nearest = replace(nearest, cell=case.cell.split("_")[0])
        theirs = _in_torch(nearest, getattr(torch, case.dtype))
        assert theirs is not None
        found = errors(theirs, exact(nearest))
    largest, eps = max(found.values()), float(np.finfo(case.dtype).eps)
    return {name: 2 * found.get(name, largest) + 8 * eps for name in exact(case)}


def check(peer: str, case: Case | Epoch | Scores, results: dict[str, Array]) -> float:
    """Give the largest error of a contender's results.

    Ours must be as accurate as `allowed`. The accuracy of others is their own affair: half of the digits
    tell that they compute the same thing. Of an epoch they are held to the first loss alone: Keras has one
    bias where PyTorch has two, so that Adam, whose first steps have one length, moves it half as far.

    Raises
    ------
    ValueError
        If an error is larger than that, or not a number.
    """
    if case.kind == "peak" or peer == "empty":  # no contender's, but what all are measured by
        return 0.0
    right = exact(case)
    if isinstance(case, Epoch) and case.kind == "epoch" and peer not in _OWN:
        results, right = ({name: a[name][:1] for name in right} for a in (results, right))
    found = errors(results, right)
    half = float(np.finfo(case.dtype).eps) ** 0.5
    limits = allowed(case) if peer in _OWN else dict.fromkeys(found, half)
    for name, error in found.items():
        if not error <= limits[name]:
            raise ValueError(f"{case}: {name} is wrong, relative error {error:.1e}, limit {limits[name]:.1e}")
    return max(found.values())


def _losses(epoch: Epoch, dtype: torch.dtype) -> dict[str, Array]:
    return Loop(1).prepare(epoch, "padded", dtype).results()


def _applied(case: Application, dtype: torch.dtype) -> dict[str, Array]:
    x, offsets, _ = events(case)
    model = Classifier(case, packed=True).to(dtype)
    model.load(weights(case))
    rows = torch.from_numpy(x).to(dtype).split(np.diff(offsets).tolist())
    with torch.no_grad():
        logits = model(pad_sequence(rows, batch_first=True), torch.from_numpy(np.diff(offsets)))
    return {"scores": logits.double().softmax(dim=1).numpy()}


def _scores(case: Scores, dtype: torch.dtype) -> dict[str, Array]:
    modules = Modules(1)
    return modules.prepare(case, modules.variants(case)[-1], dtype).results()


def _in_torch(case: Case, dtype: torch.dtype) -> dict[str, Array] | None:
    torchs = PyTorch(1)
    variants = torchs.variants(case)
    return torchs.prepare(case, variants[-1], dtype).results() if variants else None


def _by_the_reference(case: Case) -> dict[str, Array]:
    given = arrays(case)
    if case.kind == "ragged":
        offsets = np.concatenate([[0], np.cumsum(given["lengths"])])
    else:
        B, T = case.size.B, case.size.T
        offsets = np.arange(B + 1) * T
    rows = case.kind != "ragged"

    def to_rows(values: Array) -> Array:
        return values.swapaxes(0, 1).reshape(-1, values.shape[-1]) if rows else values

    def from_rows(values: Array) -> Array:
        return values.reshape(B, T, -1).swapaxes(0, 1) if rows else values

    weights = [given[name] for name in ("W", "U", "b_ih", "b_hh")]
    options = {name: given[name] for name in ("peephole", "projection") if name in given}
    states = [given.get("h0")] + ([given.get("c0")] if case.has_cell_state else [])
    run = reference.forward(case.cell, to_rows(given["x"]), offsets, *weights, *states, **options)
    found = {"y": from_rows(run.y)}
    if rows:
        found |= {"hT": run.h_T} | ({"cT": run.c_T} if run.c_T is not None else {})
    if case.trains:
        upstream = [given.get("dhT")] + ([given.get("dcT")] if case.has_cell_state else [])
        back = reference.backward(case.cell, run, to_rows(given["dy"]), *upstream)
        found["dx"] = from_rows(back.dx)
        names = ("dW", "dU", "db_ih", "db_hh", *(f"d{name}" for name in options))
        found |= {name: getattr(back, name) for name in names}
    return found
