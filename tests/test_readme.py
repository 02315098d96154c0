"""What the README shows runs, and what it names is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import torch
import yaml
from tests.scorer_cases import made, saved

from timelike.config import NetworkConfig

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_code_of_the_readme_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    torch.manual_seed(1)
    shown: dict = {}
    exec(code, shown)
    run, back, lstm = shown["run"], shown["back"], shown["lstm"]
    np.testing.assert_allclose(run.hT, shown["h"][0].detach(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(back.dW, lstm.weight_ih_l0.grad, rtol=0, atol=1e-5)
    assert back.dgates.shape == (70, 4 * 32)


def test_the_code_of_the_page_on_layers_runs():
    page = (ROOT / "docs" / "layers.md").read_text()
    torch.manual_seed(1)
    shown: dict = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(code, shown)
    output, h_n, mask = shown["output"], shown["h_n"], shown["mask"]
    assert not output[~mask].any()
    assert not h_n[:, 1].any()
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    config = NetworkConfig.model_validate_json(json.dumps(yaml.safe_load(text)["network"]))
    assert [layer.summary for layer in config.recurrent] == [
        "gru 32 bidirectional",
        "lstm 32 projection 16",
        "rnn_tanh 16",
    ]


def test_the_code_of_the_page_on_inference_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown: dict = {}
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "inference.md").read_text(), re.DOTALL):
        exec(code, shown)
    session = shown["session"]
    assert (shown["y_t"] == session.run(shown["padded"][:, 0])[0][-1]).all()
    h, _ = session.last_state(shown["jets"], offsets=[0, 40, 63, 70])
    assert np.square(shown["h"]).sum() < 0.5 * np.square(h).sum()  # it has learned


def test_the_code_of_the_page_on_deployment_runs(tmp_path, monkeypatch):
    saved(made({"recurrent": [{"units": 5}]}), tmp_path)
    monkeypatch.chdir(tmp_path)
    shown: dict = {}
    page = (ROOT / "docs" / "deploy.md").read_text()
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page, re.DOTALL)):
        exec(code, shown)
        if number == 2:  # after the last step of the jet
            assert (shown["scores"] == shown["model"].predict(shown["jet"])).all()
    assert shown["scores"].shape == (3, 3)
    assert shown["session"].n_steps.tolist() == [
        2 if b in (5, 999) else 0 if b == 17 else 1 for b in range(1000)
    ]
    assert shown["one"]["n_steps"] == 2


def test_the_links_of_the_pages_lead_somewhere():
    pages = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))
    for page in ("README.md", "CONTRIBUTING.md", *pages):
        text = (ROOT / page).read_text()
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", text):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_the_commands_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^ +make ([a-z-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
