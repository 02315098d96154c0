"""The spool of a stream: the same bits as without it, files unpacked once, and no trace of it in the end."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamed_files import config_of
from test_resume import same, stopped_at
from timelike.cli import main
from timelike.config import load_config
from timelike.data.spool import Spool, spool_folder
from timelike.data.streaming import Chunk, Reader
from timelike.errors import ConfigError
from timelike.sequences import Sequences
from timelike.train import CONFIG, train


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder that spools are in."""
    folder = tmp_path / "disk"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Note the file of each piece that is read of a file."""
    read: list[Path] = []
    plain = Reader._piece

    def piece(self: Reader, chain: Any, table: Any, chunk: Any) -> Any:
        read.append(chunk.file)
        return plain(self, chain, table, chunk)

    monkeypatch.setattr(Reader, "_piece", piece)
    return read


# 72 validation events stay in memory with a buffer of 100, and not with one of 50.
@pytest.mark.parametrize("buffer", [100, 50])
def test_the_weights_are_those_without_it_and_files_are_read_once(
    streamed: Path, disk: Path, buffer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = counted(monkeypatch)
    plain = train(load_config(streamed, overrides={"data.stream.buffer": buffer, "output": "plain"}))
    of_plain, spools = len(read), {"data.stream": {"buffer": buffer, "spool": True}}
    read.clear()
    same(train(load_config(streamed, overrides=spools)), plain)
    of_spool = len(read)
    chunks = _chunks(streamed, buffer)
    n_training, n_validation = (sum(chunk.counts[part] > 0 for chunk in chunks) for part in (0, 1))
    an_epoch = n_training + (n_validation if buffer == 50 else 0)
    assert of_plain == len(chunks) + 3 * an_epoch
    assert of_spool == len(chunks) + an_epoch
    assert list(disk.iterdir()) == []


def _chunks(path: Path, buffer: int) -> list[Chunk]:
    survey, _ = Reader(config_of(path, buffer=buffer)).survey(
        seed=0, signed=lambda weights: weights, mark=lambda events: ""
    )
    return survey.chunks


def test_it_goes_on_after_an_interruption(
    streamed: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"training.checkpoint_every": 4, "data.stream": {"buffer": 50, "spool": str(disk)}}
    whole = train(load_config(streamed, overrides={**given, "output": "whole", "data.stream.spool": False}))
    config = load_config(streamed, overrides=given)
    for n in (9, 40):  # in the first epoch, in the next
        with stopped_at(monkeypatch, n):
            train(config, resume=True)
        assert list(disk.iterdir()) == []
    same(train(load_config(streamed, overrides={**given, "data.stream.spool": True}), resume=True), whole)


def test_nothing_is_left_when_it_is_killed(streamed: Path, disk: Path) -> None:
    text = streamed.read_text().replace("buffer: 100", "buffer: 50, spool: true")
    streamed.write_text(text.replace("epochs: 3,", "epochs: 3, checkpoint_every: 5,"))
    script = Path(__file__).with_name("killed.py")
    killed = subprocess.run([sys.executable, str(script), str(streamed), "50"], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list(disk.iterdir()) == []
    whole = train(load_config(streamed, overrides={"output": "whole", "data.stream.spool": False}))
    same(train(streamed, resume=True), whole)


class Full:
    """A file on a disk that has room for so many bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self._room = file, room

    def write(self, content: Any) -> int:
        self._room -= len(content)
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        n: int = self._file.write(content)
        return n

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_a_full_disk_ends_the_spool_and_not_the_training(
    streamed: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = train(load_config(streamed, overrides={"output": "plain"}))
    make = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **given: Full(make(**given), 5000))
    words = ["train", str(streamed), "--set", "data.stream.spool=true"]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert re.search(rf"spool: at most \d+ kB in {disk}", said)
    assert said.count(f"spool in {disk}: No space left on device, after") == 1
    assert "the files are read anew in every epoch" in said
    same(train(streamed, resume=True), plain)


def test_too_little_room_is_seen_before(
    streamed: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6 - 500, 500))
    assert main(["train", str(streamed), "--set", "data.stream.spool=true", "--dry-run"]) == 0
    assert f"spool in {disk}: only 500 B are free, " in capsys.readouterr().out


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    run = tmp_path / "runs" / "a" / "b"
    monkeypatch.setenv("TMPDIR", "/scratch")
    assert spool_folder(True, tmp_path, run) == Path("/scratch")
    monkeypatch.delenv("TMPDIR")
    assert spool_folder(True, tmp_path, run) == tmp_path / "runs"
    assert spool_folder("here", tmp_path, run) == tmp_path / "here"
    assert spool_folder("/there", tmp_path, run) == Path("/there")


def test_a_folder_that_is_not_there_is_refused(streamed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(streamed), "--set", "data.stream.spool=nowhere"]) == 2
    said = capsys.readouterr().err
    assert f"data.stream.spool: cannot write in {streamed.parent / 'nowhere'}: No such file" in said
    (streamed.parent / "disk").mkdir()
    result = train(config_of(streamed, spool="disk"))
    assert "spool: ../disk" in (result.folder / CONFIG).read_text()


def test_events_come_back_to_the_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    given = {
        k: Sequences(
            rng.normal(size=(n, 2)).astype(dtype),
            [0, 0, n],
            names=["a", "b"],
            labels=None if k == 1 else [0, 1],
            weights=[1.5, -2.0],
        )
        for k, (n, dtype) in enumerate([(3, "float32"), (0, "float64"), (7, "float64")])
    }
    spool = Spool(tmp_path, 10**4)
    for k in (0, 1, 2):
        spool.put(k, given[k])
    for k in (2, 0, 1, 0):
        found = spool.get(k)
        assert found.names == ("a", "b")
        assert found.values.dtype == given[k].values.dtype
        for name in ("values", "offsets", "labels", "weights"):
            np.testing.assert_array_equal(getattr(found, name), getattr(given[k], name))
    spool.close()
    assert 0 not in spool
    with pytest.raises(ConfigError, match="cannot write in"):
        Spool(tmp_path / "nowhere", 1)
