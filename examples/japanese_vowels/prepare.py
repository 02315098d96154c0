"""Turn the JapaneseVowels set of the UEA & UCR archive into sequences that timelike reads.

Its two files have lines like ``1.86,1.89,...:-0.20,-0.19,...:...:1``: a series for each of 12 dimensions,
then the class. The series of a line are of one length; lines are not.

    python prepare.py FOLDER        # with JapaneseVowels_TRAIN.ts and _TEST.ts; writes japanese_vowels.npz
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from timelike.errors import DataError, TimelikeError
from timelike.files import replacing

NAME = "JapaneseVowels"
TRAIN, VALIDATION, TEST = 0, 1, 2
EVERY = 5  # of the utterances for training that a speaker has, each fifth is for validation
DEFAULT_OUTPUT = Path(__file__).resolve().parent / "japanese_vowels.npz"


def read_ts(path: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """Read a file of the archive's format.

    Parameters
    ----------
    path : pathlib.Path
        A .ts file of a classification: header lines that begin with # or @, then a line for each case.

    Returns
    -------
    list of array [T, D], array of str
        The cases, which may be of different lengths, and their classes.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    cases, classes = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith(("#", "@")):
            continue
        *dimensions, label = line.split(":")
        try:
            series = [np.array(dimension.split(","), dtype=float) for dimension in dimensions]
            cases.append(np.stack(series, axis=1))
        except ValueError as error:
            raise DataError(f"{path}: line {number}: {error}") from None
        classes.append(label.strip())
    if not cases:
        raise DataError(f"{path}: holds no cases")
    return cases, np.array(classes)


def parts_of(speakers: np.ndarray) -> np.ndarray:
    """Share the utterances for training out: the last of every five of a speaker is for validation."""
    parts = np.full(len(speakers), TRAIN)
    for speaker in np.unique(speakers):
        parts[np.flatnonzero(speakers == speaker)[EVERY - 1 :: EVERY]] = VALIDATION
    return parts


def prepare(folder: Path, output: Path) -> dict[str, int]:
    """Write the utterances of both files to an .npz file, and give their numbers."""
    train, train_speakers = read_ts(folder / f"{NAME}_TRAIN.ts")
    test, test_speakers = read_ts(folder / f"{NAME}_TEST.ts")
    cases = [*train, *test]
    with replacing(output) as aside, aside.open("wb") as file:
        np.savez(
            file,
            values=np.concatenate(cases),
            offsets=np.cumsum([0, *map(len, cases)]),
            names=np.array([f"c{d + 1}" for d in range(cases[0].shape[1])]),
            speaker=np.concatenate([train_speakers, test_speakers]).astype(int),
            part=np.concatenate([parts_of(train_speakers), np.full(len(test), TEST)]),
        )
    return {"train": len(train), "test": len(test)}


def main() -> None:
    """Read the command line and write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help=f"the folder of {NAME}_TRAIN.ts and {NAME}_TEST.ts")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help=f"({DEFAULT_OUTPUT.name})")
    arguments = parser.parse_args()
    try:
        counts = prepare(arguments.folder, arguments.output)
    except TimelikeError as error:
        parser.error(str(error))
    print(f"{arguments.output}: {counts['train']} utterances for training, {counts['test']} for test")


if __name__ == "__main__":
    main()
