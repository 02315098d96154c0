"""docs/memory.md is run, and what it says of it is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "memory.md").read_text()
MEAN = 1 / 6  # error of whoever remembers nothing


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = {"run_folder": str(tmp_path_factory.mktemp("jets"))}
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.chdir(ROOT)
        for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(code, found)
    return found


def test_the_simple_network_sees_a_few_steps_and_learns_the_mean(shown):
    steps, errors, horizons = zip(*shown["seen_rnn"], strict=True)
    assert steps == (0, 150, 300, 450, 600)
    assert all(h is not None and h <= 8 for h in horizons)
    assert abs(errors[-1] - MEAN) < 0.02
    assert shown["gradient_by_distance"](shown["rnn"])[25] < 1e-4


def test_the_lstm_learns_when_its_horizon_has_grown(shown):
    _, errors, horizons = zip(*shown["seen_lstm"], strict=True)
    assert horizons[0] <= 8
    assert errors[1] > 0.9 * MEAN
    assert errors[-1] < 0.5 * MEAN
    assert horizons[-1] is None
    assert shown["before"].max() < 0.7
    assert shown["after"][0] > 0.9


def test_the_forget_bias_says_how_far_one_sees_at_first(shown):
    at_first = shown["at_first"]
    assert at_first[0.0] < at_first[1.0] < (at_first[3.0] or shown["T"])
    for b, steps in ((0.0, 3.3), (1.0, 7.4), (3.0, 47)):
        assert abs(np.log(0.1) / np.log(1 / (1 + np.exp(-b))) - steps) < 0.5
    assert all(seen[-1][1] < 0.5 * MEAN for _, seen in shown["biased"].values())


def test_the_tagger_sees_far(shown):
    layer = shown["layer"]
    near, far = (np.linalg.norm(layer.dc[layer.distance == k], axis=1).mean() for k in (0, 20))
    assert 0.2 < far / near < 1
    assert len(shown["norms"]) == layer.lengths[17]


def test_attributions_sum_to_the_score(shown):
    attributed = shown["attributed"]
    assert attributed.at(0).shape == (shown["layer"].lengths[0], 6)
    assert np.median(np.abs(attributed.completeness_error)) < 0.1
