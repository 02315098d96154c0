"""A usual training loop of PyTorch: `DataLoader`, `pad_sequence`, `nn.LSTM`, `Adam`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader

from bench.cases import Array
from bench.epochs import CLASSES, FIRST, LEARNING_RATE, Epoch, events, weights
from bench.worker import Job

_Sample = tuple[Tensor, int]
_Batch = tuple[Tensor, Tensor, Tensor]  # x [B, T, D], lengths [B], labels [B]


class Classifier(nn.Module):
    """Logits from the last state, by padding or by packing."""

    def __init__(self, epoch: Epoch, *, packed: bool) -> None:
        super().__init__()
        self.lstm = nn.LSTM(epoch.size.D, epoch.size.H, batch_first=True)
        self.dense = nn.Linear(epoch.size.H, CLASSES)
        self.packed = packed

    def load(self, given: dict[str, Array]) -> None:
        """Take the weights of a case."""
        values = (torch.from_numpy(given[name]) for name in ("W", "U", "b_ih", "b_hh", "V", "b"))
        self.load_state_dict(dict(zip(self.state_dict(), values, strict=True)))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if self.packed:
            h = self.lstm(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))[1][0][0]
        else:
            h = self.lstm(x)[0][torch.arange(len(x)), lengths - 1]
        return self.dense(h)


def collate(samples: list[_Sample]) -> _Batch:
    """Make a padded batch."""
    xs, labels = zip(*samples, strict=True)
    lengths = torch.tensor([len(x) for x in xs])
    return pad_sequence(list(xs), batch_first=True), lengths, torch.tensor(labels)


class Loop:
    """PyTorch as its tutorials use it."""

    def __init__(self, threads: int) -> None:
        self.set_threads(threads)

    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__}

    def set_threads(self, n: int) -> None:
        torch.set_num_threads(n)

    def forget(self) -> None:
        """Nothing is kept."""

    def variants(self, epoch: Epoch) -> tuple[str, ...]:
        return ("padded", "packed")

    def prepare(self, epoch: Epoch, variant: str, dtype: torch.dtype = torch.float32) -> Job:
        """As `Peer.prepare`; `dtype` for another precision."""
        x, offsets, labels = events(epoch)
        rows = torch.from_numpy(x).to(dtype).split(np.diff(offsets).tolist())
        samples = list(zip(rows, labels.tolist(), strict=True))
        torch.manual_seed(epoch.seed)
        shuffled = DataLoader(samples, batch_size=epoch.size.B, shuffle=True, collate_fn=collate)
        in_order = DataLoader(samples[: FIRST * epoch.size.B], batch_size=epoch.size.B, collate_fn=collate)

        def start() -> tuple[Classifier, torch.optim.Optimizer]:
            model = Classifier(epoch, packed=variant == "packed").to(dtype)
            model.load(weights(epoch))
            return model, torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)

        model, optimiser = start()

        def results() -> dict[str, Array]:
            return {"losses": np.array(run_epoch(*start(), in_order))}

        return Job(lambda: run_epoch(model, optimiser, shuffled), results)


def run_epoch(model: Classifier, optimiser: torch.optim.Optimizer, batches: Iterable[_Batch]) -> list[float]:
    model.train()
    losses = []
    for x, lengths, labels in batches:
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(x, lengths), labels)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def peer(threads: int) -> Loop:
    return Loop(threads)
