"""What a scan may vary."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from timelike.config.base import Section, Text

__all__ = ["ScanParameter", "ScanSpace"]


class ScanParameter(Section):
    """Values that `timelike scan` may give to a key: a range, or choices.

    Of a range from one whole number to another, whole numbers are tried where the key takes no others.
    """

    low: int | float | None = None
    high: int | float | None = None
    step: PositiveInt | PositiveFloat | None = None
    log: bool = False
    choices: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _check(self) -> ScanParameter:
        limits = (self.low, self.high)
        if self.choices is not None:
            if self.model_fields_set != {"choices"}:
                raise ValueError("give either 'choices' or 'low' and 'high', not both")
            return self
        if self.low is None or self.high is None:
            raise ValueError("give 'low' and 'high', or 'choices'")
        if not self.low < self.high:
            raise ValueError(f"from {limits[0]} to {limits[1]}: the first must be smaller")
        if self.log and self.step is not None:
            raise ValueError("give either 'log' or 'step', not both")
        if self.log and not self.low > 0:
            raise ValueError(f"log: from {self.low}; it must be greater than 0")
        return self


class ScanSpace(Section):
    """A space in a file of its own."""

    scan: Annotated[dict[Text, ScanParameter], Field(min_length=1)]  # by dotted key
