"""What all sections of a config share: strict mappings, and the kinds of values in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from timelike.errors import ModelFileError

__all__ = ["Fraction", "Section", "Seed", "Text", "Texts", "by_default", "listed"]


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("given text with a null character, which no name or path can have")
    return text


Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True), AfterValidator(_without_nul)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # what torch takes
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


def listed(value: Any) -> Any:
    """Take one text as a list of it."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list | tuple):
        raise ValueError(f"given {json.dumps(value)}; text or a list of texts is needed")
    return tuple(value)  # strictly, a list is no tuple


Texts = Annotated[tuple[Text, ...], BeforeValidator(listed)]  # one text or a list of them


def by_default(default: str, *, key: str = "name") -> BeforeValidator:
    """Choose an alternative where a mapping does not name one."""
    return BeforeValidator(lambda value: {key: default, **value} if isinstance(value, dict) else value)


_Kind = TypeVar("_Kind", bound="Section")


class Section(BaseModel):
    """A mapping of the config: typed strictly, immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def from_header(cls: type[_Kind], values: Mapping[str, Any], path: Path) -> _Kind:
        """Make it of what the header of a model file has.

        Raises
        ------
        ModelFileError
            If it has something else; the message names the file and the key.
        """
        try:
            return cls.model_validate_json(json.dumps(values))  # from JSON a list is good for a tuple
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            # Keys and names of the file stand in both.
            key, why = (
                " ".join(text.split())[:200] for text in (".".join(map(str, first["loc"])), first["msg"])
            )
            raise ModelFileError(f"{path}: the header cannot be used: {key}: {why}") from None
