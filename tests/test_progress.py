"""Progress: a bar on a terminal, plain lines elsewhere, nothing when not asked for."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import pytest

from timelike.progress import Bar, Lines, Progress, Silent, epoch_line, on
from timelike.train import train


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


RECORD: Mapping[str, float] = {
    "epoch": 1,
    "train_loss": 0.5,
    "validation_loss": 0.4,
    "validation_auc": 0.9,
    "learning_rate": 0.003,
    "seconds": 0.04,
}


def shown(progress: Progress) -> None:
    progress.say("data: [bold] 3 events")
    progress.start(2, 3)
    for epoch in (1, 2):
        for _ in range(3):
            progress.batch()
        progress.epoch({**RECORD, "epoch": epoch}, improved=epoch == 1)
    progress.stop()


def test_lines_elsewhere() -> None:
    stream = io.StringIO()
    progress = on(stream)
    assert type(progress) is Lines
    shown(progress)
    lines = stream.getvalue().splitlines()
    assert lines == [
        "data: [bold] 3 events",
        "epoch 1/2  loss 0.5000  validation 0.4000  AUC 0.9000  rate 3.0e-03  0.0 s  *",
        "epoch 2/2  loss 0.5000  validation 0.4000  AUC 0.9000  rate 3.0e-03  0.0 s",
    ]


def test_nothing_where_there_is_no_error_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    assert isinstance(on(), Silent)


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    progress = on(stream)
    assert type(progress) is Bar
    shown(progress)
    text = stream.getvalue()
    assert "data: [bold] 3 events" in text
    assert epoch_line(RECORD, 2, improved=True) in text
    assert "epoch 1/2 " in text
    assert "━" in text
    assert "\x1b[?25h" in text  # the cursor is back


def test_the_bar_goes_away_when_the_training_fails(toy_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()

    class Stopped(Bar):
        def epoch(self, record: Mapping[str, float], *, improved: bool) -> None:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        train(toy_config, progress=Stopped(stream))
    assert "\x1b[?25h" in stream.getvalue()


def test_silence(toy_config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown(Silent())
    train(toy_config)
    assert capsys.readouterr() == ("", "")
