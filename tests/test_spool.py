"""The spool of a stream: where there is one, the same bits as without it, and no trace of it in the end."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest

from streamed_files import config_of
from test_resume import same, stopped_at
from timelike.cli import main
from timelike.config import load_config
from timelike.data.spool import Spool, file_system, refusal, spool_folder
from timelike.data.streaming import Chunk, Reader
from timelike.preparation import prepare
from timelike.sequences import Sequences
from timelike.train import CONFIG, train


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder that spools are in."""
    folder = tmp_path / "disk"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def on(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, free: int = 10**9) -> None:
    """Have all folders on a file system of this type, with so many bytes free."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"22 1 8:1 / / rw,relatime shared:1 - {kind} /dev/sda1 rw\n")
    monkeypatch.setattr("timelike.data.spool._MOUNTINFO", mounts)

    def usage(folder: Path) -> Any:
        folder.stat()  # raises where there is none
        return shutil._ntuple_diskusage(10**6 + free, 10**6, free)

    monkeypatch.setattr(shutil, "disk_usage", usage)


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
@pytest.mark.parametrize("given", [{}, {"spool": True}], ids=["by default", "asked for"])
@pytest.mark.parametrize("buffer", [100, 50])
def test_the_weights_are_those_without_it_and_files_are_read_once(
    streamed: Path,
    disk: Path,
    buffer: int,
    given: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    on("ext4", monkeypatch, tmp_path)
    read = counted(monkeypatch)
    plain = train(config_of(streamed, buffer=buffer))
    of_plain = len(read)
    read.clear()
    spools = {"data.stream": {"buffer": buffer, **given}, "output": "spooled"}
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
    streamed: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = {"training.checkpoint_every": 4, "data.stream": {"buffer": 50, "spool": str(disk)}}
    whole = train(load_config(streamed, overrides={**given, "output": "whole", "data.stream.spool": False}))
    config = load_config(streamed, overrides=given)
    for n in (9, 40):  # in the first epoch, in the next
        with stopped_at(monkeypatch, n):
            train(config, resume=True)
        assert list(disk.iterdir()) == []
    for spool in (True, False):
        with stopped_at(monkeypatch, 6):
            train(load_config(streamed, overrides={**given, "data.stream.spool": spool}), resume=True)
    on("xfs", monkeypatch, tmp_path)
    same(train(load_config(streamed, overrides={**given, "data.stream": {"buffer": 50}}), resume=True), whole)


def test_nothing_is_left_when_it_is_killed(streamed: Path, disk: Path) -> None:
    text = streamed.read_text().replace("buffer: 100, spool: false", "buffer: 50, spool: true")
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


@pytest.mark.parametrize("spool", ["auto", "true"])
def test_a_full_disk_ends_the_spool_and_not_the_training(
    streamed: Path,
    disk: Path,
    spool: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    on("btrfs", monkeypatch, tmp_path)
    plain = train(load_config(streamed, overrides={"output": "plain"}))
    make = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **given: Full(make(**given), 5000))
    words = ["train", str(streamed), "--set", f"data.stream.spool={spool}"]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert re.search(rf"spool: at most \d+ kB in {disk}", said)
    assert said.count(f"spool in {disk}: No space left on device, after") == 1
    assert "the files are read anew in every epoch" in said
    same(train(streamed, resume=True), plain)


def test_too_little_room_is_seen_before(
    streamed: Path,
    disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    on("ext4", monkeypatch, tmp_path, free=500)
    assert main(["train", str(streamed), "--set", "data.stream.spool=true", "--dry-run"]) == 0
    assert f"spool in {disk}: only 500 B are free, " in capsys.readouterr().out


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    run = tmp_path / "runs" / "a" / "b"
    for given in (True, "auto"):
        monkeypatch.setenv("TMPDIR", "/scratch")
        assert spool_folder(given, tmp_path, run) == Path("/scratch")
        monkeypatch.delenv("TMPDIR")
        assert spool_folder(given, tmp_path, run) == tmp_path / "runs"
    assert spool_folder("./auto", tmp_path, run) == tmp_path / "auto"
    assert spool_folder("here", tmp_path, run) == tmp_path / "here"
    assert spool_folder("/there", tmp_path, run) == Path("/there")


def test_a_folder_that_is_not_there_is_refused(streamed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(streamed), "--set", "data.stream.spool=nowhere"]) == 2
    said = capsys.readouterr().err
    assert f"data.stream.spool: cannot write in {streamed.parent / 'nowhere'}: No such file" in said
    (streamed.parent / "disk").mkdir()
    result = train(config_of(streamed, spool="disk"))
    assert "spool: ../disk" in (result.folder / CONFIG).read_text()


# -- where nobody asks for one ------------------------------------------------------------------------------

MOUNTS = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
25 27 0:23 / /dev/shm rw - tmpfs tmpfs rw,size=8g
27 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
28 27 0:40 / /home rw,relatime shared:9 - autofs auto.home rw,fd=6
31 27 8:17 /disk /scratch rw shared:2 master:1 - xfs /dev/sdb1 rw
30 28 0:41 / /home rw - nfs4 server:/home rw,vers=4.2
32 31 0:42 / /scratch/my\040own\011jets\134 rw - fuse.sshfs jets@server:/ rw
33 32 8:33 / /scratch/my\040own\011jets\134/here rw - btrfs - rw,subvol=/a - b
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/", "ext4"),
        ("/runs/jets", "ext4"),
        ("/scratch", "xfs"),
        ("/scratch/a/b", "xfs"),
        ("/scratches", "ext4"),
        ("/dev/shm/jets", "tmpfs"),
        ("/home/runs", "nfs4"),  # mounted over what mounts it
        ("/scratch/my own\tjets\\", "fuse.sshfs"),
        ("/scratch/my own\tjets\\/here/runs", "btrfs"),
        ("/scratch/my", "xfs"),
    ],
)
def test_a_folder_is_on_the_innermost_mount(folder: str, kind: str) -> None:
    assert file_system(PurePath(folder), MOUNTS) == kind
    assert file_system(PurePath(folder), "") == ""


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "overlay"])
def test_local_disks_are_used_to_half_of_what_is_free(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(kind, monkeypatch, tmp_path, free=2000)
    assert refusal(tmp_path, 1000) == ""
    said = f"1 kB may be needed, more than half of 2 kB free in {tmp_path}"
    assert refusal(tmp_path, 1001) == said


@pytest.mark.parametrize(
    "kind", ["tmpfs", "ramfs", "nfs", "nfs4", "afs", "lustre", "gpfs", "fuse.ceph", "9p"]
)
def test_memory_and_networks_are_not_used(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on(kind, monkeypatch, tmp_path)
    assert refusal(tmp_path, 1) == f"{tmp_path} is on {kind}, no local disk"


def test_it_is_asked_where_a_link_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on("ext4", monkeypatch, tmp_path)
    far, link = tmp_path.resolve() / "far", tmp_path / "link"
    far.mkdir()
    link.symlink_to(far)
    assert refusal(link, 1) == ""
    place = str(far).replace(" ", r"\040")
    with (tmp_path / "mountinfo").open("a") as mounts:
        mounts.write(f"23 22 0:40 / {place} rw - nfs server:/ rw\n")
    assert refusal(link, 1) == f"{link} is on nfs, no local disk"


def test_nothing_is_known_without_a_list_of_mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timelike.data.spool._MOUNTINFO", tmp_path / "none")
    assert refusal(tmp_path, 1) == f"this system does not tell whether {tmp_path} is on a local disk"


def test_spools_of_all_ranks_of_a_machine_are_to_find_room(
    streamed: Path, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def noted(folder: Path, largest: int) -> str:
        asked.append(largest)
        return ""

    monkeypatch.setattr("timelike.preparation.refusal", noted)
    for n in ("1", "3"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", n)
        prepare(config_of(streamed, spool="auto")).close()
    assert asked[1] == 3 * asked[0] > 0


@pytest.mark.parametrize(
    ("kind", "free", "folder", "file", "why"),
    [
        ("nfs4", 10**9, "disk", True, "{} is on nfs4, no local disk"),
        ("ext4", 500, "disk", True, r"\d+ kB may be needed, more than half of 500 B free in {}"),
        ("ext4", 10**9, "nowhere", True, "cannot write in {}: No such file or directory"),
        ("ext4", 10**9, "disk", False, "cannot write in {}: Permission denied"),
    ],
)
def test_a_line_says_why_there_is_none(
    kind: str,
    free: int,
    folder: str,
    file: bool,
    why: str,
    streamed: Path,
    disk: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def denied(**_: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    plain = train(load_config(streamed, overrides={"output": "plain"}))
    on(kind, monkeypatch, tmp_path, free=free)
    monkeypatch.setenv("TMPDIR", str(tmp_path / folder))
    if not file:
        monkeypatch.setattr(tempfile, "TemporaryFile", denied)
    given = str(streamed), "--set", "data.stream={buffer: 100}"
    assert main(["train", *given, "--dry-run"]) == 0
    line = (
        f"no spool: {why.format(re.escape(str(tmp_path / folder)))}; the files are read anew in every epoch "
        r"\(data\.stream\.spool: a folder on a local disk, or false\)"
    )
    assert sum(re.fullmatch(line, said) is not None for said in capsys.readouterr().out.splitlines()) == 1
    assert main(["train", *given]) == 0
    said = capsys.readouterr().err
    assert re.search(rf"^{line}$", said, re.MULTILINE)
    assert len(re.findall("^(?:no )?spool", said, re.MULTILINE)) == 1
    same(train(load_config(streamed), resume=True), plain)


@pytest.mark.parametrize(("spool", "said"), [("auto", 1), ("true", 1), ("false", 0)])
def test_it_can_be_chosen(
    spool: str,
    said: int,
    streamed: Path,
    disk: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    on("ext4", monkeypatch, tmp_path)
    assert main(["train", str(streamed), "--dry-run", "--set", f"data.stream.spool={spool}"]) == 0
    out = capsys.readouterr().out
    assert len(re.findall(rf"^spool: at most \d+ kB in {disk}$", out, re.MULTILINE)) == said
    assert len(re.findall("^(?:no )?spool", out, re.MULTILINE)) == said


def test_what_is_no_choice_is_refused(streamed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(streamed), "--set", "data.stream.spool=3"]) == 2
    said = capsys.readouterr().err
    assert said.endswith("data.stream.spool: given 3; true or false, 'auto' or text is needed\n")


def test_a_written_config_keeps_the_choice(streamed: Path) -> None:
    base = streamed.parent
    by_default = load_config(streamed, overrides={"data.stream": {}})
    assert by_default.data.stream is not None
    assert by_default.data.stream.spool == "auto"
    for given, written in (("auto", "auto"), ("./auto", "../auto"), (True, "true"), (False, "false")):
        assert f"spool: {written}\n" in config_of(streamed, spool=given).written_for(base / "run")
    # Beside the run's files its name is what means something else.
    assert "spool: ./auto\n" in config_of(streamed, spool="run/auto").written_for(base / "run")


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
    with pytest.raises(FileNotFoundError):
        Spool(tmp_path / "nowhere", 1)
