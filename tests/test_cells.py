"""The table of cells says what the reference says."""

import numpy as np
import pytest

from timelike import reference
from timelike.cells import CELLS, parameter_shapes
from timelike.gates import GATE_ORDERS


def test_it_has_the_cells_of_the_reference():
    assert {*CELLS} == {*reference.CELLS} - {"gru_single_bias"}  # a gru without bias_hh


@pytest.mark.parametrize("name", CELLS)
def test_gates_and_states_are_those_of_the_reference(name):
    cell, law = CELLS[name], reference.CELLS[name]
    assert tuple(cell.gates) == law.gates
    for fact in ("has_cell_state", "has_peephole", "has_projection"):
        assert getattr(cell, fact) == getattr(law, fact)
    order = GATE_ORDERS[name.split("_")[0]]["timelike"]
    assert "".join(gate for gate in order if gate in cell.gates) == cell.gates


@pytest.mark.parametrize("n_biases", [0, 1, 2])
@pytest.mark.parametrize("name", CELLS)
def test_the_reference_takes_parameters_of_these_shapes(name, n_biases):
    argument = {"weight_ih": "W", "weight_hh": "U", "bias_ih": "b_ih", "bias_hh": "b_hh"}
    argument |= {"weight_hr": "projection", "weight_peephole": "peephole"}
    shapes = parameter_shapes(name, 3, 5, proj_size=2, n_biases=n_biases)
    run = reference.forward(
        name, np.ones((2, 3)), [0, 2], **{argument[key]: np.ones(shape) for key, shape in shapes.items()}
    )
    assert run.h_T.shape == (1, 2 if CELLS[name].has_projection else 5)
