"""The commands of docs/farms.md run, one after the other, and leave what the page says."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch

from timelike.cli import main
from timelike.model import load_model

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "farms.md").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, toy_root: Path) -> Any:
    from toys import TOY_CONFIG

    folder = tmp_path_factory.mktemp("farms")
    (folder / "toy.root").symlink_to(toy_root)
    (folder / "toy.yaml").write_text(TOY_CONFIG)
    (space,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (folder / "space.yaml").write_text(space)
    commands = re.findall(r"^    timelike (.*)$", PAGE, re.MULTILINE)
    assert len(commands) == 15
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in commands:
            assert main(shlex.split(command)) == 0, command
    return folder


def test_the_files_of_the_page_are_there(folder: Path) -> None:
    named = re.findall(r"^\| (`.*`.*?) \|", PAGE, re.MULTILINE)
    files = [name for cell in named for name in re.findall(r"`([^`]+)`", cell)]
    assert len(files) == 6
    for name in files:
        assert (folder / "run-crossval" / name).exists(), name
    for name in ("run-scan/scan.html", "run-jobs/job.sub", "folds-jobs/submit.sh", "scan-jobs/join.sbatch"):
        assert (folder / name).is_file(), name


def test_scores_out_of_fold_are_those_of_the_cross_validation(folder: Path) -> None:
    def scores(path: Path) -> list[float]:
        found: list[float] = pyarrow.parquet.read_table(path)["score_signal"].to_pylist()
        return found

    own = scores(folder / "run-crossval" / "scores.parquet")
    assert scores(folder / "scores.parquet") == pytest.approx(own, abs=1e-6)
    assert scores(folder / "mean.parquet") != pytest.approx(own, abs=1e-3)


def test_the_best_config_of_the_page_was_trained(folder: Path) -> None:
    results = json.loads((folder / "run-scan" / "scan.json").read_text())
    assert len(results["trials"]) == 9
    first_six = [t for t in results["trials"][:6] if t["state"] == "complete"]
    best = max(first_six, key=lambda trial: float(trial["value"]))["number"]
    trained = load_model(folder / "run-scan" / "best" / "model.safetensors").network.state_dict()
    path = folder / "run-scan" / f"trial-{best:04d}" / "model.safetensors"
    for name, value in load_model(path).network.state_dict().items():
        assert torch.equal(value, trained[name])
