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
    assert len(BLOCKS) >= 6


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_is_part_of_a_config(block: str) -> None:
    given = parse_yaml(block, "docs/training.md")
    data = BASE | given.pop("data", {})
    config = Config.from_dict({"data": data, **given})
    for section, values in given.items():
        assert getattr(config, section).model_fields_set == set(values)
