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

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from timelike.batches import Batch, class_factors, signed
from timelike.checkpoint import fingerprint
from timelike.config import Config, DataConfig
from timelike.data.answers import answered_steps, filled
from timelike.data.shuffle import Ahead, ShuffleBuffer
from timelike.data.spool import Spool, described, spool_folder
from timelike.data.streaming import Chunk, Piece, Reader, Skipped, Survey
from timelike.data.transforms import FittedTransforms
from timelike.errors import DataError
from timelike.nn import Ragged
from timelike.sequences import Sequences

__all__ = ["Prepared", "StreamBatches", "Training", "Validation", "prepare"]


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

        Per step they are those of the events, of either sign as the loss takes them, but for the factors.
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

    def weights_of_steps(
        self, events: npt.NDArray[np.float64], lengths: npt.NDArray[np.int64], given: npt.NDArray[Any]
    ) -> npt.NDArray[np.float64]:
        """Give the weights [N] of steps, as `timelike.batches.answer_weights` does.

        Parameters
        ----------
        events, lengths : array [B]
            Weights of the events as `read` gives them, and how many steps they have.
        given : array [N] or [N, K]
            Labels or targets of the steps.
        """
        answered = answered_steps(given)
        factors = self.factors[filled(given, answered)] if given.ndim == 1 else self.factors[0]
        return np.where(answered, np.repeat(events, lengths) * factors, 0.0)

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
                found = given.numpy()
                of_steps = self._training.weights_of_steps(weights.numpy(), lengths, found)
                # As in `ShuffledBatches`: each step is to count the same, however many a batch has.
                share = len(rows) / (len(lengths) * self._training.steps_of_one)
                weights = torch.from_numpy(of_steps * share)
                given = torch.from_numpy(filled(found, answered_steps(found)))
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


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a training takes, and what is said of it."""

    training: Sequences | Training  # transformed, or transforming
    validation: Sequences | Validation
    transforms: FittedTransforms
    events: dict[str, int]  # of each part
    classes: tuple[int, ...]  # events of each, or steps; none where there are no classes
    steps: int
    fingerprint: str
    skipped: tuple[Skipped, ...] = ()
    n_files: int = 0  # that are streamed, those that are skipped included
    per_step: bool = False  # whether classes are those of steps
    spools: tuple[Spool, ...] = ()
    spooled: str = ""  # where to, and how much at most

    def news(self) -> list[str]:
        """Say what has happened to spools."""
        return [news for spool in self.spools if (news := spool.news())]

    def close(self) -> None:
        """Give back what was only needed for training."""
        for spool in self.spools:
            spool.close()

    def about(self, data: DataConfig) -> str:
        """Say in a line what the data are, which were read as this says."""
        parts = ", ".join(f"{n:,} {part}" for part, n in self.events.items())
        if self.classes:
            of = "steps " if self.per_step else ""
            classes = ", ".join(
                f"{n:,} {of}{name}" for name, n in zip(data.class_names, self.classes, strict=True)
            )
        else:
            classes = f"{'labels' if data.multilabel else 'targets'} {', '.join(data.class_names)}"
        streamed = f", streamed from {self.n_files - len(self.skipped)} files" if self.n_files else ""
        return (
            f"data: {sum(self.events.values()):,} events ({classes}; {parts}), {self.steps:,} steps of "
            f"{len(self.transforms.names)} variables{streamed}"
        )

    def left_out(self) -> str:
        """Say in a line which files are skipped; nothing, where none are."""
        names = [skipped.file for skipped in self.skipped]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        return f"skipped {len(names)} of {self.n_files} files: {', '.join(names[:5])}{more}" if names else ""


def prepare(config: Config) -> Prepared:
    """Read all files of a config with `data.stream` once.

    Parameters
    ----------
    config : Config

    Raises
    ------
    DataError
        If the files do not hold what the config says.
    """

    def made_of(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return signed(weights, config.training.negative_weights)

    reader = Reader(config)
    survey, skipped = reader.survey(
        seed=config.training.seed, signed=made_of, mark=lambda events: fingerprint({"": events})
    )
    assert survey.fit is not None
    transforms = survey.fit.fitted()
    _check_answers(config, survey)
    factors = class_factors(
        config.data.class_names if config.data.exclusive else ("",),
        survey.answers[0],
        survey.sums,
        balance=config.training.class_balance,
        where="training",
    )
    n_batched = sum(chunk.n_batched for chunk in survey.chunks)
    if per_step := config.data.per == "step":  # a mean of one over all steps, those without answers included
        factors *= survey.rows[0] / survey.answers[0].sum()
    of_training = tuple(chunk for chunk in survey.chunks if chunk.n_batched)
    of_validation = tuple(chunk for chunk in survey.chunks if chunk.counts[1])
    spools, spooled = _spools(config, survey, transforms)
    validation: Sequences | Validation
    if survey.validation is not None:
        few: list[Sequences] = []
        while survey.validation:  # each is let go when it is transformed
            few.append(transforms.apply(survey.validation.pop(0)))
        validation = Sequences.concatenate(few)
    else:
        validation = Validation(
            reader,
            of_validation,
            transforms,
            Sequences.concatenate(survey.known),
            spools[1] if spools else None,
        )
    marks = "\n".join([*survey.marks, *(name.file for name in skipped)])
    return Prepared(
        Training(
            reader,
            of_training,
            transforms,
            made_of,
            factors,
            config.data.answers,
            survey.rows[0] / n_batched,
            spools[0] if spools else None,
        ),
        validation,
        transforms,
        survey.events,
        tuple(map(int, survey.answers.sum(axis=0))) if config.data.exclusive else (),
        int(survey.rows.sum()),
        hashlib.blake2b(marks.encode(), digest_size=16).hexdigest(),
        skipped,
        reader.n_files,
        per_step=per_step,
        spools=spools,
        spooled=spooled,
    )


def _check_answers(config: Config, survey: Survey) -> None:
    """Refuse answers that cannot be learned from."""
    data = config.data
    if data.per == "step" and not survey.answers[0].any():
        raise DataError(f"training: no step has any {data.answers.removeprefix('step_')}")
    if config.training.loss == "poisson":
        for name, lowest in zip(data.class_names, survey.lowest, strict=True):
            if lowest < 0:
                raise DataError(
                    f"training.loss: poisson: the lowest of data.targets.{name} is {lowest:g}; "
                    "0 or more is needed"
                )


def _spools(config: Config, survey: Survey, transforms: FittedTransforms) -> tuple[tuple[Spool, ...], str]:
    """Make spools of training and validation events, if the config says so and they are not in memory."""
    assert config.data.stream is not None
    given = config.data.stream.spool
    if given is False:
        return (), ""
    folder = spool_folder(given, config.base, config.run_folder)
    # Steps are known of all parts together: it may become as large, and mostly is less.
    row = len(transforms.outputs) * np.dtype(config.training.dtype).itemsize
    n_rows, n_events = int(survey.rows.sum()), sum(survey.events.values())
    answer = 8 if config.data.exclusive else 8 * len(config.data.class_names)
    answers = answer * (n_rows if config.data.per == "step" else n_events)
    largest = n_rows * row + 16 * n_events + answers + 8 * len(survey.chunks)
    n = 1 if survey.validation is not None else 2
    return tuple(Spool(folder, largest) for _ in range(n)), f"spool: at most {described(largest)} in {folder}"
