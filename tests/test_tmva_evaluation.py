"""The numbers of a TMVA evaluation against loops, NumPy, SciPy and scikit-learn; and their errors."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from timelike.config import load_config
from timelike.errors import ConfigError, DataError
from timelike.evaluate import evaluate as metrics_of
from timelike.model import load_model
from timelike.roc import roc_curve
from timelike.runs import predictions_of
from timelike.tmva.evaluation import Yields, best_cut, cut_at, evaluate
from timelike.tmva.evaluationtext import table
from timelike.tmva.summary import unique
from timelike.train import read_splits, train
from toys import TOY_CONFIG, toy_columns, write_root

EPS = np.finfo(np.float64).eps
KINDS = ("weighted", "unit", "three")


def config_of(kind: str) -> str:
    if kind == "unit":
        return TOY_CONFIG.replace("  weights: weight\n", "")
    if kind == "three":
        labels = '{b: "label == 0", "c/x": "label == 1", s: "label == 2"}'
        return TOY_CONFIG.replace('{background: "label == 0", signal: "label == 1"}', labels)
    return TOY_CONFIG


def made_run(folder: Path, kind: str, **changes: np.ndarray) -> Path:
    """Train a toy of some kind in a folder, and give the folder of the run."""
    columns = toy_columns(600)
    if kind == "three":
        columns["label"] = (np.arange(600) // 2 % 3).astype(np.int32)
    write_root(folder / "toy.root", columns)
    (folder / "toy.yaml").write_text(config_of(kind), encoding="utf-8")
    train(folder / "toy.yaml")
    if changes:
        write_root(folder / "toy.root", columns | changes)
    return folder / "run"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Give the folders of a run for each kind; not to be changed."""
    return {kind: made_run(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


@pytest.fixture(scope="module")
def evaluations(runs):
    return {kind: evaluate(folder) for kind, folder in runs.items()}


def signal_and_rest(evaluation, sample="test"):
    """Give scores and weights of signal and of background."""
    p = evaluation.predictions[sample]
    c = evaluation.class_names.index(evaluation.signal)
    s, b = p.labels == c, p.labels != c
    return p.scores[s, c], p.weights[s], p.scores[b, c], p.weights[b]


def line_after(text: str, title: str, start: str) -> list[str]:
    """Give the words of the first line below a title that begins in some way."""
    lines = text[text.index(title) :].split("\n")
    return next(line for line in lines if line.startswith(start)).split()


def separation_by_loop(x, w, y, v, edges):
    total = 0.0
    sums = [[0.0] * (len(edges) - 1) for _ in range(2)]
    for k, (values, weights) in enumerate(((x, w), (y, v))):
        for value, weight in zip(values, weights, strict=True):
            for i in range(len(edges) - 1):
                last = i == len(edges) - 2
                if edges[i] <= value < edges[i + 1] or (last and value == edges[i + 1]):
                    sums[k][i] += weight
    sums = [[max(0.0, one) for one in side] for side in sums]
    for s, b in zip(*sums, strict=True):
        s, b = s / sum(sums[0]), b / sum(sums[1])
        if s + b > 0:
            total += 0.5 * (s - b) ** 2 / (s + b)
    return total


# The run's numbers


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_are_those_of_timelike_evaluate(runs, evaluations, kind):
    config, model = load_config(runs[kind] / "config.yaml"), load_model(runs[kind] / "model.safetensors")
    splits = read_splits(config)
    expected = metrics_of(
        {name: predictions_of(model, splits[name]) for name in ("train", "test")},
        config.data.class_names,
        signal=config.data.signal_name,
        n_bootstrap=5,
    )
    assert json.dumps(evaluations[kind].metrics) == json.dumps(expected)


@pytest.mark.parametrize("kind", ["weighted", "unit"])
def test_the_integral_is_the_share_of_pairs_in_right_order(evaluations, kind):
    s, w, b, v = signal_and_rest(evaluations[kind])
    right = (s[:, None] > b[None, :]) + 0.5 * (s[:, None] == b[None, :])
    area = w @ right @ v / (w.sum() * v.sum())
    words = line_after(evaluations[kind].text, "Evaluation results ranked", "dataset")
    assert words == ["dataset", "run", f"{area:.3f}"]
    assert evaluations[kind].curves["test"].auc == pytest.approx(area, rel=0, abs=4 * len(s) * len(b) * EPS)


def test_the_weighted_toy_has_negative_weights_in_both_samples(evaluations):
    for sample in ("train", "test"):
        _, w, _, v = signal_and_rest(evaluations["weighted"], sample)
        assert w.min() < 0 < w.sum()
        assert v.min() < 0 < v.sum()


def test_efficiencies_are_of_the_test_sample_and_in_brackets_of_the_training_sample(evaluations):
    shares = {}
    for sample in ("test", "train"):
        s, _, b, _ = signal_and_rest(evaluations["unit"], sample)
        # Between two cuts the curve is straight: corners by hand, for unit weights.
        cuts = np.unique(np.concatenate([s, b]))[::-1]
        x = np.array([0.0, *((b >= cut).mean() for cut in cuts)])
        y = np.array([0.0, *((s >= cut).mean() for cut in cuts)])
        shares[sample] = []
        for point in (0.01, 0.10, 0.30):
            k = np.flatnonzero(x <= point + 1e-12)[-1]
            share = (point - x[k]) / (x[k + 1] - x[k])
            shares[sample].append(y[k] + max(0.0, share) * (y[k + 1] - y[k]))
    words = line_after(evaluations["unit"].text, "Testing efficiency compared", "dataset")
    expected = [
        text
        for test, training in zip(shares["test"], shares["train"], strict=True)
        for text in (f"{test:.3f}", f"({training:.3f})")
    ]
    assert words[2:] == expected


@pytest.mark.parametrize("kind", KINDS)
def test_separation_and_significance_of_the_response_are_those_of_a_loop(evaluations, kind):
    s, w, b, v = signal_and_rest(evaluations[kind])
    expected = separation_by_loop(s, w, b, v, [k / 40 for k in range(41)])
    found = evaluations[kind].metrics["test"]["separation"]["value"]
    assert found == pytest.approx(expected, rel=1e-12)
    means = [sum(x * y) / sum(y) for x, y in ((s, w), (b, v))]
    spreads = [
        sum(y * (x - mean) ** 2) / sum(y) for (x, y), mean in zip(((s, w), (b, v)), means, strict=True)
    ]
    difference = abs(means[0] - means[1]) / math.sqrt(sum(spreads))
    assert evaluations[kind].mean_difference == pytest.approx(difference, rel=1e-12)
    words = line_after(evaluations[kind].text, "Response to signal and to background", "dataset")
    assert words[2:] == [f"{expected:.3f}", f"{difference:.3f}"]


def test_the_kolmogorov_smirnov_test_is_that_of_scipy_for_unit_weights(evaluations):
    e = evaluations["unit"]
    found = e.metrics["overtraining"]
    train_s, _, train_b, _ = signal_and_rest(e, "train")
    test_s, _, test_b, _ = signal_and_rest(e, "test")
    for kind, first, second in (("signal", train_s, test_s), ("background", train_b, test_b)):
        distance = stats.ks_2samp(first, second).statistic
        root = math.sqrt(len(first) * len(second) / (len(first) + len(second)))
        probability = stats.kstwobign.sf((root + 0.12 + 0.11 / root) * distance)
        assert found[f"ks_distance_{kind}"] == pytest.approx(distance, rel=1e-12)
        assert found[f"ks_{kind}"] == pytest.approx(probability, rel=1e-9)
        words = line_after(e.text, "Kolmogorov-Smirnov", kind)
        assert float(words[1]) == pytest.approx(probability, abs=0.005)
        assert words[2] == f"{distance:.3f}"


# Cuts


def best_by_force(s, w, b, v, n_s, n_b):
    """Try every cut with the efficiencies made monotone: the mean of running maximum and minimum."""
    cuts = np.unique(np.concatenate([s, b]))[::-1]
    curves = []
    for x, y in ((s, w), (b, v)):
        eps = [y[x >= cut].sum() / y.sum() for cut in cuts]
        curves.append(
            [min(1.0, max(0.0, (max([0.0, *eps[: k + 1]]) + min(eps[k:])) / 2)) for k in range(len(eps))]
        )
    tried = []
    for cut, eps_s, eps_b in zip(cuts, *curves, strict=True):
        total = n_s * eps_s + n_b * eps_b
        tried.append((n_s * eps_s / math.sqrt(total) if total > 0 else 0.0, cut, eps_s, eps_b))
    return max(tried, key=lambda one: one[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n_s", "n_b"), [(1000, 1000), (20, 5000), (3e6, 0.5)])
def test_the_best_cut_is_the_best_of_all(evaluations, kind, n_s, n_b):
    e = evaluations[kind]
    expected, _, _, _ = best_by_force(*signal_and_rest(e), n_s, n_b)
    found = best_cut(e.curves["test"], Yields("by hand", n_s, n_b))
    assert found.significance == pytest.approx(expected, rel=1e-9)
    assert found.signal / math.sqrt(found.signal + found.background) == pytest.approx(expected, rel=1e-9)
    assert found.purity == pytest.approx(found.signal / (found.signal + found.background))
    again = cut_at(e.curves["test"], found.cut, Yields("by hand", n_s, n_b))
    assert again == found


def test_what_passes_a_cut_is_at_the_cut_or_above():
    curve = roc_curve([0.9, 0.5, 0.5, 0.2], [True, True, False, False])
    yields = Yields("by hand", 10, 10)
    kept = {cut: cut_at(curve, cut, yields) for cut in (0.0, 0.2, 0.21, 0.5, 0.51, 0.9, 0.91)}
    passing = {cut: (found.signal, found.background) for cut, found in kept.items()}
    assert passing == {
        0.0: (10, 10),
        0.2: (10, 10),
        0.21: (10, 5),
        0.5: (10, 5),
        0.51: (5, 0),
        0.9: (5, 0),
        0.91: (0, 0),
    }
    assert kept[0.91].significance == kept[0.91].purity == 0


def test_without_yields_there_are_those_of_the_macro_and_the_sums_of_weights(evaluations):
    columns = toy_columns(600)
    weight, label = columns["weight"].astype(np.float64), columns["label"]
    usual, sums = (yields for yields, _ in evaluations["weighted"].best)
    assert (usual.signal, usual.background) == (1000, 1000)
    assert (sums.signal, sums.background) == (weight[label == 1].sum(), weight[label == 0].sum())
    (_, cut), _ = evaluations["weighted"].best
    words = line_after(evaluations["weighted"].text, "Cut of highest significance", "run")
    expected = [f"{cut.cut:.4f}", f"{cut.significance:.6g}", f"{cut.signal:.6g}", f"{cut.background:.6g}"]
    assert words[4:10] == ["1000", "1000", *expected]


def test_given_yields_are_taken_and_scanned(runs):
    e = evaluate(runs["unit"], signal_yield=50, background_yield=2000)
    assert [(y.signal, y.background) for y, _ in e.best] == [(50, 2000)]
    s, _, b, _ = signal_and_rest(e)
    assert [found.cut for found in e.scan] == pytest.approx([k / 20 for k in range(20)])
    for found in e.scan:
        assert found.signal == pytest.approx(50 * (s >= found.cut).mean())
        assert found.background == pytest.approx(2000 * (b >= found.cut).mean())
    words = line_after(e.text, "Cut efficiencies for 50 signal and 2000 background events", "0.50")
    found = e.scan[10]
    assert words[1:4] == [f"{x:.4f}" for x in ((s >= 0.5).mean(), (b >= 0.5).mean(), found.purity)]
    assert words[4] == f"{found.signal_efficiency * found.purity:.4f}"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"signal_yield": 5.0}, "the background yield is missing"),
        ({"background_yield": 5.0}, "the signal yield is missing"),
        ({"signal_yield": 0.0, "background_yield": 5.0}, "signal yield: given 0, a positive number"),
        ({"signal_yield": 1.0, "background_yield": -2.0}, "background yield: given -2, a positive"),
        ({"signal_yield": math.nan, "background_yield": 1.0}, "signal yield: given nan"),
        ({"signal_yield": 1.0, "background_yield": math.inf}, "background yield: given inf"),
    ],
)
def test_yields_that_cannot_be_are_refused_before_anything_is_read(tmp_path, given, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(tmp_path / "nothing", **given)


# Summary variables


@pytest.mark.parametrize("kind", KINDS)
def test_variables_are_ranked_by_separation_in_the_training_sample(evaluations, kind):
    e = evaluations[kind]
    p, summary = e.predictions["train"], e.summaries["train"]
    is_signal = p.labels == e.class_names.index(e.signal)
    expected = {}
    for name, column, histogram in zip(summary.names, summary.values.T, e.histograms, strict=True):
        edges = histogram.edges
        # 40 bins from the smallest to the largest value: none lies 8 standard deviations away
        bins = 40 if name != "length" else column.max() - column.min() + 1
        top = column.max() + (name == "length")
        np.testing.assert_allclose(edges, np.linspace(column.min(), top, int(bins) + 1), rtol=1e-12)
        args = [
            x
            for chosen in (is_signal, ~is_signal)
            for x in (column[chosen].tolist(), p.weights[chosen].tolist())
        ]
        expected[name] = separation_by_loop(*args, edges.tolist())
    values = [value for _, value in e.ranking]
    assert values == sorted(values, reverse=True)
    assert dict(e.ranking) == {name: pytest.approx(value, rel=1e-9) for name, value in expected.items()}
    first = line_after(e.text, "Ranking input variables", "1 ")
    assert first == ["1", e.ranking[0][0], f"{e.ranking[0][1]:.3e}"]


@pytest.mark.parametrize("kind", KINDS)
def test_correlations_are_those_of_numpy(evaluations, kind):
    e = evaluations[kind]
    p, values = e.predictions["train"], e.summaries["train"].values
    for row, matrix in enumerate(e.correlations):
        chosen = e.class_ids("train") == row
        x, w = values[chosen], p.weights[chosen]
        if w.min() >= 0:
            covariance = np.cov(x.T, aweights=w, ddof=0)
        else:  # numpy.cov refuses them: copies of events stand for their weights, which are 1.5 and -0.5
            counts = np.rint(2 * w).astype(int)
            covariance = np.zeros((x.shape[1], x.shape[1]))
            mean = (counts[:, None] * x).sum(axis=0) / counts.sum()
            for count, event in zip(counts, x, strict=True):
                covariance += count * np.outer(event - mean, event - mean) / counts.sum()
        deviations = np.sqrt(np.diag(covariance))
        np.testing.assert_allclose(matrix, covariance / np.outer(deviations, deviations), atol=1e-10)
    for group, matrix in zip(e.groups, e.correlations, strict=True):
        words = line_after(e.text, f"Correlation matrix ({group})", " 1 length:")
        assert words == ["1", "length:", *(f"{value:+.3f}" for value in matrix[0])]


# Three classes


def test_each_class_stands_against_the_rest(evaluations):
    e = evaluations["three"]
    p = e.predictions["test"]
    for c, name in enumerate(e.class_names):
        own, rest = p.labels == c, p.labels != c
        right = (p.scores[own, c][:, None] > p.scores[rest, c]) * 1.0
        right += 0.5 * (p.scores[own, c][:, None] == p.scores[rest, c])
        w, v = p.weights[own], p.weights[rest]
        area = w @ right @ v / (w.sum() * v.sum())
        lines = e.text[e.text.index("1-vs-rest") :].split("\n")
        words = next(line.split() for line in lines if line.split()[2:3] == [name])
        assert words[3] == f"{area:.3f}"


def test_the_confusion_matrix_is_that_of_a_loop(evaluations):
    e = evaluations["three"]
    shares = {}
    for sample in ("test", "train"):
        p, sums = e.predictions[sample], np.zeros((3, 3))
        for score, label, weight in zip(p.scores, p.labels, p.weights, strict=True):
            sums[label, max(range(3), key=lambda c, score=score: score[c])] += weight
        shares[sample] = sums / sums.sum(axis=1, keepdims=True)
    text = e.text[e.text.index("Confusion matrix: ") :]
    for c, name in enumerate(e.class_names):
        expected = [
            word
            for test, training in zip(shares["test"][c], shares["train"][c], strict=True)
            for word in (f"{test:.3f}", f"({training:.3f})")
        ]
        assert line_after(text, "Share of", f"{name} ") == [name, *expected]


@pytest.mark.parametrize("point", [0.01, 0.10, 0.30])
def test_classes_are_pitted_against_each_other(evaluations, point):
    e = evaluations["three"]
    text = e.text[e.text.index(f"background efficiency {point:.2f}, class against class") :]
    words = {name: line_after(text, "The row's class", f"{name} ") for name in e.class_names}
    for (i, row), (j, _) in itertools.permutations(enumerate(e.class_names), 2):
        cell = 1 + sum(2 if k != i else 1 for k in range(j))
        found = []
        for sample in ("test", "train"):
            p = e.predictions[sample]
            chosen = (p.labels == i) | (p.labels == j)
            scores = np.stack([1 - p.scores[chosen, i], p.scores[chosen, i]], axis=1)
            pair = dataclasses.replace(
                p,
                scores=scores,
                labels=(p.labels[chosen] == i).astype(np.int64),
                weights=p.weights[chosen],
                events=p.events[chosen],
            )
            metrics = metrics_of({"pair": pair}, ["b", "s"], signal="s", n_bootstrap=0)["pair"]
            found.append(metrics["signal_efficiency"][f"at_background_{point:.2f}"]["value"])
        assert words[row][cell : cell + 2] == [f"{found[0]:.3f}", f"({found[1]:.3f})"]
        assert words[row][1 + 2 * i] == "-"


def test_class_numbers_are_tmvas(evaluations):
    two, three = evaluations["unit"], evaluations["three"]
    assert two.groups == ("Signal", "Background")
    assert np.array_equal(two.class_ids("test"), 1 - two.predictions["test"].labels)
    assert three.groups == ("b", "c/x", "s")
    assert np.array_equal(three.class_ids("test"), three.predictions["test"].labels)


# Text


def test_columns_are_aligned_and_lines_end_where_they_end(evaluations):
    for e in evaluations.values():
        lines = e.text.split("\n")
        assert all(line == line.rstrip() for line in lines)
        assert "nan" not in e.text
    lines = table(["a", "b"], [["x", "10.0"], ["yy", "1.0"]])
    assert lines == ["---------", "a      b", "---------", "x   10.0", "yy   1.0", "---------"]


def test_matrices_too_wide_for_names_have_numbers_and_the_largest_are_left_to_the_file(evaluations):
    e = evaluations["unit"]
    summary = e.summaries["train"]
    for repeat, shown in ((2, True), (3, False)):
        names = unique([*summary.names] * repeat)
        wide = dataclasses.replace(
            e,
            summaries={"train": dataclasses.replace(summary, names=names)},
            correlations=tuple(np.tile(matrix, (repeat, repeat)) for matrix in e.correlations),
        )
        assert ("Correlation matrix (Signal)" in wide.text) == shown
        assert (f"{len(names)} summary variables: in the ROOT file" in wide.text) != shown
        if shown:
            lines = wide.text[wide.text.index("Correlation matrix (Signal)") :].split("\n")
            assert lines[2].split() == [f"{k}" for k in range(1, len(names) + 1)]
            assert lines[3].split()[:3] == ["1", "length:", "+1.000"]


def test_the_method_has_the_name_of_the_folder_or_the_one_given(runs, evaluations):
    assert evaluations["unit"].method == "run"
    assert evaluate(runs["unit"], method="DL CPU-2").method == "DL_CPU_2"


# Errors


@pytest.mark.parametrize("missing", ["config.yaml", "model.safetensors"])
def test_a_folder_that_is_no_run_is_refused(runs, tmp_path, missing):
    for name in ("config.yaml", "model.safetensors"):
        if name != missing:
            (tmp_path / name).write_bytes((runs["unit"] / name).read_bytes())
    with pytest.raises(ConfigError, match=f"{tmp_path}: not the folder of a run, it has no {missing}"):
        evaluate(tmp_path)


def test_a_model_of_other_classes_is_refused(runs, tmp_path):
    (tmp_path / "config.yaml").write_bytes((runs["unit"] / "config.yaml").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((runs["three"] / "model.safetensors").read_bytes())
    with pytest.raises(
        ConfigError, match=r"the classes of config\.yaml are 'background', 'signal', those of"
    ):
        evaluate(tmp_path)


def test_a_test_sample_without_a_class_is_refused(tmp_path):
    columns = toy_columns(600)
    run = made_run(tmp_path, "unit")
    numbers = read_splits(load_config(run / "config.yaml"))["test"].events
    label = np.where(np.isin(columns["eventNumber"], numbers), 0, columns["label"]).astype(np.int32)
    write_root(tmp_path / "toy.root", columns | {"label": label})
    with pytest.raises(DataError, match="no events of class 'signal' for test"):
        evaluate(run)


def test_a_run_without_test_events_is_refused(tmp_path, toy_root):
    (tmp_path / "toy.root").symlink_to(toy_root)
    split = "{by: event_number, remainders: {train: [0, 1, 2, 3, 4, 5], validation: [6, 7, 8, 9], test: []}}"
    config = TOY_CONFIG.replace("{by: event_number}", split)
    (tmp_path / "toy.yaml").write_text(config, encoding="utf-8")
    train(tmp_path / "toy.yaml")
    with pytest.raises(DataError, match=f"{tmp_path / 'run'}: the split leaves no test events"):
        evaluate(tmp_path / "run")


def test_a_class_whose_weights_sum_to_less_than_nothing_is_refused(tmp_path):
    columns = toy_columns(600)
    run = made_run(tmp_path, "weighted", weight=np.where(columns["label"] == 1, -1.0, 1.0))
    with pytest.raises(DataError, match=r"train: the weights of the .* events of class 'signal' sum to"):
        evaluate(run)
