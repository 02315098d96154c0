"""Training on two ranks: the same result as on one, but for rounding; what goes wrong is said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from timelike.batches import Batch
from timelike.config import load_config
from timelike.distributed import Ranks, local_size, ranks
from timelike.errors import ConfigError
from timelike.model import load_model
from timelike.nn import Ragged
from timelike.train import CHECKPOINT, train


def torchrun(*argv: str, n: int = 2, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={n}", "--standalone", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **more}
    return subprocess.run([*command, *argv], capture_output=True, text=True, check=False, env=environment)


def a_batch(lengths: list[int]) -> Batch:
    n = sum(lengths)
    rows = Ragged(torch.arange(float(n))[:, None], torch.tensor([0, *np.cumsum(lengths)]))
    return Batch(rows, torch.arange(len(lengths)), torch.arange(1.0, len(lengths) + 1))


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("lengths", [[5, 1, 0, 9, 4, 4, 2], [0, 0, 0, 1], [7, 7, 7], [100, 1, 1, 1, 1]])
def test_every_sequence_goes_to_one_rank_and_rows_are_balanced(size: int, lengths: list[int]) -> None:
    batch = a_batch(lengths)
    parts = [Ranks(rank, size).share(batch) for rank in range(size)]
    labels = torch.cat([part.labels for part in parts])
    assert sorted(labels.tolist()) == list(range(len(lengths)))
    for part in parts:
        n = len(part.labels)
        assert n >= 1
        for k, b in enumerate(part.labels.tolist()):
            begin, end = part.rows.offsets[k : k + 2].tolist()
            start = sum(lengths[:b])
            assert part.rows.values[begin:end, 0].tolist() == list(range(start, start + lengths[b]))
            # The mean over the part is to be its share of the mean over the batch.
            assert part.weights[k].item() / n == pytest.approx((b + 1) / len(lengths), rel=1e-6)
    # Longest first, the largest part is at most 4/3 of the best there can be (Graham 1969).
    best = max(max(lengths), -(-sum(lengths) // size))
    assert max(len(part.rows.values) for part in parts) <= 4 / 3 * best


def test_fewer_sequences_than_ranks() -> None:
    with pytest.raises(ConfigError, match="a batch of 2 events for 3 ranks: each needs one at least"):
        Ranks(0, 3).share(a_batch([1, 2]))


def test_a_single_process_has_no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with ranks() as found:
        assert found is None
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ConfigError, match="WORLD_SIZE=two: torchrun sets the number"), ranks():
        pass
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("MASTER_ADDR", "RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="WORLD_SIZE=2, but the processes do not meet"), ranks():
        pass


def test_the_ranks_of_a_machine_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert local_size() == 1
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert local_size() == 8  # all on this one, for all that is known
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert local_size() == 4


@pytest.mark.parametrize(
    ("per", "more"),
    [
        ("event", "regularisation: {strength: 0.001}"),
        ("step", "loss: sigmoid_cross_entropy"),
        ("event", "clip_norm: 0.01"),
    ],
)
def test_two_ranks_give_the_result_of_one(toy_config: Path, per: str, more: str) -> None:
    text = toy_config.read_text()
    text = text.replace("training: {epochs: 3,", f"training: {{dtype: float64, {more}, epochs: 3,")
    if per == "step":
        labels = '{background: "label == 0", signal: "label == 1"}'
        assert labels in text
        text = text.replace(labels, '{soft: "part_pt <= 2", hard: "part_pt > 2"}\n  per: step')
    toy_config.write_text(text)
    one = train(load_config(toy_config, overrides={"output": "one"}))
    done = torchrun("timelike", "train", str(toy_config))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch 1/3") == 1  # the first rank speaks for all
    assert "2 ranks" in done.stderr
    two = load_model(toy_config.parent / "run" / "model.safetensors")
    for a, b in zip(one.model.network.parameters(), two.network.parameters(), strict=True):
        # Sums in another order: some ten roundings of float64 in each of 33 steps, which steps of Adam, that
        # divide by the size of a gradient, may make a thousand times as large.
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_nccl_needs_a_gpu_for_each_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    with pytest.raises(ConfigError, match="backend: this PyTorch is built without nccl; possible: gloo"):
        ranks("nccl").__enter__()
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="nccl, but rank 1 of this machine has no GPU of its own: 1 found"):
        ranks("nccl").__enter__()


def test_ranks_with_other_configs_are_told_so(toy_config: Path, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text(
        "import os, sys\n"
        "from timelike.cli import main\n"
        f"sys.exit(main(['train', {str(toy_config)!r}, '--seed', os.environ['RANK']]))\n"
    )
    done = torchrun("other", PYTHONPATH=str(tmp_path))
    assert done.returncode != 0
    assert "timelike: error: rank 1: another config than rank 0" in done.stderr


def test_a_rank_that_dies_leaves_a_checkpoint(toy_config: Path, tmp_path: Path) -> None:
    (tmp_path / "dying.py").write_text(
        "import os, signal, sys\n"
        "from timelike.trainingstep import TrainingStep\n"
        "from timelike.cli import main\n"
        "plain, left = TrainingStep.take, [20]\n"
        "def step(*given):\n"
        "    left[0] -= 1\n"
        "    if left[0] == 0 and os.environ['RANK'] == '1':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return plain(*given)\n"
        "TrainingStep.take = step\n"
        f"sys.exit(main(['train', {str(toy_config)!r}]))\n"
    )
    done = torchrun("dying", PYTHONPATH=str(tmp_path))
    assert done.returncode != 0
    assert (toy_config.parent / "run" / CHECKPOINT).is_file()
    assert len(train(toy_config, resume=True).history) == 3


def test_batch_normalisation_is_refused(toy_config: Path) -> None:
    done = torchrun("timelike", "train", str(toy_config), "--set", "network.head.batch_norm={}")
    assert done.returncode != 0
    assert "network.head.batch_norm: of several ranks each would take its own mean" in done.stderr
