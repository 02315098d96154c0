"""Fuzz the language of cuts and derived variables: any text gives a column, or an error of one line.

    pip install atheris
    mkdir found
    python tests/fuzz/fuzz_expressions.py found tests/fuzz/corpus/expressions -max_total_time=300

A text is put together from words of the language, or changed as bytes. What the parser lets pass is computed
on a few events, and must read nothing but the columns that it names.
"""

from __future__ import annotations

import random
import sys

import atheris
import numpy as np

with atheris.instrument_imports(include=["timelike.data"]):
    from timelike.data.expressions import FUNCTIONS, Expression
    from timelike.data.table import Column

from timelike.errors import DataError

OFFSETS = np.array([0, 2, 2, 5])
STEPS = Column(np.array([-1.5, 0.0, 2.0, np.nan, np.inf]), OFFSETS)
INTEGERS = Column(np.array([0, -1, 2**62]))
COLUMNS = {"pt": STEPS, "n": INTEGERS, "good": Column(STEPS.values > 0, OFFSETS)}
WORDS = [*FUNCTIONS, *COLUMNS, "+ - * / % ** & | ^ ~ < <= > >= == != and or not && || ! ( ) , . ` = :="]
WORDS += ["0 1 2 -1 0.5 1e308 1e999 9223372036854775807 9999999999999999999 10**10**10 1j True None pi"]
WORDS += [
    "pt.__class__ __import__('os') lambda: [1] (x for x in pt) {1} f'{pt}' 'a' # ; \\ @ <<",
    "sum(",
    "-",
]
TOKENS = [*(token for line in WORDS for token in line.split()), "\ud800", "\n", "\x1b[2J"]


def text_of(content: bytes) -> str:
    """Decode bytes; halves of pairs, which no file has and JSON can say, are kept."""
    try:
        return content.decode("utf-8", errors="surrogatepass")
    except UnicodeDecodeError:
        return content.decode("utf-8", errors="replace")


def mutate(content: bytes, most: int, seed: int) -> bytes:
    """Change a text as bytes, or word by word; now and then say a piece many times."""
    rng = random.Random(seed)
    if rng.random() < 0.2:
        return bytes(atheris.Mutate(content, most))
    words = text_of(content).split(" ")
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(words) + 1)
        how = rng.random()
        if how < 0.5:
            words.insert(at, rng.choice(TOKENS))
        elif how < 0.7 and words:
            del words[at - 1]
        elif how < 0.95:
            words[at : at + 1] = [rng.choice(TOKENS)]
        else:
            words[at:at] = words[at : at + 4] * rng.choice([2, 10, 300])
    return " ".join(words).encode("utf-8", errors="surrogatepass")[:most]


def one_input(content: bytes) -> None:
    """Parse a text, and compute what can be parsed."""
    text = text_of(content)
    asked: list[str] = []

    def lookup(name: str) -> Column:
        asked.append(name)
        if name not in COLUMNS:
            raise DataError(f"no column {name!r}")
        return COLUMNS[name]

    message = ""
    try:
        expression = Expression.parse(text)
        column = expression.evaluate(lookup)
    except DataError as error:
        message = str(error)
    assert "\n" not in message, message
    if message:
        return
    assert set(asked) == set(expression.names)
    assert column.values.dtype.kind in "bif"
    assert column.values.size <= max(c.values.size for c in COLUMNS.values())


def main() -> None:
    """Run the fuzzer."""
    atheris.Setup(sys.argv, one_input, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
