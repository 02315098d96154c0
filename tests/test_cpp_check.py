"""A header is written when a program with it was seen to compute the same."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cpp_cases import NETWORKS, make_ensemble, make_model, save
from timelike.cli import main
from timelike.errors import ExportError
from timelike.interop import cpp_check
from timelike.interop.cpp import export_cpp

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")


@pytest.mark.parametrize(
    ("network", "more", "weights"),
    [
        ("lstm", {}, None),
        ("deep_each", {"dtype": torch.float64}, None),  # memory of the caller's, scores of each step
        ("flat", {}, "int8"),
    ],
)
def test_a_header_is_compared(tmp_path: Path, network: str, more: Any, weights: str | None) -> None:
    model = save(make_model(NETWORKS[network], **more), tmp_path, "model")
    line = cpp_check.export_checked_cpp(model, tmp_path / "net.h", weights=weights)
    found = re.search(r"largest difference (\S+) \(allowed (\S+)\)", line)
    assert found is not None
    assert 0 < float(found[1]) < float(found[2]) < (1e-12 if more else 1e-3)
    assert (tmp_path / "net.h").read_text().startswith("//")


def test_an_ensemble_is_compared_with_the_mean(tmp_path: Path) -> None:
    model = save(make_ensemble(NETWORKS["gru"]), tmp_path, "model")
    assert "largest difference" in cpp_check.export_checked_cpp(model, tmp_path / "net.h")


def test_a_header_that_computes_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = save(make_model(NETWORKS["lstm"]), tmp_path, "right")
    wrong = make_model(NETWORKS["lstm"])
    with torch.no_grad():
        wrong.network.recurrent[0].weight_hh_l0[3, 2] *= 1.01
    other = save(wrong, tmp_path, "wrong")
    monkeypatch.setattr(cpp_check, "export_cpp", lambda file, *a, **k: export_cpp(other, *a, **k))
    (tmp_path / "net.h").write_text("// an older one\n")
    with pytest.raises(ExportError, match=r"net.h: c\+\+ computes something else: .*; nothing was written"):
        cpp_check.export_checked_cpp(right, tmp_path / "net.h")
    assert (tmp_path / "net.h").read_text() == "// an older one\n"


def test_a_header_that_cannot_be_compiled_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(file: Any, path: Path, **more: Any) -> Any:
        made = export_cpp(file, path, **more)
        path.write_text("#error broken\n")
        return made

    monkeypatch.setattr(cpp_check, "export_cpp", broken)
    model = save(make_model(NETWORKS["lstm"]), tmp_path, "model")
    with pytest.raises(ExportError, match=r"net.h cannot be compiled by .*: .*broken.*nothing was written"):
        cpp_check.export_checked_cpp(model, tmp_path / "net.h")
    assert not (tmp_path / "net.h").exists()


def test_without_a_compiler_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cpp_check.shutil, "which", lambda name: None)
    model = save(make_model(NETWORKS["lstm"]), tmp_path, "model")
    assert main(["export", str(model), "--to", "cpp", "-o", str(tmp_path / "net.h")]) == 0
    assert "namespace net, weights float32; not run, as there is no C++ compiler" in capsys.readouterr().out
    plain = export_cpp(model, tmp_path / "own.h", namespace="net").path.read_text()
    assert np.char.count((tmp_path / "net.h").read_text(), "\n") == plain.count("\n")
    assert main(["export", str(model), "--to", "cpp", "-o", "n.h", "--namespace", "a b"]) == 2
