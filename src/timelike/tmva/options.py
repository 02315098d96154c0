"""TMVA's option strings, parsed: that of a DL method, and that of ``PrepareTrainingAndTestTree``.

TMVA skips what it cannot read: a token without ``=``, an unknown key of a training phase, text in the place
of a number. A training then runs with other settings than were meant. Here each of these is a `ConfigError`
with its column, what was read, and the nearest key that exists:

    TrainingStrategy, column 214: 'MaxEpoch=20': unknown key; nearest: 'MaxEpochs'

Keys may be in letters of any case, as in TMVA. Values are in capitals, as TMVA compares them: ``adam``, to
which it is no optimiser at all and gives way to ``ADAM``, is an error too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from timelike.errors import ConfigError
from timelike.tmva.layout import Layer, Piece, parse_layout, suggestion
from timelike.tmva.strategy import DEFAULT_PHASE, OPTIMISERS, Phase, parse_strategy

__all__ = ["OPTIMISERS", "Options", "Phase", "Split", "parse", "parse_split"]

MOST_CHARACTERS = 20_000

INITIALISATIONS = ("XAVIER", "XAVIERUNIFORM", "GAUSS", "UNIFORM", "IDENTITY", "ZERO")
ERROR_STRATEGIES = ("CROSSENTROPY", "SUMOFSQUARES", "MUTUALEXCLUSIVE")
ARCHITECTURES = ("CPU", "GPU", "CUDNN", "STANDARD", "OPENCL")
VERBOSITIES = ("Default", "Debug", "Verbose", "Info", "Warning", "Error", "Fatal")
TRANSFORMS = {
    **dict.fromkeys(("n", "norm", "normalise", "normalize"), "N"),
    **dict.fromkeys(("d", "deco", "decorrelate"), "D"),
    **dict.fromkeys(("p", "pca"), "P"),
    **dict.fromkeys(("g", "gauss"), "G"),
    **dict.fromkeys(("u", "uniform"), "U"),
    **dict.fromkeys(("i", "ident", "identity", "none"), "None"),
}

_SWITCHES = ("H", "V", "CreateMVAPdfs", "IgnoreNegWeightsInTraining", "TxtWeightFilesOnly")
_VALUED = (
    "InputLayout",
    "BatchLayout",
    "Layout",
    "ErrorStrategy",
    "WeightInitialization",
    "RandomSeed",
    "ValidationSize",
    "Architecture",
    "TrainingStrategy",
    "VarTransform",
    "VerbosityLevel",
    "NbinsMVAPdf",
    "NsmoothMVAPdf",
    "VarTransformType",
)
_SPLIT_SWITCHES = ("V", "Correlations", "CalcCorrelations", "ScaleWithPreselEff")
_SPLIT_VALUED = ("SplitMode", "MixMode", "NormMode", "SplitSeed", "VerboseLevel")
_SPLIT_CLASSES = ("nTrain_", "nTest_", "TrainTestSplit_")
_TRUE, _FALSE = ("1", "t", "true", "ktrue"), ("0", "f", "false", "kfalse")


def _nothing() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True)
class Options:
    """The options of a DL method; the defaults are TMVA's.

    `validation` is a share of the events for training where it is a float, and a number of events where it is
    an int. `other` are options of every method that say nothing of the network or its training.
    """

    text: str
    layout: tuple[Layer, ...] = ()
    input_layout: tuple[int, ...] = ()
    batch_layout: tuple[int, ...] = ()
    error_strategy: str = "CROSSENTROPY"
    weight_initialization: str = "XAVIER"
    random_seed: int = 0
    validation: float | int = 0.2
    architecture: str = "CPU"
    var_transform: tuple[str, ...] = ()  # letters: N D P G U
    training: tuple[Phase, ...] = (DEFAULT_PHASE,)
    ignore_negative_weights: bool = False
    help: bool = False
    verbose: bool = False
    other: Mapping[str, str] = field(default_factory=_nothing)
    given: tuple[str, ...] = ()
    pieces: Mapping[str, Piece] = field(
        default_factory=lambda: MappingProxyType({}), repr=False, compare=False
    )


@dataclass(frozen=True)
class Split:
    """The options of ``PrepareTrainingAndTestTree``; the defaults are TMVA's. Numbers of 0 are not kept."""

    text: str = ""
    mode: str = "Random"
    mix_mode: str = "SameAsSplitMode"
    norm_mode: str = "EqualNumEvents"
    seed: int = 100
    train: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))  # class -> events
    test: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    train_share: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    other: Mapping[str, str] = field(default_factory=_nothing)
    given: tuple[str, ...] = ()


def parse(options: str) -> Options:
    """Parse the options with which a DL method is booked.

    Parameters
    ----------
    options : str
        All of them: ``"!H:V:Layout=LSTM|10|30|10|0|1,RESHAPE|FLAT,LINEAR:InputLayout=10|30"``.

    Returns
    -------
    Options

    Raises
    ------
    ConfigError
        Naming the option, the column from 1, what was read, and what is possible.

    Examples
    --------
    >>> options = parse("!H:V:Layout=GRU|8|3|5|0|0,LINEAR:TrainingStrategy=LearningRate=1e-3,MaxEpochs=20")
    >>> options.layout[0].cell, options.training[0].max_epochs, options.training[0].batch_size
    ('GRU', 20, 30)
    """
    values: dict[str, object] = {}
    other: dict[str, str] = {}
    pieces: dict[str, Piece] = {}
    for key, value in _tokens(options, _SWITCHES, _VALUED):
        pieces[key] = value
        if key in _READERS:
            name, read = _READERS[key]
            values[name] = read(value)
        elif key in _NAMES_OF_SWITCHES:
            values[_NAMES_OF_SWITCHES[key]] = value.text == "1"
        else:
            other[key] = _other(key, value)
    if "Layout" not in pieces:
        raise ConfigError("options: no 'Layout=', which says what the network is")
    return Options(
        text=options,
        other=MappingProxyType(other),
        given=tuple(pieces),
        pieces=MappingProxyType(pieces),
        **values,  # type: ignore[arg-type]
    )


def parse_split(options: str) -> Split:
    """Parse the options of ``PrepareTrainingAndTestTree``.

    Parameters
    ----------
    options : str
        For example ``"nTrain_Signal=1600:nTrain_Background=1600:SplitMode=Random:NormMode=NumEvents:!V"``.

    Returns
    -------
    Split

    Raises
    ------
    ConfigError
        As `parse` does.

    Examples
    --------
    >>> split = parse_split("nTrain_Signal=1600:SplitMode=Alternate:!V")
    >>> split.mode, dict(split.train), split.norm_mode
    ('Alternate', {'Signal': 1600}, 'EqualNumEvents')
    """
    found: dict[str, Piece] = {}
    counts: dict[str, dict[str, float]] = {prefix: {} for prefix in _SPLIT_CLASSES}
    for key, value in _tokens(options, _SPLIT_SWITCHES, _SPLIT_VALUED, _SPLIT_CLASSES):
        found[key] = value
        prefix = next((p for p in _SPLIT_CLASSES if key.startswith(p)), None)
        if prefix == "TrainTestSplit_":
            number = value.number("the share of the events for training", least=0.0, most=1.0)
        elif prefix is not None:
            number = value.whole("a number of events", most=10**15)
        if prefix is not None and number:
            counts[prefix][key[len(prefix) :]] = number
    modes = ("Random", "Alternate", "Block")
    known = {"SplitMode": modes, "MixMode": (*modes, "SameAsSplitMode")}
    known["NormMode"] = ("EqualNumEvents", "NumEvents", "None")
    words = {key: _any_case(found[key], key, words) for key, words in known.items() if key in found}
    train, test, share = (MappingProxyType(counts[prefix]) for prefix in _SPLIT_CLASSES)
    return Split(
        text=options,
        mode=words.get("SplitMode", "Random"),
        mix_mode=words.get("MixMode", "SameAsSplitMode"),
        norm_mode=words.get("NormMode", "EqualNumEvents"),
        seed=found["SplitSeed"].whole("the seed", most=2**32 - 1) if "SplitSeed" in found else 100,
        train=train,  # type: ignore[arg-type]
        test=test,  # type: ignore[arg-type]
        train_share=share,
        other=MappingProxyType(
            {k: v.text for k, v in found.items() if k in (*_SPLIT_SWITCHES, "VerboseLevel")}
        ),
        given=tuple(found),
    )


# -- tokens --------------------------------------------------------------------------------------------------


def _tokens(
    options: str,
    switches: tuple[str, ...],
    valued: tuple[str, ...],
    prefixes: tuple[str, ...] = (),
) -> list[tuple[str, Piece]]:
    """Give each option with its value, a switch with 1 or 0, in the letters in which it is known."""
    if len(options) > MOST_CHARACTERS:
        raise ConfigError(f"options: {len(options)} characters; {MOST_CHARACTERS} are possible")
    known = {name.lower(): name for name in (*switches, *valued)}
    found: dict[str, Piece] = {}
    for part in Piece(options, 0).split(":"):
        token = part.stripped()
        if not token.text:
            continue
        name, value = token.cut("=")
        negated = value is None and name.text.startswith("!")
        word = name.text[1:] if negated else name.text
        prefix = next((p for p in prefixes if word.lower().startswith(p.lower()) and word[len(p) :]), None)
        key = known.get(word.lower()) if prefix is None else prefix + word[len(prefix) :]
        if key is None:
            raise token.error(_unknown(token, word, value, (*switches, *valued, *prefixes)))
        if value is None and key not in switches:
            raise token.error(f"no value; {key}=... is possible")
        if key in found:
            raise token.error(f"given twice, first at column {found[key].start + 1}")
        if value is None:
            value = Piece("0" if negated else "1", token.start)
        elif key in switches:
            low = value.text.lower()
            if low not in (*_TRUE, *_FALSE):
                raise token.error(f"a switch; {key}, !{key}, {key}=True and {key}=False are possible")
            value = Piece("1" if low in _TRUE else "0", value.start)
        found[key] = Piece(value.text, value.start, key)
    return list(found.items())


def _unknown(token: Piece, word: str, value: Piece | None, known: tuple[str, ...]) -> str:
    if value is None:
        # TMVA takes a bare word for the value of any option that has such a value.
        for key, words in (
            ("Architecture", ARCHITECTURES),
            ("ErrorStrategy", ERROR_STRATEGIES),
            ("WeightInitialization", INITIALISATIONS),
        ):
            if word.upper() in words:
                return f"neither key=value nor a switch; nearest: '{key}={word.upper()}'"
        return f"neither key=value nor a switch; {suggestion(word, known)}"
    return f"unknown key; {suggestion(word, known)}"


def _any_case(value: Piece, name: str, known: tuple[str, ...]) -> str:
    words = {word.lower(): word for word in known}
    if value.text.lower() not in words:
        raise value.error(f"no such {name}; {suggestion(value.text, known)}")
    return words[value.text.lower()]


# -- values --------------------------------------------------------------------------------------------------


def _sizes(value: Piece) -> tuple[int, ...]:
    parts = value.split("|")
    if len(parts) > 4:
        raise value.error("at most 4 sizes are possible")
    sizes = tuple(part.whole("a size") for part in parts)
    return sizes if any(sizes) else ()  # 0|0|0: not given


def _validation(value: Piece) -> float | int:
    if value.text.endswith("%"):
        percent = Piece(value.text[:-1], value.start, value.key).number("the share of the events", most=100.0)
        share = percent / 100.0
    else:
        share = value.number("the share or the number of events", most=1e15)
        if share >= 1.0:
            return int(share)
    if not 0.0 < share < 1.0:
        raise value.error("a share above 0 and below 1 is needed, such as 20% or 0.2, or a number of events")
    return share


def _transforms(value: Piece) -> tuple[str, ...]:
    letters = []
    for part in re.split(r"[,+;]", re.sub(r"\([^()]*\)", "", value.text)):
        word = part.partition("_")[0].strip()  # behind _ stands a class
        if word.lower() not in TRANSFORMS:
            raise value.error(f"no such transform as {word[:60]!r}; N, D, P, G, U and None are possible")
        letters.append(TRANSFORMS[word.lower()])
    return tuple(letter for letter in letters if letter != "None")


def _other(key: str, value: Piece) -> str:
    if key == "VerbosityLevel":
        return _any_case(value, key, VERBOSITIES)
    if key in ("NbinsMVAPdf", "NsmoothMVAPdf"):
        return str(value.whole("a number"))
    return value.text


_READERS = {
    "Layout": ("layout", parse_layout),
    "InputLayout": ("input_layout", _sizes),
    "BatchLayout": ("batch_layout", _sizes),
    "ErrorStrategy": ("error_strategy", lambda v: v.choice("error strategy", ERROR_STRATEGIES)),
    "WeightInitialization": ("weight_initialization", lambda v: v.choice("initialisation", INITIALISATIONS)),
    "RandomSeed": ("random_seed", lambda v: v.whole("the seed", most=2**32 - 1)),
    "ValidationSize": ("validation", _validation),
    "Architecture": ("architecture", lambda v: v.choice("architecture", ARCHITECTURES)),
    "TrainingStrategy": ("training", parse_strategy),
    "VarTransform": ("var_transform", _transforms),
}
_NAMES_OF_SWITCHES = {
    "H": "help",
    "V": "verbose",
    "IgnoreNegWeightsInTraining": "ignore_negative_weights",
}
