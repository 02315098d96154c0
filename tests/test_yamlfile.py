"""YAML files that are hard on a reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from timelike.errors import ConfigError
from timelike.yamlfile import read_yaml


def test_a_deep_nest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 5000)
    with pytest.raises(ConfigError, match=r"deep\.yaml: nested too deeply$"):
        read_yaml(tmp_path / "deep.yaml")


def test_a_number_of_too_many_digits_is_infinite(tmp_path: Path) -> None:
    (tmp_path / "long.yaml").write_text(f"long: -{'1' * 5000}\nshort: {'1' * 300}\n")
    assert read_yaml(tmp_path / "long.yaml").values == {"long": float("-inf"), "short": int("1" * 300)}
