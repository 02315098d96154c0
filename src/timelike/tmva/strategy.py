"""TMVA's training strategies: phases, separated by ``|``, of ``key=value`` pairs, separated by ``,``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from timelike.tmva.layout import Piece, suggestion

__all__ = ["DEFAULT_PHASE", "OPTIMISERS", "Phase", "parse_strategy"]

MOST_PHASES = 50

# Optimiser -> its own settings and what TMVA takes where a phase does not give them.
OPTIMISERS: Mapping[str, Mapping[str, float]] = {
    "SGD": {},
    "ADAM": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-7},
    "ADAGRAD": {"eps": 1e-8},
    "RMSPROP": {"rho": 0.9, "eps": 1e-7},
    "ADADELTA": {"rho": 0.95, "eps": 1e-8},
}

_PHASE = (
    "LearningRate",
    "Momentum",
    "ConvergenceSteps",
    "MaxEpochs",
    "BatchSize",
    "TestRepetitions",
    "WeightDecay",
    "Regularization",
    "DropConfig",
    "Optimizer",
    "Multithreading",
    "Repetitions",
    "DropRepetitions",
)
_SETTINGS = [f"{name}_{key}" for name, keys in OPTIMISERS.items() for key in keys]


@dataclass(frozen=True)
class Phase:
    """One phase of a ``TrainingStrategy``; the defaults are TMVA's for a key that a phase does not give."""

    learning_rate: float = 1e-5
    momentum: float = 0.3
    convergence_steps: int = 100
    max_epochs: int = 2000
    batch_size: int = 30
    test_repetitions: int = 7
    weight_decay: float = 0.0
    regularization: str = "NONE"
    drop_config: tuple[float, ...] = ()
    optimizer: str = "ADAM"
    settings: Mapping[str, float] = field(default_factory=lambda: OPTIMISERS["ADAM"])  # see OPTIMISERS
    unused: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType({})
    )  # keys that TMVA takes and does not use
    given: tuple[str, ...] = ()


# What TMVA's newer releases do where no strategy is given.
DEFAULT_PHASE = Phase(learning_rate=1e-3, momentum=0.0, test_repetitions=1)


def parse_strategy(value: Piece) -> tuple[Phase, ...]:
    """Parse the value of ``TrainingStrategy=``.

    Raises
    ------
    ConfigError
        If a key is unknown, stands twice or without a value, or a value cannot be used.

    Examples
    --------
    >>> [phase.optimizer for phase in parse_strategy(Piece("Optimizer=SGD,BatchSize=50|MaxEpochs=5", 0))]
    ['SGD', 'ADAM']
    """
    parts = [part for part in value.split("|") if part.text.strip()]
    if not parts:
        raise value.error("a strategy has at least one phase")
    if len(parts) > MOST_PHASES:
        raise parts[MOST_PHASES].error(f"more than {MOST_PHASES} phases")
    return tuple(_phase(part) for part in parts)


def _phase(piece: Piece) -> Phase:
    known = {name.lower(): name for name in (*_PHASE, *_SETTINGS)}
    found: dict[str, Piece] = {}
    tokens: dict[str, Piece] = {}
    for part in piece.split(","):
        token = part.stripped()
        if not token.text:
            continue
        name, value = token.cut("=")
        key = known.get(name.text.strip().lower())
        if value is None:
            raise token.error(f"no value: key=value is needed; {suggestion(name.text, known.values())}")
        if key is None:
            raise token.error(f"unknown key; {suggestion(name.text.strip(), known.values())}")
        if key in found:
            raise token.error(f"given twice, first at column {tokens[key].start + 1}")
        second = value.text.lower().find("=")
        if second >= 0:
            before = value.text[:second].lower()
            word = next((k for low, k in known.items() if before.endswith(low)), None)
            raise token.error(f"',' is missing before '{word}'" if word else "a second '='")
        found[key], tokens[key] = value.stripped(), token
    return _read_phase(found, tokens)


def _read_phase(found: Mapping[str, Piece], tokens: Mapping[str, Piece]) -> Phase:
    values: dict[str, object] = {}
    if "Optimizer" in found:
        values["optimizer"] = found["Optimizer"].choice("optimiser", OPTIMISERS)
    optimizer = str(values.get("optimizer", "ADAM"))
    settings = dict(OPTIMISERS[optimizer])
    for key in _SETTINGS:
        if key not in found:
            continue
        owner, _, setting = key.partition("_")
        if owner != optimizer:
            raise tokens[key].error(f"has no meaning with Optimizer={optimizer}")
        most = 1.0 - 2.0**-53 if setting != "eps" else 1e6
        settings[setting] = found[key].number(setting, least=1e-300 if setting == "eps" else 0.0, most=most)
    for key, name, least, most in (
        ("LearningRate", "learning_rate", 1e-300, 1e6),
        ("Momentum", "momentum", 0.0, 1.0 - 2.0**-53),
        ("WeightDecay", "weight_decay", 0.0, 1e6),
    ):
        if key in found:
            values[name] = found[key].number(name.replace("_", " "), least=least, most=most)
    for key, name, least_count in (
        ("ConvergenceSteps", "convergence_steps", 0),
        ("MaxEpochs", "max_epochs", 1),
        ("BatchSize", "batch_size", 1),
        ("TestRepetitions", "test_repetitions", 1),
    ):
        if key in found:
            values[name] = found[key].whole(name.replace("_", " "), least=least_count)
    if "Regularization" in found:
        words = ("L1", "L2", "None", "NONE", "none")
        values["regularization"] = found["Regularization"].choice("regularisation", words).upper()
    if "DropConfig" in found:
        parts = found["DropConfig"].split("+")
        values["drop_config"] = tuple(p.number("a probability", least=0.0, most=1.0) for p in parts)
    unused = {k: found[k].text for k in ("Multithreading", "Repetitions", "DropRepetitions") if k in found}
    return Phase(
        settings=MappingProxyType(settings),
        unused=MappingProxyType(unused),
        given=tuple(found),
        **values,  # type: ignore[arg-type]
    )
