"""The ROOT file of a TMVA evaluation: what is in it against the evaluation, loops, NumPy and scikit-learn."""

from __future__ import annotations

import dataclasses
import errno
import math
import re
from pathlib import Path

import numpy as np
import pytest
import uproot
from sklearn.metrics import roc_auc_score

from timelike.errors import ConfigError
from timelike.roc import roc_curve
from timelike.tmva.evaluation import evaluate
from timelike.tmva.rootfile import write_root
from timelike.train import train
from toys import TOY_CONFIG, toy_columns
from toys import write_root as write_events

EPS = float(np.finfo(np.float64).eps)
EPS32 = float(np.finfo(np.float32).eps)
OBSERVERS = "observers: [jet_pt, weight, eventNumber]"
LABELS = '{background: "label == 0", signal: "label == 1"}'
CONFIGS = {
    "weighted": TOY_CONFIG.replace("observers: [jet_pt]", OBSERVERS),
    "unit": TOY_CONFIG.replace("  weights: weight\n", ""),
    "three": TOY_CONFIG.replace(LABELS, '{b: "label == 0", "c/x": "label == 1", s: "label == 2"}'),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Give the folders of a run for each kind; not to be changed."""
    folders = {}
    for kind, config in CONFIGS.items():
        folder = tmp_path_factory.mktemp(kind)
        columns = toy_columns(600)
        if kind == "three":
            columns["label"] = (np.arange(600) // 2 % 3).astype(np.int32)
        write_events(folder / "toy.root", columns)
        (folder / "toy.yaml").write_text(config, encoding="utf-8")
        train(folder / "toy.yaml")
        folders[kind] = folder / "run"
    return folders


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory):
    """Give for each kind the evaluation and the open file."""
    made = {}
    for kind, folder in runs.items():
        path = tmp_path_factory.mktemp("written") / f"{kind}.root"
        made[kind] = (write_root(folder, path), uproot.open(path))
    yield made
    for _, file in made.values():
        file.close()


def histogram(file, name):
    """Give contents, errors and edges of a histogram, without what is beside its range."""
    found = file[f"dataset/{name}"]
    return found.values(), found.errors(), found.axis().edges()


def tree(file, name="TestTree"):
    return {key: np.asarray(column) for key, column in file[f"dataset/{name}"].arrays(library="np").items()}


def test_two_classes_give_tmvas_names(written):
    _, file = written["unit"]
    names = {key.removesuffix(";1"): kind for key, kind in file.classnames().items()}
    method = "dataset/Method_DL/run"
    tails = ["S", "B", "Train_S", "Train_B", "effS", "effB", "effBvsS", "rejBvsS", "invBeffvsSeff"]
    tails += ["trainingEffS", "trainingEffB", "trainingEffBvsS", "trainingRejBvsS"]
    expected = {f"{method}/MVA_run_{tail}": "TH1D" for tail in tails}
    expected |= {f"{method}/{name}_run": "TH1D" for name in ("purS", "effpurS", "significance")}
    variables = [
        "length",
        *(f"part_{v}_{kind}" for v in ("logpt", "eta") for kind in ("mean", "first", "last")),
    ]
    for variable in variables:
        for group in ("Signal", "Background"):
            expected[f"dataset/InputVariables_Id/{variable}__{group}_Id"] = "TH1F"
    expected |= {f"dataset/CorrelationMatrix{letter}": "TH2F" for letter in "SB"}
    expected |= {"dataset/TestTree": "TTree", "dataset/TrainTree": "TTree"}
    assert {name: kind for name, kind in names.items() if kind != "TDirectory"} == expected
    branches = ["classID", "className", "weight", "event_number", "run", *variables, "jet_pt"]
    assert file["dataset/TestTree"].keys() == file["dataset/TrainTree"].keys() == branches
    types = file["dataset/TestTree"].typenames()
    whole = {"classID": "int32_t", "className": "char*", "event_number": "int64_t"}
    assert types == {name: whole.get(name, "float") for name in branches}


@pytest.mark.parametrize("kind", ["weighted", "unit"])
@pytest.mark.parametrize(("sample", "name"), [("test", "TestTree"), ("train", "TrainTree")])
def test_trees_hold_the_events_of_their_sample(written, kind, sample, name):
    evaluation, file = written[kind]
    columns, p = tree(file, name), evaluation.predictions[sample]
    data = toy_columns(600)
    rows = columns["event_number"] - 1000  # where the toy begins to count
    assert np.array_equal(columns["event_number"], p.events)
    assert len(np.unique(rows)) == len(rows) == len(p.labels)
    assert np.array_equal(columns["classID"], 1 - data["label"][rows])
    classes = {0: "Signal", 1: "Background"}
    assert columns["className"].tolist() == [classes[c] for c in columns["classID"]]
    weights = data["weight"][rows] if kind == "weighted" else np.ones(len(rows))
    assert np.array_equal(columns["weight"], weights)
    assert np.array_equal(columns["jet_pt"], data["jet_pt"][rows])
    assert np.array_equal(columns["run"], p.scores[:, 1].astype(np.float32))
    # Highest momentum first, five of them, read backward: the last step is the hardest one.
    hardest = [max(event, default=1.0) for event in data["part_pt"][rows].tolist()]
    np.testing.assert_allclose(columns["part_logpt_last"], np.log(hardest), rtol=4 * EPS32, atol=4 * EPS32)
    kept = [min(5, len(event)) for event in data["part_pt"][rows].tolist()]
    assert columns["length"].tolist() == kept


def test_observers_whose_names_are_taken_get_a_number_and_whole_ones_stay_whole(written):
    _, file = written["weighted"]
    columns = tree(file)
    assert list(columns)[-3:] == ["jet_pt", "weight_2", "eventNumber"]
    assert np.array_equal(columns["weight_2"], columns["weight"])
    assert columns["eventNumber"].dtype == np.int64
    assert np.array_equal(columns["eventNumber"], columns["event_number"])


def test_the_integral_of_the_test_tree_is_that_of_the_text(written):
    evaluation, file = written["unit"]
    columns = tree(file)
    area = roc_auc_score(columns["classID"] == 0, columns["run"], sample_weight=columns["weight"])
    found = evaluation.metrics["test"]["auc"]["value"]
    # Single precision makes ties of scores that differ, each worth half a pair.
    scores = evaluation.predictions["test"].scores[:, 1]
    s, b = scores[columns["classID"] == 0], scores[columns["classID"] == 1]
    short = s.astype(np.float32)[:, None] == b.astype(np.float32)
    ties = np.mean(short & (s[:, None] != b))
    assert abs(area - found) <= 0.5 * ties + 4 * len(scores) * EPS
    row = evaluation.text.split("ROC-integ\n")[1].split("\n")[1]
    assert row.split() == ["dataset", "run", f"{found:.3f}"]


def test_the_integral_of_weighted_pairs_in_the_tree_is_that_of_the_evaluation(written):
    evaluation, file = written["weighted"]
    columns = tree(file)
    signal = columns["classID"] == 0
    x, y = columns["run"][signal], columns["run"][~signal]
    w, v = (columns["weight"][chosen].astype(np.float64) for chosen in (signal, ~signal))
    right = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    scores = evaluation.predictions["test"].scores[:, 1]
    tied = (x[:, None] == y) & (scores[signal][:, None] != scores[~signal])
    slack = 0.5 * np.abs(w) @ tied @ np.abs(v) / (w.sum() * v.sum())
    area = w @ right @ v / (w.sum() * v.sum())
    assert abs(area - evaluation.metrics["test"]["auc"]["value"]) <= slack + 1e-12


@pytest.mark.parametrize("kind", ["weighted", "unit"])
@pytest.mark.parametrize(("sample", "infix"), [("test", ""), ("train", "Train_")])
def test_responses_have_unit_area_and_errors_by_the_sum_of_squares(written, kind, sample, infix):
    evaluation, file = written[kind]
    p = evaluation.predictions[sample]
    for letter, label in (("S", 1), ("B", 0)):
        values, errors, edges = histogram(file, f"Method_DL/run/MVA_run_{infix}{letter}")
        np.testing.assert_allclose(edges, np.linspace(0, 1, 41), atol=4 * EPS)
        chosen = p.labels == label
        scores, weights = p.scores[chosen, 1], p.weights[chosen]
        total = weights.sum() / 40
        sums = [weights[np.floor(40 * scores).clip(max=39) == k].sum() for k in range(40)]
        squares = [(weights[np.floor(40 * scores).clip(max=39) == k] ** 2).sum() for k in range(40)]
        np.testing.assert_allclose(values, np.array(sums) / total, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(errors, np.sqrt(squares) / abs(total), rtol=1e-12, atol=1e-12)
        assert values.sum() / 40 == pytest.approx(1.0)
        found = file[f"dataset/Method_DL/run/MVA_run_{infix}{letter}"]
        assert found.member("fEntries") == chosen.sum()
        centres = (np.arange(40) + 0.5) / 40
        assert found.member("fTsumwx") == pytest.approx(values @ centres)


@pytest.mark.parametrize("kind", ["weighted", "unit"])
def test_the_separation_of_the_histograms_is_that_of_the_text(written, kind):
    evaluation, file = written[kind]
    s, b = (histogram(file, f"Method_DL/run/MVA_run_{letter}")[0].clip(min=0) for letter in "SB")
    s, b = s / s.sum(), b / b.sum()
    total = sum((x - y) ** 2 / (x + y) for x, y in zip(s, b, strict=True) if x + y > 0) / 2
    assert evaluation.metrics["test"]["separation"]["value"] == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("kind", ["weighted", "unit"])
def test_the_separation_of_the_input_histograms_is_that_of_the_ranking(written, kind):
    evaluation, file = written[kind]
    p = evaluation.predictions["train"]
    for name, value in evaluation.ranking:
        sides = []
        for group, label in (("Signal", 1), ("Background", 0)):
            contents, errors, _ = histogram(file, f"InputVariables_Id/{name}__{group}_Id")
            weights = p.weights[p.labels == label]
            assert contents.sum() == pytest.approx(weights.sum(), rel=1e-6)
            assert (errors**2).sum() == pytest.approx((weights**2).sum(), rel=1e-6)
            sides.append(contents.astype(np.float64).clip(min=0))
        s, b = (side / side.sum() for side in sides)
        total = sum((x - y) ** 2 / (x + y) for x, y in zip(s, b, strict=True) if x + y > 0) / 2
        assert value == pytest.approx(total, rel=1e-5)  # TH1F: single precision


@pytest.mark.parametrize(("sample", "head"), [("test", "eff"), ("train", "trainingEff")])
def test_efficiencies_against_the_cut_are_shares_of_events(written, sample, head):
    evaluation, file = written["unit"]
    p = evaluation.predictions[sample]
    for letter, label in (("S", 1), ("B", 0)):
        values, _, edges = histogram(file, f"Method_DL/run/MVA_run_{head}{letter}")
        scores = np.sort(p.scores[p.labels == label, 1])
        cuts = np.arange(10_000) / 10_000
        passing = len(scores) - np.searchsorted(scores, cuts, side="left")
        np.testing.assert_allclose(values, passing / len(scores), atol=len(scores) * EPS)
        assert len(edges) == 10_001
        assert (edges[0], edges[-1]) == (0.0, 1.0)


@pytest.mark.parametrize("kind", ["weighted", "unit"])
def test_curves_belong_together_and_their_area_is_the_integral(written, kind):
    evaluation, file = written[kind]
    for sample, eff, rej in (("test", "eff", "rej"), ("train", "trainingEff", "trainingRej")):
        against = histogram(file, f"Method_DL/run/MVA_run_{eff}BvsS")[0]
        rejection = histogram(file, f"Method_DL/run/MVA_run_{rej}BvsS")[0]
        assert len(against) == 100
        assert (np.diff(against) >= 0).all()
        assert np.array_equal(rejection, 1 - against)
        # The middles of 100 bins are off from a falling function's integral by at most a bin of height 1.
        curve = evaluation.curves[sample]
        y, x = curve.signal_efficiency, curve.background_efficiency
        area = float(np.sum((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2))
        assert abs(rejection.mean() - area) <= 1 / 100
    inverse = histogram(file, "Method_DL/run/MVA_run_invBeffvsSeff")[0]
    against = histogram(file, "Method_DL/run/MVA_run_effBvsS")[0]
    np.testing.assert_allclose(inverse * against, np.where(against > 0, 1.0, 0.0), rtol=4 * EPS)


def test_a_score_at_a_bins_lower_edge_passes_and_curves_are_read_in_the_middle_of_a_bin(runs, tmp_path):
    evaluation = evaluate(runs["unit"])
    # Straight from (0, 0) by (1/2, 1/4) to (1, 1): half of the signal and a quarter of the background at 1/2.
    curve = roc_curve([0.5, 0.5, 0.25, 0.25, 0.25, 0.25], [True, False, True, False, False, False])
    made = dataclasses.replace(evaluation, curves=dict.fromkeys(("test", "train"), curve))
    curve_by_hand = np.interp((np.arange(100) + 0.5) / 100, [0, 0.5, 1], [0, 0.25, 1])
    write_root(made, tmp_path / "made.root")
    with uproot.open(tmp_path / "made.root") as file:
        for head in ("eff", "trainingEff"):
            for letter, share in (("S", 0.5), ("B", 0.25)):
                values = histogram(file, f"Method_DL/run/MVA_run_{head}{letter}")[0]
                assert values[[0, 2500, 2501, 5000, 5001, 9999]].tolist() == [1, 1, share, share, 0, 0]
            against = histogram(file, f"Method_DL/run/MVA_run_{head}BvsS")[0]
            np.testing.assert_allclose(against, curve_by_hand, rtol=8 * EPS)


def test_purity_and_significance_are_those_of_the_efficiencies_and_nowhere_above_the_best_cut(written):
    evaluation, file = written["weighted"]
    eps_s, eps_b = (histogram(file, f"Method_DL/run/MVA_run_eff{letter}")[0] for letter in "SB")
    purity, product, significance = (
        histogram(file, f"Method_DL/run/{name}_run")[0] for name in ("purS", "effpurS", "significance")
    )
    for k in range(0, 10_000, 37):
        s, b = 1000 * eps_s[k], 1000 * eps_b[k]
        assert purity[k] == pytest.approx(s / (s + b) if s + b else 0.0)
        assert product[k] == pytest.approx(eps_s[k] * purity[k])
        assert significance[k] == pytest.approx(s / math.sqrt(s + b) if s + b else 0.0)
    (yields, best), _ = evaluation.best
    assert (yields.signal, yields.background) == (1000, 1000)
    assert significance.max() <= best.significance * (1 + 8 * EPS)


@pytest.mark.parametrize("kind", ["unit", "weighted", "three"])
def test_correlations_are_those_of_the_training_tree(written, kind):
    evaluation, file = written[kind]
    columns = tree(file, "TrainTree")
    names = evaluation.summaries["train"].names
    shorts = {"three": ["b", "c_D_x", "s"]}.get(kind, ["S", "B"])
    for row, short in enumerate(shorts):
        found = file[f"dataset/CorrelationMatrix{short}"]
        assert found.axis(0).labels() == found.axis(1).labels() == list(names)
        for axis in (0, 1):  # ROOT finds the bin of a label by its number, from 1
            numbers = [label.member("@fUniqueID") for label in found.axis(axis).member("fLabels")]
            assert numbers == list(range(1, len(names) + 1))
        chosen = columns["classID"] == row
        x = np.stack([columns[name][chosen].astype(np.float64) for name in names])
        w = columns["weight"][chosen].astype(np.float64)
        if kind == "unit":
            expected = np.cov(x, aweights=w, ddof=0)
        else:
            mean = [sum(w * one) / sum(w) for one in x]
            expected = np.array(
                [
                    [sum(w * (x[i] - mean[i]) * (x[j] - mean[j])) / sum(w) for j in range(len(x))]
                    for i in range(len(x))
                ]
            )
        deviations = np.sqrt(np.diag(expected))
        np.testing.assert_allclose(
            found.values() / 100, expected / np.outer(deviations, deviations), atol=1e-5
        )


def test_three_classes_have_their_own_names(written):
    evaluation, file = written["three"]
    keys = {key.removesuffix(";1") for key in file["dataset"].keys(recursive=True)}
    classes, method = ["b", "c_D_x", "s"], "Method_DL/run/MVA_run"
    for sample in ("Test", "Train"):
        for c in classes:
            assert f"{method}_{sample}_rejBvsS_{c}" in keys
            assert {f"{method}_{sample}_{c}_prob_for_{d}" for d in classes} <= keys
    assert {f"InputVariables_Id/length__{c}_Id" for c in classes} <= keys
    assert not any(key.startswith(f"{method}_eff") for key in keys)
    columns = tree(file)
    p = evaluation.predictions["test"]
    assert np.array_equal(columns["classID"], p.labels)
    assert columns["className"].tolist() == [["b", "c/x", "s"][c] for c in p.labels]
    for c, name in enumerate(classes):
        assert np.array_equal(columns[f"run.{name}"], p.scores[:, c].astype(np.float32))
        own = p.scores[p.labels == 1, c]
        weights = p.weights[p.labels == 1]
        values = histogram(file, f"{method}_Test_{name}_prob_for_c_D_x")[0]
        sums = [weights[np.floor(40 * own).clip(max=39) == k].sum() for k in range(40)]
        np.testing.assert_allclose(values, np.array(sums) * 40 / weights.sum(), rtol=1e-12, atol=1e-12)


def test_an_evaluation_is_written_as_its_folder_is(runs, written, tmp_path):
    evaluation = evaluate(runs["weighted"])
    assert write_root(evaluation, tmp_path / "again.root") is evaluation
    _, file = written["weighted"]
    with uproot.open(tmp_path / "again.root") as again:
        assert again.keys() == file.keys()
        for name in ("TestTree", "TrainTree"):
            first, second = tree(file, name), tree(again, name)
            assert all(np.array_equal(first[key], second[key]) for key in first)
        for key, kind in file.classnames().items():
            if kind.startswith("TH"):
                assert np.array_equal(file[key].values(), again[key].values())


def test_given_yields_are_those_of_the_file(runs, tmp_path):
    evaluation = evaluate(runs["unit"], signal_yield=3.0, background_yield=70.0, method="DL_CPU")
    write_root(evaluation, tmp_path / "yields.root")
    with uproot.open(tmp_path / "yields.root") as file:
        values = histogram(file, "Method_DL/DL_CPU/significance_DL_CPU")[0]
        assert values[0] == pytest.approx(3 / math.sqrt(73))
        assert "DL_CPU" in file["dataset/TestTree"]


# Errors


def test_paths_that_cannot_be_written_are_refused_before_the_work(tmp_path):
    nowhere = tmp_path / "no run"
    (tmp_path / "folder.root").mkdir()
    for path, message in (
        (tmp_path / "tmva.txt", "the suffix '.txt' is not .root"),
        (tmp_path / "missing" / "tmva.root", f"there is no directory {tmp_path / 'missing'}"),
        (tmp_path / "folder.root", "it is a directory"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            write_root(nowhere, path)


def test_the_events_of_the_run_are_not_replaced(runs, tmp_path):
    events = runs["unit"].parent / "toy.root"
    before = events.read_bytes()
    (tmp_path / "link.root").symlink_to(events)
    for path in (events, tmp_path / "link.root"):
        with pytest.raises(ConfigError, match="the events of the run are read from it"):
            write_root(runs["unit"], path)
    assert events.read_bytes() == before


def test_a_full_disk_leaves_the_old_file(runs, tmp_path, monkeypatch):
    path = tmp_path / "tmva.root"
    path.write_bytes(b"old")
    evaluation = evaluate(runs["unit"])

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(uproot.WritableDirectory, "mktree", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        write_root(evaluation, path)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in Path(tmp_path).iterdir()] == ["tmva.root"]


def test_a_folder_that_is_no_run_leaves_the_old_file(tmp_path):
    path = tmp_path / "tmva.root"
    path.write_bytes(b"old")
    with pytest.raises(ConfigError, match="not the folder of a run"):
        write_root(tmp_path, path)
    assert path.read_bytes() == b"old"
