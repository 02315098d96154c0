"""What all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from streamed_files import files_of
from toys import TOY_CONFIG, toy_columns, write_root

# The same examples in every run, and no clock: a busy machine must not turn a pass into a failure.
settings.register_profile("gate", derandomize=True, deadline=None)
settings.load_profile("gate")

collect_ignore = ["tmva_macros"]  # scripts that tests read


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the path of a file of toy events; not to be changed."""
    return write_root(tmp_path_factory.mktemp("toy") / "toy.root", toy_columns())


@pytest.fixture
def toy_config(tmp_path: Path, toy_root: Path) -> Path:
    """Give the path of a config beside a link to the toy events, in a folder of the test's own."""
    (tmp_path / "toy.root").symlink_to(toy_root)
    path = tmp_path / "toy.yaml"
    path.write_text(TOY_CONFIG, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def stream_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the path of a config whose files are not to be changed."""
    return files_of(tmp_path_factory.mktemp("stream") / "files")


@pytest.fixture
def streamed(tmp_path: Path, stream_config: Path) -> Path:
    """Give the path of a config in a folder of the test's own."""
    for file in stream_config.parent.glob("toy*.root"):
        (tmp_path / file.name).hardlink_to(file)
    (tmp_path / "toy.yaml").write_text(stream_config.read_text())
    return tmp_path / "toy.yaml"
