"""Batches of events that are read anew in every epoch, by a thread in the background, in bounded memory.

The way of an event: its piece of a file is read, its variables are transformed, it waits in a buffer until it
is drawn, and goes into the next batch. With a spool the first two are done once. The order of an epoch
depends on the seed and the number of the epoch alone, never on how fast anything was:

- the files of each source come in a new order; sources, where each class has its own, take turns by pieces;
- a buffer is filled; then for every piece that comes as many events are drawn from all that are there;
- while the last events of an epoch are drawn, the first of the next come in: together no more than a buffer.

What is in memory at most: the buffer (half as much again where drawn events have left holes), the pieces read
ahead, the one being read, and a block of drawn events.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from timelike.batches import Batch
from timelike.data.answers import answered_steps, filled
from timelike.data.shuffle import Ahead, ShuffleBuffer
from timelike.data.spool import Spool
from timelike.data.streaming import Chunk, Piece, Reader
from timelike.data.transforms import FittedTransforms
from timelike.nn import Ragged
from timelike.sequences import Sequences

__all__ = ["StreamBatches", "Training", "Validation"]


@dataclass(frozen=True, eq=False)
class Training:
    """Training events that are streamed.

    Attributes
    ----------
    reader : Reader
    chunks : tuple of Chunk
        Those that have any of them.
    transforms : FittedTransforms
    signed : callable
        Makes of weights [B] what they are to become.
    factors : array [C]
        What they are then multiplied by: of the class of an event, or of a step; where there are no classes
        C is 1.
    answers : str
        The field of `Sequences` that has what is to be found.
    steps_of_one : float
        Steps of an event in the mean, of those that have any.
    spool : Spool, optional
        Where events are kept from the first epoch on.
    """

    reader: Reader
    chunks: tuple[Chunk, ...]
    transforms: FittedTransforms
    signed: Callable[[Any], Any]
    factors: npt.NDArray[np.float64]
    answers: str
    steps_of_one: float
    spool: Spool | None = None

    def __len__(self) -> int:
        return sum(chunk.n_batched for chunk in self.chunks)

    @property
    def per_step(self) -> bool:
        """Whether each step has an answer."""
        return self.answers.startswith("step_")

    def order(self, random: np.random.Generator) -> list[Chunk]:
        """Draw the order of the files; where there are more sources, each is spread over the whole epoch."""
        due: list[tuple[float, int, Chunk]] = []
        for source in sorted({chunk.source for chunk in self.chunks}):
            of = [chunk for chunk in self.chunks if chunk.source == source]
            files = list(dict.fromkeys(chunk.file for chunk in of))
            place = dict(zip(files, random.permutation(len(files)), strict=True))
            of.sort(key=lambda chunk, place=place: place[chunk.file])  # type: ignore[misc]
            total, before = sum(chunk.n_batched for chunk in of), 0
            for chunk in of:
                due.append(((before + chunk.n_batched / 2) / total, len(due), chunk))
                before += chunk.n_batched
        return [chunk for _, _, chunk in sorted(due, key=lambda turn: turn[:2])]

    def read(self, chunks: Sequence[Chunk]) -> Iterator[Sequences]:
        """Read pieces: their training events, transformed, with the weights that the loss takes.

        Per step the weights are those of the events, without the factors: see `of_steps`.
        """
        return _spooled(self.reader, chunks, self._made_of, self.spool)

    def _made_of(self, piece: Piece) -> Sequences:
        events = piece.events[piece.parts == 0]
        if self.per_step:
            events = events[events.lengths > 0]
        weights = self.signed(np.ones(len(events)) if events.weights is None else events.weights)
        if not self.per_step:
            weights = weights * self.factors[0 if events.labels is None else events.labels]
        # No more than a batch needs: the rest would wait in the buffer too.
        return self.transforms.apply(events.replace(weights=weights, events=None))

    def of_steps(
        self, given: npt.NDArray[Any], lengths: npt.NDArray[np.int64], of_events: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
        """Give what a batch has of its steps: answers, 0 where there are none, and weights for the loss.

        As `timelike.batches.answer_weights` and `ShuffledBatches` do for events in memory: a loss is a mean
        over the steps of a batch, and each step is to count the same, however many the batch has.

        Parameters
        ----------
        given : array [N] or [N, K]
            Labels or targets of steps, as in `Sequences`.
        lengths, of_events : array [B]
            How many steps the events have, and their weights as `read` gives them.

        Returns
        -------
        array [N] or [N, K], and array [N]
        """
        answered = answered_steps(given)
        values = filled(given, answered)
        factors = self.factors[values] if given.ndim == 1 else self.factors[0]
        share = len(given) / (len(lengths) * self.steps_of_one)
        return values, np.where(answered, np.repeat(of_events, lengths) * factors * share, 0.0)

    def batches(self, *, batch_size: int, dtype: torch.dtype, seed: int, epochs: int) -> StreamBatches:
        """Give the batches of so many epochs."""
        return StreamBatches(self, batch_size=batch_size, dtype=dtype, seed=seed, epochs=epochs)


class StreamBatches:
    """Batches of streamed events: as `timelike.batches.ShuffledBatches`, every event once in an epoch.

    Parameters
    ----------
    training : Training
    batch_size : int
        Sequences in a batch at most; batches are as equal as can be.
    dtype : torch.dtype
        Of the rows and weights.
    seed : int
        Of the orders.
    epochs : int
        The last of these reads nothing ahead for the next.
    """

    def __init__(
        self, training: Training, *, batch_size: int, dtype: torch.dtype, seed: int, epochs: int
    ) -> None:
        self._training, self._dtype, self._seed, self._epochs = training, dtype, seed, epochs
        n = len(training)
        self._cuts = np.linspace(0, n, -(-n // batch_size) + 1).astype(np.int64)
        self._at, self._next = 0, 0  # numbers of this epoch and the next
        self._blocks: Ahead[Sequences] | None = None
        self._within = False  # an epoch, so that the next block is not that of the next one

    def __len__(self) -> int:
        return len(self._cuts) - 1

    @property
    def sizes(self) -> Tensor:
        """Sequences in each batch."""
        return torch.from_numpy(np.diff(self._cuts))

    def epoch(self, done: int = 0) -> Iterator[Batch]:
        """Give the batches of the next epoch but the first so many, which are drawn for nothing."""
        if self._blocks is None or self._within or done:
            self.close()
            drawn = _drawn(self._training, self._seed, range(self._next, self._epochs), int(self._cuts[done]))
            self._blocks = Ahead(drawn, self._training.reader.stream.read_ahead)
        self._at, self._next, self._within = self._next, self._next + 1, True
        yield from self._cut(self._blocks, np.diff(self._cuts[done:]))
        self._within = False

    def random_state(self, *, within: bool) -> Mapping[str, Any]:
        """Give the number of this epoch, or of the next."""
        return {"epoch": self._at if within else self._next}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with an epoch whose number `random_state` gave."""
        self.close()
        self._next = int(state["epoch"])

    def close(self) -> None:
        """Stop reading ahead."""
        if self._blocks is not None:
            self._blocks.close()
        self._blocks = None

    def _cut(self, blocks: Iterator[Sequences], sizes: npt.NDArray[np.int64]) -> Iterator[Batch]:
        """Cut blocks into batches.

        Each is copied into memory of its own: some sums of PyTorch depend on where their numbers lie.
        """
        block, at = next(blocks), 0
        for size in sizes:
            pieces: list[Sequences] = []
            missing = int(size)
            while missing:
                if at == len(block):
                    block, at = next(blocks), 0
                n = min(missing, len(block) - at)
                pieces.append(block[at : at + n])
                at, missing = at + n, missing - n
            lengths = np.concatenate([piece.lengths for piece in pieces])
            offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
            rows = torch.cat([torch.from_numpy(piece.values) for piece in pieces]).to(self._dtype)
            given, weights = (
                torch.cat([torch.from_numpy(getattr(piece, of)) for piece in pieces])
                for of in (self._training.answers, "weights")
            )
            if self._training.per_step:
                of_steps = self._training.of_steps(given.numpy(), lengths, weights.numpy())
                given, weights = map(torch.from_numpy, of_steps)
            labels = given.to(self._dtype) if given.is_floating_point() else given
            yield Batch(Ragged(rows, offsets), labels, weights.to(self._dtype))


def _drawn(training: Training, seed: int, epochs: range, skip: int) -> Iterator[Sequences]:
    """Draw the events of epochs, in blocks, without the first so many.

    A function, not a method: nothing that holds the iterator may be held by it, or files are closed late.
    """
    size, block = training.reader.stream.buffer, training.reader.size
    coming = _Coming(training, seed, epochs.start)
    for number in epochs:
        buffer, source = coming.buffer, coming
        coming = _Coming(training, seed, number + 1)
        while (excess := source.more(buffer, size)) or len(buffer):
            drawn = buffer.draw(excess or min(block, len(buffer)))
            if not excess and number + 1 < epochs.stop:
                coming.fill(size - len(buffer))
            if skip < len(drawn):
                yield drawn[skip:] if skip else drawn
            skip = max(0, skip - len(drawn))


class _Coming:
    """The events of an epoch on their way into its buffer."""

    def __init__(self, training: Training, seed: int, number: int) -> None:
        self._training = training
        seeds = np.random.SeedSequence([seed, number]).spawn(2)
        order, draws = (np.random.default_rng(of) for of in seeds)
        self.buffer = ShuffleBuffer(draws)
        self._order = training.order(order)
        self._left = deque(chunk.n_batched for chunk in self._order)
        self._events: Iterator[Sequences] | None = None

    def more(self, buffer: ShuffleBuffer, size: int) -> int:
        """Let pieces in until there are more events than the buffer holds, and give how many more."""
        while self._left and len(buffer) <= size:
            self._put()
        return max(0, len(buffer) - size)

    def fill(self, room: int) -> None:
        """Let pieces in as long as they find room, together with what is there."""
        while self._left and len(self.buffer) + self._left[0] <= room:
            self._put()

    def _put(self) -> None:
        if self._events is None:
            self._events = self._training.read(self._order)
        self._left.popleft()
        self.buffer.put(next(self._events))


@dataclass(frozen=True, eq=False)
class Validation:
    """Validation events that are streamed; all but their variables is in memory, as `known`.

    Iterating gives them in pieces, transformed, always in the same order.
    """

    reader: Reader
    chunks: tuple[Chunk, ...]
    transforms: FittedTransforms
    known: Sequences  # without variables
    spool: Spool | None = None

    def __len__(self) -> int:
        return len(self.known)

    def __iter__(self) -> Iterator[Sequences]:
        def made_of(piece: Piece) -> Sequences:
            events = piece.events[piece.parts == 1]
            return self.transforms.apply(events.replace(events=None))  # a spool has no numbers of events

        pieces = _spooled(self.reader, self.chunks, made_of, self.spool)
        with closing(Ahead(pieces, self.reader.stream.read_ahead)) as coming:
            yield from coming


def _spooled(
    reader: Reader, chunks: Sequence[Chunk], made_of: Callable[[Piece], Sequences], spool: Spool | None
) -> Iterator[Sequences]:
    """Give what is made of pieces: from the spool, and what is not there from the files."""
    due: list[Chunk] = []

    def asked() -> Iterator[Chunk]:
        while due:
            yield due.pop()

    # The file that was read last stays open, so that it is one iterator over all pieces.
    with closing(reader.read(asked())) as pieces:  # type: ignore[type-var]
        for chunk in chunks:
            if spool is not None and chunk in spool:
                yield spool.get(chunk)
                continue
            due.append(chunk)
            events = made_of(next(pieces))
            if spool is not None:
                spool.put(chunk, events)
            yield events
