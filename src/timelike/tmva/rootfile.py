"""The ROOT file that TMVA's Factory leaves, of a run's folder: for TMVA's own macros and for one's own.

Names and types are TMVA's, so that its macros ``mvas``, ``mvaeffs``, ``efficiencies``, ``variables`` and
``correlations`` find what they look for. What is written was read back with uproot; the macros themselves
were not run. Below, ``<m>`` is the name of the method and ``<v>`` that of a summary variable.

In ``dataset/Method_DL/<m>``:

- ``MVA_<m>_S``, ``_B``: response of testing events, with errors, scaled to unit area (TH1D of 40 bins);
  ``MVA_<m>_Train_S``, ``_Train_B``: of training events;
- ``MVA_<m>_effS``, ``_effB``: efficiency of a cut at a bin's lower edge (TH1D of 10,000 bins);
  ``_trainingEffS``, ``_trainingEffB``: of training events;
- ``MVA_<m>_effBvsS``, ``_rejBvsS``, ``_invBeffvsSeff``: background efficiency, 1 minus it, 1 over it (0
  where it is 0) at the signal efficiency in a bin's middle (TH1D of 100 bins); ``_trainingEffBvsS``,
  ``_trainingRejBvsS``: of training events.

In ``dataset``:

- ``InputVariables_Id/<v>__Signal_Id``, ``__Background_Id``: training events, with errors (TH1F);
- ``CorrelationMatrixS``, ``CorrelationMatrixB``: linear correlations of training events, in per cent
  (TH2F);
- ``TestTree``, ``TrainTree``: ``classID`` (signal 0, background 1), ``className``, ``weight``, the summary
  variables, the observers, and the response under the name ``<m>``: the probability of the signal.

With three classes or more: ``MVA_<m>_Test_<c>_prob_for_<d>`` for the score of class c in events of class d,
``MVA_<m>_Test_rejBvsS_<c>`` for class c against all others (and the same with ``Train``), ``<v>__<c>_Id``,
``CorrelationMatrix<c>``, ``classID`` in the order of the config, and a response ``<m>.<c>`` for each class.

Ours, or not as in TMVA: ``purS_<m>``, ``effpurS_<m>`` and ``significance_<m>`` against the cut, for the
first pair of yields (``mvaeffs`` makes its own and scales the last to 1); ``event_number`` in the trees;
observers that are whole numbers stay so; responses are binned from 0 to 1; correlations are not cut to
whole per cents; curves of several classes are histograms, not graphs, and their responses branches, not
leaves of one branch (``Draw`` takes the same names). Scatter plots of variables are not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timelike.errors import ConfigError, require
from timelike.files import replacing
from timelike.roc import SEPARATION_BINS, Roc, roc_curve
from timelike.tmva.evaluation import TmvaEvaluation, evaluate, significance
from timelike.tmva.evaluationtext import DATASET
from timelike.tmva.summary import Binned, binned, clean, unique

__all__ = ["check_root_path", "write_root"]

Floats = NDArray[np.float64]

_CUT_BINS = 10_000  # of an efficiency against the cut, as in TMVA
_ROC_BINS = 100  # of a curve, as in TMVA
_SAMPLES = {"test": "TestTree", "train": "TrainTree"}


def check_root_path(path: Path) -> None:
    """Raise before the work if an evaluation cannot be written there.

    Raises
    ------
    ConfigError
        If the suffix is not .root, or there is no such folder.
    """
    if path.suffix.lower() != ".root":
        raise ConfigError(f"cannot write {path}: the suffix '{path.suffix}' is not .root")
    if path.is_dir():
        raise ConfigError(f"cannot write {path}: it is a directory")
    if not path.parent.is_dir():
        raise ConfigError(f"cannot write {path}: there is no directory {path.parent}")


def write_root(run: TmvaEvaluation | str | Path, path: str | Path) -> TmvaEvaluation:
    """Write the ROOT file of an evaluation, whole or not at all.

    Parameters
    ----------
    run : TmvaEvaluation or path
        An evaluation, or the folder of a run to evaluate first.
    path : path
        The file, with the suffix .root. A file that is there is replaced.

    Returns
    -------
    TmvaEvaluation
        What was written.

    Raises
    ------
    ConfigError
        If the file cannot be written there, or is one of the run's files of events; see also
        `timelike.tmva.evaluation.evaluate`.
    MissingExtraError
        If uproot is not installed.
    """
    path = Path(path)
    check_root_path(path)
    uproot = require("uproot", "data")
    evaluation = run if isinstance(run, TmvaEvaluation) else evaluate(run)
    if path.exists() and any(path.samefile(file) for file in evaluation.inputs):
        raise ConfigError(
            f"cannot write {path}: the events of the run are read from it; give the file another name"
        )
    with replacing(path) as part, uproot.recreate(part) as file:
        for name, histogram in _histograms(evaluation):
            file[f"{DATASET}/{name}"] = histogram
        for sample, name in _SAMPLES.items():
            columns = _columns(evaluation, sample)
            types = {key: "string" if key == "className" else c.dtype for key, c in columns.items()}
            tree = file.mktree(f"{DATASET}/{name}", types, title=name)
            tree.extend(columns)
    return evaluation


def _histograms(e: TmvaEvaluation) -> Iterator[tuple[str, Any]]:
    """Give all histograms by their path below the data set."""
    method = f"Method_DL/{e.method}"
    made = _multiclass_histograms(e) if e.multiclass else _method_histograms(e)
    for name, histogram in (*made, *_cut_histograms(e)):
        yield f"{method}/{name}", histogram
    names = e.summaries["train"].names
    groups = unique([clean(group) for group in e.groups])
    for name, filled in zip(names, e.histograms, strict=True):
        for row, group in enumerate(groups):
            title = f"{name}__{group}_Id"
            yield f"InputVariables_Id/{title}", _filled(title, name, filled, row, dtype=np.float32)
    shorts = groups if e.multiclass else ("S", "B")
    for group, short, matrix in zip(e.groups, shorts, e.correlations, strict=True):
        name = f"CorrelationMatrix{short}"
        yield name, _matrix(name, f"Correlation Matrix ({group.lower()})", names, matrix)


def _method_histograms(e: TmvaEvaluation) -> Iterator[tuple[str, Any]]:
    """Give the histograms of a method that tells signal from background."""
    head = f"MVA_{e.method}"
    for sample, infix in (("test", ""), ("train", "Train_")):
        response = _responses(e, sample, e.signal_index)
        for row, letter in enumerate("SB"):
            name = f"{head}_{infix}{letter}"
            yield name, _filled(name, name, response, row, axis=f"{e.method} response", unit=True)
    for sample, eff, of_s in (("test", "eff", "rej"), ("train", "trainingEff", "trainingRej")):
        curve = e.curves[sample]
        eps_s, eps_b = _against_cut(curve)
        yield f"{head}_{eff}S", _curve(f"{head}_{eff}S", f"{head} (signal)", eps_s)
        yield f"{head}_{eff}B", _curve(f"{head}_{eff}B", f"{head} (background)", eps_b)
        against = curve.background_efficiency_at(_centres(_ROC_BINS))
        shapes = [(f"{eff}BvsS", "Backgr eff", against)]
        shapes += [(f"{of_s}BvsS", "Backgr rejection (1-eff)", 1.0 - against)]
        if sample == "test":
            inverse = np.divide(1.0, against, out=np.zeros_like(against), where=against > 0)
            shapes += [("invBeffvsSeff", "Inverse backgr. eff (1/eff)", inverse)]
        for name, title, contents in shapes:
            made = _curve(f"{head}_{name}", head, contents, axis="Signal eff", vertical=title)
            yield f"{head}_{name}", made


def _multiclass_histograms(e: TmvaEvaluation) -> Iterator[tuple[str, Any]]:
    """Give the histograms of a method that tells several classes apart."""
    groups = unique([clean(group) for group in e.groups])
    for sample, infix in (("test", "Test"), ("train", "Train")):
        head, p = f"MVA_{e.method}_{infix}", e.predictions[sample]
        for c, score in enumerate(groups):
            response = _responses(e, sample, c)
            for row, group in enumerate(groups):
                name = f"{head}_{score}_prob_for_{group}"
                yield name, _filled(name, name, response, row, axis=f"{score} probability", unit=True)
            curve = roc_curve(p.scores[:, c], p.labels == c, p.weights)
            rejection = 1.0 - curve.background_efficiency_at(_centres(_ROC_BINS))
            name = f"{head}_rejBvsS_{score}"
            vertical = "Backgr rejection (1-eff)"
            yield name, _curve(name, f"{head}_{score}", rejection, axis="Signal eff", vertical=vertical)


def _cut_histograms(e: TmvaEvaluation) -> Iterator[tuple[str, Any]]:
    """Give purity, efficiency times purity and significance against the cut, for the first yields."""
    yields = e.best[0][0]
    eps_s, eps_b = _against_cut(e.curves["test"])
    s, b = yields.signal * eps_s, yields.background * eps_b
    purity = np.divide(s, s + b, out=np.zeros_like(s), where=s + b > 0)
    shapes = {"purS": purity, "effpurS": eps_s * purity, "significance": significance(s, b)}
    for name, contents in shapes.items():
        yield f"{name}_{e.method}", _curve(f"{name}_{e.method}", f"{name}_{e.method}", contents)


def _responses(e: TmvaEvaluation, sample: str, c: int) -> Binned:
    """Fill the score of class c, of each group."""
    p, ids = e.predictions[sample], e.class_ids(sample)
    edges = np.arange(SEPARATION_BINS + 1) / SEPARATION_BINS
    return binned(p.scores[:, c], p.weights, [ids == row for row in range(len(e.groups))], edges)


def _against_cut(curve: Roc) -> tuple[Floats, Floats]:
    """Give the efficiencies of cuts at the lower edges of fine bins."""
    cuts = np.arange(_CUT_BINS) / _CUT_BINS
    points = np.searchsorted(-curve.thresholds, -cuts, side="right") - 1
    return curve.signal_efficiency[points], curve.background_efficiency[points]


def _centres(bins: int) -> Floats:
    return (np.arange(bins) + 0.5) / bins


def _filled(
    name: str,
    title: str,
    filled: Binned,
    row: int,
    *,
    axis: str | None = None,
    unit: bool = False,
    dtype: type[np.floating[Any]] = np.float64,
) -> Any:
    """Make a histogram of one group's events, scaled to unit area where asked and possible."""
    sums, squares = filled.sums[row], filled.squares[row]
    area = float(sums[1:-1].sum()) * (filled.edges[1] - filled.edges[0])
    if unit and area > 0:
        sums, squares = sums / area, squares / area**2
    return _th1(
        name,
        title,
        sums,
        squares,
        filled.edges,
        entries=int(filled.entries[row]),
        dtype=dtype,
        axis=title if axis is None else axis,
    )


def _curve(name: str, title: str, contents: Floats, *, axis: str = "Cut value", vertical: str = "") -> Any:
    """Make a histogram of a function on [0, 1], without errors."""
    edges = np.array([0.0, *(np.arange(len(contents)) + 1.0) / len(contents)])
    padded = np.concatenate([[0.0], contents, [0.0]])
    return _th1(name, title, padded, np.empty(0), edges, entries=len(contents), axis=axis, vertical=vertical)


def _th1(
    name: str,
    title: str,
    sums: Floats,
    squares: Floats,
    edges: Floats,
    *,
    entries: int,
    dtype: type[np.floating[Any]] = np.float64,
    axis: str = "",
    vertical: str = "",
) -> Any:
    """Make a TH1; its mean and spread are those of the bins' centres."""
    make = require("uproot.writing.identify", "data")
    centres, inside = 0.5 * (edges[1:] + edges[:-1]), sums[1:-1]
    return make.to_TH1x(
        name,
        title,
        sums.astype(dtype),
        float(entries),
        float(inside.sum()),
        float(squares[1:-1].sum() if len(squares) else inside.sum()),
        float(inside @ centres),
        float(inside @ centres**2),
        squares,
        make.to_TAxis("xaxis", axis, len(inside), float(edges[0]), float(edges[-1])),
        make.to_TAxis("yaxis", vertical, 1, 0.0, 1.0),
    )


def _matrix(name: str, title: str, labels: Sequence[str], matrix: Floats) -> Any:
    """Make a TH2F of a matrix in per cent, with names on its axes."""
    make = require("uproot.writing.identify", "data")
    n = len(labels)
    padded = np.zeros((n + 2, n + 2), dtype=np.float32)
    padded[1:-1, 1:-1] = 100.0 * matrix  # symmetric: which axis runs first does not matter
    middle, percent = np.arange(n) + 0.5, 100.0 * matrix
    sums = [percent.sum(), percent.sum(), percent.sum(axis=1) @ middle, percent.sum(axis=1) @ middle**2]
    sums += [sums[2], sums[3], middle @ percent @ middle]
    axes = [make.to_TAxis(axis, "", n, 0.0, float(n), fLabels=_labels(labels)) for axis in ("xaxis", "yaxis")]
    none = np.empty(0)
    return make.to_TH2x(name, title, padded.ravel(), float(n * n), *map(float, sums), none, *axes)


def _labels(names: Sequence[str]) -> Any:
    """Make the labels of an axis; each knows its bin by its number."""
    make = require("uproot.writing.identify", "data")
    labels = [make.to_TObjString(name) for name in names]
    for number, label in enumerate(labels, 1):
        label._bases[0]._members["@fUniqueID"] = number  # of TObject; uproot has no argument for it
    return make.to_THashList(labels)


def _columns(e: TmvaEvaluation, sample: str) -> dict[str, Any]:
    """Give the branches of a tree; an observer whose name is taken gets a number behind it."""
    awkward = require("awkward", "data")
    predicted, summary = e.predictions[sample], e.summaries[sample]
    ids = e.class_ids(sample)
    groups = unique([clean(group) for group in e.groups])
    if e.multiclass:
        scores = [predicted.scores[:, c] for c in range(len(groups))]
        responses = [f"{e.method}.{group}" for group in groups]
    else:
        scores, responses = [predicted.scores[:, e.signal_index]], [e.method]
    columns: dict[str, Any] = {
        "classID": ids.astype(np.int32),
        "className": awkward.Array([e.groups[c] for c in ids]),
        "weight": predicted.weights.astype(np.float32),
        "event_number": predicted.events,
    }
    columns |= {name: score.astype(np.float32) for name, score in zip(responses, scores, strict=True)}
    observers = e.observers[sample]
    numbers = [*summary.values.T.astype(np.float32), *(_narrow(observer) for observer in observers.values())]
    names = unique([*summary.names, *(clean(name) for name in observers)], taken=list(columns))
    return columns | dict(zip(names, numbers, strict=True))


def _narrow(observer: NDArray[Any]) -> NDArray[Any]:
    """Give floating-point numbers as TMVA keeps them; whole ones would lose digits."""
    return observer.astype(np.float32) if observer.dtype.kind == "f" else np.ascontiguousarray(observer)
