"""ROC integrals of TMVA's recurrent-network tutorial, from its option strings, over several seeds.

Networks with a simple RNN, an LSTM and a GRU layer, and a dense one, are converted from option strings as
TMVA takes them and trained on the data of ``generate.py``: raw inputs, which are the tutorial's, and
standardised ones, for 2,000 and for 10,000 events of each class. For each seed events, split, first weights
and order are new; the ROC integral is that of 10,000 other events of each class.

    python table.py                             # some minutes on one core
    python table.py --events 2000 --seeds 2
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from generate import N_BINS, N_STEPS, generate, write

from timelike.config import load_config
from timelike.model import predict
from timelike.roc import roc_curve
from timelike.sequences import Sequences
from timelike.tmva import convert
from timelike.train import TrainingResult, train

HEAD = "!H:V:ErrorStrategy=CROSSENTROPY:VarTransform=None:ValidationSize=0.2:InputLayout=10|30:"
STRATEGY = "LearningRate=1e-3,Momentum=0.0,Repetitions=1,TestRepetitions=1,MaxEpochs=20,Optimizer=ADAM"
RECURRENT = (
    "WeightInitialization=XAVIERUNIFORM:Layout={kind}|10|30|10|0|1,RESHAPE|FLAT,DENSE|64|TANH,LINEAR:"
    f"TrainingStrategy={STRATEGY},ConvergenceSteps=5,BatchSize=100,WeightDecay=1e-2,Regularization=None"
)
DENSE = (
    "WeightInitialization=XAVIER:Layout=DENSE|64|TANH,DENSE|TANH|64,DENSE|TANH|64,LINEAR:"
    f"TrainingStrategy={STRATEGY},ConvergenceSteps=10,BatchSize=256,WeightDecay=1e-4,Regularization=None"
)
NETWORKS = {"RNN": RECURRENT, "LSTM": RECURRENT, "GRU": RECURRENT, "DNN": DENSE}
SPLIT = "nTrain_Signal={n}:nTrain_Background={n}:SplitMode=Random:SplitSeed={seed}:NormMode=NumEvents:!V"
INPUTS = ("none", "standardise")
N_TEST = 10_000


def test_events() -> Sequences:
    """Generate events for the ROC integrals, first background, then signal."""
    rng = np.random.default_rng(12345)
    histograms = np.concatenate([generate(tree, N_TEST, rng) for tree in ("bkg", "sgn")])
    offsets = np.arange(2 * N_TEST + 1) * N_STEPS
    return Sequences(histograms.reshape(-1, N_BINS), offsets, labels=np.repeat([0, 1], N_TEST))


def trained(kind: str, inputs: str, events: int, seed: int, folder: Path) -> TrainingResult:
    """Train one network on the file in the folder."""
    options = HEAD + f"RandomSeed={seed + 1}:" + NETWORKS[kind].format(kind=kind)
    data = {
        "files": ["events.root"],
        "steps": ["vars_time*"],
        "classes": {"Background": {"treename": "bkg"}, "Signal": {"treename": "sgn"}},
    }
    text = convert(options, SPLIT.format(n=int(0.8 * events), seed=seed), data=data, name=kind)
    path = folder / f"{kind}.yaml"
    path.write_text(text, encoding="utf-8")
    return train(load_config(path, overrides={"data.transforms": {"default": inputs}}))


def rows(events: int, seeds: int, test: Sequences) -> Iterator[tuple[str, ...]]:
    """Give a row of the table for each network and kind of input."""
    labels = test.labels == 1
    for kind in NETWORKS:
        for inputs in INPUTS:
            areas, seconds, epochs = [], 0.0, 0
            for seed in range(seeds):
                with tempfile.TemporaryDirectory() as folder:
                    write(Path(folder) / "events.root", events, seed)
                    result = trained(kind, inputs, events, seed, Path(folder))
                names = {"names": result.model.variables}
                areas.append(roc_curve(predict(result.model, test.replace(**names))[:, 1], labels).auc)
                seconds, epochs = seconds + result.seconds, epochs + len(result.history)
            spread = np.std(areas, ddof=1) if seeds > 1 else float("nan")
            numbers = f"{np.mean(areas):.3f} ± {spread:.3f}", f"{1000 * seconds / epochs:.0f} ms"
            yield f"{events:,}", kind, {"none": "raw"}.get(inputs, "standardised"), *numbers


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, nargs="+", default=[2000, 10000], help="of each class")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each kind (5)")
    arguments = parser.parse_args()
    if min(arguments.events) < 10 or arguments.seeds < 1:
        parser.error("at least ten events of each class and one seed are needed")
    print("| events of each class | network | inputs | ROC integral | time of an epoch |")
    print("|---|---|---|---|---|")
    test = test_events()
    for events in arguments.events:
        for row in rows(events, arguments.seeds, test):
            print(f"| {' | '.join(row)} |", flush=True)
    print("\nThe exact likelihood ratio has 0.930.")


if __name__ == "__main__":
    main()
