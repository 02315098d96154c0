"""What a macro tells a DataLoader: trees, variables, weights, cuts, and how events are shared out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from timelike.errors import ConfigError
from timelike.tmva.cuts import translated
from timelike.tmva.options import Split, parse_split
from timelike.tmva.values import HOLE, Symbol, Tree, is_text
from timelike.tmva.walk import Call

__all__ = ["Loader"]

Path = tuple[str | int, ...]
_MOST = 10_000  # variables
_UNKNOWN = "unknown.root"


@dataclass
class _Class:
    trees: list[Tree] = field(default_factory=list)
    selection: list[str] = field(default_factory=list)
    weight: str = ""
    scale: float = 1.0


@dataclass
class _Variable:
    text: str
    size: int | None  # None: could not be read; 0: no array


class Loader:
    """Gathers the calls of one DataLoader, and writes them as the section ``data`` of a config."""

    def __init__(self) -> None:
        self.classes: dict[str, _Class] = {}
        self.variables: list[_Variable] = []
        self.named: dict[str, str] = {}
        self.observers: list[str] = []
        self.selection: list[str] = []
        self.split: Split | None = None
        self.notes: list[tuple[Path, str]] = []
        self._missing = 0  # variables that could not be read
        self._seen: set[str] = set()

    def take(self, call: Call) -> None:
        """Take over one call; what of it cannot be read is noted."""
        self.HANDLERS[call.name](self, call)

    @property
    def n_variables(self) -> int | None:
        """How many numbers each event has; None where that is not known."""
        sizes = [1 if v.size == 0 else v.size for v in self.variables]
        known = [size for size in sizes if size is not None]
        return sum(known) + self._missing if known and len(known) == len(sizes) else None

    def _unread(self, call: Call, path: Path, why: str = "") -> None:
        text = f"NOT READ: line {call.line}: {call.text}" + (f" ({why})" if why else "")
        if text not in self._seen and len(self._seen) < _MOST:  # a loop says it again and again
            self._seen.add(text)
            self.notes.append((path, text))

    def _class(self, name: str) -> _Class:
        return self.classes.setdefault(name, _Class())

    # -- trees -----------------------------------------------------------------------------------------------

    def _tree(self, call: Call, name: str, tree: Any, weight: Any = 1.0) -> None:
        which = self._class(name)
        path = ("data", "classes", name)
        if isinstance(tree, Tree):
            which.trees.append(tree)
        else:
            self._unread(call, path)
        if isinstance(weight, int | float) and not isinstance(weight, bool):
            which.scale = float(weight)
        elif weight is not None:
            self._unread(call, path, "the weight of the tree")

    def _one_tree(self, call: Call) -> None:
        name = "Signal" if "Signal" in call.name else "Background"
        tree, weight, kind = [*call.arguments, None, None, None][:3]
        self._tree(call, name, tree, 1.0 if weight is None else weight)
        if kind is not None:
            self._unread(call, ("split",), "a tree for training or test alone")

    def _add_tree(self, call: Call) -> None:
        tree, name, weight, cut, kind = [*call.arguments, None, None, None, None, None][:5]
        if not (is_text(name) and str(name).strip()):
            self._unread(call, ("data", "classes"))
            return
        self._tree(call, str(name), tree, 1.0 if weight is None else weight)
        if isinstance(cut, str) and cut:
            self._cut(call, cut, self._class(str(name)).selection)
        elif cut is not None and not isinstance(cut, str | Symbol):
            self._unread(call, ("data", "classes", str(name)), "the cut")
        if kind is not None:
            self._unread(call, ("split",), "a tree for training or test alone")

    def _input_trees(self, call: Call) -> None:
        signal, background, ws, wb = [*call.arguments, None, None, None, None][:4]
        self._tree(call, "Signal", signal, 1.0 if ws is None else ws)
        self._tree(call, "Background", background, 1.0 if wb is None else wb)

    # -- variables -------------------------------------------------------------------------------------------

    def _expression(self, call: Call, path: Path) -> str | None:
        """Read a variable, ``name := formula`` too."""
        text = call.arguments[0] if call.arguments else None
        if not is_text(text):
            self._unread(call, path)
            return None
        name, defined, formula = str(text).rpartition(":=")
        result = translated(formula)
        if result is None:
            self._unread(call, path, "the formula has no counterpart here")
            return None
        if defined and name.strip():
            self.named[name.strip()] = result
            return name.strip()
        return result

    def _variable(self, call: Call) -> None:
        text = self._expression(call, ("data", "steps"))
        if text is None:
            self._missing += 1
        elif len(self.variables) < _MOST:
            self.variables.append(_Variable(text, 0))

    def _array(self, call: Call) -> None:
        text = self._expression(call, ("data", "steps"))
        size = call.arguments[1] if len(call.arguments) > 1 else None
        if text is not None and len(self.variables) < _MOST:
            self.variables.append(_Variable(text, size if type(size) is int and size > 0 else None))

    def _spectator(self, call: Call) -> None:
        text = self._expression(call, ("data",))
        if text is not None and text not in self.observers:
            self.observers.append(text)

    def _target(self, call: Call) -> None:
        self._unread(call, ("data",), "a target is for regression, and classes are told apart here")

    # -- weights and cuts ------------------------------------------------------------------------------------

    def _weight(self, call: Call) -> None:
        text, name = [*call.arguments, None, None][:2]
        if "Signal" in call.name or "Background" in call.name:
            name = "Signal" if "Signal" in call.name else "Background"
        result = translated(str(text)) if is_text(text) else None
        names = [name] if is_text(name) else list(self.classes) if name is None else []
        if result is None or not names:
            self._unread(call, ("data", "classes"))
            return
        for each in names:
            self._class(str(each)).weight = result

    def _cut(self, call: Call, text: Any, onto: list[str]) -> None:
        if isinstance(text, str) and not text.strip():
            return
        result = translated(text) if is_text(text) else None
        if result is None:
            self._unread(call, ("data",), f"the cut {text!r}" if is_text(text) else "the cut")
        elif result not in onto:
            onto.append(result)

    def _add_cut(self, call: Call) -> None:
        text, name = [*call.arguments, None, None][:2]
        self._cut(call, text, self._class(str(name)).selection if is_text(name) and name else self.selection)

    def _prepare(self, call: Call) -> None:
        arguments = list(call.arguments)
        options = ""
        if arguments and isinstance(arguments[-1], str) and (len(arguments) > 1 or not call.named):
            options = arguments.pop()
        if call.named:
            named = [_named_option(key, value) for key, value in call.named.items()]
            options = ":".join(filter(None, [options, *named]))
        if any(isinstance(value, int) for value in arguments):
            self._unread(call, ("split",), "numbers of events; write nTrain_Signal=... and so on")
            arguments = arguments[:1]
        if len(arguments) == 2:
            for text, name in zip(arguments, ("Signal", "Background"), strict=True):
                self._cut(call, text, self._class(name).selection)
        elif arguments:
            self._cut(call, arguments[0], self.selection)
        kept = [part for part in options.split(":") if HOLE not in part]
        for part in options.split(":"):
            if HOLE in part:
                self._unread(call, ("split",), "the option " + part.replace(HOLE, "..."))
        try:
            self.split = parse_split(":".join(kept))
        except ConfigError as error:
            raise ConfigError(f"line {call.line}: PrepareTrainingAndTestTree: {error}") from None

    HANDLERS: ClassVar[Mapping[str, Callable[[Loader, Call], None]]] = {
        "AddSignalTree": _one_tree,
        "AddBackgroundTree": _one_tree,
        "SetSignalTree": _one_tree,
        "SetBackgroundTree": _one_tree,
        "AddTree": _add_tree,
        "SetTree": _add_tree,
        "SetInputTrees": _input_trees,
        "AddVariable": _variable,
        "AddVariablesArray": _array,
        "AddSpectator": _spectator,
        "AddTarget": _target,
        "SetSignalWeightExpression": _weight,
        "SetBackgroundWeightExpression": _weight,
        "SetWeightExpression": _weight,
        "AddCut": _add_cut,
        "SetCut": _add_cut,
        "PrepareTrainingAndTestTree": _prepare,
    }

    # -- the section -----------------------------------------------------------------------------------------

    def data(
        self, shape: tuple[int, int] | None, *, recurrent: bool
    ) -> tuple[dict[str, Any], list[tuple[Path, str]]]:
        """Give the section ``data``, and comments.

        Parameters
        ----------
        shape : (int, int) or None
            Steps and variables of each step that the network reads.
        recurrent : bool
            Whether it has recurrent layers.
        """
        notes = list(self.notes)
        data: dict[str, Any] = {"classes": self._classes(notes)}
        files = [source.get("files") for source in data["classes"].values()]
        if files and all(names == files[0] for names in files):
            data["files"] = files[0]
            for source in data["classes"].values():
                del source["files"]
        if self.selection:
            data["selection"] = _all_of(self.selection)
        if self.named:
            data["new_variables"] = dict(self.named)
        data["steps"] = self._steps(notes, shape, recurrent=recurrent)
        if self.observers:
            data["observers"] = list(self.observers)
        return data, notes

    def _classes(self, notes: list[tuple[Path, str]]) -> dict[str, Any]:
        names = list(self.classes)
        for name in ("Signal", "Background"):
            if len(names) < 2 and name not in names:
                names.append(name)
                notes.append((("data", "classes", name), "FILL IN: no tree of this class was found."))
        if len(names) == 2 and names[-1] != "Signal":
            names.reverse()  # the score is that of the last class, and TMVA's signal stands first
        classes: dict[str, Any] = {}
        for name in names:
            given = self.classes.get(name, _Class())
            path = ("data", "classes", name)
            files = list(dict.fromkeys(file for tree in given.trees for file in tree.files if file.strip()))
            trees = list(dict.fromkeys(tree.name for tree in given.trees if tree.name.strip()))
            classes[name] = {"files": files or [_UNKNOWN], "treename": trees[0] if trees else name}
            if not files:
                notes.append((path, "FILL IN: the files of this class are not said by literals."))
            if len(trees) > 1:
                notes.append(
                    (path, f"FILL IN: one tree for a class is possible; there are {', '.join(trees)}.")
                )
            if given.selection:
                classes[name]["selection"] = _all_of(given.selection)
            if given.scale != 1.0:
                given_weight = f"{given.scale:g} * ({given.weight})" if given.weight else f"{given.scale:g}"
                classes[name]["weights"] = given_weight
            elif given.weight:
                classes[name]["weights"] = given.weight
        return classes

    def _steps(
        self, notes: list[tuple[Path, str]], shape: tuple[int, int] | None, *, recurrent: bool
    ) -> list[str]:
        """Give a branch for each step."""
        names = list(dict.fromkeys(variable.text for variable in self.variables))
        path = ("data", "steps")
        if not names:
            notes.append((path, "FILL IN: no variables were found; these are those of TMVA's tutorial."))
            return ["vars_time*"]
        arrays = [variable for variable in self.variables if variable.size != 0]
        if not arrays:
            if recurrent and shape is not None and shape != (len(names), 1):
                notes.append(
                    (
                        path,
                        f"FILL IN: TMVA cuts {len(names)} variables into {shape[0]} steps of {shape[1]}. "
                        "Here data.steps has an array for each step, data.variables one for each variable.",
                    )
                )
            return names
        if len(arrays) < len(self.variables):
            notes.append((path, "FILL IN: arrays and single variables together are no steps of one size."))
        sizes = {variable.size for variable in arrays if variable.size is not None}
        if recurrent and shape is not None and (len(names) != shape[0] or sizes - {shape[1]}):
            listed = ", ".join(map(str, sorted(sizes)))
            notes.append(
                (
                    path,
                    f"FILL IN: there are {len(names)} arrays (of {listed}); the network reads {shape[0]} "
                    f"steps of {shape[1]}.",
                )
            )
        return _globbed(names)


def _named_option(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return key if value else f"!{key}"
    return f"{key}={value if isinstance(value, str | int | float) else HOLE}"


def _all_of(cuts: list[str]) -> str:
    return cuts[0] if len(cuts) == 1 else " and ".join(f"({cut})" for cut in cuts)


def _globbed(names: list[str]) -> list[str]:
    """Write x0, x1, ... as x*, where that is all of them."""
    stem = names[0][:-1]
    if (
        len(names) > 1
        and re.fullmatch(r"[A-Za-z_]\w*", stem)
        and names == [f"{stem}{i}" for i in range(len(names))]
    ):
        return [stem + "*"]
    return names
