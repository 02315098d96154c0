"""Models of ours, written as weight files that TMVA's method DL reads.

TMVA's networks are fewer than ours. What they cannot express is refused with the reason; where numbers have
to be combined, `write_weights` says so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt

from timelike import __version__
from timelike.cells import CELLS, cell_of
from timelike.config import SequenceConfig
from timelike.errors import ConfigError
from timelike.files import replacing
from timelike.model import Model
from timelike.tmva.weightlayers import ACTIVATIONS, INITIALISERS, MATRICES, MAX_LAYERS

__all__ = ["write_weights"]

Array = npt.NDArray[Any]

_ELEMENTS = {"lstm": "LSTMLayer", "gru": "GRULayer", "gru_reset_before": "GRULayer", "rnn_tanh": "RNNLayer"}
_WORDS = {"LSTMLayer": "LSTM", "GRULayer": "GRU", "RNNLayer": "RNN"}  # in a layout string
_UNSET = 3.40282347e38  # TMVA's limits of a variable whose range is not known, the lower above the upper
# What XML can hold; white space other than blanks would come back as blanks.
_WRITABLE = re.compile("[\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")


def write_weights(
    model: Model, path: str | os.PathLike[str], *, steps: int | None = None, method: str = "timelike"
) -> None:
    """Write a model as a weight file of TMVA's method DL.

    Numbers are written with 9 digits, those of a float64 model with 17, so that `read_weights` gives the same
    bits again where nothing had to be combined. Combined, and rounded to the model's precision, are

    - the two biases of an LSTM, an RNN and a GRU's gates, to their sum: exact where one of them is 0;
    - the two rows of a softmax over two classes, to their difference: the sigmoid of a difference is that
      softmax. A sigmoid whose signal is the first class changes its sign, which is exact.

    TMVA's score is of the signal, so of two classes the signal is written as the first; of three or more it
    is moved to the front, unless it is called "Signal", by which TMVA knows it anywhere.

    The file has the layout strings that TMVA builds its networks of. It was checked against TMVA's source,
    and not by TMVA itself.

    Parameters
    ----------
    model : Model
        Its network may have LSTM, GRU and RNN (tanh) layers, `pooling` last or flatten, and a head with the
        activations relu, tanh, sigmoid, softsign, symmrelu, gauss and linear, with batch normalisation.
        Dropout leaves no trace in the file.
    path : path
        The file; an older one is replaced. TMVA expects a name that ends with ``.weights.xml``.
    steps : int, optional
        Steps of every event, T, which TMVA fixes: needed with `pooling` last, unless `model` was read of a
        weight file or names a branch for each step.
    method : str
        Name of the method: ``DL::<method>``.

    Raises
    ------
    ConfigError
        If TMVA has no such network, T is not known, or the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from timelike.config import DataConfig, NetworkConfig
    >>> from timelike.data.transforms import FittedTransforms
    >>> from timelike.network import Network
    >>> from timelike.tmva import read_weights
    >>> data = DataConfig.model_validate_json(
    ...     '{"files": ["e.root"], "steps": ["a", "b"], "classes": {"Background": {}, "Signal": {}}}'
    ... )
    >>> network = Network(NetworkConfig(), 3, 2)
    >>> none = FittedTransforms.unchanged(("x0", "x1", "x2"))
    >>> file = Path(tempfile.mkdtemp()) / "demo.weights.xml"
    >>> write_weights(Model(network, none, data, SequenceConfig()), file)
    >>> again = read_weights(file)
    >>> again.variables, again.signal, again.network.config.head.output
    (('x0', 'x1', 'x2'), 'Signal', 'sigmoid')
    """
    _check(model)
    T = _steps(model, steps)
    lines = [
        '<?xml version="1.0"?>',
        f"<MethodSetup {_attributes(Method=f'DL::{method}')}>",
        *_around(model, T),
        *_network(model, T),
        "</MethodSetup>",
    ]
    with replacing(path) as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")


# -- what TMVA has ------------------------------------------------------------------------------------------


def _check(model: Model) -> None:
    """Refuse what TMVA cannot express."""
    network, transforms = model.network.config, model.transforms
    if not transforms.identity:
        changed = [
            f"{name!r} is not ({', '.join(step.kind for step in steps)})"
            for name, steps in zip(transforms.names, transforms.steps, strict=True)
            if not all(step.identity for step in steps)
        ]
        why = (changed or ["these are mixed or filled in where they are missing"])[0]
        raise ConfigError(
            f"TMVA's variables are untransformed, and {why}; "
            "possible: a training with data.transforms: {default: none}"
        )
    if model.sequence != SequenceConfig():
        raise ConfigError(
            "TMVA takes the steps of an event as they are; "
            "'sequence' (order, first or last steps, direction) must be left out"
        )
    if network.pooling not in ("last", "flatten"):
        raise ConfigError(f"TMVA has no pooling: {network.pooling}; possible: last, flatten")
    for index, layer in enumerate(network.recurrent):
        where = f"recurrent layer {index}"
        if layer.bidirectional:
            raise ConfigError(f"{where}: TMVA has no bidirectional layers")
        cell = cell_of(layer.model_dump()).cell
        if cell not in _ELEMENTS:
            raise ConfigError(f"{where}: TMVA has no {cell}; possible: lstm, gru, rnn_tanh, without options")
    for activation in network.head.activations:
        if activation not in ACTIVATIONS:
            raise ConfigError(
                f"TMVA has no activation {activation!r}; possible: {', '.join(dict.fromkeys(ACTIVATIONS))}"
            )
    others = [name for name in model.class_names if name != model.signal]
    if "Signal" in others:
        raise ConfigError(f"TMVA takes class 'Signal' for the signal, and here that is {model.signal!r}")
    for name, weight in model.network.state_dict().items():
        if not weight.isfinite().all():
            raise ConfigError(f"{name} holds a value that is not finite")


def _steps(model: Model, given: int | None) -> int:
    config = model.network.config
    if config.pooling == "flatten":
        assert config.steps is not None
        if given not in (None, config.steps):
            raise ConfigError(f"steps={given}; the network takes {config.steps}")
        return config.steps
    branches = model.data.steps
    fixed = len(branches) if branches and not any(c in name for name in branches for c in "*?[") else None
    record = model.training.get("tmva")
    recorded = record.get("steps") if isinstance(record, dict) else None
    steps = given if given is not None else fixed or recorded
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ConfigError(f"steps={steps!r}; TMVA needs the number of steps of every event, 1 or more")
    return steps


# -- XML ----------------------------------------------------------------------------------------------------


def _text(text: str) -> str:
    if not _WRITABLE.fullmatch(text):
        raise ConfigError(f"{text[:60]!r} cannot be written as XML; letters, digits and blanks are possible")
    return escape(text, {'"': "&quot;"})


def _attributes(**values: object) -> str:
    return " ".join(f'{name}="{_text(str(value))}"' for name, value in values.items())


def _matrix(name: str, values: Array) -> Iterator[str]:
    """Write a matrix, row by row, with the digits that give each number back."""
    digits = 8 if values.dtype == np.float32 else 16
    yield f"      <{name} {_attributes(Rows=values.shape[0], Columns=values.shape[1])}>"
    yield "".join(f"{value:.{digits}e}  " for value in values.ravel().tolist())
    yield f"      </{name}>"


# -- the parts of a file ------------------------------------------------------------------------------------


def _around(model: Model, T: int) -> Iterator[str]:
    """Everything but the weights."""
    config, D = model.network.config, len(model.variables)
    sigmoid = len(model.class_names) == 2
    yield "  <GeneralInfo>"
    kind = "Classification" if sigmoid else "Multiclass"
    for name, value in {"Creator": f"timelike {__version__}", "AnalysisType": kind}.items():
        yield f"    <Info {_attributes(name=name, value=value)}/>"
    yield "  </GeneralInfo>"
    yield "  <Options>"
    options = {
        "VarTransform": "None",
        "InputLayout": f"{T}|{D}" if config.recurrent or T > 1 else f"1|1|{D}",
        "Layout": _layout(model, T),
        "ErrorStrategy": "CROSSENTROPY" if sigmoid else "MUTUALEXCLUSIVE",
        "WeightInitialization": "XAVIER" if config.initialiser == "torch" else _spelled(config.initialiser),
    }
    for name, value in options.items():
        yield f"    <Option {_attributes(name=name, modified='Yes')}>{_text(value)}</Option>"
    yield "  </Options>"
    variables = _variables(model, T)
    yield f"  <Variables {_attributes(NVar=len(variables))}>"
    for k, (expression, title, internal, kind) in enumerate(variables):
        names = {
            "Expression": expression,
            "Label": expression,
            "Title": title,
            "Unit": "",
            "Internal": internal,
        }
        limits = {"Type": kind, "Min": f"{_UNSET:.8e}", "Max": f"{-_UNSET:.8e}"}
        yield f"    <Variable {_attributes(VarIndex=k, **names, **limits)}/>"
    yield "  </Variables>"
    yield f"  <Spectators {_attributes(NSpec=0)}/>"
    classes = _classes(model)
    yield f"  <Classes {_attributes(NClass=len(classes))}>"
    for k, name in enumerate(classes):
        yield f"    <Class {_attributes(Name=name, Index=k)}/>"
    yield "  </Classes>"
    yield f"  <Transformations {_attributes(NTransformations=0)}/>"
    yield "  <MVAPdfs/>"


def _spelled(initialiser: str) -> str:
    return {"xavier_uniform": "XAVIERUNIFORM"}.get(initialiser, initialiser.upper())


def _classes(model: Model) -> list[str]:
    """Give the classes in the order of TMVA."""
    names = list(model.class_names)
    if model.signal == "Signal" and len(names) > 2:
        return names
    return [model.signal, *(name for name in names if name != model.signal)]


def _variables(model: Model, T: int) -> list[tuple[str, str, str, str]]:
    """Give expression, title, internal name and type of each variable of each step."""
    D, branches = len(model.variables), model.data.steps
    if branches and len(branches) == 1 and branches[0].count("*") == 1:  # numbered, as in TMVA's tutorial
        branches = tuple(branches[0].replace("*", str(t)) for t in range(T))
    if branches and len(branches) == T and D > 1:
        return [
            (branch, f"[{d}]", f"{_internal(branch)}[{d}]", "F[]") for branch in branches for d in range(D)
        ]
    if branches and len(branches) == T:
        names = list(branches)
    elif T == 1:
        names = list(model.variables)
    else:
        names = [f"{name}_{t}" for t in range(T) for name in model.variables]
    return [(name, name, _internal(name), "F") for name in names]


def _internal(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _layout(model: Model, T: int) -> str:
    """Write the layers as TMVA's option ``Layout`` has them."""
    config, words, size = model.network.config, [], len(model.variables)
    flat = config.pooling == "flatten"
    for index, layer in enumerate(config.recurrent):
        cell = cell_of(layer.model_dump()).cell
        all_steps = flat or index + 1 < len(config.recurrent)
        fields = [_WORDS[_ELEMENTS[cell]], layer.units, size, T, 0, int(all_steps)]
        fields += [int(cell == "gru")] if _ELEMENTS[cell] == "GRULayer" else []
        words.append("|".join(map(str, fields)))
        size = layer.units
    if config.recurrent or T > 1:
        words.append("RESHAPE|FLAT")
    norm = config.head.batch_norm
    normed = norm.before if norm else ()
    for k in range(len(config.head.units) + 1):
        if norm is not None and k in normed:
            words.append(f"BNORM|{_momentum(norm.momentum)!r}|{norm.epsilon!r}")
        if k < len(config.head.units):
            words.append(f"DENSE|{config.head.units[k]}|{config.head.activations[k].upper()}")
    return ",".join([*words, "LINEAR"])


def _momentum(share: float | None) -> float:
    """Give the share of the old mean; TMVA marks by one below 0 that all batches count the same."""
    return -1.0 if share is None else 1.0 - share


def _network(model: Model, T: int) -> Iterator[str]:
    config, D = model.network.config, len(model.variables)
    weights = {name: value.numpy() for name, value in model.network.state_dict().items()}
    flat = config.pooling == "flatten"
    layers: list[list[str]] = []
    size = D
    for index, layer in enumerate(config.recurrent):
        all_steps = flat or index + 1 < len(config.recurrent)
        layers.append(list(_recurrent(layer, weights, index, size, T, all_steps)))
        size = layer.units
    if config.recurrent or T > 1:
        size *= T if flat else 1
        shape = _attributes(Depth=1, Height=1, Width=size, Flattening=1)
        layers.append([f"    <ReshapeLayer {shape}/>"])
    for k in range(len(config.head.units) + 1):
        layers.extend(_dense(model, weights, k))
    if len(layers) > MAX_LAYERS:
        raise ConfigError(f"the network has {len(layers)} layers; up to {MAX_LAYERS} are written")
    sigmoid = len(model.class_names) == 2
    codes = {name: code for code, name in INITIALISERS.items()}
    attributes = {
        "NetDepth": len(layers),
        "InputDepth": T,
        "InputHeight": 1,
        "InputWidth": D,
        "BatchSize": 1,
        "BatchDepth": 1,
        "BatchHeight": T,
        "BatchWidth": D,
        "LossFunction": "C" if sigmoid else "S",
        "Initialization": codes.get(config.initialiser, "X"),
        "Regularization": "0",
        "OutputFunction": "S" if sigmoid else "M",
        "WeightDecay": f"{0.0:.8e}",
    }
    yield f"  <Weights {_attributes(**attributes)}>"
    for lines in layers:
        yield from lines
    yield "  </Weights>"


def _recurrent(
    layer: Any, weights: dict[str, Array], index: int, size: int, T: int, all_steps: bool
) -> Iterator[str]:
    cell = cell_of(layer.model_dump()).cell
    element, H, gates = _ELEMENTS[cell], layer.units, CELLS[cell].gates
    prefix = f"recurrent.{index}."
    b_ih = weights[f"{prefix}bias_ih_l0"]
    b_hh = weights.get(f"{prefix}bias_hh_l0", np.zeros_like(b_ih))
    if cell == "gru" and b_hh[2 * H :].any():
        raise ConfigError(
            f"recurrent layer {index}: TMVA's GRU has no bias inside the reset; possible: inner_bias: false"
        )
    blocks = {
        "W": np.split(weights[f"{prefix}weight_ih_l0"], len(gates)),
        "U": np.split(weights[f"{prefix}weight_hh_l0"], len(gates)),
        "b": np.split(_sum(b_ih, b_hh, f"recurrent layer {index}")[:, None], len(gates)),
    }
    attributes = {"StateSize": H, "InputSize": size, "TimeSteps": T, "RememberState": 0}
    attributes["ReturnSequence"] = int(all_steps)
    if element == "LSTMLayer":
        attributes = {"StateSize": H, "CellSize": H, **attributes}
    if element == "GRULayer":
        attributes["ResetGateAfter"] = int(cell == "gru")
    yield f"    <{element} {_attributes(**attributes)}>"
    for name, kind, gate in MATRICES[element]:
        yield from _matrix(name, blocks[kind][gates.index(gate)])
    yield f"    </{element}>"


def _sum(a: Array, b: Array, where: str) -> Array:
    """Add two biases; one beside zeros keeps its bits, of which addition would take the sign of a zero."""
    if not b.any() or not a.any():
        return b if b.any() else a
    with np.errstate(over="ignore"):  # told below
        return _finite(a + b, f"{where}: the sum of its biases")


def _finite(values: Array, what: str) -> Array:
    if not np.isfinite(values).all():
        raise ConfigError(f"{what} is beyond {values.dtype}")
    return values


def _dense(model: Model, weights: dict[str, Array], k: int) -> Iterator[list[str]]:
    """Give the layers that dense layer k is in TMVA, its normalisation before it."""
    config = model.network.config.head
    if config.batch_norm is not None and k in config.batch_norm.before:
        norm = config.batch_norm
        values = _attributes(Momentum=repr(_momentum(norm.momentum)), Epsilon=repr(norm.epsilon))
        matrices = {"Training-mu": "running_mean", "Training-variance": "running_var"}
        matrices |= {"Gamma": "weight", "Beta": "bias"}
        lines = [f"    <BatchNormLayer {values}>"]
        for element, name in matrices.items():
            lines += _matrix(element, weights[f"norms.{k}.{name}"][None, :])
        yield [*lines, "    </BatchNormLayer>"]
    W, b = weights[f"head.{k}.weight"], weights[f"head.{k}.bias"]
    last = k == len(config.units)
    activation = "linear" if last else config.activations[k]
    if last:
        W, b = _scores(model, W, b)
    shape = _attributes(Width=len(W), ActivationFunction=ACTIVATIONS.index(activation))
    yield [
        f"    <DenseLayer {shape}>",
        *_matrix("Weights", W),
        *_matrix("Biases", b[:, None]),
        "    </DenseLayer>",
    ]


def _scores(model: Model, W: Array, b: Array) -> tuple[Array, Array]:
    """Give the last layer as TMVA has it: of two classes the signal's score, of more all in its order."""
    names: Sequence[str] = model.class_names
    signal = names.index(model.signal)
    if model.network.sigmoid:
        return (W, b) if signal == 1 else (-W, -b)
    if len(names) == 2:
        with np.errstate(over="ignore"):
            W, b = W[[signal]] - W[[1 - signal]], b[[signal]] - b[[1 - signal]]
        return _finite(W, "the difference of the two scores"), _finite(b, "the difference of the two scores")
    order = [names.index(name) for name in _classes(model)]
    return W[order], b[order]
