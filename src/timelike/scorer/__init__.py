"""Scores without PyTorch: a trained model on NumPy arrays, whole sequences or one step at a time.

- `load` reads a model file and prepares its network: weights packed, transforms and head laid out;
- `Scorer.predict` gives the scores of sequences, as `timelike.model.predict` does with PyTorch;
- `Scorer.stream` gives the scores so far after each step, of many streams at once.

NumPy and safetensors are all that it needs. For a recurrent layer alone, without a model file, there is
`timelike.runtime`.
"""

from timelike.scorer.model import Scorer, load
from timelike.scorer.streams import Streams

__all__ = ["Scorer", "Streams", "load"]
