"""Bookings of TMVA's method DL in a macro, with the trees, variables, weights and cuts around them.

C++ and PyROOT alike. Nothing is executed: the macro is taken apart into tokens (`source`), gone through
statement by statement (`walk`), and of its expressions those are read that are made of literals (`values`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from timelike.errors import ConfigError
from timelike.tmva.convert import convert
from timelike.tmva.layout import Recurrent
from timelike.tmva.loader import Loader
from timelike.tmva.network import input_shape
from timelike.tmva.options import Options, parse
from timelike.tmva.source import Source
from timelike.tmva.values import HOLE, Symbol, is_text
from timelike.tmva.walk import Call, walk

__all__ = ["convert_macro"]

_MOST_BOOKINGS = 100


@dataclass
class _Booking:
    loader: str
    kind: str
    name: str
    options: Any
    call: Call
    notes: list[str] = field(default_factory=list)


def convert_macro(text: str, name: str) -> list[tuple[str, str]]:
    """Make a config of each booking of the method DL in a macro.

    Parameters
    ----------
    text : str
        The macro, in C++ or Python.
    name : str
        Name of its file: for messages, and ``.py`` is Python.

    Returns
    -------
    list of (str, str)
        Name of each booking, made fit for the name of a file, and its config as YAML. What could not be read
        stands there as a comment, ``NOT READ: line 120: ...``.

    Raises
    ------
    ConfigError
        If the macro has no booking of DL, or the options of one cannot be read or carried over.

    Examples
    --------
    >>> macro = '''
    ... TFile f("events.root");
    ... loader->AddSignalTree((TTree*)f.Get("sgn"));
    ... loader->AddBackgroundTree((TTree*)f.Get("bkg"));
    ... for (int i = 0; i < 10; ++i) loader->AddVariablesArray(Form("vars_time%d", i), 30);
    ... factory->BookMethod(loader, TMVA::Types::kDL, "LSTM", "Layout=LSTM|8|30|10|0|0,LINEAR");
    ... '''
    >>> [(name, config)] = convert_macro(macro, "example.C")
    >>> print(config[config.index("data:"):config.index("  transforms")], end="")
    data:
      classes:
        Background:
          treename: bkg
        Signal:
          treename: sgn
      files:
      - events.root
      steps:
      - vars_time*
    """
    python = name.endswith(".py") or (not re.search(r"\.[A-Za-z+]+$", name) and "import ROOT" in text)
    source = Source(text, python=python)
    macro = _Macro()
    try:
        walk(source, (*Loader.HANDLERS, "BookMethod"), macro.take)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    wanted = [booking for booking in macro.bookings if booking.kind == "DL"]
    if not wanted:
        kinds = sorted({booking.kind for booking in macro.bookings})
        found = f"the methods booked in it are {', '.join(kinds)}" if kinds else "it books no method at all"
        raise ConfigError(f"{name}: no booking of the method DL; {found}")
    results: dict[str, str] = {}
    for booking in wanted:
        where = f"{name}:{booking.call.line}"
        try:
            config = macro.config(booking, f"{name}, line {booking.call.line}")
        except ConfigError as error:
            raise ConfigError(f"{where}: {booking.name!r}: {error}") from None
        results[_free(re.sub(r"[^\w.-]|^\.+", "_", booking.name)[:80] or "DL", results)] = config
    return list(results.items())


def _free(name: str, taken: Mapping[str, str]) -> str:
    number = 2
    unique = name
    while unique in taken:
        unique, number = f"{name}_{number}", number + 1
    return unique


class _Macro:
    """What a macro says, call by call."""

    def __init__(self) -> None:
        self.loaders: dict[str, Loader] = {}
        self.bookings: list[_Booking] = []

    def take(self, call: Call) -> None:
        if call.name == "BookMethod":
            self._book(call)
        else:
            self.loaders.setdefault(call.owner, Loader()).take(call)

    def _book(self, call: Call) -> None:
        if len(self.bookings) >= _MOST_BOOKINGS:
            raise ConfigError(f"line {call.line}: more than {_MOST_BOOKINGS} bookings")
        arguments = list(call.arguments)
        loader = call.owner
        if arguments and isinstance(arguments[0], Symbol) and not _is_type(arguments[0]):
            loader = arguments.pop(0).name
        elif len(arguments) > 2 and _is_type(arguments[1]):
            loader = ""
            arguments.pop(0)
        kind, title, options = [*arguments, None, None, None][:3]
        method = re.split(r"::|\.", kind.name)[-1] if isinstance(kind, Symbol) else kind
        method = method.removeprefix("k") if isinstance(method, str) else "one that could not be read"
        booking = _Booking(loader, method.replace(HOLE, "?"), f"DL_{call.line}", options, call)
        if is_text(title):
            booking.name = str(title)
        elif isinstance(title, str):
            booking.name = title.replace(HOLE, "_")
            booking.notes.append("a part of the name of the booking")
        if call.named:
            booking.options = ":".join(x for x in (options, _joined(call.named)) if isinstance(x, str) and x)
        self.bookings.append(booking)

    def config(self, booking: _Booking, source: str) -> str:
        options = self._options(booking)
        loader = self.loaders.get(booking.loader) or (
            next(iter(self.loaders.values())) if len(self.loaders) == 1 else Loader()
        )
        recurrent = next((layer for layer in options.layout if isinstance(layer, Recurrent)), None)
        shape = (recurrent.time_steps, recurrent.input_size) if recurrent else input_shape(options)
        data, notes = loader.data(shape, recurrent=recurrent is not None)
        line = booking.call.line
        unread = [((), f"NOT READ: line {line}: {what}") for what in booking.notes]
        return convert(
            options,
            loader.split,
            data=data,
            n_variables=loader.n_variables,
            name=booking.name,
            source=source,
            notes=[*notes, *unread],
        )

    def _options(self, booking: _Booking) -> Options:
        given = booking.options
        if not isinstance(given, str) or not given.strip(HOLE):
            raise ConfigError("its options are not put together of literals alone, and cannot be read")
        kept = []
        for part in given.split(":"):
            if HOLE not in part:
                kept.append(part)
                continue
            key = part.partition("=")[0]
            if key.lower() in ("layout", "trainingstrategy", "inputlayout"):
                shown = part.replace(HOLE, "...")
                raise ConfigError(f"a part of its options cannot be read: {shown[:80]!r}")
            booking.notes.append(
                "an option that is not put together of literals: " + part.replace(HOLE, "...")
            )
        return parse(":".join(kept))


def _is_type(value: Any) -> bool:
    return isinstance(value, Symbol) and bool(re.search(r"(?:Types(?:::|\.)|^)k[A-Z]\w*$", value.name))


def _joined(named: Mapping[str, Any]) -> str:
    """Write Python's ``H=False, Layout="..."`` as one option string."""
    parts = []
    for key, value in named.items():
        if isinstance(value, bool):
            parts.append(key if value else f"!{key}")
        else:
            parts.append(f"{key}={value if isinstance(value, str | int | float) else HOLE}")
    return ":".join(parts)
