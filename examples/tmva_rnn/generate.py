"""Generate the data set of TMVA's recurrent-network tutorial and write it as a ROOT file.

Every event is a series of 10 histograms of 30 bins on [0, 10]. The histogram of step j is filled with
1,000 draws of Gauss(mean, sigma) within that range, and Gauss(0, 10) noise is added to each bin:

    background   mean = 5 + 0.2 sin(pi j / 10)    sigma = 4 + 0.3 sin(pi j / 10)
    signal       mean = 5 + 0.2 cos(pi j / 10)    sigma = 4 + 0.3 cos(pi j / 10)

The two classes differ by how the histograms move through time, and by little: a bin holds about 30 draws and
its noise is nearly twice their statistical error, so that even the exact likelihood ratio stops at an AUC
of 0.930.

ROOT's ``TH1::FillRandom``, which the tutorial uses, draws within the range of the histogram. So all of them
hold 1,000 entries before the noise; were draws lost on the outside, their number would give the class away
(AUC 0.97).

    python generate.py                          # time_data_t10_d30.root, 2,000 events of each class
    python generate.py --events 10000 --seed 2

The file holds the trees ``sgn`` and ``bkg`` with branches ``vars_time0`` .. ``vars_time9``, one per time
step, each a list of 30 floats per event.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np

from timelike.files import replacing

N_STEPS = 10
N_BINS = 30
N_DRAWS = 1000
LOW, HIGH = 0.0, 10.0
NOISE = 10.0
TREES = {"sgn": math.cos, "bkg": math.sin}  # how mean and sigma move with time
DEFAULT_OUTPUT = Path(__file__).resolve().parent / "time_data_t10_d30.root"


def bin_probabilities(tree: str) -> np.ndarray:
    """Probability of a draw to fall into each bin at each step: of the Gaussian within [LOW, HIGH].

    Returns
    -------
    array [N_STEPS, N_BINS], each row of sum 1
    """
    edges = np.linspace(LOW, HIGH, N_BINS + 1)
    probabilities = np.empty((N_STEPS, N_BINS))
    for step in range(N_STEPS):
        shift = TREES[tree](math.pi * step / N_STEPS)
        mean, sigma = 5.0 + 0.2 * shift, 4.0 + 0.3 * shift
        cumulative = np.array([math.erf((edge - mean) / (sigma * math.sqrt(2.0))) for edge in edges])
        probabilities[step] = np.diff(cumulative) / (cumulative[-1] - cumulative[0])
    return probabilities


def generate(tree: str, n_events: int, rng: np.random.Generator) -> np.ndarray:
    """Generate the noisy histograms of one class.

    Parameters
    ----------
    tree : {"sgn", "bkg"}
        The class, by the name of its tree.
    n_events : int
        Number of events.
    rng : numpy.random.Generator
        Where chance comes from.

    Returns
    -------
    array [n_events, N_STEPS, N_BINS] of float32
    """
    # Counting 1,000 independent draws per bin is one multinomial draw: the same law, ten times as fast.
    counts = rng.multinomial(N_DRAWS, bin_probabilities(tree), size=(n_events, N_STEPS))
    return (counts + rng.normal(0.0, NOISE, counts.shape)).astype(np.float32)


def write(path: Path, n_events: int, seed: int) -> None:
    """Write both trees of `n_events` events each to a ROOT file."""
    import awkward as ak
    import uproot

    rng = np.random.default_rng(seed)
    with replacing(path) as aside, uproot.recreate(aside) as file:
        for tree in TREES:
            histograms = generate(tree, n_events, rng)
            # As lists, not as a fixed-size array: so the branches read like TMVA's vector<float>.
            branches = {
                f"vars_time{step}": ak.from_regular(ak.Array(np.ascontiguousarray(histograms[:, step])))
                for step in range(N_STEPS)
            }
            file.mktree(tree, {name: array.type for name, array in branches.items()})
            file[tree].extend(branches)


def main() -> None:
    """Read the command line and write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=2000, help="events of each class (2000)")
    parser.add_argument("--seed", type=int, default=1, help="seed of all chance (1)")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="ROOT file to write")
    arguments = parser.parse_args()
    if arguments.events < 1 or arguments.seed < 0:
        parser.error("at least one event is needed, and a seed that is not negative")
    write(arguments.output, arguments.events, arguments.seed)
    print(f"{arguments.output}: {arguments.events} events of each class, seed {arguments.seed}")


if __name__ == "__main__":
    main()
