"""The tables of docs/equations.md are recomputed: what stands on the page is what the reference gives."""

from pathlib import Path

import numpy as np

from timelike import reference

PAGE = Path(__file__).parents[1] / "docs" / "equations.md"

# the worked example, gates i f g o; `test_reference.py` holds it to the digits of its source
W = np.array([[0.95, 0.8], [0.7, 0.45], [0.45, 0.25], [0.6, 0.4]])
U = np.array([[0.8], [0.1], [0.15], [0.25]])
B = np.array([0.65, 0.15, 0.2, 0.1])
X = np.array([[1.0, 2.0], [0.5, 3.0]])
TARGET = np.array([[0.5], [1.25]])


def run_example(W, U, b):
    run = reference.forward("lstm", X, [0, 2], W, U, b)
    return run, reference.backward("lstm", run, dy=run.y - TARGET)


def row(name, *numbers, decimals=8):
    return f"| {name} | " + " | ".join(f"{number + 0.0:.{decimals}f}" for number in numbers) + " |"


def step_table():
    """Rows: each quantity at both steps, and its gradient at both steps."""
    run, gradients = run_example(W, U, B)
    h_prev = np.vstack([np.zeros((1, 1)), run.y[:-1]])
    a = X @ W.T + h_prev @ U.T + B
    rows = [row(f"$x_{k + 1}$", *X[:, k], *gradients.dx[:, k]) for k in range(2)]
    rows += [row(f"$a_{gate}$", *a[:, k], *gradients.dgates[:, k]) for k, gate in enumerate("ifgo")]
    rows += [row(f"${g}$", *run.gates[:, k], *gradients.dgate_values[:, k]) for k, g in enumerate("ifgo")]
    rows += [row("$c$", *run.c[:, 0], *gradients.dc[:, 0])]
    rows += [row("$h$", *run.y[:, 0], *gradients.dh[:, 0])]
    return rows


def parameter_table():
    """Rows: for each gate its two input weights, state weight and bias, then their gradients."""
    _, gradients = run_example(W, U, B)
    values = np.column_stack([W, U, B])
    derivatives = np.column_stack([gradients.dW, gradients.dU, gradients.db_ih])
    rows = []
    for k, gate in enumerate("ifgo"):
        rows += [row(f"${gate}$", *values[k], decimals=2)]
        rows += [row("gradient", *derivatives[k])]
    return rows


def losses():
    """Loss before and after one step of gradient descent with learning rate 0.1."""
    run, gradients = run_example(W, U, B)
    after, _ = run_example(W - 0.1 * gradients.dW, U - 0.1 * gradients.dU, B - 0.1 * gradients.db_ih)
    return [np.sum((r.y - TARGET) ** 2) / 2 for r in (run, after)]


def test_tables_on_the_page_are_what_the_reference_gives():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    for table in (step_table(), parameter_table()):
        first = lines.index(table[0])
        assert lines[first : first + len(table)] == table


def test_losses_on_the_page_are_what_the_reference_gives():
    before, after = losses()
    assert f"from {before:.8f} to {after:.8f}" in PAGE.read_text(encoding="utf-8")


def test_page_names_every_cell():
    page = PAGE.read_text(encoding="utf-8")
    variants = reference.CELLS.keys() - {"rnn_tanh", "rnn_relu", "lstm"}  # these have a heading of their own
    assert [name for name in sorted(variants) if f"`{name}`" not in page] == []
