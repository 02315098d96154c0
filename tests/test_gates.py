import itertools

import numpy as np
import pytest

from timelike import reference
from timelike.errors import ConfigError, DataError
from timelike.gates import GATE_ORDERS, gate_order, gate_permutation, reorder_gates

PAIRS = [
    (cell, source, target)
    for cell, orders in GATE_ORDERS.items()
    for source, target in itertools.product(orders, repeat=2)
]


@pytest.mark.parametrize(
    ("cell", "framework", "order"),
    [
        ("lstm", "torch", "ifgo"),
        ("lstm", "onnx", "iofg"),  # ONNX writes c for g
        ("lstm", "keras", "ifgo"),
        ("lstm", "tmva", "ifgo"),
        ("gru", "torch", "rzn"),
        ("gru", "onnx", "zrn"),  # ONNX writes h for n
        ("gru", "keras", "zrn"),
        ("gru", "tmva", "rzn"),  # TMVA writes u for z
        ("lstm_peepholes", "onnx", "iof"),
    ],
)
def test_orders_as_documented_by_each_framework(cell, framework, order):
    assert gate_order(cell, framework) == order


@pytest.mark.parametrize("cell", GATE_ORDERS)
def test_all_frameworks_stack_the_same_gates(cell):
    gates = {frozenset(order) for order in GATE_ORDERS[cell].values()}
    assert len(gates) == 1
    assert all(len(set(order)) == len(order) for order in GATE_ORDERS[cell].values())


def test_own_order_is_that_of_torch_and_of_the_reference():
    cells = {
        "rnn": reference.RNNTanh,
        "lstm": reference.LSTM,
        "gru": reference.GRU,
    }
    for name, cell in cells.items():
        assert gate_order(name, "timelike") == gate_order(name, "torch") == "".join(cell.gates)


@pytest.mark.parametrize(("cell", "source", "target"), PAIRS)
def test_each_gate_arrives_where_the_target_has_it(cell, source, target):
    H, shape = 2, (3, 2)
    rows = [(letter, unit) for letter in gate_order(cell, source) for unit in range(H)]
    stacked = np.stack([np.full(shape, 10 * ord(letter) + unit) for letter, unit in rows])
    got = reorder_gates(stacked, cell, source=source, target=target)
    wanted = [(letter, unit) for letter in gate_order(cell, target) for unit in range(H)]
    assert got.shape == stacked.shape
    for row, (letter, unit) in zip(got, wanted, strict=True):
        assert np.all(row == 10 * ord(letter) + unit)


@pytest.mark.parametrize(("cell", "source", "target"), PAIRS)
def test_there_and_back_is_the_identity(cell, source, target):
    stacked = np.random.default_rng(0).normal(size=(len(gate_order(cell, source)) * 4, 3))
    there = reorder_gates(stacked, cell, source=source, target=target)
    np.testing.assert_array_equal(reorder_gates(there, cell, source=target, target=source), stacked)


def test_result_is_a_copy():
    stacked = np.zeros((4, 1))
    reorder_gates(stacked, "lstm", source="torch", target="keras")[:] = 1
    assert not stacked.any()


def test_permutation_is_in_the_order_of_the_target():
    letters = np.array(list("ifgo"))
    permutation = gate_permutation("lstm", source="torch", target="onnx")
    assert "".join(letters[list(permutation)]) == "iofg"


@pytest.mark.parametrize(
    ("error", "stacked", "cell", "framework", "message"),
    [
        (ConfigError, np.zeros(4), "lsmt", "onnx", "unknown cell 'lsmt'; nearest: 'lstm'"),
        (ConfigError, np.zeros(4), "lstm", "onxx", "no gate order of lstm in 'onxx'; nearest: 'onnx'"),
        (ConfigError, np.zeros(3), "lstm_peepholes", "keras", "known: 'timelike', 'onnx'"),
        (DataError, np.zeros((6, 2)), "lstm", "onnx", r"4\*H is needed, got shape \(6, 2\)"),
        (DataError, np.zeros(()), "gru", "onnx", r"3\*H is needed, got shape \(\)"),
    ],
)
def test_errors_say_what_was_given_and_what_is_possible(error, stacked, cell, framework, message):
    with pytest.raises(error, match=message) as caught:
        reorder_gates(stacked, cell, source="timelike", target=framework)
    assert "\n" not in str(caught.value)
