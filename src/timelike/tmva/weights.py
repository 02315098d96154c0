"""TMVA's weight files of deep networks (`MethodDL`), read as models of ours.

A file says what the network is, what its variables and classes are called, and all weights; it does not say
where the events are. `read_weights` makes a `Model` of it, which `predict`, `save_model` and all else take;
`timelike.tmva.weightwriter.write_weights` goes the other way.

What has no counterpart is refused, never approximated: other methods than DL, regression, transformations of
variables (VarTransform), RememberState=1, convolutions and pooling of images.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from timelike.config import DataConfig, NetworkConfig, SequenceConfig
from timelike.data.transforms import FittedTransforms
from timelike.errors import ConfigError, nearest
from timelike.model import Model
from timelike.network import Network
from timelike.tmva.weightlayers import INITIALISERS, Stack, read_stack
from timelike.tmva.xmltree import MAX_BYTES, Element, read_xml, short

__all__ = ["UNKNOWN_FILE", "read_weights"]

UNKNOWN_FILE = "unknown.root"
"""What stands in place of the files of events, which no weight file names."""

_RECORDED = ("TMVA Release", "ROOT Release", "Date", "Training events", "TrainingTime", "AnalysisType")


def read_weights(
    path: str | os.PathLike[str], *, dtype: str = "float32", max_bytes: int = MAX_BYTES
) -> Model:
    """Read a weight file of TMVA's method DL.

    Variables: the file's T D variables are D variables at each of T steps, as ``InputLayout=T|D`` says. Where
    they are the elements of T arrays (``AddVariablesArray``), `Model.data` has these as `steps` and the
    variables are x0, x1, ...; else they are named by what their names have in common over the steps
    (``pt_0, pt_1, ...`` is ``pt``), or x0, x1, .... The files of events are unknown, and named so.

    Classes: TMVA's score of two classes is that of "Signal", or of its first class if none is called so. Here
    a single score is of the last class, so two classes come as (background, signal). Three or more keep their
    order.

    Layers: one bias of each gate becomes ``bias_ih``, with ``bias_hh`` of zeros in an LSTM or RNN; a GRU is
    one with ``inner_bias: false``, which has no other. TMVA's FASTTANH is read as tanh.

    Parameters
    ----------
    path : path
        The file, ``<job>_<method>.weights.xml``.
    dtype : {"float32", "float64"}
        Of the weights. TMVA computes in float32 and writes 7 digits.
    max_bytes : int
        Size up to which the file is read: 64 MiB, some four million numbers.

    Returns
    -------
    Model
        Without transforms; `Model.training` says where it comes from.

    Raises
    ------
    ModelFileError
        If the file cannot be read, is too large, damaged, or of another method: one line with the file, the
        line and the element.
    ConfigError
        If something in it has no counterpart here, or `dtype` is another.
    MissingExtraError
        If defusedxml is not installed.

    References
    ----------
    The format is that of ROOT's MethodBase::WriteStateToXML and of the AddWeightsXMLTo of its layers.
    """
    if dtype not in ("float32", "float64"):
        raise ConfigError(f"dtype {dtype!r}; {nearest(str(dtype), ('float32', 'float64'))}")
    root = read_xml(path, max_bytes=max_bytes)
    method = _method(root)
    info = _general_info(root)
    kind = info.get("AnalysisType", "Classification").lower()
    if kind == "regression" or root.named("Targets"):
        raise root.refusal("is of a regression; classifications of two or more classes are possible")
    if kind not in ("classification", "multiclass"):
        raise root.error(f"AnalysisType is {short(kind)}; possible: Classification, Multiclass")
    options = _options(root)
    _check_transformations(root)
    variables, classes = _variables(root), _classes(root)
    weights = root.child("Weights")
    stack = read_stack(weights, len(variables), dtype)
    output = _output(weights, stack, len(classes))
    # TMVA's signal: the class of that name, else the first.
    signal = "Signal" if "Signal" in classes else classes[0]
    if output == "sigmoid":
        classes = [*(name for name in classes if name != signal), signal]
    steps, names = _named(variables, stack.steps, stack.n_variables)
    network = _network(weights, stack, output)
    data = _data(root, steps, names, classes, signal)
    D = stack.n_variables
    torch_dtype = getattr(torch, dtype)
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn for nothing; leave no trace of it
        module = Network(network, D, len(classes), dtype=torch_dtype)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in stack.weights.items()}
    module.load_state_dict(module.state_dict() | tensors)
    record = {"method": method, "steps": stack.steps, "info": info, "options": options}
    return Model(
        network=module.eval(),
        transforms=FittedTransforms.unchanged(tuple(names)),
        data=data,
        sequence=SequenceConfig(),
        training={"tmva": record},
    )


# -- what is around the network -----------------------------------------------------------------------------


def _method(root: Element) -> str:
    if root.name != "MethodSetup":
        raise root.error("a weight file of TMVA begins with <MethodSetup>")
    method, _, name = root.attribute("Method").partition("::")
    if method != "DL":
        raise root.error(f"is of method {short(method)}; possible: DL")
    return name


def _general_info(root: Element) -> dict[str, str]:
    """Give what is kept of the general information; people, hosts and folders are not."""
    given = root.optional("GeneralInfo")
    values = {}
    for item in given.named("Info") if given else ():
        values[item.attribute("name")] = item.attribute("value")
    return {key: values[key] for key in _RECORDED if key in values}


def _options(root: Element) -> dict[str, str]:
    given = root.optional("Options")
    return {item.attribute("name"): item.text.strip() for item in given.named("Option")} if given else {}


def _check_transformations(root: Element) -> None:
    given = root.optional("Transformations")
    if given is None:
        return
    transforms = given.named("Transform")
    if transforms:
        name = transforms[0].attribute("Name")
        why = "a range for each variable and step, and a transform here is one for all steps"
        why = why if name == "Normalize" else "it has no counterpart here"
        raise transforms[0].refusal(f"the variables are transformed by {short(name)}: {why}")
    _count(given, "NTransformations", 0)


def _count(element: Element, attribute: str, count: int) -> None:
    if element.integer(attribute) != count:
        raise element.error(
            f"attribute {attribute!r} is {element.attribute(attribute)}; there are {count} elements"
        )


def _in_order(element: Element, name: str, index: str, count: str) -> list[Element]:
    """Give children in the order of their index, which counts from 0."""
    children = element.named(name)
    _count(element, count, len(children))
    if not children:
        raise element.error(f"has no <{name}>")
    ordered: dict[int, Element] = {}
    for child in children:
        k = child.integer(index)
        if k >= len(children) or k in ordered:
            raise child.error(f"attribute {index!r} is {k}; 0..{len(children) - 1} are needed, each once")
        ordered[k] = child
    return [ordered[k] for k in range(len(children))]


def _name(element: Element, attribute: str) -> str:
    """Give an attribute that is a name: some text, no white space at its ends."""
    text = element.attribute(attribute).strip()
    if not text:
        raise element.error(f"attribute {attribute!r} is empty")
    return text


def _classes(root: Element) -> list[str]:
    element = root.child("Classes")
    names = [_name(child, "Name") for child in _in_order(element, "Class", "Index", "NClass")]
    if len(set(names)) < len(names):
        raise element.error("two classes have the same name")
    if len(names) < 2:
        raise element.error("there is one class; two or more are needed")
    return names


_ELEMENT = re.compile(r"(.*)\[([0-9]{1,9})\]", re.DOTALL)
_COUNTED = re.compile(r"(.*?)_?([0-9]{1,9})", re.DOTALL)


def _variables(root: Element) -> list[tuple[str, int | None]]:
    """Give the expression of each variable, and which element of that array it is if it is one."""
    found: list[tuple[str, int | None]] = []
    for child in _in_order(root.child("Variables"), "Variable", "VarIndex", "NVar"):
        expression, internal = _name(child, "Expression"), child.attribute("Internal")
        # TMVA gives the elements of an array one expression, and counts them in their internal names.
        of_array, single = _ELEMENT.fullmatch(internal), _ELEMENT.fullmatch(expression)
        if of_array and not single:
            found.append((expression, int(of_array[2])))
        elif single and single[1].strip():
            found.append((single[1].strip(), int(single[2])))
        else:
            found.append((expression, None))
    return found


def _named(variables: Sequence[tuple[str, int | None]], T: int, D: int) -> tuple[list[str] | None, list[str]]:
    """Name the branches of the steps, where each step is one, and the variables of a step."""
    numbered = [f"x{d}" for d in range(D)]
    steps = [variables[t * D : (t + 1) * D] for t in range(T)]
    branches = [step[0][0] for step in steps]
    if all(step == [(branch, d) for d in range(D)] for step, branch in zip(steps, branches, strict=True)):
        return branches, numbered
    if any(index is not None for _, index in variables):
        return None, numbered
    if D == 1 and T > 1:
        return branches, numbered
    names = [name for name, _ in steps[0]] if T == 1 else _stems(steps)
    return None, names if names and len(set(names)) == D else numbered


def _stems(steps: Sequence[Sequence[tuple[str, int | None]]]) -> list[str] | None:
    """Give what the names of each variable have in common: all but the number of the step, from 0 or 1."""
    stems: list[str] = []
    for column in zip(*steps, strict=True):
        parts = [_COUNTED.fullmatch(name) for name, _ in column]
        first = parts[0]
        if first is None or not first[1].strip() or int(first[2]) > 1:
            return None
        for t, part in enumerate(parts):
            if part is None or part[1] != first[1] or int(part[2]) != int(first[2]) + t:
                return None
        stems.append(first[1].strip())
    return stems


# -- the network --------------------------------------------------------------------------------------------


def _output(weights: Element, stack: Stack, n_classes: int) -> str:
    function = weights.choice("OutputFunction", "ISM")
    if function == "I":
        raise weights.refusal(
            "OutputFunction is the identity, as in a regression; classifications are possible"
        )
    needed = 1 if function == "S" else n_classes
    if function == "S" and n_classes != 2:
        raise weights.error(f"OutputFunction is one sigmoid, of two classes; there are {n_classes}")
    if stack.dense[-1][0] != needed:
        raise weights.error(f"the last layer gives {stack.dense[-1][0]} numbers; {needed} are needed")
    return "sigmoid" if function == "S" else "softmax"


def _network(weights: Element, stack: Stack, output: str) -> NetworkConfig:
    for attribute in ("BatchSize", "BatchDepth"):
        weights.integer(attribute)
    weights.choice("LossFunction", "CRS")
    weights.choice("Regularization", "012")
    weights.number("WeightDecay")
    hidden = stack.dense[:-1]
    flat = stack.sequence  # and flattened
    head: dict[str, Any] = {"units": [units for units, _ in hidden], "output": output}
    kinds = [activation for _, activation in hidden]
    if kinds:
        head["activation"] = kinds[0] if len(set(kinds)) == 1 else kinds
    for momentum, epsilon in list(stack.norms.values())[:1]:
        # TMVA's momentum is the share of the old mean; below 0 all batches count the same.
        share = None if momentum < 0 else 1.0 - momentum
        head["batch_norm"] = {"before": sorted(stack.norms), "momentum": share, "epsilon": epsilon}
    values = {
        "recurrent": stack.recurrent,
        "pooling": "flatten" if flat else "last",
        "steps": stack.steps if flat else None,
        "head": head,
        "initialiser": INITIALISERS[weights.choice("Initialization", "".join(INITIALISERS))],
    }
    try:
        return NetworkConfig.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise weights.error(f"no network can be made of it: {_first(error)}") from None


def _data(
    root: Element, steps: list[str] | None, names: list[str], classes: list[str], signal: str
) -> DataConfig:
    values: dict[str, Any] = {"files": [UNKNOWN_FILE], "classes": {name: {} for name in classes}}
    values |= {"signal": signal, "transforms": {"default": "none"}}
    values |= {"steps": steps} if steps else {"variables": names}
    try:
        return DataConfig.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise root.error(f"names of variables or classes cannot be used: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {' '.join(first['msg'].split())}"[:300]
