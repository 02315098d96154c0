"""Whether an exported network computes the same: sequences to try, and how far apart two answers may be.

The law is our network in float64. Rounding in a recurrent network grows with its weights and its steps, and
no bound without them is of use; so the network itself says how much: the difference of its answers in float32
and in float64, in units of float32's epsilon, is its condition. Another program that sums in another order
may be off by as much: four times that are allowed, since both are single draws, in its own precision, and the
rounding of one sum.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from timelike.description import Description
from timelike.interop.inverse import before
from timelike.model import Ensemble, Model, model_of, predict
from timelike.modelfile import ModelFile
from timelike.sequences import Sequences

__all__ = ["Probe", "padded", "probe"]

Floats = npt.NDArray[np.float64]
_LENGTHS = (1, 2, 3, 40, *range(1, 29))


@dataclass(frozen=True, eq=False)
class Probe:
    """Sequences, and what a network says of them.

    Attributes
    ----------
    sequences : Sequences
        Variables before the transforms, in the order of the network's.
    expected : array [B, C], or [N, C] where each step has its own
        Computed in float64.
    allowed : float
        How far another program may be from it in the network's own precision.
    """

    sequences: Sequences
    expected: Floats
    allowed: float

    def check(self, got: npt.ArrayLike, program: str) -> str:
        """Compare another program's answers, and say in a line what came out.

        Parameters
        ----------
        got : array, shaped like `expected`
        program : str
            Its name.

        Raises
        ------
        RuntimeError
            If they are too far apart, or no numbers: an export that computes something else is a defect.
        """
        found = np.asarray(got, np.float64)
        if found.shape != self.expected.shape:
            raise RuntimeError(f"{program} gives numbers {found.shape}, expected {self.expected.shape}")
        difference = float(np.abs(found - self.expected).max())
        if not difference <= self.allowed:
            raise RuntimeError(
                f"{program} computes something else: largest difference {difference:.1e}, "
                f"allowed {self.allowed:.1e}"
            )
        lengths = self.sequences.lengths
        return (
            f"{program}: {len(lengths)} sequences of {lengths.min()} to {lengths.max()} steps, largest "
            f"difference {difference:.1e} (allowed {self.allowed:.1e})"
        )


def probe(
    file: ModelFile,
    description: Description,
    *,
    empty: bool = True,
    steps: int | None = None,
    dtype: str | None = None,
) -> Probe:
    """Make sequences to try, and compute what the network says of them.

    Parameters
    ----------
    file : ModelFile
    description : Description
        Of the network, or of the first of an ensemble.
    empty : bool
        Whether one sequence without steps is among them.
    steps : int, optional
        So many has every sequence; by default what the network takes.
    dtype : {"float32", "float64"}, optional
        What the other program computes in; by default the type of the weights.
    """
    dtype = dtype or str(description.dtype)
    steps = steps or description.steps
    lengths = [steps] * len(_LENGTHS) if steps else [*([0] if empty else []), *_LENGTHS]
    rng = np.random.default_rng(1)
    drawn = rng.normal(size=(sum(lengths), len(description.variables)))
    values = before(description.transforms, drawn, rng).astype(dtype)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    sequences = Sequences(values, offsets, names=description.variables)
    model = model_of(file, "model")
    answers = {each: _answers(model, sequences, each) for each in ("float32", "float64")}
    expected = answers["float64"]
    condition = np.abs(answers["float32"] - expected).max() / np.finfo(np.float32).eps
    # The widest sum anywhere, as in the tests of the kernels: (8 + sqrt(n)) eps of the largest term.
    widths = [layer.input_size + layer.state_size + 2 for layer in description.layers]
    widths += [dense.weight.shape[1] + 1 for dense in description.dense]
    rounding = (8 + np.sqrt(max(widths))) * np.abs(expected).max()
    eps = np.finfo(dtype).eps
    return Probe(sequences, expected, float(eps * (4 * condition + rounding)))


def padded(sequences: Sequences, fill: float) -> npt.NDArray[np.floating]:
    """Give sequences as [B, T, D], behind their steps `fill`.

    Examples
    --------
    >>> padded(Sequences(np.array([[1.0], [2.0], [3.0]]), [0, 1, 3]), -9.0)[:, :, 0]
    array([[ 1., -9.],
           [ 2.,  3.]])
    """
    B, T = len(sequences), int(sequences.lengths.max(initial=0))
    filled = np.full((B, T, sequences.values.shape[1]), fill, sequences.values.dtype)
    filled[np.arange(T) < sequences.lengths[:, None]] = sequences.values
    return filled


def _answers(model: Model, sequences: Sequences, dtype: str) -> Floats:
    if isinstance(model, Ensemble):
        return np.asarray(np.mean([_answers(member, sequences, dtype) for member in model.members], axis=0))
    network = copy.deepcopy(model.network)
    network = network.double() if dtype == "float64" else network.float()
    values = sequences.values.astype(dtype)
    own = Model(network, model.transforms, model.data, model.sequence)
    return predict(own, sequences.replace(values=values))
