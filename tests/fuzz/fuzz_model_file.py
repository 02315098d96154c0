"""Fuzz the reader of model files: any bytes give a model that scores, or an error of one line. Needs atheris.

    pip install atheris
    mkdir found
    python tests/fuzz/fuzz_model_file.py found -max_total_time=300 -max_len=20000 -rss_limit_mb=1500

Each input is loaded with PyTorch too. ``tests/fuzz/corpus/model_file`` is read in any case;
``--write-corpus`` writes its seeds again.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

with atheris.instrument_imports(
    include=[
        "timelike.modelfile",
        "timelike.description",
        "timelike.scorer",
        "timelike.data.transforms",
        "timelike.model",
        "timelike.config",
    ]
):
    from timelike.errors import ModelFileError
    from timelike.model import load_model

from tests.model_file_changes import changed, checked_line, used  # noqa: E402
from tests.scorer_cases import ensemble, made  # noqa: E402

from timelike.model import Model, save_model  # noqa: E402

CORPUS = HERE / "corpus" / "model_file"
PATH = Path(tempfile.mkdtemp()) / "m.safetensors"


def seeds() -> dict[str, Model]:
    """Small models of several cells, poolings, outputs and transforms, and an ensemble."""
    both = {"cell": "gru", "units": 2, "bidirectional": True}
    norm = {"units": [2], "batch_norm": {"before": [0]}, "output": "linear", "quantiles": [0.2, 0.8]}
    few = {"pt": ["log", "clip"], "eta": "minmax", "phi": "robust"}
    return {
        "gru": made({"recurrent": [both], "head": {"units": [2]}}, dtype="float32"),
        "lstm": made(
            {"recurrent": [{"units": 2, "projection": 1}, {"units": 2, "peephole": True}], "pooling": "mean"}
            | {"head": {"units": [], "output": "multilabel"}},
            transforms={"missing": {"eta": "indicator"}, "mix": "pca", "transforms": few},
        ),
        "flatten": made({"recurrent": [], "pooling": "flatten", "steps": 2, "head": norm}),
        "steps": made({"recurrent": [{"cell": "rnn_tanh", "units": 2}], "pooling": "none"}),
        "ensemble": ensemble({"recurrent": [{"cell": "rnn_relu", "units": 2}], "head": {"units": []}}),
    }


def mutate(content: bytes, most: int, seed: int) -> bytes:
    """Change a file as bytes, or what its header says."""
    rng = random.Random(seed)
    if rng.random() < 0.1:
        return bytes(atheris.Mutate(content, most))
    try:
        return changed(content, rng)[:most]
    except ValueError:
        return bytes(atheris.Mutate(content, most))


def one_input(content: bytes) -> None:
    """Read bytes; score with what can be read."""
    PATH.write_bytes(content)
    used(PATH)
    try:
        load_model(PATH)
    except ModelFileError as error:
        checked_line(error, PATH)


def main() -> None:
    """Run the fuzzer, or write the corpus."""
    CORPUS.mkdir(parents=True, exist_ok=True)
    if "--write-corpus" in sys.argv:
        for name, model in seeds().items():
            save_model(model, CORPUS / f"{name}.safetensors")
        return
    atheris.Setup([*sys.argv, str(CORPUS)], one_input, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
