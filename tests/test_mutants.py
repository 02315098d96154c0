"""The planted mistakes of ``make mutants`` keep up with the sources; that tests catch them is seen there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from mutants.planted import MUTANTS, mutated

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{Path(mutant.path).name}-{mutant.why}")
def test_every_mutant_finds_its_place(mutant):
    text = (ROOT / mutant.path).read_text()
    assert mutated(text, mutant) != text


def test_every_mutant_tells_itself_apart():
    assert not [why for why, count in Counter((m.path, m.why) for m in MUTANTS).items() if count > 1]


def test_what_is_not_there_or_not_alone_is_refused():
    mutant = MUTANTS[0]._replace(section="", old="x", new="y")
    for text in ("", "x x"):
        with pytest.raises(ValueError, match=f"{mutant.path}: 'x' is there {text.count('x')} times"):
            mutated(text, mutant)
    with pytest.raises(ValueError, match="'section' is there 0 times"):
        mutated("x", mutant._replace(section="section"))
    assert mutated("x\nsection\n  x\n}\nx", mutant._replace(section="section")) == "x\nsection\n  y\n}\nx"
