"""TMVA weight files from known matrices, and what their networks compute: independent of the code under test.

A network is a list of layers, each a dictionary with its ``kind`` and float64 matrices; `file_text` writes it
as TMVA would, `scores` computes it with the reference and a few lines of NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from timelike import reference

# Element by element, as TMVA's AddWeightsXMLTo writes them; "W_f" is the input matrix of the forget gate.
LSTM = """InputWeights=W_i InputStateWeights=W_f InputBiases=b_i ForgetWeights=W_c ForgetStateWeights=W_o
ForgetBiases=b_f CandidateWeights=U_i CandidateStateWeights=U_f CandidateBiases=b_c OuputWeights=U_c
OutputStateWeights=U_o OutputBiases=b_o"""
GRU = """ResetWeights=W_r ResetStateWeights=W_u ResetBiases=b_r UpdateWeights=W_c UpdateStateWeights=U_r
UpdateBiases=b_u CandidateWeights=U_u CandidateStateWeights=U_c CandidateBiases=b_c"""
RNN = "InputWeights=W_h StateWeights=U_h Biases=b_h"
TABLES = {"LSTM": LSTM, "GRU": GRU, "RNN": RNN}
GATES = {"LSTM": "ifco", "GRU": "ruc", "RNN": "h"}
CODES = {"linear": 0, "relu": 1, "sigmoid": 2, "tanh": 3, "symmrelu": 4, "softsign": 5, "gauss": 6}
CODES["fasttanh"] = 7

Layer = dict[str, Any]
Network = list[Layer]


def recurrent(rng: np.random.Generator, kind: str, D: int, H: int, *, steps: bool, after: int = 0) -> Layer:
    layer: Layer = {"kind": kind, "D": D, "H": H, "steps": steps, "after": after}
    for gate in GATES[kind]:
        layer[f"W_{gate}"] = rng.normal(0, 0.5, (H, D))
        layer[f"U_{gate}"] = rng.normal(0, 0.5, (H, H))
        layer[f"b_{gate}"] = rng.normal(0, 0.5, (H, 1))
    return layer


def dense(rng: np.random.Generator, n: int, width: int, activation: str = "linear") -> Layer:
    W, b = rng.normal(0, 1 / np.sqrt(n), (width, n)), rng.normal(0, 0.5, (width, 1))
    return {"kind": "dense", "W": W, "b": b, "activation": activation}


def norm(rng: np.random.Generator, n: int, momentum: float = 0.9, epsilon: float = 1e-4) -> Layer:
    mu, gamma, beta = rng.normal(size=(3, 1, n))
    var = rng.uniform(0.2, 3.0, (1, n))
    return {"kind": "norm", "momentum": momentum, "epsilon": epsilon} | {
        "mu": mu,
        "var": var,
        "gamma": gamma,
        "beta": beta,
    }


FLAT: Layer = {"kind": "flat"}


def matrix(name: str, values: np.ndarray, digits: int = 16) -> str:
    text = "".join(f"{v:.{digits}e}  " for v in values.ravel())
    return f'<{name} Rows="{values.shape[0]}" Columns="{values.shape[1]}">{text}</{name}>\n'


def layer_text(layer: Layer, T: int, width: int, digits: int = 16) -> str:
    """Write a layer; `width` is the size of what a flattening gives."""
    if layer["kind"] == "flat":
        return f'<ReshapeLayer Depth="1" Height="1" Width="{width}" Flattening="1"/>\n'
    if layer["kind"] == "dense":
        head = f'<DenseLayer Width="{len(layer["W"])}" ActivationFunction="{CODES[layer["activation"]]}">\n'
        body = matrix("Weights", layer["W"], digits) + matrix("Biases", layer["b"], digits)
        return f"{head}{body}</DenseLayer>\n"
    if layer["kind"] == "norm":
        head = f'<BatchNormLayer Momentum="{layer["momentum"]!r}" Epsilon="{layer["epsilon"]!r}">\n'
        body = matrix("Training-mu", layer["mu"], digits) + matrix("Training-variance", layer["var"], digits)
        body += matrix("Gamma", layer["gamma"], digits) + matrix("Beta", layer["beta"], digits)
        return f"{head}{body}</BatchNormLayer>\n"
    kind, H = layer["kind"], layer["H"]
    sizes = f'StateSize="{H}" ' + (f'CellSize="{H}" ' if kind == "LSTM" else "")
    sizes += (
        f'InputSize="{layer["D"]}" TimeSteps="{T}" RememberState="0" ReturnSequence="{int(layer["steps"])}"'
    )
    sizes += f' ResetGateAfter="{layer["after"]}"' if kind == "GRU" else ""
    pairs = [word.split("=") for word in TABLES[kind].split()]
    body = "".join(matrix(element, layer[holds], digits) for element, holds in pairs)
    return f"<{kind}Layer {sizes}>\n{body}</{kind}Layer>\n"


def array_variables(T: int, D: int) -> list[tuple[str, str]]:
    """Expression and internal name of the variables of `AddVariablesArray("vars_time<t>", D)`."""
    return [(f"vars_time{t}", f"vars_time{t}[{d}]") for t in range(T) for d in range(D)]


def file_text(
    network: Network,
    T: int,
    D: int,
    *,
    classes: tuple[str, ...] = ("Signal", "Background"),
    output: str | None = None,
    variables: list[tuple[str, str]] | None = None,
    transformations: str = '<Transformations NTransformations="0"/>',
    analysis: str | None = None,
    digits: int = 16,
) -> str:
    """Write a weight file as TMVA does, one element a line."""
    output = output or ("S" if len(classes) == 2 else "M")
    analysis = analysis or ("Classification" if output == "S" else "Multiclass")
    width, layers = D, []
    for layer in network:
        if layer["kind"] == "flat":
            # what flattening gives: all steps of the layer before it, or its last one
            before = next((la for la in layers[::-1] if "H" in la), {"steps": True, "H": D})
            width = before["H"] * (T if before["steps"] else 1)
        layers.append(layer)
    texts = "".join(layer_text(layer, T, width, digits) for layer in network)
    names = variables or array_variables(T, D)
    lines = "".join(
        f'<Variable VarIndex="{k}" Expression="{expression}" Label="{expression}" Title="t" Unit="" '
        f'Internal="{internal}" Type="F" Min="0.00000000e+00" Max="1.00000000e+00"/>\n'
        for k, (expression, internal) in enumerate(names)
    )
    of_class = "".join(f'<Class Name="{name}" Index="{k}"/>\n' for k, name in enumerate(classes))
    return f"""<?xml version="1.0"?>
<MethodSetup Method="DL::TMVA_RNN">
<GeneralInfo>
<Info name="TMVA Release" value="4.2.1 [262657]"/>
<Info name="Creator" value="someone"/>
<Info name="AnalysisType" value="{analysis}"/>
</GeneralInfo>
<Options>
<Option name="InputLayout" modified="Yes">{T}|{D}</Option>
</Options>
<Variables NVar="{len(names)}">
{lines}</Variables>
<Spectators NSpec="0"/>
<Classes NClass="{len(classes)}">
{of_class}</Classes>
{transformations}
<MVAPdfs/>
<Weights NetDepth="{len(network)}" InputDepth="{T}" InputHeight="1" InputWidth="{D}" BatchSize="1" \
BatchDepth="100" BatchHeight="{T}" BatchWidth="{D}" LossFunction="C" Initialization="X" Regularization="0" \
OutputFunction="{output}" WeightDecay="0.00000000000000000e+00">
{texts}</Weights>
</MethodSetup>
"""


# -- what such a network computes ---------------------------------------------------------------------------

ACTIVATION = {
    "linear": lambda a: a,
    "relu": lambda a: np.maximum(a, 0.0),
    "sigmoid": lambda a: 1.0 / (1.0 + np.exp(-a)),
    "tanh": np.tanh,
    "fasttanh": np.tanh,
    "symmrelu": np.abs,
    "softsign": lambda a: a / (1.0 + np.abs(a)),
    "gauss": lambda a: np.exp(-a * a),
}


def _run(layer: Layer, x: np.ndarray) -> np.ndarray:
    """All states [B, T, H] of a recurrent layer, by the reference."""
    gates = GATES[layer["kind"]]
    W, U = (np.concatenate([layer[f"{m}_{g}"] for g in gates]) for m in "WU")
    b = np.concatenate([layer[f"b_{g}"] for g in gates])[:, 0]
    after = reference.GRUSingleBias if layer["after"] else reference.GRUResetBefore
    cell = {"LSTM": reference.LSTM, "RNN": reference.RNNTanh, "GRU": after}[layer["kind"]]
    return reference.forward(cell, list(x), None, W, U, b).y.reshape(len(x), -1, layer["H"])


def scores(network: Network, x: np.ndarray) -> np.ndarray:
    """What comes out of the last layer, [B, outputs], for events x [B, T, D]."""
    for layer in network:
        if layer["kind"] == "flat":
            x = x.reshape(len(x), -1)
        elif layer["kind"] == "dense":
            x = ACTIVATION[layer["activation"]](x.reshape(len(x), -1) @ layer["W"].T + layer["b"][:, 0])
        elif layer["kind"] == "norm":
            x = (x - layer["mu"]) / np.sqrt(layer["var"] + layer["epsilon"]) * layer["gamma"] + layer["beta"]
        else:
            x = _run(layer, x)
            x = x if layer["steps"] else x[:, -1:]
    return x


def probabilities(network: Network, x: np.ndarray) -> np.ndarray:
    """Probabilities of TMVA's classes in their order; of two with one output, the first is the signal."""
    z = scores(network, x)
    if z.shape[1] == 1:
        p = 1.0 / (1.0 + np.exp(-z[:, 0]))
        return np.stack([p, 1.0 - p], axis=1)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)
