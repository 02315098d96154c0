"""Reading files in pieces, again and again, where the events of all of them do not fit in memory.

A piece (`Chunk`) is a run of entries of one file. `Reader.survey` reads all files once and keeps what a
training needs to know of them: how many events of each part every piece has, sums of weights, fitted
transforms, the validation events where there are few, and what was wrong with files that cannot be used.
`Reader.read` then reads pieces in any order, with a file open for each source at most.

ROOT files are cut between clusters or baskets, as these are unpacked as a whole; one that is larger than a
piece stays unpacked until all of its pieces were read. Parquet files are cut anywhere. Of
HDF5 and NumPy files there is no reading in pieces.

Sizes: `B` events of a piece, `C` classes, `K` targets.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from timelike.data.answers import answered_steps
from timelike.data.moments import Moments
from timelike.data.onepass import OnePassFit
from timelike.data.reading import Chain, check_classes
from timelike.data.scope import Scope
from timelike.data.sources import format_of, open_table, sources_of
from timelike.data.split import PARTS, check_parts, part_numbers
from timelike.data.table import Table, located
from timelike.errors import DataError
from timelike.sequences import Sequences

if TYPE_CHECKING:
    from timelike.config import Config, DataConfig

__all__ = ["Chunk", "Piece", "Reader", "Skipped", "Survey", "cut", "read_parts"]

_LARGEST = 10_000  # entries of a piece
T = TypeVar("T")


@dataclass(frozen=True)
class Chunk:
    """Entries of a file that are read at once."""

    source: int
    file: Path
    start: int
    stop: int
    first_event: int  # running number of the file's first entry
    counts: tuple[int, ...] = (0,) * len(PARTS)  # events in each part
    n_batched: int = 0  # training events that go into batches: per step only those that have any


class Piece(NamedTuple):
    """The events of a chunk."""

    chunk: Chunk
    events: Sequences  # not transformed
    parts: npt.NDArray[np.int64]  # [B] indices of `PARTS`, or -1


@dataclass(frozen=True)
class Skipped:
    """A file that cannot be used."""

    file: str
    error: str  # names the file


def cut(n_entries: int, units: Sequence[int], size: int) -> Iterator[tuple[int, int]]:
    """Cut entries into runs of at most `size`: of whole units, or within one that is larger.

    Parameters
    ----------
    n_entries : int
    units : sequence of int
        Where units begin; without any, cuts may be anywhere.
    size : int

    Examples
    --------
    >>> list(cut(10, (), 4))
    [(0, 4), (4, 8), (8, 10)]
    >>> list(cut(10, (0, 1, 3, 9), 4))
    [(0, 3), (3, 7), (7, 9), (9, 10)]
    """
    start = 0
    ends = [0, *sorted({unit for unit in units if 0 < unit < n_entries}), n_entries]
    while start < n_entries:
        most, unit = min(start + size, n_entries), bisect_right(ends, start)
        stop = most if not units else ends[bisect_right(ends, most) - 1]
        if ends[unit - 1] < start or stop == start:  # the unit is larger
            stop = min(most, ends[unit]) if units else most
        yield start, stop
        start = stop


@dataclass(frozen=True)
class _Chain(Chain):
    """Does the check of resolution for all pieces of a file together, if it is to be done."""

    spreads: dict[tuple[str, str], Moments] = field(default_factory=dict)
    checked: bool = False

    def check_resolution(self, scope: Scope, key: str, name: str, exact: npt.NDArray[Any]) -> None:
        if self.checked:
            with np.errstate(over="ignore", invalid="ignore"):
                found = Moments.of(exact.astype(np.float64))
                self.spreads[key, name] = self.spreads.get((key, name), Moments()) + found

    def check_spreads(self, where: str) -> None:
        for (key, name), of in self.spreads.items():
            self.refuse_unresolved(where, key, name, np.float64(max(-of.low, of.high)), of.spread)


class Survey:
    """What a training needs to know of its files.

    Attributes
    ----------
    chunks : list of Chunk
        In the order of the files.
    counts : array [3, G]
        Events of each class in each of `PARTS`; where events have no classes, all are of one (G = 1).
    total, weighing : array [G]
        Events of each class, in whatever part or none, and those of a weight other than 0.
    answers : array [3, C]
        Answers of each class in each part: events, or steps that have one. Numbers are of one class (C = 1).
    sums : array [C]
        Sums of the weights of the training events' answers.
    rows : array [3]
        Steps of the events of each part.
    lowest : array [K]
        Lowest of each target of the training events; infinite of labels.
    fit : OnePassFit or None
        Of the transforms; None before the first event.
    known : list of Sequences
        What is known of the validation events but their variables: these have none.
    validation : list of Sequences, or None
        The validation events, not transformed; None where they are more than `keep`.
    marks : list of str
        Numbers that change with any value.
    """

    def __init__(self, data: DataConfig, keep: int, signed: Callable[[Any], Any]) -> None:
        C = len(data.class_names) if data.exclusive else 1
        G = 1 if data.per == "step" else C
        self._data, self._keep, self._signed = data, keep, signed
        self.chunks: list[Chunk] = []
        self.counts = np.zeros((len(PARTS), G), dtype=np.int64)
        self.total, self.weighing = np.zeros((2, G), dtype=np.int64)
        self.answers = np.zeros((len(PARTS), C), dtype=np.int64)
        self.sums = np.zeros(C)
        self.rows = np.zeros(len(PARTS), dtype=np.int64)
        self.lowest = np.full(len(data.class_names), np.inf)
        self.fit: OnePassFit | None = None
        self.known: list[Sequences] = []
        self.validation: list[Sequences] | None = []
        self.marks: list[str] = []

    @property
    def events(self) -> dict[str, int]:
        """Number of events of each part."""
        return {part: int(n) for part, n in zip(PARTS, self.counts.sum(axis=1), strict=True)}

    def take(self, piece: Piece, random: np.random.Generator, mark: Callable[[Sequences], str]) -> None:
        """Take note of a piece."""
        chunk, events, parts = piece
        n = np.bincount(parts[parts >= 0], minlength=len(PARTS))
        per_step = self._data.per == "step"
        batched = np.count_nonzero(events.lengths[parts == 0]) if per_step else n[0]
        self.chunks.append(replace(chunk, counts=tuple(map(int, n)), n_batched=int(batched)))
        digest = hashlib.blake2b(parts.tobytes(), digest_size=16)
        digest.update(mark(events).encode())
        self.marks.append(digest.hexdigest())
        if not len(events):
            return
        G, C = len(self.total), len(self.sums)
        weights = np.ones(len(events)) if events.weights is None else events.weights
        classes = np.zeros(len(events), dtype=np.int64) if events.labels is None else events.labels
        self.total += np.bincount(classes, minlength=G)
        self.weighing += np.bincount(classes[weights != 0], minlength=G)
        of_answers, owner = _answers(events, classes)
        for p in range(len(PARTS)):
            self.counts[p] += np.bincount(classes[parts == p], minlength=G)
            self.answers[p] += np.bincount(of_answers[parts[owner] == p], minlength=C)
            self.rows[p] += events.lengths[parts == p].sum()
        training, validation = (events[parts == p] for p in (0, 1))
        trained = parts[owner] == 0
        self.sums += np.bincount(of_answers[trained], self._signed(weights)[owner[trained]], minlength=C)
        targets = getattr(training, self._data.answers)
        if not self._data.exclusive and len(targets):
            self.lowest = np.fmin(self.lowest, np.fmin.reduce(targets))  # NaN stands for none
        if self.fit is None:
            self.fit = OnePassFit(self._data, events.names)
        _check_same(chunk.file, self.fit.names, events.names)
        self.fit.take(training, random)
        if len(validation):
            nothing = np.empty((validation.n_rows, 0), validation.values.dtype)
            self.known.append(validation.replace(values=nothing, names=(), events=None))
            self._keep_validation([validation])

    def join(self, other: Survey) -> None:
        """Take what the survey of another file has."""
        self.fit, theirs = self.fit or other.fit, other.fit
        if theirs is not None and self.fit is not theirs:
            assert self.fit is not None
            _check_same(other.chunks[0].file, self.fit.names, theirs.names)
            self.fit.join(theirs)
        self.chunks += other.chunks
        self.counts += other.counts
        self.total += other.total
        self.weighing += other.weighing
        self.answers += other.answers
        self.sums += other.sums
        self.rows += other.rows
        self.lowest = np.fmin(self.lowest, other.lowest)
        self.known += other.known
        self.marks += other.marks
        self._keep_validation(other.validation)

    def _keep_validation(self, more: list[Sequences] | None) -> None:
        """Keep validation events as long as there are few."""
        if self.validation is None or more is None:
            self.validation = None
            return
        self.validation = self.validation + more
        if sum(map(len, self.validation)) > self._keep:
            self.validation = None


class Reader:
    """Reads the files of a config in pieces.

    Parameters
    ----------
    config : Config
        With `data.stream`.
    observers : bool
        Whether what is carried along is read too.

    Raises
    ------
    DataError
        If files are not found, are of a format that is not read in pieces, or would be read as more than one
        class.
    """

    def __init__(self, config: Config, *, observers: bool = False) -> None:
        assert config.data.stream is not None
        self.stream, self._split = config.data.stream, config.split
        self._data = config.data if observers else config.data.model_copy(update={"observers": ()})
        self._how = (self._data, config.sequence, np.dtype(config.training.dtype), True)
        self._sources = sources_of(self._data, files=None, base=config.base, labelled=True)
        for file in (file for source in self._sources for file in source.files):
            kind = format_of(file, config.data.format)
            if kind not in ("root", "parquet"):
                raise DataError(f"{file}: data.stream: of format {kind}; possible are root and parquet")
        self._weighted = any(source.weights for source in self._sources)
        self.size = max(1, min(_LARGEST, self.stream.buffer // 4))  # entries of a piece
        self.n_files = sum(len(source.files) for source in self._sources)

    def survey(
        self,
        *,
        seed: int,
        signed: Callable[[Any], Any],
        mark: Callable[[Sequences], str],
    ) -> tuple[Survey, tuple[Skipped, ...]]:
        """Read all files once.

        Parameters
        ----------
        seed : int
            Of the sample that transforms are fitted on.
        signed : callable
            Makes of weights [B] what counts in the sums.
        mark : callable
            Gives a text that changes with any value of events.

        Returns
        -------
        Survey
        tuple of Skipped
            Files that cannot be used, if the config says to skip them.

        Raises
        ------
        DataError
            If a file cannot be used, or the events are not what can be learned from.
        """
        whole = Survey(self._data, self.stream.buffer, signed)

        def take(k: int, pieces: Iterable[Piece]) -> None:
            here = Survey(self._data, self.stream.buffer, signed)
            random = np.random.default_rng([seed, k])
            for piece in pieces:
                here.take(piece, random, mark)
            whole.join(here)

        skipped = self._over_files(take)
        with located(self._where):
            if not whole.chunks:
                raise DataError("no events")
            if not whole.total.any():
                entries = sum(chunk.stop - chunk.start for chunk in whole.chunks)
                raise DataError(f"the selection keeps none of {entries} events")
            if self._data.answers == "labels":
                weighing = whole.weighing if self._weighted else None
                check_classes(self._data.class_names, whole.total, weighing)
        names = [f" of class '{name}'" for name in self._data.class_names]
        if self._data.answers != "labels":
            names = [""]
        check_parts(self._split, names, whole.counts, whole.total)
        return whole, skipped

    def parts(self) -> dict[str, Sequences]:
        """Read all events into memory, shared out as when they are streamed."""
        found: list[list[Sequences]] = [[] for _ in PARTS]

        def take(k: int, pieces: Iterable[Piece]) -> None:
            kept = [piece for piece in pieces if len(piece.events)]
            for p, into in enumerate(found):
                into += [piece.events[piece.parts == p] for piece in kept]

        self._over_files(take)
        if not found[0]:
            raise DataError(f"{self._where}: no events")
        return {part: Sequences.concatenate(of) for part, of in zip(PARTS, found, strict=True)}

    def read(self, chunks: Iterable[Chunk]) -> Iterator[Piece]:
        """Read pieces in the order that they are given in.

        Raises
        ------
        DataError
            If a file cannot be read, or not what it held in the survey.
        """
        chain = _Chain(*self._how)
        # The file of each source that was read last stays open: pieces of sources take turns.
        is_open: dict[int, tuple[Path, ExitStack, Table]] = {}
        with ExitStack() as all_files:
            for chunk in chunks:
                if chunk.source not in is_open or is_open[chunk.source][0] != chunk.file:
                    if chunk.source in is_open:
                        is_open.pop(chunk.source)[1].close()
                    stack = all_files.enter_context(ExitStack())
                    is_open[chunk.source] = chunk.file, stack, stack.enter_context(self._opened(chunk))
                table = is_open[chunk.source][2]
                if chunk.stop <= table.n_events:
                    piece = self._piece(chain, table, chunk)
                    if tuple(np.bincount(piece.parts[piece.parts >= 0], minlength=3)) == chunk.counts:
                        yield piece
                        continue
                raise DataError(f"{chunk.file}: other events than when the training began; train anew")

    # Below

    @property
    def _where(self) -> str:
        first = str(self._sources[0].files[0])
        return first if self.n_files == 1 else f"{first} and {self.n_files - 1} more files"

    def _over_files(self, take: Callable[[int, Iterable[Piece]], None]) -> tuple[Skipped, ...]:
        """Have the pieces of each file taken; the number given is that of the file."""
        skipped: list[Skipped] = []
        n_entries = k = 0
        for s, source in enumerate(self._sources):
            for file in source.files:
                whole = Chunk(s, file, 0, 0, n_entries)
                try:
                    with self._opened(whole) as table:
                        take(k, self._pieces(table, whole))
                        n_entries += table.n_events
                except DataError as error:
                    if self.stream.on_error == "stop":
                        raise
                    skipped.append(Skipped(str(file), str(error)))
                k += 1
        if len(skipped) == k:
            raise DataError(f"none of {k} files can be used; the first: {skipped[0].error}")
        return tuple(skipped)

    def _pieces(self, table: Table, whole: Chunk) -> Iterator[Piece]:
        """Read all pieces of an open file."""
        chain = _Chain(*self._how, checked=True)
        for start, stop in cut(table.n_events, table.units(), self.size):
            yield self._piece(chain, table, replace(whole, start=start, stop=stop))
        chain.check_spreads(table.where)

    def _opened(self, chunk: Chunk) -> Any:
        return open_table(chunk.file, self._data.format, self._sources[chunk.source].treename)

    def _piece(self, chain: _Chain, table: Table, chunk: Chunk) -> Piece:
        source = self._sources[chunk.source]
        scope = chain.selected(table.part(chunk.start, chunk.stop), source)
        first = chunk.first_event + chunk.start
        events = chain.events_of(scope, source, first, weighted=self._weighted)
        assert events.events is not None
        entries = chunk.start + (np.arange(len(events)) if scope.entries is None else scope.entries)
        return Piece(chunk, events, part_numbers(self._split, chunk.file.name, entries, events.events))


def _answers(events: Sequences, classes: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Give the class of each answer, numbers being all of one, and the event that it is of."""
    given = events.step_targets if events.step_labels is None else events.step_labels
    if given is None:
        return classes, np.arange(len(events))
    answered = answered_steps(given)
    owner = np.repeat(np.arange(len(events)), events.lengths)[answered]
    return given[answered] if given.ndim == 1 else np.zeros(len(owner), dtype=np.int64), owner


def _check_same(file: Path, before: tuple[str, ...], names: tuple[str, ...]) -> None:
    if names != before:
        raise DataError(f"{file}: data.steps: a step has {len(names)} entries, before it had {len(before)}")


def read_parts(config: Config) -> dict[str, Sequences]:
    """Read all events of a config with `data.stream` into memory, as an evaluation needs them.

    Returns
    -------
    dict of str to Sequences
        "train", "validation" and "test", not transformed: the same events as in a training that streams them.

    Raises
    ------
    DataError
        If a file cannot be used and is not to be skipped, or none can.
    """
    return Reader(config, observers=True).parts()
