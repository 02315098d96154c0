"""Fuzz the reader of Keras's files: any bytes give a model, or an error of one line. Needs atheris.

    pip install atheris
    mkdir found
    python tests/fuzz/fuzz_keras.py found tests/fuzz/corpus/keras -max_total_time=300 -max_len=60000

Most changes of an archive only make it no archive, so an input is changed inside: a value of the
configuration, or bytes of the weights. ``--write-corpus`` writes ``tests/fuzz/corpus/keras`` again; that
needs Keras.
"""

from __future__ import annotations

import io
import json
import os
import random
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["timelike.interop"]):
    from timelike.interop.keras_reader import from_keras

from timelike.errors import TimelikeError

CORPUS = Path(__file__).resolve().parent / "corpus" / "keras"
PATH = Path(tempfile.mkdtemp()) / "a.keras"
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    2,
    -1,
    1e308,
    10**30,
    "",
    "tanh",
    "GRU",
    "Lambda",
    "relu",
    [],
    {},
    "∞",
]


def write_corpus() -> None:
    """Write small files of every layer, of a chain and of a graph with a mask."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    layers = keras.layers
    inputs = keras.Input((None, 3))
    x = layers.Masking(-9.0)(inputs)
    x = layers.Bidirectional(layers.GRU(2, return_sequences=True))(x)
    x = layers.GlobalAveragePooling1D()(x)
    models = {
        "functional": keras.Model(inputs, layers.Dense(2, activation="softmax")(x)),
        "sequential": keras.Sequential(
            [keras.Input((None, 2)), layers.LSTM(2), layers.Dense(1, activation="sigmoid")]
        ),
        "stacked": keras.Sequential(
            [
                keras.Input((3, 2)),
                layers.BatchNormalization(),
                layers.SimpleRNN(2, return_sequences=True, activation="relu"),
                layers.GRU(2, reset_after=False, return_sequences=True),
                layers.Flatten(),
                layers.BatchNormalization(),
                layers.Dense(2),
                layers.Activation("elu"),
                layers.Dense(1),
            ]
        ),
    }
    CORPUS.mkdir(parents=True, exist_ok=True)
    for name, model in models.items():
        model.save(CORPUS / f"{name}.keras")


def mutate(content: bytes, most: int, seed: int) -> bytes:
    """Change an archive as bytes, or one of its two members."""
    rng = random.Random(seed)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            config, weights = archive.read("config.json"), archive.read("model.weights.h5")
    except Exception:  # whatever zipfile raises of an input that is none: it is changed as bytes
        return bytes(atheris.Mutate(content, most))
    kind = rng.random()
    if kind < 0.1:
        return bytes(atheris.Mutate(content, most))
    if kind < 0.4:
        changed = bytearray(weights)
        for _ in range(rng.randint(1, 6)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        weights = bytes(changed)
    elif kind < 0.5:
        config = bytes(atheris.Mutate(config, most))
    else:
        try:
            config = json.dumps(_changed(json.loads(config), rng)).encode()
        except (ValueError, RecursionError):
            config = b"{}"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("config.json", config)
        archive.writestr("model.weights.h5", weights)
    return buffer.getvalue()[:most]


def _changed(config: Any, rng: random.Random) -> Any:
    """Put another value at one place, or one layer at another's."""
    spots: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            spots.append((value, key))
            walk(value[key])

    walk(config)
    for _ in range(rng.randint(1, 3)):
        if spots:
            (inner, key), (other, from_key) = rng.choice(spots), rng.choice(spots)
            copied = json.loads(json.dumps(other[from_key]))
            inner[key] = rng.choice([rng.choice(VALUES), copied])
            return config
    return config


def one_input(content: bytes) -> None:
    """Read bytes."""
    PATH.write_bytes(content)
    message = ""
    try:
        from_keras(PATH)
    except TimelikeError as error:
        message = str(error)
    assert "\n" not in message, message
    assert not message or message.startswith(str(PATH)), message


def main() -> None:
    """Run the fuzzer, or write the corpus."""
    if "--write-corpus" in sys.argv:
        write_corpus()
        return
    atheris.Setup(sys.argv, one_input, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
