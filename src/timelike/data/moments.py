"""Mean, standard deviation and range of numbers that come in pieces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Moments"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Weight, mean, standard deviation and range of numbers; the sum of two is that of all their numbers.

    The update of Chan, Golub & LeVeque (Am. Stat. 37 (1983) 242): with d the difference of the means,
    ``s^2 = (w1 s1^2 + w2 s2^2) / w + w1 w2 d^2 / w^2``, in which nothing cancels.

    Examples
    --------
    >>> both = Moments.of(np.array([1.0, 2.0])) + Moments.of(np.array([6.0]))
    >>> both.mean, both.low, both.high
    (3.0, 1.0, 6.0)
    """

    weight: float = 0.0
    mean: float = 0.0
    spread: float = 0.0
    low: float = np.inf
    high: float = -np.inf

    @classmethod
    def of(cls, x: Floats, weights: Floats | None = None) -> Moments:
        """Give those of numbers [N], with weights above 0."""
        if not len(x):
            return cls()
        low, high = float(x.min()), float(x.max())
        weight = float(len(x) if weights is None else weights.sum())
        if low == high:
            return cls(weight, low, 0.0, low, high)
        mean = float(np.average(x, weights=weights))
        away = x - mean
        largest = float(np.abs(away).max())  # in units of which squares neither overflow nor vanish
        spread = largest * float(np.sqrt(np.average((away / largest) ** 2, weights=weights)))
        return cls(weight, mean, spread, low, high)

    def __add__(self, other: Moments) -> Moments:
        if not self.weight or not other.weight:
            return self if self.weight else other
        weight = self.weight + other.weight
        one, two = self.weight / weight, other.weight / weight
        apart = other.mean - self.mean
        within = np.hypot(self.spread * one**0.5, other.spread * two**0.5)
        return Moments(
            weight,
            self.mean + apart * two,
            float(np.hypot(within, apart * (one * two) ** 0.5)),
            min(self.low, other.low),
            max(self.high, other.high),
        )

    def standard(self) -> dict[str, float]:
        """Give mean and scale; of numbers that are all the same, the scale is 1."""
        if self.low == self.high:
            return {"mean": self.low, "scale": 1.0}
        return {"mean": self.mean, "scale": self.spread if self.spread > 0 else 1.0}
