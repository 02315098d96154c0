"""Recurrent nodes of ONNX: against the node tests of onnx, ONNX Runtime, and the reference."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import pkgutil
import warnings

import numpy as np
import pytest
from onnx import helper

from onnx_import_cases import B, D, H, T, bound, by_onnxruntime, recurrent_inputs, recurrent_model
from timelike import reference
from timelike.errors import DataError, ModelFileError, TimelikeError
from timelike.interop.onnx_import import OPERATORS, RECURRENT, import_node, read_onnx
from timelike.interop.onnx_recurrent import RecurrentNode

DIRECTIONS = ["forward", "reverse", "bidirectional"]


def seeded(*of: object) -> np.random.Generator:
    return np.random.default_rng(list(repr(of).encode()))


def assert_near(
    got: tuple[np.ndarray, ...], want: tuple[np.ndarray, ...], tolerance: float, what: str
) -> None:
    assert len(got) == len(want)
    for name, a, b in zip(("Y", "Y_h", "Y_c"), got, want, strict=False):
        assert a.shape == b.shape, (what, name)
        assert np.isfinite(a).all(), (what, name)
        assert np.abs(a - b).max() <= tolerance, (what, name, np.abs(a - b).max(), tolerance)


# --- the node tests that onnx carries -------------------------------------------------------------


def node_tests() -> list[object]:
    """Those whose nodes are all in our tables; their modules fill a list when they are imported."""
    cases = importlib.import_module("onnx.backend.test.case.node")
    wanted = {op.lower() for op in (*RECURRENT, *OPERATORS)} | {"rangeop"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they divide by zero on purpose
        for module in pkgutil.iter_modules(cases.__path__):
            if module.name.replace("_", "") in wanted:
                importlib.import_module(f"{cases.__name__}.{module.name}")
    known = {*RECURRENT, *OPERATORS}
    return [
        case for case in cases._NodeTestCases if {node.op_type for node in case.model.graph.node} <= known
    ]


@pytest.fixture(scope="module")
def of_onnx() -> list[object]:
    return node_tests()


def outcome(case: object) -> str:
    """Run a node test: passed, or why it is refused."""
    try:
        model = read_onnx(case.model.SerializeToString())
        for inputs, outputs in case.data_sets:
            given = {value.name: np.asarray(array) for value, array in zip(model.inputs, inputs, strict=True)}
            for name, want in zip((o.name for o in model.outputs), outputs, strict=True):
                got, want = model(given)[name], np.asarray(want)
                assert (got.shape, got.dtype) == (want.shape, want.dtype), case.name
                np.testing.assert_allclose(got, want, rtol=case.rtol, atol=case.atol, err_msg=case.name)
    except TimelikeError as error:
        return str(error)
    return "passed"


def test_all_recurrent_node_tests_of_onnx_pass(of_onnx):
    cases = [
        case
        for case in of_onnx
        if case.name.startswith(("test_lstm", "test_gru", "test_rnn", "test_simple_rnn"))
    ]
    assert len(cases) >= 18
    assert {case.name: outcome(case) for case in cases} == {case.name: "passed" for case in cases}


# Parts of what is refused, each with its message.
REFUSED = [
    "type",
    "training_mode",
    "is no tensor",
    "operators of version 1;",
    "mode 'constant'",
    "reduction 'none'",
]
REFUSED += ["reduction", "input 0 is int", "operators of the domain", "got object"]


def test_no_node_test_of_onnx_gives_something_else(of_onnx):
    """Whatever is not refused in one line is right."""
    outcomes = {case.name: outcome(case) for case in of_onnx}
    passed = [name for name, result in outcomes.items() if result == "passed"]
    assert len(passed) >= 400
    assert not any("\n" in result for result in outcomes.values())
    others = {name: result for name, result in outcomes.items() if result != "passed"}
    assert {name: r for name, r in others.items() if not any(part in r for part in REFUSED)} == {}


# --- against ONNX Runtime -------------------------------------------------------------------------


def attribute_sets(op: str, direction: str) -> list[dict[str, object]]:
    sets: list[dict[str, object]] = [{}, {"clip": 0.5}]
    if op == "LSTM":
        sets += [{"input_forget": 1}, {"input_forget": 1, "clip": 0.5}]
    if op == "GRU":
        sets += [{"linear_before_reset": 1}, {"linear_before_reset": 1, "clip": 0.5}]
    if op == "RNN":
        sets += [{"activations": ["Relu"] * (1 + (direction == "bidirectional"))}]
    return sets


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("op", RECURRENT)
def test_agrees_with_onnx_runtime_in_both_layouts(op, direction):
    """All combinations; ONNX Runtime has layout 0 alone, to which layout 1 is a transposition."""
    rng, K = seeded(op, direction), 1 + (direction == "bidirectional")
    for attributes in attribute_sets(op, direction):
        for bias, lengths, initial, peepholes in itertools.product((0, 1), repeat=4):
            if peepholes and op != "LSTM":
                continue
            arrays = recurrent_inputs(
                op, rng, K=K, bias=bias, lengths=lengths, initial=initial, peepholes=peepholes
            )
            what = f"{attributes} {list(arrays)}"
            content = recurrent_model(op, arrays, direction=direction, **attributes)
            want = tuple(by_onnxruntime(content, arrays).values())
            tolerance = 2 * bound(arrays, want)  # two programs, each so far from the exact numbers
            assert_near(tuple(read_onnx(content)(arrays).values()), want, tolerance, what)

            turned = {
                name: arrays[name].swapaxes(0, 1)
                for name in ("X", "initial_h", "initial_c")
                if name in arrays
            }
            of_batches = {**arrays, **turned}
            content = recurrent_model(op, of_batches, direction=direction, layout=1, **attributes)
            Y, *states = read_onnx(content)(of_batches).values()
            got = (Y.transpose(1, 2, 0, 3), *(state.swapaxes(0, 1) for state in states))
            assert_near(got, want, tolerance, what + " layout 1")


PARAMETERS = {
    "Affine": (0.3, 0.2),
    "LeakyRelu": (0.3, None),
    "ThresholdedRelu": (0.3, None),
    "Elu": (0.4, None),
}
PARAMETERS |= {"ScaledTanh": (0.8, 0.9), "HardSigmoid": (0.3, 0.4)}
WITHOUT = ["Relu", "Sigmoid", "Tanh", "Softsign", "Softplus"]


@pytest.mark.parametrize("name", [*PARAMETERS, *WITHOUT])
def test_each_activation_agrees_with_onnx_runtime(name):
    alpha, beta = PARAMETERS.get(name, (None, None))
    given = {"activation_alpha": [alpha]} if alpha else {}
    given |= {"activation_beta": [beta]} if beta else {}
    for op, names in {"RNN": [name], "GRU": ["Sigmoid", name], "LSTM": ["Sigmoid", name, "Tanh"]}.items():
        arrays = recurrent_inputs(op, seeded(op, name), initial=True)
        content = recurrent_model(op, arrays, activations=names, **given)
        want = tuple(by_onnxruntime(content, arrays).values())
        assert_near(tuple(read_onnx(content)(arrays).values()), want, 2 * bound(arrays, want), op)


def test_parameters_go_in_turn_to_the_activations_that_have_some():
    arrays = recurrent_inputs("LSTM", seeded("turn"), K=2)
    names = ["HardSigmoid", "Tanh", "LeakyRelu", "Sigmoid", "Elu", "ScaledTanh"]
    given = {"activation_alpha": [0.3, 0.1, 0.7, 0.9], "activation_beta": [0.4, 0.8]}
    content = recurrent_model("LSTM", arrays, direction="bidirectional", activations=names, **given)
    want = tuple(by_onnxruntime(content, arrays).values())
    assert_near(tuple(read_onnx(content)(arrays).values()), want, 2 * bound(arrays, want), "in turn")


@pytest.mark.parametrize("opset", [7, 14, 22])
@pytest.mark.parametrize("op", RECURRENT)
def test_versions_of_the_operators_compute_the_same(op, opset):
    arrays = recurrent_inputs(op, seeded(op), lengths=True, initial=True)
    want = tuple(by_onnxruntime(recurrent_model(op, arrays, opset=opset), arrays).values())
    for constant in (False, True):
        content = recurrent_model(op, arrays, opset=opset, constant=constant)
        model = read_onnx(content)
        got = tuple(model({value.name: arrays[value.name] for value in model.inputs}).values())
        assert_near(got, want, 2 * bound(arrays, want), f"constant: {constant}")


# --- against the reference ------------------------------------------------------------------------

CELLS = {
    "lstm": ("LSTM", {}),
    "lstm_peephole": ("LSTM", {}),
    "lstm_coupled": ("LSTM", {"input_forget": 1}),
    "gru": ("GRU", {"linear_before_reset": 1}),
    "gru_reset_before": ("GRU", {}),
    "rnn_tanh": ("RNN", {}),
    "rnn_relu": ("RNN", {"activations": ["Relu"]}),
}


def blocks(array: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([np.split(array, {4: 4, 3: 3, 1: 1}[max(order) + 1])[k] for k in order])


# of each cell, the places of its gates among ONNX's i o f c, z r h
ORDER = {"lstm": (0, 2, 3, 1), "lstm_peephole": (0, 2, 3, 1), "lstm_coupled": (0, 3, 1), "gru": (1, 0, 2)}
ORDER |= {"gru_reset_before": (1, 0, 2), "rnn_tanh": (0,), "rnn_relu": (0,)}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_kernels_and_plain_steps_are_what_the_reference_says(cell, reverse):
    op, attributes = CELLS[cell]
    arrays = recurrent_inputs(op, seeded(cell), initial=True, peepholes=cell == "lstm_peephole")
    arrays = {name: array.astype(np.float64) for name, array in arrays.items()}
    node = RecurrentNode.from_attributes(op, {**attributes, "direction": "reverse" if reverse else "forward"})
    prepared = node.prepare(*(arrays.get(name) for name in ("W", "R", "B", "P")))
    assert (prepared.kernels[0] if reverse else prepared.session).cell == cell

    W, U, b = (arrays[name][0] for name in ("W", "R", "B"))
    parts = [blocks(part, ORDER[cell]) for part in (W, U, *np.split(b, 2))]
    options = {"c0": arrays["initial_c"][0]} if op == "LSTM" else {}
    if cell == "lstm_peephole":
        options["peephole"] = blocks(arrays["P"][0], (0, 2, 1))
    x = np.concatenate(list(arrays["X"].swapaxes(0, 1)))
    want = reference.forward(
        cell, x, np.arange(B + 1) * T, *parts, arrays["initial_h"][0], reverse=reverse, **options
    )
    results = [want.y.reshape(B, T, H).swapaxes(0, 1)[:, None], want.h_T[None]]
    results += [want.c_T[None]] if op == "LSTM" else []
    states = [arrays[name] for name in ("initial_h", "initial_c") if name in arrays]
    tolerance = bound(arrays, results, np.float64)
    assert_near(prepared.run(arrays["X"], None, *states), tuple(results), tolerance, "kernels")
    plain = dataclasses.replace(prepared, session=None, kernels=None)
    assert_near(plain.run(arrays["X"], None, *states), tuple(results), tolerance, "plain steps")


def test_directions_of_two_cells_and_batches_of_nothing():
    arrays = recurrent_inputs("RNN", seeded("two"), K=2, lengths=True, initial=True)
    content = recurrent_model("RNN", arrays, direction="bidirectional", activations=["Relu", "Tanh"])
    want = tuple(by_onnxruntime(content, arrays).values())
    assert_near(tuple(read_onnx(content)(arrays).values()), want, 2 * bound(arrays, want), "two cells")
    node = {"direction": "bidirectional", "layout": 1}
    for op, attributes in {
        "RNN": {"activations": ["Relu", "Tanh"]},
        "GRU": {},
        "LSTM": {"clip": 1.0},
    }.items():
        arrays = recurrent_inputs(op, seeded("none"), K=2)
        for steps, sequences in ((0, B), (T, 0)):
            X = np.zeros((sequences, steps, D), np.float32)
            run = RecurrentNode.from_attributes(op, node | attributes)
            Y, *states = run(**(arrays | {"X": X}))
            assert Y.shape == (sequences, steps, 2, H)
            assert [state.shape for state in states] == [(sequences, 2, H)] * len(states)
            assert not any(state.any() for state in states)


# --- what is refused ------------------------------------------------------------------------------

WRONG_ATTRIBUTES = [
    (
        {"direction": "sideways"},
        "direction of LSTM: 'sideways'; known: 'forward', 'reverse', 'bidirectional'",
    ),
    ({"direction": 3}, "direction of LSTM: '3'"),
    ({"hidden_size": 0}, "hidden_size of LSTM: '0'"),
    ({"clip": -1.0}, "clip of LSTM: '-1.0'; a number above 0"),
    ({"layout": 2}, "layout of LSTM: '2'; possible: 0, 1"),
    ({"activations": ["Sigmoid", "Tanh"]}, "activations of LSTM: 2 are given, expected 3"),
    ({"activations": ["Sigmoid", "Tanh", "Tan"]}, "activation of LSTM: 'tan'; nearest: 'tanh'"),
    ({"activations": ["Sigmoid", "Affine", "Tanh"]}, "affine with alpha nan, beta nan; give both"),
    ({"activations": 1.0}, "activations of LSTM: expected a list of str"),
    ({"activation_alpha": ["x"]}, "activation_alpha of LSTM: expected a list of float"),
    ({"linear_before_reset": 1}, "LSTM has no attribute 'linear_before_reset'"),
]


@pytest.mark.parametrize(("attributes", "message"), WRONG_ATTRIBUTES)
def test_wrong_attributes_are_told(attributes, message):
    node = helper.make_node("LSTM", ["X", "W", "R"], ["Y"], name="layer 1", **attributes)
    with pytest.raises(ModelFileError) as error:
        import_node(node)
    assert str(error.value).startswith("node 'layer 1' (LSTM): ")
    assert message in str(error.value)


def test_another_node_is_told():
    with pytest.raises(
        ModelFileError, match=r"node 'Y' \(Gemm\): not a recurrent node; possible: LSTM, GRU, RNN"
    ):
        import_node(helper.make_node("Gemm", ["X", "W"], ["Y"]))


WRONG_INPUTS = [
    ("X", np.zeros((T, B, D + 1)), r"X: float32 of shape \(5, 4, 4\); expected float32 .* the last of 3"),
    (
        "W",
        np.zeros((2, 4 * H, D)),
        r"W: float32 of shape \(2, 24, 3\); expected float32 of shape \(1, 24, 3\)",
    ),
    ("R", np.zeros((1, 4 * H + 4, H + 1)), "hidden_size is 6"),
    ("B", np.zeros((1, 4 * H)), r"B: .*expected float32 of shape \(1, 48\)"),
    ("P", np.zeros((1, H)), r"P: .*expected float32 of shape \(1, 18\)"),
    ("initial_c", np.zeros((B, 1, H)), r"initial_c: .*expected float32 of shape \(1, 4, 6\)"),
    ("sequence_lens", np.zeros(B), r"sequence_lens: float32 .*expected integers of shape \(4,\)"),
]


@pytest.mark.parametrize(("name", "array", "message"), WRONG_INPUTS)
def test_wrong_inputs_are_told(name, array, message):
    arrays = recurrent_inputs("LSTM", seeded("wrong")) | {name: array.astype(np.float32)}
    with pytest.raises(DataError, match=message):
        RecurrentNode.from_attributes("LSTM", {"hidden_size": H})(**arrays)


def test_wrong_lengths_and_types_are_told():
    arrays = recurrent_inputs("GRU", seeded("wrong"))
    node = RecurrentNode.from_attributes("GRU", {})
    with pytest.raises(DataError, match="sequence_lens: 1 to 6; possible: 0 to 5"):
        node(**arrays, sequence_lens=np.array([1, 2, 6, 5]))
    with pytest.raises(DataError, match="W: float16; possible: float32, float64"):
        node(**{name: array.astype(np.float16) for name, array in arrays.items()})
