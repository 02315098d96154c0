"""Training on several ranks: each takes a part of every batch, and all take the same step.

Ranks are processes that ``torchrun`` starts, on one machine or many. Every rank holds all data and draws the
same orders; of a batch it takes such sequences that all have about the same number of rows to work on.
Gradients are summed, so the step is that of the whole batch, whatever the number of ranks, but for rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, distributed

from timelike.batches import Batch
from timelike.errors import ConfigError, TimelikeError
from timelike.nn import Ragged
from timelike.ragged import gather

__all__ = ["RankError", "Ranks", "local_size", "ranks"]


_MEMORY = torch.device("cpu")


class RankError(TimelikeError, RuntimeError):
    """Another rank is gone; the message says what to do."""


@dataclass(frozen=True)
class Ranks:
    """The ranks of a training, of which this process is one.

    Attributes
    ----------
    rank : int
        From 0.
    size : int
        How many there are.
    device : torch.device
        In whose memory gradients are summed.
    """

    rank: int
    size: int
    device: torch.device = _MEMORY

    def share(self, batch: Batch, *, per_step: bool = False) -> Batch:
        """Give this rank's part of a batch.

        The longest sequence first, each goes to the rank that has the fewest rows yet. Weights are scaled so
        that the mean over the part is the part's share of the mean over the batch.

        Parameters
        ----------
        batch : Batch
        per_step : bool
            Whether labels and weights are those of steps.

        Raises
        ------
        ConfigError
            If there are fewer sequences than ranks.
        """
        offsets = batch.rows.offsets.numpy()
        lengths, n = np.diff(offsets), len(offsets) - 1
        if n < self.size:
            raise ConfigError(f"a batch of {n} events for {self.size} ranks: each needs one at least")
        rows, taken, own = np.zeros(self.size, np.int64), np.zeros(self.size, np.int64), []
        for b in np.argsort(-lengths, kind="stable"):
            to = int(np.lexsort((taken, rows))[0])  # of those with the same rows that with fewer events
            rows[to] += lengths[b]
            taken[to] += 1
            if to == self.rank:
                own.append(b)
        chosen = np.sort(np.array(own, np.int64))
        index, cuts = gather(offsets[chosen], lengths[chosen])
        values = batch.rows.values.index_select(0, torch.from_numpy(index))
        at = torch.from_numpy(index if per_step else chosen)
        weights = batch.weights[at] * (len(at) / len(batch.weights))
        return Batch(Ragged(values, torch.from_numpy(cuts)), batch.labels[at], weights)

    def sum(self, gradient: Tensor, loss: Tensor) -> Tensor:
        """Sum the gradient over all ranks, in place, and the loss, which is given back.

        Parameters
        ----------
        gradient : Tensor, flat
        loss : Tensor of one number

        Raises
        ------
        RankError
            If another rank is gone.
        """
        both = torch.cat([loss.reshape(1), gradient]).to(self.device)
        with _together():
            distributed.all_reduce(both)
        gradient.copy_(both[1:])
        return both[0].to(loss.device)

    def check_same(self, what: str, value: str) -> None:
        """Raise if not all ranks have the same of something, in this form.

        Raises
        ------
        ConfigError
            On every rank, with the numbers of those that differ from the first.
        """
        found: list[str | None] = [None] * self.size
        with _together():
            distributed.all_gather_object(found, value)
        other = [str(rank) for rank, own in enumerate(found) if own != found[0]]
        if other:
            raise ConfigError(f"rank {', '.join(other)}: another {what} than rank 0")


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RankError(
            f"another rank is gone ({' '.join(str(error).split())[:200]}); start again with --resume"
        ) from None


def _own_gpu() -> torch.device:
    """Give the GPU of this rank, one of its machine's."""
    local, n = os.environ.get("LOCAL_RANK", "0"), torch.cuda.device_count()
    if not distributed.is_nccl_available():
        raise ConfigError("training.backend: this PyTorch is built without nccl; possible: gloo")
    if int(local) >= n:
        raise ConfigError(
            f"training.backend: nccl, but rank {local} of this machine has no GPU of its own: {n} found"
        )
    return torch.device("cuda", int(local))


def local_size() -> int:
    """Give how many ranks this machine has: as torchrun says; where it does not, all there are."""
    size = os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1"))
    return int(size) if size.isdecimal() else 1


@contextmanager
def ranks(backend: Literal["gloo", "nccl"] = "gloo") -> Iterator[Ranks | None]:
    """Give the ranks that ``torchrun`` started, for the length of a training; None for a single process.

    Parameters
    ----------
    backend : {"gloo", "nccl"}
        What sums the gradients: gloo in the memory where they are, nccl in that of a GPU, one for each rank.

    Raises
    ------
    ConfigError
        If the environment is not what torchrun makes, or nccl cannot be used.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if not size.isdecimal():
        raise ConfigError(f"WORLD_SIZE={size}: torchrun sets the number of processes there")
    if int(size) < 2:
        yield None
        return
    device = _own_gpu() if backend == "nccl" else _MEMORY
    try:
        # Whatever is not a tensor goes over gloo in any case.
        distributed.init_process_group("gloo" if backend == "gloo" else "cpu:gloo,cuda:nccl")
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"WORLD_SIZE={size}, but the processes do not meet ({' '.join(str(error).split())[:200]}); "
            "start them by torchrun"
        ) from None
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size(), device)
    finally:
        distributed.destroy_process_group()
