"""Every block of docs/training.md is part of a config."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from timelike.config import Config
from timelike.yamlfile import parse_yaml

TEXT = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", TEXT, re.S)
BASE = {
    "files": "jets.root",
    "variables": ["part_pt", "part_eta", "part_e"],
    "labels": {"qcd": "label == 0", "top": "label == 1"},
}


def test_there_are_blocks() -> None:
    assert len(BLOCKS) >= 10


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_is_part_of_a_config(block: str) -> None:
    given = parse_yaml(block, "docs/training.md")
    own = given.pop("data", {})
    other_task = {"multilabel", "targets"} & own.keys()
    data = {key: value for key, value in BASE.items() if not (other_task and key == "labels")} | own
    config = Config.from_dict({"data": data, **given})
    for section, values in given.items():
        assert getattr(config, section).model_fields_set == set(values)
