"""The layers under torch.compile and torch.export: one graph, with the bits of the layers themselves."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence
from torch.utils.checkpoint import checkpoint

from timelike.cells import CELLS, parameter_shapes
from timelike.nn import GRU, LSTM, RNN, Ragged
from timelike.sequences import Sequences

D, H, R = 3, 4, 2
LAYERS = {
    "rnn": lambda: RNN(D, H),
    "relu, batch first": lambda: RNN(D, H, nonlinearity="relu", batch_first=True),
    "lstm, two layers, both directions": lambda: LSTM(D, H, 2, bidirectional=True),
    "projection": lambda: LSTM(D, H, proj_size=R),
    "peephole": lambda: LSTM(D, H, peephole=True),
    "coupled": lambda: LSTM(D, H, coupled=True),
    "gru": lambda: GRU(D, H, bias=False),
    "gru, reset before": lambda: GRU(D, H, reset_after=False),
    "gru, one bias": lambda: GRU(D, H, inner_bias=False),
    "recomputed": lambda: LSTM(D, H, recompute=True),
}


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch._dynamo.reset()  # there is a limit to how often one function is compiled


def outputs_and_gradients(run, layer, *inputs):
    output, last = run(*inputs)
    outputs = [output, *(last if isinstance(last, tuple) else (last,))]
    leaves = [*layer.parameters(), *[x for x in inputs if isinstance(x, torch.Tensor) and x.requires_grad]]
    torch.manual_seed(2)
    upstream = [torch.randn_like(t) for t in outputs]
    return [t.detach() for t in outputs], torch.autograd.grad(outputs, leaves, upstream)


def assert_same_bits(got, expected):
    for ours, theirs in zip(got, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.isfinite().all()
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", LAYERS)
def test_a_compiled_layer_gives_the_same_bits(name):
    torch.manual_seed(1)
    layer, x = LAYERS[name](), torch.randn(5, 2, D, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_same_bits(outputs_and_gradients(compiled, layer, x), outputs_and_gradients(layer, layer, x))


def rows_of(output):
    """The rows of an output, whatever its layout."""
    if isinstance(output, PackedSequence):
        return output.data
    if isinstance(output, Ragged):
        return output.values
    return output.values() if output.is_nested else output


MASK = torch.tensor(
    [[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0]], dtype=torch.bool
)  # a hole, none, in the middle


def sequences(x):
    return x.view(-1, D).split([3, 7, 2])


# What is made of x, of shape (4, 3, D), beside the layer's own options.
IN_A_GRAPH = {
    "masked": ({}, lambda x: (x, MASK.T)),
    "masked, batch first": ({"batch_first": True}, lambda x: (x.transpose(0, 1), MASK)),
    "masked, unbatched": ({}, lambda x: (x[:, 0], MASK[0])),
    "ragged": ({}, lambda x: (Ragged(x.view(-1, D), torch.tensor([0, 3, 3, 12])), None)),
    "packed": ({}, lambda x: (pack_sequence(sequences(x), enforce_sorted=False), None)),
    "nested": ({}, lambda x: (torch.nested.as_nested_tensor([*sequences(x)], layout=torch.jagged), None)),
    "int32 offsets": ({}, lambda x: (nested_by(x, torch.tensor([0, 3, 3, 12], dtype=torch.int32)), None)),
}
BETWEEN_GRAPHS = {
    "packed, sorted by the caller": ({}, lambda x: (pack_padded_sequence(x, torch.tensor([4, 2, 1])), None)),
    "narrowed": (
        {},
        lambda x: (torch.nested.narrow(x.view(3, 4, D), 1, *SPANS, layout=torch.jagged), None),
    ),
    "masked, recomputed": ({"recompute": True}, lambda x: (x, MASK.T)),
    "packed, recomputed": (
        {"recompute": 2},
        lambda x: (pack_sequence(sequences(x), enforce_sorted=False), None),
    ),
    "Sequences": ({}, lambda x: (Sequences(x.detach().view(-1, D).numpy(), np.array([0, 3, 3, 12])), None)),
}
SPANS = torch.tensor([0, 1, 1]), torch.tensor([3, 0, 2])  # where sequences begin, and how long they are


def nested_by(x, offsets):
    return torch.nested.nested_tensor_from_jagged(x.view(-1, D), offsets)


def of_a_layout(make, layer, run):
    torch.manual_seed(2)
    input, mask = make(torch.randn(4, 3, D))
    axes = (2,) if isinstance(input, torch.Tensor) and input.dim() == 2 else (2, 3)
    h0, c0 = (torch.randn(*axes, H, requires_grad=True) for _ in range(2))
    output, (h, c) = run(input, (h0, c0), mask=mask)
    outputs = [rows_of(output), h, c]
    gradients = torch.autograd.grad(
        outputs, [h0, c0, *layer.parameters()], [torch.randn_like(t) for t in outputs]
    )
    return [t.detach() for t in outputs], gradients


@pytest.mark.parametrize("fullgraph", [True, False])
@pytest.mark.parametrize("name", [*IN_A_GRAPH, *BETWEEN_GRAPHS])
def test_every_layout_gives_the_same_bits(name, fullgraph):
    torch.manual_seed(1)
    options, make = (IN_A_GRAPH | BETWEEN_GRAPHS)[name]
    layer = LSTM(D, H, bidirectional=True, **options)
    compiled = torch.compile(layer, fullgraph=fullgraph, backend="aot_eager")
    if fullgraph and name in BETWEEN_GRAPHS:
        with pytest.raises(torch._dynamo.exc.Unsupported):
            of_a_layout(make, layer, compiled)
    else:
        assert_same_bits(of_a_layout(make, layer, compiled), of_a_layout(make, layer, layer))


def test_outputs_of_a_graph_are_of_the_layout_of_the_input():
    def run(x):
        return x * 2 + layer(x)[0]

    layer, parts = GRU(D, D), [torch.randn(n, D) for n in (3, 0, 2)]
    nested = torch.nested.as_nested_tensor(parts, layout=torch.jagged)
    got = torch.compile(run, fullgraph=True, backend="aot_eager")(nested)
    assert torch.equal(got.offsets(), nested.offsets())
    assert torch.equal(got.values(), run(nested).values())


def test_batches_of_other_sizes_in_one_dynamic_graph():
    torch.manual_seed(1)
    layer = LSTM(D, H)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for T, B in [(5, 3), (7, 2), (4, 6)]:
        x = torch.randn(T, B, D, requires_grad=True)
        assert_same_bits(outputs_and_gradients(compiled, layer, x), outputs_and_gradients(layer, layer, x))


OF_ANY_SIZE = {
    "masked": lambda x, lengths: (x, torch.arange(len(x))[:, None] < lengths),
    "packed": lambda x, lengths: (pack_padded_sequence(x, lengths, enforce_sorted=False), None),
    "ragged": lambda x, lengths: (ragged_of(x, lengths), None),
    "nested": lambda x, lengths: (torch.nested.nested_tensor_from_jagged(*ragged_of(x, lengths)), None),
}


def ragged_of(x, lengths):
    there = torch.arange(len(x))[:, None] < lengths
    return Ragged(x.transpose(0, 1)[there.T], torch.cat([torch.zeros(1).long(), lengths.cumsum(0)]))


@pytest.mark.parametrize("name", OF_ANY_SIZE)
def test_layouts_of_other_sizes_in_one_dynamic_graph(name):
    torch.manual_seed(1)
    layer, counter = LSTM(D, H, bidirectional=True), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=counter, dynamic=True)
    for lengths in [(5, 3, 1, 6, 4), (2, 7), (6, 1, 3, 2)]:  # never D of them: equal numbers are one symbol
        x = torch.randn(max(lengths), len(lengths), D)
        input, mask = OF_ANY_SIZE[name](x, torch.tensor(lengths))
        results = []
        for run in (compiled, layer):
            torch.manual_seed(3)
            output, last = run(input, mask=mask)
            outputs = [rows_of(output), *last]
            upstream = [torch.randn_like(t) for t in outputs]
            results.append((outputs, torch.autograd.grad(outputs, [*layer.parameters()], upstream)))
        assert_same_bits(*results)
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", LAYERS)
def test_an_exported_layer_gives_the_same_bits(name):
    torch.manual_seed(1)
    layer, x = LAYERS[name](), torch.randn(5, 2, D)
    exported = torch.export.export(layer, (x,)).module()
    with torch.no_grad():
        assert torch.equal(exported(x)[0], layer(x)[0])


def test_recomputation_of_ragged_batches_is_refused_in_a_graph():
    layer, ragged = LSTM(D, H, recompute=True), Ragged(torch.randn(7, D), torch.tensor([0, 3, 3, 7]))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match="recompute: not for ragged batches"):
        compiled(ragged)


OPERATOR = torch.ops.timelike.layer.default
ROWS = {  # axes of x but the last, and which steps there are
    "time_major": ((3, 2), None),
    "batch_major": ((2, 3), None),
    "ragged": ((6,), torch.tensor([0, 2, 2, 6])),
    "packed": ((6,), torch.tensor([3, 2, 1])),
    "masked": ((2, 3), torch.tensor([[True, False, True], [False, True, True]])),
}
BATCHES = [
    pytest.param(
        cell,
        rows,
        n_directions,
        with_states,
        marks=[] if n_directions == 2 and with_states else pytest.mark.slow,
    )
    for cell in CELLS
    for rows in ROWS
    for n_directions in (1, 2)
    for with_states in (True, False)
]


def arguments(cell, rows, n_directions, with_states=True, segment=0):
    """What the operator takes; every tensor of numbers is a leaf that wants a gradient."""
    torch.manual_seed(1)
    kind = CELLS[cell]
    shapes = [*parameter_shapes(cell, D, H, proj_size=R if kind.has_projection else 0).values()]
    states = {"h0": R if kind.has_projection else H} | ({"c0": H} if kind.has_cell_state else {})
    (axes, steps), K = ROWS[rows], n_directions
    B = 3 if len(axes) == 1 else 2

    def leaf(*shape):
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    h0, c0 = (leaf(K, B, states[s]) if with_states and s in states else None for s in ("h0", "c0"))
    rows = "batch_major" if rows == "masked" else rows
    weights = [leaf(*shape) for shape in shapes * K]
    return leaf(*axes, D), h0, c0, weights, steps, rows, B, cell, K, segment


def as_function(batch):
    """The operator as a function of its leaves, and these."""
    x, h0, c0, weights, *options = batch
    states = [s for s in (h0, c0) if s is not None]

    def run(x, *rest):
        given = iter(rest)
        h, c = (None if s is None else next(given) for s in (h0, c0))
        y, hT, cT, *_ = torch.ops.timelike.layer(x, h, c, [*given], *options)
        return (y, hT, cT) if cT.numel() else (y, hT)

    return run, (x, *states, *weights)


def backward_arguments(batch):
    y, hT, cT, kept, kept_too = (t.detach() for t in torch.ops.timelike.layer(*batch))
    d_outputs = [torch.randn_like(t).requires_grad_() if t.numel() else None for t in (y, hT, cT)]
    needs = [t is not None for t in (*batch[:3], *batch[3])]
    return *d_outputs, y, kept, kept_too, *batch, needs


@pytest.mark.parametrize(("cell", "rows", "n_directions", "with_states"), BATCHES)
def test_the_operators_are_what_their_registrations_say(cell, rows, n_directions, with_states):
    of_registration = ("test_schema", "test_autograd_registration", "test_faketensor")
    batch = arguments(cell, rows, n_directions, with_states)
    # Outputs are compared in a graph and without: of steps that there are not, nothing is on the tape.
    compared = () if rows == "masked" else ("test_aot_dispatch_dynamic",)
    torch.library.opcheck(OPERATOR, batch, test_utils=(*of_registration, *compared))
    # Of this one below: it takes seconds.
    backward = torch.ops.timelike.layer_backward.default
    torch.library.opcheck(backward, backward_arguments(batch), test_utils=of_registration)


@pytest.mark.parametrize("cell", CELLS)
def test_the_operators_in_segments_are_what_their_registrations_say(cell):
    torch.library.opcheck(OPERATOR, arguments(cell, "time_major", 1, segment=2))


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["time_major", "batch_major"])
@pytest.mark.parametrize("cell", CELLS)
def test_second_derivatives_can_be_traced(cell, rows):
    backward = torch.ops.timelike.layer_backward.default
    torch.library.opcheck(backward, backward_arguments(arguments(cell, rows, 1)))


@pytest.mark.parametrize(("cell", "rows", "n_directions", "with_states"), BATCHES)
def test_derivatives_of_the_operator_pass(cell, rows, n_directions, with_states):
    run, leaves = as_function(arguments(cell, rows, n_directions, with_states))
    assert gradcheck(run, leaves, fast_mode=True)
    assert gradgradcheck(run, leaves, fast_mode=True)


@pytest.mark.parametrize("cell", CELLS)
def test_derivatives_of_the_operator_in_segments_pass(cell):
    run, leaves = as_function(arguments(cell, "time_major", 2, segment=2))
    assert gradcheck(run, leaves, fast_mode=True)
    assert gradgradcheck(run, leaves, fast_mode=True)


def penalty(layer, x):
    """Square of the gradient by the input: what is trained with second derivatives."""
    (dx,) = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
    return dx.square().sum()


@pytest.mark.parametrize("name", ["rnn", "projection", "gru"])
@torch._dynamo.config.patch(trace_autograd_ops=True)
def test_a_gradient_penalty_in_one_graph(name):
    torch.manual_seed(1)
    layer = LAYERS[name]()
    compiled = torch.compile(lambda x: penalty(layer, x), fullgraph=True, backend="aot_eager")
    for T, B in [(3, 2), (2, 3)]:  # the second with symbols for sizes
        x = torch.randn(T, B, D, requires_grad=True)
        leaves = [x, *layer.parameters()]
        got, expected = (
            torch.autograd.grad(run(x), leaves) for run in (compiled, lambda x: penalty(layer, x))
        )
        assert_same_bits([got], [expected])


@pytest.mark.filterwarnings("ignore::UserWarning")  # by which torch says where an error in backward came from
@torch._dynamo.config.patch(trace_autograd_ops=True)
def test_a_gradient_penalty_of_a_ragged_batch_is_refused_in_a_graph():
    layer, offsets, x = LSTM(D, H), torch.tensor([0, 2, 2, 6]), torch.randn(6, D, requires_grad=True)
    compiled = torch.compile(
        lambda x: penalty(lambda x: layer(Ragged(x, offsets))[0], x), fullgraph=True, backend="aot_eager"
    )
    with pytest.raises(Exception, match="not of ragged"):
        compiled(x)


@pytest.mark.parametrize("name", ["rnn", "lstm, two layers, both directions", "gru"])
def test_second_derivatives_of_a_compiled_layer(name):
    torch.manual_seed(1)
    layer, x = LAYERS[name](), torch.randn(3, 2, D, requires_grad=True)
    leaves = [x, *layer.parameters()]
    expected = torch.autograd.grad(penalty(layer, x), leaves)
    captured = torch.compile(layer, fullgraph=True, backend="eager")
    assert_same_bits([torch.autograd.grad(penalty(captured, x), leaves)], [expected])
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        torch.autograd.grad(penalty(compiled, x), leaves)


class Tagger(torch.nn.Module):
    """A layer, a linear one on its last states, and a loss."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.score = layer, torch.nn.Linear(layer.output_size, 1)

    def forward(self, input, target):
        _, last = self.layer(input)
        h = last[0] if isinstance(last, tuple) else last
        h = torch.cat([*h[-self.layer.output_size // h.shape[-1] :]], dim=1)
        return torch.nn.functional.binary_cross_entropy_with_logits(self.score(h).squeeze(1), target)


def padded(T, B):
    return torch.randn(T, B, D)


def ragged(T, B):
    lengths = torch.arange(B) % (T + 1)
    return Ragged(torch.randn(int(lengths.sum()), D), torch.cat([torch.zeros(1).long(), lengths.cumsum(0)]))


# Inductor compiles C++, for seconds.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # of itself
@pytest.mark.parametrize("batch", [padded, ragged])
@pytest.mark.parametrize(
    "name",
    [
        "gru",
        pytest.param("rnn", marks=pytest.mark.slow),
        pytest.param("lstm, two layers, both directions", marks=pytest.mark.slow),
    ],
)
def test_a_model_compiled_by_inductor(name, batch, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.manual_seed(1)
    model = Tagger(LAYERS[name]())
    compiled = torch.compile(model, fullgraph=True)
    for T, B in [(5, 3), (7, 2), (4, 6)]:
        input, target = batch(T, B), torch.rand(B)
        losses = [run(input, target) for run in (compiled, model)]
        got, expected = ([v, *torch.autograd.grad(v, [*model.parameters()])] for v in losses)
        for ours, eager in zip(got, expected, strict=True):
            # The linear layer and the loss are sums of at most 8 products in another order.
            assert (ours - eager).abs().max() <= 32 * torch.finfo(torch.float32).eps * eager.abs().max()


ENTERING_A_TRANSFORM = "ignore:`torch.jit.script` is deprecated:DeprecationWarning"  # torch warns of itself
TRANSFORMS = {
    "grad": lambda run, x: torch.func.grad(lambda x: run(x).sum())(x),
    "vmap": lambda run, x: torch.func.vmap(run)(x[None]),
    "jvp": lambda run, x: torch.func.jvp(run, (x,), (x,)),
    "jacfwd": lambda run, x: torch.func.jacfwd(run)(x),
}


@pytest.mark.filterwarnings(ENTERING_A_TRANSFORM)
@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("kind", ["rnn", "projection", "gru"])
def test_transforms_of_functions_are_refused_in_a_graph(kind, name):
    layer = LAYERS[kind]()
    compiled = torch.compile(
        lambda x: TRANSFORMS[name](lambda x: layer(x)[0], x), fullgraph=True, backend="aot_eager"
    )
    with pytest.raises(Exception, match=r"transforms of torch\.func .* are not supported"):
        compiled(torch.randn(4, 2, D))


@pytest.mark.filterwarnings(ENTERING_A_TRANSFORM)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("grad", "autograd.Function with functorch transforms"),
        ("vmap", "Batching rule not implemented for timelike::layer"),
        ("jvp", "forward mode AD is not supported"),
    ],
)
@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru"])
def test_transforms_of_the_operator_are_refused(cell, name, said):
    batch = arguments(cell, "time_major", 1)
    _, h0, c0, weights, *options = detached(batch)
    with pytest.raises((NotImplementedError, RuntimeError), match=said):
        TRANSFORMS[name](lambda x: OPERATOR(x, h0, c0, weights, *options)[0], batch[0].detach())


def detached(batch):
    """The same, but nothing wants a gradient: then torch asks nobody for tangents."""
    x, h0, c0, weights, *options = batch
    x, h0, c0 = (None if t is None else t.detach() for t in (x, h0, c0))
    return x, h0, c0, [w.detach() for w in weights], *options


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("no_grad", [False, True])
def test_forward_mode_is_refused_in_a_graph(backend, no_grad):
    layer, x = LSTM(D, H).requires_grad_(not no_grad), torch.randn(4, 2, D)
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    with forward_ad.dual_level(), pytest.raises(Exception, match="forward mode AD"):
        compiled(forward_ad.make_dual(x, x))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", LAYERS)
def test_a_compiled_layer_keeps_nothing_where_no_gradient_is_wanted(name, context):
    layer, x = LAYERS[name](), torch.randn(4, 2, D)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    expected = layer(x)[0]
    with context():
        y = compiled(x)[0]
        assert y.grad_fn is None
        assert y.is_inference() == (context is torch.inference_mode)
        assert torch.equal(y, expected)
    assert compiled(x)[0].requires_grad


@pytest.mark.parametrize("name", LAYERS)
def test_a_second_walk_over_a_compiled_graph_gives_the_same_bits(name):
    layer, x = LAYERS[name](), torch.randn(4, 2, D, requires_grad=True)
    y = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)[0]
    leaves, dy = [x, *layer.parameters()], torch.randn_like(y)
    assert_same_bits(*([torch.autograd.grad(y, leaves, dy, retain_graph=True)] for _ in range(2)))


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("name", ["rnn", "lstm, two layers, both directions", "projection", "gru"])
def test_checkpointing_of_a_compiled_layer_gives_the_same_bits(name, use_reentrant):
    layer, x = LAYERS[name](), torch.randn(4, 2, D, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    results = []
    for run in (layer, lambda x: checkpoint(compiled, x, use_reentrant=use_reentrant)):
        layer.zero_grad()
        x.grad = None
        run(x)[0].square().sum().backward()
        results.append([[x.grad.clone(), *(p.grad.clone() for p in layer.parameters())]])
    assert_same_bits(*results)


@pytest.mark.parametrize(
    "name", ["rnn", "relu, batch first", "peephole", "projection", "gru", "gru, reset before"]
)
def test_autocast_in_a_graph(name):
    layer, before = LAYERS[name](), torch.nn.Linear(D, D)

    def run(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = before(x)
            return layer(x)[0], x

    results = []
    for runs in (torch.compile(run, fullgraph=True, backend="aot_eager"), run):
        torch.manual_seed(3)
        y, x = runs(torch.randn(4, 2, D))
        assert (y.dtype, x.dtype) == (torch.float32, torch.bfloat16)
        leaves = [*layer.parameters(), *before.parameters()]
        results.append(([y.detach()], torch.autograd.grad(y, leaves, torch.randn_like(y))))
    assert_same_bits(*results)


@pytest.mark.parametrize("by", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@pytest.mark.parametrize("name", ["rnn", "lstm, two layers, both directions", "gru"])
def test_copies_of_a_layer_that_was_compiled(name, by):
    layer, x = LAYERS[name](), torch.randn(4, 2, D)
    y = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)[0]
    other = by(layer)
    for p in other.parameters():
        p.data.mul_(2)
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x)[0], other(x)[0])
    assert torch.equal(layer(x)[0], y)
    assert not torch.equal(other(x)[0], y)


class Doubled(torch.nn.Module):
    def forward(self, w):
        return 2 * w


@pytest.mark.parametrize("made", ["parametrize", "weight_norm"])
@pytest.mark.parametrize("name", ["rnn", "projection", "peephole", "gru", "gru, reset before"])
def test_weights_that_are_made_of_others_in_a_graph(name, made):
    torch.manual_seed(1)
    layer, x = LAYERS[name](), torch.randn(4, 2, D)
    if made == "parametrize":
        parametrize.register_parametrization(layer, "weight_hh_l0", Doubled())
    else:
        parametrizations.weight_norm(layer, "weight_hh_l0")
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_same_bits(outputs_and_gradients(compiled, layer, x), outputs_and_gradients(layer, layer, x))
