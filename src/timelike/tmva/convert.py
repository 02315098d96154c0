"""A booking of TMVA's method DL as a config for ``timelike train``.

What has a counterpart is carried over, TMVA's defaults included. What has none is named in a comment beside
the key that comes nearest to it. Every text is a config that has been checked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from timelike.config import Config
from timelike.errors import ConfigError, nearest
from timelike.tmva.annotated import Annotated
from timelike.tmva.network import put_network
from timelike.tmva.options import Options, Split, parse, parse_split
from timelike.tmva.strategy import Phase

__all__ = ["convert"]

_TWO = {"CROSSENTROPY": "cross_entropy", "SUMOFSQUARES": "squared_error"}
_MANY = {
    "MUTUALEXCLUSIVE": "cross_entropy",
    "CROSSENTROPY": "sigmoid_cross_entropy",
    "SUMOFSQUARES": "squared_error",
}
_BALANCE: dict[str, bool | str] = {"EqualNumEvents": True, "NumEvents": "number", "None": False}
_STEPS = {"N": "minmax", "U": "uniform", "G": "gauss"}
_MIXES = {"D": "decorrelate", "P": "pca"}


def convert(
    options: str | Options,
    split: str | Split | None = None,
    *,
    data: Mapping[str, Any] | None = None,
    n_variables: int | None = None,
    name: str = "",
    source: str = "",
    notes: Sequence[tuple[tuple[str | int, ...], str]] = (),
) -> str:
    """Make a config of the options of a DL method.

    Parameters
    ----------
    options : str or Options
        With which the method is booked.
    split : str or Split, optional
        Options of ``PrepareTrainingAndTestTree``; without them TMVA's defaults.
    data : mapping, optional
        Section ``data`` of the config. Without it one in the manner of TMVA's tutorial, to be filled in.
    n_variables : int, optional
        How many numbers each event has, where ``InputLayout`` does not say it.
    name : str
        Name of the booking.
    source : str
        Where the options were read, for the comment at the top.
    notes : sequence of (path, str)
        Comments to put above keys: ``(("data", "files"), "not read")``.

    Returns
    -------
    str
        YAML with comments.

    Raises
    ------
    ConfigError
        If the options cannot be read, or have no meaning as a recurrent network.

    Examples
    --------
    >>> text = convert("Layout=LSTM|10|30|10|0|1,RESHAPE|FLAT,DENSE|64|TANH,LINEAR:InputLayout=10|30")
    >>> print(text[text.index("network:"):text.index("  initialiser")], end="")
    network:
      recurrent:
      - cell: lstm
        units: 10
        inner_bias: false
      pooling: flatten
      steps: 10
      head:
        units:
        - 64
        activation:
        - tanh
        output: sigmoid
    """
    given = parse(options) if isinstance(options, str) else options
    shares = parse_split(split) if isinstance(split, str) else split or Split()
    config = Annotated(*_head(given, shares, name, source))
    _put_data(config, given, shares, data)
    section = config.values["data"]
    classes = list(section.get("labels") or section.get("classes") or ())
    config.values["split"] = {}
    _, multiclass = put_network(config, given, len(classes), n_variables)
    _put_split(config, given, shares, classes)
    _put_training(config, given, shares, multiclass)
    if name:
        config.values["output"] = "runs/" + ("".join(c if c.isalnum() else "_" for c in name)[:80])
    for path, text in notes:
        config.note(path, text)
    Config.from_dict(config.values)
    return config.text()


def _head(options: Options, split: Split, name: str, source: str) -> list[str]:
    booked = (
        f"{name!r}, a booking of TMVA's method DL" if name else "the options of a booking of TMVA's method DL"
    )
    lines = [f"Made from {booked}{', ' + source if source else ''}:", *_broken(options.text)]
    if split.text:
        lines += ["and from the options of PrepareTrainingAndTestTree:", *_broken(split.text)]
    without = [f"{key}={value}" for key, value in options.other.items()]
    without += [key for key, on in (("H", options.help), ("V", options.verbose)) if on]
    if "Architecture" in options.given:
        without.append(f"Architecture={options.architecture}")
    if without:
        lines.append(f"No counterpart is needed for: {', '.join(without)}.")
    if options.batch_layout:
        layout = "|".join(map(str, options.batch_layout))
        lines.append(f"BatchLayout={layout} is not carried over: it follows from the other sizes.")
    return lines


def _broken(options: str) -> list[str]:
    """Break a long option string where its parts end."""
    lines = [""]
    for part in re.findall(r"[^:,|]*[:,|]|[^:,|]+", options):
        if lines[-1] and len(lines[-1]) + len(part) > 94:
            lines.append("")
        lines[-1] += part
    return [line for line in lines if line]


# -- data and split ------------------------------------------------------------------------------------------


def _put_data(config: Annotated, options: Options, split: Split, data: Mapping[str, Any] | None) -> None:
    if data is None:
        names = list(dict.fromkeys([*split.train, *split.test, *split.train_share]))
        for name in ("Background", "Signal"):
            if len(names) < 2 and name.lower() not in [given.lower() for given in names]:
                names.append(name)
        # Of two classes the score is that of the last one, and TMVA's signal stands first.
        if len(names) == 2 and names[1].lower() != "signal":
            names.reverse()
        trees = {"signal": "sgn", "background": "bkg"}
        config.values["data"] = {
            "files": "events.root",
            "steps": "vars_time*",
            "classes": {name: {"treename": trees.get(name.lower(), name)} for name in names},
        }
        config.note(
            ("data",),
            "FILL IN: an option string does not say where the events are. These are the names of TMVA's "
            "tutorial: a tree for each class, and a branch for each time step.",
        )
    else:
        config.values["data"] = dict(data)
    if "transforms" in config.values["data"]:
        return
    steps: list[str] = []
    mixes: list[str] = []
    left: list[str] = []
    for letter in options.var_transform:
        if letter in _STEPS and not mixes:
            steps.append(_STEPS[letter])
        elif letter in _MIXES and not mixes:
            mixes.append(_MIXES[letter])
        else:
            left.append(letter)
    config.values["data"]["transforms"] = {"default": (steps[0] if len(steps) == 1 else steps) or "none"}
    if mixes:
        config.values["data"]["mix"] = mixes[0]
    if options.var_transform:
        given = options.pieces["VarTransform"].text
        note = f"VarTransform={given}: fitted to all steps of a variable together; TMVA takes each by itself."
        if left:
            note += f" Not carried over, there is one mix of all variables, at the end: {', '.join(left)}."
        if set(given) & set("_("):
            note += " It is that of all classes and variables."
        config.note(("data", "transforms"), note)


def _put_split(config: Annotated, options: Options, split: Split, classes: Sequence[str]) -> None:
    by_lower = {name.lower(): name for name in classes}

    def of(given: Mapping[str, Any], option: str) -> dict[str, Any]:
        for name in given:
            if name.lower() not in by_lower:
                raise ConfigError(f"{(option + name)!r}: no such class; {nearest(name, classes)}")
        return {by_lower[name.lower()]: number for name, number in given.items()}

    train, test = of(split.train, "nTrain_"), of(split.test, "nTest_")
    counts: dict[str, Any] = {key: part for key, part in (("train", train), ("test", test)) if part}
    path = ("split", "counts", "validation")
    if isinstance(options.validation, float):
        counts["validation"] = options.validation
    else:
        total = sum(train.values()) if len(train) == len(classes) else 0
        share = options.validation / total if total else 0.0
        if 0.0 < share < 1.0:
            counts["validation"] = share
            config.note(path, f"ValidationSize={options.validation} of {total} events for training.")
        elif total:
            piece = options.pieces["ValidationSize"]
            raise piece.error(f"events for validation, of {total} that are for training")
        else:
            counts["validation"] = 0.2
            config.note(
                path,
                f"FILL IN: ValidationSize={options.validation} is a number of events. Here a share of those "
                "for training is needed, and how many these are is not said.",
            )
    for name, share in of(split.train_share, "TrainTestSplit_").items():
        config.note(
            ("split", "counts"),
            f"TrainTestSplit_{name}={share:g} is not carried over: counts.train takes a number of events.",
        )
    config.values["split"] |= {"by": split.mode.lower(), "counts": counts}
    if split.mode == "Random":
        config.values["split"]["seed"] = split.seed
        if split.seed == 0:
            config.note(("split", "seed"), "SplitSeed=0 is another seed in every run of TMVA; here 0 is one.")
    if split.mix_mode not in ("SameAsSplitMode", split.mode):
        config.note(
            ("split",),
            f"MixMode={split.mix_mode} is not carried over: batches are drawn at random in every epoch.",
        )
    if split.other:
        listed = ", ".join(f"{key}={value}" for key, value in split.other.items())
        config.note(("split",), f"No counterpart is needed for: {listed}.")


# -- training ------------------------------------------------------------------------------------------------


def _put_training(config: Annotated, options: Options, split: Split, multiclass: bool) -> None:
    losses = _MANY if multiclass else _TWO
    if options.error_strategy not in losses:
        raise options.pieces["ErrorStrategy"].error(
            "leaves TMVA without a loss for two classes; CROSSENTROPY and SUMOFSQUARES are possible"
        )
    training: dict[str, Any] = {"loss": losses[options.error_strategy]}
    config.values["training"] = training
    training |= _phase(config, ("training",), options.training[0])
    training["class_balance"] = _BALANCE[split.norm_mode]
    if options.ignore_negative_weights:
        training["negative_weights"] = "ignore"
    training["seed"] = options.random_seed
    if options.random_seed == 0:
        config.note(("training", "seed"), "RandomSeed=0 is another seed in every run of TMVA; here 0 is one.")
    if "TrainingStrategy" not in options.given:
        config.note(("training",), "no TrainingStrategy was given; these are the defaults of TMVA.")
    if len(options.training) > 1:
        training["then"] = [
            _phase(config, ("training", "then", index), phase)
            for index, phase in enumerate(options.training[1:])
        ]


def _phase(config: Annotated, path: tuple[str | int, ...], phase: Phase) -> dict[str, Any]:
    interval = phase.test_repetitions
    epochs = -(-phase.max_epochs // interval) * interval
    values: dict[str, Any] = {
        "optimiser": _optimiser(phase),
        "epochs": epochs,
        "batch_size": phase.batch_size,
        # TMVA stops when more than ConvergenceSteps epochs have passed, and asks every TestRepetitions.
        "early_stopping": {"patience": phase.convergence_steps + 1, "metric": "loss", "every": interval},
        "clip_norm": None,
    }
    if epochs != phase.max_epochs:
        config.note(
            (*path, "epochs"),
            f"MaxEpochs={phase.max_epochs}: TMVA looks at it every {interval} epochs (TestRepetitions), and "
            f"ends after {epochs}.",
        )
    if phase.regularization != "NONE" and phase.weight_decay > 0:
        values["regularisation"] = {"name": phase.regularization.lower(), "strength": phase.weight_decay}
        config.note(
            (*path, "regularisation"),
            "of all weight matrices; TMVA's never reaches those of recurrent layers.",
        )
    elif phase.weight_decay > 0:
        config.note(
            (*path, "optimiser"), f"WeightDecay={phase.weight_decay:g} does nothing without Regularization."
        )
    if path != ("training",):
        values.setdefault("regularisation", None)  # a phase takes over what it does not name
    if any(phase.drop_config):
        given = "+".join(f"{p:g}" for p in phase.drop_config)
        config.note(
            path,
            f"DropConfig={given} is not carried over. In TMVA it acts on the inputs of dense layers, each "
            "with its own share; network.head.dropout acts on the outputs of all.",
        )
    idle = [f"{key}={value}" for key, value in phase.unused.items()]
    if "Momentum" in phase.given and phase.optimizer not in ("SGD", "RMSPROP"):
        idle.append(f"Momentum={phase.momentum:g} ({phase.optimizer} has none)")
    if idle:
        config.note(path, f"without effect in TMVA: {', '.join(idle)}.")
    return values


def _optimiser(phase: Phase) -> dict[str, Any]:
    values: dict[str, Any] = {"name": phase.optimizer.lower(), "learning_rate": phase.learning_rate}
    settings = phase.settings
    if phase.optimizer in ("SGD", "RMSPROP"):
        values["momentum"] = phase.momentum
    if phase.optimizer == "ADAM":
        values |= {"beta1": settings["beta1"], "beta2": settings["beta2"]}
    if phase.optimizer == "RMSPROP":
        values["alpha"] = settings["rho"]
    if phase.optimizer == "ADADELTA":
        values["rho"] = settings["rho"]
    if "eps" in settings:
        values["epsilon"] = settings["eps"]
    if phase.optimizer == "ADAM":
        values["epsilon_hat"] = True
    if phase.optimizer in ("RMSPROP", "ADAGRAD"):
        values["epsilon_in_root"] = True
    return values
