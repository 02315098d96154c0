"""Run an ONNX model by ONNX Runtime beside our own prediction: sequences at random, and those at the edges.

How large may a difference be? Both compute the same formulas in the same precision, so both stray from the
exact result by their own rounding, which the network passes on to the scores in the same way. How far that
is, is seen by our own predictions in float64: with the same weights rounded and computed in float32, and
`_DRAWS` times with each weight moved at random by up to a rounding of float32, as a single draw may be small
by luck. (For a file in float64 it is less by the ratio of the two eps.) A difference is the sum of both
errors. ONNX Runtime's tanh is good to 5.5 ULP (measured at 2,000,001 points), ours to 2.7, sums differ less:
its error is up to about 2 times ours, the difference 3 times; and as much again, since the largest errors of
the two are not met in the same sequences: `_TIMES`. On top come `(8 + sqrt(n)) eps` of the largest score, for
the last sum, of n, and the output, which our prediction computes in float64. A wrong weight, gate or step
makes differences of the scores' own size.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from timelike.data.transforms import FittedTransforms
from timelike.errors import ExportError, require
from timelike.interop.exported import Exported
from timelike.interop.inverse import before
from timelike.interop.onnx_graph import OPSET
from timelike.sequences import Sequences

if TYPE_CHECKING:
    from timelike.model import Model

__all__ = ["check"]

Array = npt.NDArray[Any]

_TIMES = 6
_DRAWS = 3
_LONGEST = 120  # steps of the longest sequences, where the config cuts none shorter
_LARGEST_BOUND = 1e-2  # of the largest score; beyond, a comparison would prove nothing


def check(content: bytes, model: Path, path: Path, *, longest: int | None = None) -> Exported:
    """Compare the scores of an ONNX model with those of a model file.

    Parameters
    ----------
    content : bytes
        The ONNX file.
    model : path
        The model file that it was made of.
    path : path
        Where it will be, for the messages.
    longest : int, optional
        Steps of the longest sequences, by default as many as the config keeps of a sequence, or 120.

    Raises
    ------
    ExportError
        If a difference is larger than its bound, or no comparison proves anything: where the network
        amplifies rounding too much, or its scores are not finite.
    """
    from timelike.model import load_model

    own = load_model(model)
    session = _session(content)
    dtype: np.dtype[Any] = np.dtype(np.float64 if "double" in session.get_inputs()[0].type else np.float32)
    members = _members(own)
    first = members[0]
    steps = first.network.config.steps
    longest = longest or first.sequence.keep_first or first.sequence.keep_last or _LONGEST
    single, double = (_in_precision(own, np.dtype(each)) for each in (np.float32, np.float64))
    moved = [_in_precision(own, np.dtype(np.float64), seed=k) for k in range(1, _DRAWS + 1)]
    difference, error, scale, count = 0.0, 0.0, 0.0, 0
    lowest, highest = math.inf, -math.inf
    for lengths in _lengths(steps, longest):
        values = _values(first.transforms, lengths, dtype)
        theirs = _run(session, values, lengths)
        rounded, exact = (_predicted(each, values, lengths, theirs.shape) for each in (single, double))
        scored = exact[~np.isnan(exact)]
        if not np.isfinite(rounded[~np.isnan(exact)]).all():
            raise ExportError(
                f"{path}: not written: in float32 the scores of sequences of up to {lengths.max()} steps are "
                "not finite; if yours are shorter, say so: longest (--longest N)"
            )
        ours = rounded if dtype == np.float32 else exact
        if not np.array_equal(np.isnan(theirs), np.isnan(ours)):
            raise ExportError(f"{path}: not written: ONNX Runtime gives nan where Timelike gives a score")
        difference = max(difference, _largest(theirs - ours))
        draws = (_predicted(each, values, lengths, theirs.shape) for each in moved)
        error = max(error, *(_largest(each - exact) for each in (rounded, *draws)))
        scale = max(scale, _largest(exact))
        lowest, highest = min([lowest, *scored.flat]), max([highest, *scored.flat])
        count += len(lengths)
    eps, eps32 = float(np.finfo(dtype).eps), float(np.finfo(np.float32).eps)
    n = first.network.state_dict()[f"head.{len(first.network.head) - 1}.weight"].shape[1]
    bound = _TIMES * error * eps / eps32 + (8 + math.sqrt(n)) * eps * scale
    if not bound <= _LARGEST_BOUND * scale:
        raise ExportError(
            f"{path}: not written: rounding alone changes scores of up to {scale:.1e} by {error:.1e}, and a "
            f"comparison proves nothing; if your sequences have less than {longest} steps, say so: longest "
            "(--longest N)"
        )
    if not difference <= bound:
        raise ExportError(
            f"{path}: not written: ONNX Runtime gives other scores, by up to {difference:.1e}; rounding "
            f"explains {bound:.1e}"
        )
    what = f"{dtype}, opset {OPSET}" + (f", mean of {len(members)} networks" if len(members) > 1 else "")
    runtime = f"ONNX Runtime {require('onnxruntime', 'onnx').__version__}"
    checked = f"by {runtime} on {count} sequences of {steps or f'0 to {longest}'} steps"
    checked += f", scores from {lowest:.2g} to {highest:.2g}"
    return Exported(path, what, checked, difference, bound)


def _session(content: bytes) -> Any:
    """Prepare an ONNX model for ONNX Runtime, on one thread, and silent."""
    runtime = require("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised anyway
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _members(model: Model) -> tuple[Model, ...]:
    """Give the networks of an ensemble, or the one."""
    from timelike.model import Ensemble

    return model.members if isinstance(model, Ensemble) else (model,)


def _in_precision(model: Model, dtype: np.dtype[Any], seed: int | None = None) -> Model:
    """Give a model whose networks compute in another precision; with a seed, each weight moved a little."""
    import torch

    from timelike.model import Ensemble

    if isinstance(model, Ensemble):
        members = [_in_precision(member, dtype, seed) for member in model.members]
        return Ensemble(members, model.folds, model.training)
    network = copy.deepcopy(model.network).to(torch.float64 if dtype == np.float64 else torch.float32)
    if seed is not None:
        rng = np.random.default_rng(seed)
        with torch.no_grad():
            for weight in network.parameters():
                eps = torch.finfo(torch.float32).eps
                weight.mul_(torch.from_numpy(1 + eps * rng.uniform(-1, 1, tuple(weight.shape))))
    return dataclasses.replace(model, network=network)


def _lengths(steps: int | None, longest: int) -> list[Array]:
    """Give the numbers of steps of the sequences of each batch."""
    rng = np.random.default_rng(1)
    if steps is not None:
        return [np.array(each) for each in ([steps] * 40, [steps], [steps, 0, steps, steps - 1])]
    mixed = [3, 0, 1, longest, 2, 0, 17, longest - 1, *rng.integers(0, 30, 40)]
    batches = (mixed, [7], [1, 1, 0], [0, 0, 0], [0], [longest] * 4)
    return [np.minimum(each, longest) for each in batches]


def _values(transforms: FittedTransforms, lengths: Array, dtype: np.dtype[Any]) -> list[Array]:
    """Make rows [T, D] that the transforms bring to the order of 1; where values may be missing, some are."""
    rng = np.random.default_rng(len(lengths))
    z = rng.normal(size=(int(lengths.sum()), len(transforms.names)))
    return np.split(before(transforms, z, rng).astype(dtype), np.cumsum(lengths)[:-1])


def _run(session: Any, values: list[Array], lengths: Array) -> Array:
    """Score sequences with ONNX Runtime, padded to their longest, which has at least one step.

    Every other one is padded with nan, the others with steps like their own: the runtime's gates do not all
    pass nan on.
    """
    steps = session.get_inputs()[0].shape[1]
    T = steps if isinstance(steps, int) else max(1, int(lengths.max()))
    x = np.full((len(lengths), T, values[0].shape[1]), np.nan, values[0].dtype)
    x[1::2] = np.concatenate([*values, np.ones_like(x[0, :1])])[0]
    for b, rows in enumerate(values):
        x[b, : len(rows)] = rows
    scores: Array = session.run(["scores"], {"x": x, "lengths": lengths.astype(np.int32)})[0]
    return scores.astype(np.float64)


def _predicted(model: Model, values: list[Array], lengths: Array, shape: tuple[int, ...]) -> Array:
    """Score sequences with the model itself, in its own precision; laid out as ONNX's scores are."""
    from timelike.model import predict

    config = _members(model)[0].network.config
    chosen = np.flatnonzero(lengths == config.steps) if config.steps else np.arange(len(lengths))
    rows = np.concatenate([values[b] for b in chosen]).astype(model.dtype)
    offsets = np.concatenate([[0], np.cumsum(lengths[chosen])])
    given = predict(model, Sequences(rows, offsets, names=model.variables))
    if config.pooling == "none":
        scores = np.zeros(shape)
        scores[np.arange(shape[1]) < lengths[:, None]] = given
        return scores
    scores = np.full(shape, np.nan)  # of sequences that a flattening network cannot take
    scores[chosen] = given
    return scores


def _largest(x: Array) -> float:
    """Give the largest absolute value; nan stands where there is no score."""
    return float(np.nanmax(np.abs(x), initial=0.0, where=~np.isnan(x)))
