"""Fuzz the reader of TMVA's weight files: any bytes give a model or one of two errors, in one line.

What is read must come back to the bit after it was written. Needs ``pip install atheris``; not run by pytest.

    python tests/fuzz/fuzz_tmva_weights.py -max_total_time=300 -max_len=20000

New inputs are kept in a folder of their own if one is named first; ``tests/fuzz/corpus/tmva_weights`` is read
in any case. ``--write-corpus`` writes that folder again.
"""

from __future__ import annotations

import random
import re
import sys
import tempfile
from pathlib import Path

import atheris
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

with atheris.instrument_imports(include=["timelike.tmva", "defusedxml"]):
    from timelike.tmva import read_weights, write_weights

from tests.tmva_files import FLAT, Network, array_variables, dense, file_text, norm, recurrent  # noqa: E402

from timelike.errors import ConfigError, ModelFileError  # noqa: E402

CORPUS = HERE / "corpus" / "tmva_weights"
WORDS = """
StateSize CellSize InputSize TimeSteps RememberState ReturnSequence ResetGateAfter <LSTMLayer <GRULayer
<RNNLayer <ReshapeLayer <DenseLayer <BatchNormLayer <ConvLayer Rows="1" Columns="1" Width="1" NetDepth="1"
Flattening="1" ActivationFunction="0" OutputFunction="M" Internal="v[0]" Expression="v[0]" &amp; &#0; &a;
<!DOCTYPE <!ENTITY [ ]> <![CDATA[ ]]> <!-- --> <?xml encoding='utf-16' nan inf 1e999 1e-999 -0.0 999999999
"""


def seeds() -> dict[str, str]:
    """Small files of every layer, output and way to name variables."""
    r = np.random.default_rng(0)
    two = [recurrent(r, "LSTM", 2, 1, steps=True), recurrent(r, "GRU", 1, 1, steps=True, after=1)]
    head: Network = [FLAT, norm(r, 2), dense(r, 2, 2, "relu"), dense(r, 2, 1)]
    rnn = [recurrent(r, "RNN", 2, 1, steps=False), dense(r, 1, 3)]
    flat = [dense(r, 2, 2, "gauss"), norm(r, 2, momentum=-1.0), dense(r, 2, 1)]
    named = [
        (f"pt_{t}", f"pt_{t}") if d == 0 else (f"eta_{t}", f"eta_{t}") for t in range(2) for d in range(2)
    ]
    return {
        "stacked": file_text([*two, *head], 2, 2, digits=3),
        "classes": file_text(rnn, 2, 2, classes=("a", "b", "c"), variables=named, digits=3),
        "dense": file_text(flat, 1, 2, variables=array_variables(1, 2), digits=3),
    }


PATH = Path(tempfile.mkdtemp()) / "a.xml"
AGAIN = PATH.with_name("b.weights.xml")


VALUES = [
    "",
    "0",
    "1",
    "2",
    "3",
    "-1",
    "9",
    "S",
    "M",
    "I",
    "nan",
    "1e39",
    "v[0]",
    "v[1]",
    "a_0",
    "a_1",
    "Signal",
]
PIECES = (
    re.compile(rb"<(\w+Layer)[^>]*/>|<(\w+Layer).*?</\2>\n?", re.DOTALL),  # layers
    re.compile(rb"<(Variable|Class|Info|Option|Transform)\b[^>]*>"),
    re.compile(rb"[^\n]*\n"),
)


def mutate(content: bytes, most: int, seed: int) -> bytes:
    """Change a file as bytes, or as XML: most changes of bytes only make it no XML."""
    rng = random.Random(seed)
    if rng.random() < 0.2:
        return bytes(atheris.Mutate(content, most))
    for _ in range(rng.randint(1, 3)):
        spots = list(re.finditer(rb'(?<==")[^"]*(?=")|(?<=[> ])-?\d[^ <]*(?= )', content))
        pieces = list(rng.choice(PIECES).finditer(content))
        if spots and rng.random() < 0.6:
            spot = rng.choice(spots)
            other = rng.choice([rng.choice(VALUES).encode(), rng.choice(spots)[0]])
            content = content[: spot.start()] + other + content[spot.end() :]
        elif pieces:
            # one piece taken out, put in once more, or moved; the counts of layers follow now and then
            piece = rng.choice(pieces)
            start, end = rng.choice([piece.span(), (rng.choice(pieces).start(),) * 2])
            content = content[:start] + rng.choice([b"", piece[0]]) + content[end:]
            if rng.random() < 0.7:
                layers = len(list(PIECES[0].finditer(content)))
                content = re.sub(rb'NetDepth="[^"]*"', b'NetDepth="%d"' % layers, content)
    return content[:most]


def one_input(content: bytes) -> None:
    """Read bytes; of what can be read, write and read it again."""
    PATH.write_bytes(content)
    message = ""
    try:
        model = read_weights(PATH)
    except (ConfigError, ModelFileError) as error:
        model, message = None, str(error)
    if model is None:
        assert "\n" not in message, message
        assert message.startswith(str(PATH)), message
        return
    try:
        write_weights(model, AGAIN)
    except ConfigError as error:
        message = str(error)
    if message:
        assert re.search("is beyond float32|cannot be written as XML", message), message
        return
    again = read_weights(AGAIN)
    assert again.class_names == model.class_names
    assert again.signal == model.signal
    assert len(again.variables) == len(model.variables)
    if len(model.class_names) == 2 and not model.network.sigmoid:
        return  # two scores became their difference
    assert again.network.config == model.network.config
    weights, back = (m.network.state_dict() for m in (model, again))
    for name in weights:
        assert weights[name].numpy().tobytes() == back[name].numpy().tobytes(), name


def main() -> None:
    """Run the fuzzer, or write the corpus."""
    CORPUS.mkdir(parents=True, exist_ok=True)
    if "--write-corpus" in sys.argv:
        for name, text in seeds().items():
            (CORPUS / f"{name}.xml").write_text(text)
        return
    words = PATH.with_name("words.dict")
    words.write_text("\n".join('"' + word.replace('"', '\\"') + '"' for word in WORDS.split()) + "\n")
    atheris.Setup([*sys.argv, f"-dict={words}", str(CORPUS)], one_input, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
