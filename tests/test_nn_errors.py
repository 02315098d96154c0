"""What timelike.nn refuses: in one line, with torch's kind of error where torch has one."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from layer_cases import F32, F64, normal, pair
from timelike.nn import GRU, LSTM, Ragged

D, H = 5, 9


def packed_case(width=D):
    return pack_sequence([normal(2, width, seed=1), normal(1, width, seed=2)])


def ragged_case(offsets, *, shape=(4, D), dtype=torch.int64):
    return Ragged(normal(*shape, seed=1), torch.tensor(offsets, dtype=dtype))


def with_fake(lstm, x):
    lstm(x)  # packed now: what follows compares with it
    with FakeTensorMode(allow_non_fake_inputs=True):
        return lstm(x)


def with_states_to(where, lstm):
    lstm(normal(1, 1, D, seed=1))  # so that there are packed weights to compare with
    lstm.weight_hh_l0 = torch.nn.Parameter(lstm.weight_hh_l0.to(where))
    return lstm


def states_of(m, *shape, dtype=F64):
    """States of this shape, in the form that a layer takes."""
    zeros = torch.zeros(shape, dtype=dtype)
    return (zeros, zeros) if m.mode == "LSTM" else zeros


def made(m, *arguments, **options):
    """A layer of the same class."""
    return type(m)(*arguments, **options)


REFUSED_AS_BY_TORCH = {
    "one axis": lambda m: m(normal(D, seed=1)),
    "four axes": lambda m: m(normal(1, 1, 1, D, seed=1)),
    "too narrow": lambda m: m(normal(2, 1, D - 1, seed=1)),
    "float32 into float64": lambda m: m(normal(2, 1, D, seed=1, dtype=F32)),
    "integers": lambda m: m(torch.zeros(2, 1, D, dtype=torch.int64)),
    "no steps": lambda m: m(torch.zeros(0, 1, D, dtype=F64)),
    "no steps, unbatched": lambda m: m(torch.zeros(0, D, dtype=F64)),
    "h0 of other batch size": lambda m: m(normal(2, 1, D, seed=1), states_of(m, 1, 2, H)),
    "h0 of other width": lambda m: m(normal(2, 1, D, seed=1), states_of(m, 1, 1, H + 1)),
    "h0 of other width, unbatched": lambda m: m(normal(2, D, seed=1), states_of(m, 1, H + 1)),
    "states without batch axis": lambda m: m(normal(2, 1, D, seed=1), states_of(m, 1, H)),
    "states with batch axis": lambda m: m(normal(2, D, seed=1), states_of(m, 1, 1, H)),
    "states of other dtype": lambda m: m(normal(2, 1, D, seed=1), states_of(m, 1, 1, H, dtype=F32)),
    "bias no bool": lambda m: made(m, D, H, bias=1),
    "batch_first no bool": lambda m: made(m, D, H, batch_first=0),
    "dropout above one": lambda m: made(m, D, H, 2, dropout=1.5),
    "dropout a bool": lambda m: made(m, D, H, 2, dropout=True),
    "dropout a string": lambda m: made(m, D, H, 2, dropout="0.5"),
    "no inputs": lambda m: made(m, 0, H),
    "no units": lambda m: made(m, D, 0),
    "inputs no int": lambda m: made(m, 3.0, H),
    "units no int": lambda m: made(m, D, "4"),
    "no layers": lambda m: made(m, D, H, 0),
    "layers no int": lambda m: made(m, D, H, 1.5),
    "no units given": lambda m: made(m, D),
    "unknown argument": lambda m: made(m, D, H, layers=2),
}
OF_ONE_CLASS = {
    "c0 of other width": (
        "lstm",
        lambda m: m(
            normal(2, 1, D, seed=1), (torch.zeros(1, 1, H, dtype=F64), torch.zeros(1, 1, H + 1, dtype=F64))
        ),
    ),
    "projected state as wide as the units": (
        "lstm_projected",
        lambda m: m(normal(2, 1, D, seed=1), states_of(m, 1, 1, H)),
    ),
    "projection below zero": ("lstm", lambda m: made(m, D, H, proj_size=-1)),
    "projection not below units": ("lstm", lambda m: made(m, D, H, proj_size=H)),
    "projection no int": ("lstm", lambda m: made(m, D, H, proj_size=1.5)),
    "unknown nonlinearity": ("rnn_tanh", lambda m: made(m, D, H, nonlinearity="sigmoid")),
    "packed, h0 of other batch size": ("gru", lambda m: m(packed_case(), torch.zeros(1, 3, H, dtype=F64))),
}
CASES = [(name, kind) for name in REFUSED_AS_BY_TORCH for kind in ("rnn_tanh", "lstm", "gru")]
CASES += [(name, kind) for name, (kind, _) in OF_ONE_CLASS.items()]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_refuses_with_torchs_kind_of_error_and_its_words(name, kind):
    attempt = REFUSED_AS_BY_TORCH[name] if name in REFUSED_AS_BY_TORCH else OF_ONE_CLASS[name][1]
    raised = []
    for module in pair(D, H, kind=kind):
        with pytest.raises(Exception) as caught:  # noqa: PT011  the kinds are compared
            attempt(module)
        raised.append(caught)
    theirs, ours = raised
    assert ours.type is theirs.type
    message = str(ours.value)
    assert message
    assert "\n" not in message
    # What torch itself says: not its native code, and not Python about a call.
    frame = theirs.traceback[-1]
    if frame.path.name == "rnn.py" and "raise" in str(frame.statement):
        words = str(theirs.value).replace("RNN input dtype", f"{ours.value.args[0].split()[0]} input dtype")
        assert message.startswith(words.removesuffix(" instead"))


REFUSED_BY_US = {
    "two variants at once": (
        ValueError,
        "proj_size=2, peephole=True.*at most one",
        lambda m: LSTM(D, H, proj_size=2, peephole=True),
    ),
    "peephole no bool": (TypeError, "peephole should be of type bool", lambda m: LSTM(D, H, peephole=1)),
    "coupled no bool": (TypeError, "coupled should be of type bool", lambda m: LSTM(D, H, coupled="yes")),
    "half asked for": (TypeError, "float16.*float32", lambda m: LSTM(D, H, dtype=torch.float16)),
    "half made": (TypeError, "float16.*module.float", lambda m: m.half()(normal(1, 1, D, seed=1).half())),
    "meta": (NotImplementedError, "device meta", lambda m: m.to("meta")(normal(1, 1, D, seed=1))),
    "meta input": (ValueError, "device meta", lambda m: m(normal(1, 1, D, seed=1).to("meta"))),
    "a list": (TypeError, "list; possible: Tensor", lambda m: m([[1.0] * D])),
    "two states of a cell with one": (
        TypeError,
        r"GRU: hx must be a tensor h_0, got \['Tensor', 'Tensor'\]",
        lambda m: GRU(D, H)(torch.zeros(1, 1, D), (torch.zeros(1, 1, H), torch.zeros(1, 1, H))),
    ),
    "projection of a GRU": (TypeError, "proj_size", lambda m: GRU(D, H, proj_size=2)),
    "reset_after no bool": (
        TypeError,
        "reset_after should be of type bool",
        lambda m: GRU(D, H, reset_after=0),
    ),
    "inner_bias no bool": (
        TypeError,
        "inner_bias should be of type bool",
        lambda m: GRU(D, H, inner_bias=None),
    ),
    "extras by position": (
        TypeError,
        "positional",
        lambda m: GRU(D, H, 1, True, False, 0.0, False, None, F64, False),
    ),
    "one state": (TypeError, r"\(h_0, c_0\)", lambda m: m(normal(1, 1, D, seed=1), torch.zeros(1, 1, H))),
    "no c0": (TypeError, "NoneType", lambda m: m(normal(1, 1, D, seed=1), (torch.zeros(1, 1, H), None))),
    # torch reads beyond the weights or the states in these two
    "packed too wide": (RuntimeError, f"Expected {D}, got {D + 2}", lambda m: m(packed_case(D + 2))),
    "packed, h0 of other batch size": (
        RuntimeError,
        r"hidden\[0\] size \(1, 2, 9\), got \[1, 3, 9\]",
        lambda m: m(packed_case(), (torch.zeros(1, 3, H, dtype=F64),) * 2),
    ),
    "rising packed batch": (
        ValueError,
        "never rise",
        lambda m: m(PackedSequence(normal(5, D, seed=1), torch.tensor([2, 3]))),
    ),
    "packed batch of int32": (
        ValueError,
        "int32",
        lambda m: m(PackedSequence(normal(3, D, seed=1), torch.tensor([2, 1], dtype=torch.int32))),
    ),
    "offsets as a list": (TypeError, "Tensor and list", lambda m: m(Ragged(normal(4, D, seed=1), [0, 4]))),
    "fake tensors": (NotImplementedError, "no memory", lambda m: with_fake(m, normal(2, 1, D, seed=1))),
    "overlapping nested": (
        ValueError,
        "overlap",
        lambda m: m(
            torch.nested.nested_tensor_from_jagged(
                normal(4, D, seed=1), torch.tensor([0, 2, 4]), torch.tensor([3, 2])
            )
        ),
    ),
    "offsets too far": (ValueError, "from 0 to the 4 rows", lambda m: m(ragged_case([0, 5]))),
    "offsets too short": (ValueError, "got 0 to 3", lambda m: m(ragged_case([0, 3]))),
    "offsets from 1": (ValueError, "got 1 to 4", lambda m: m(ragged_case([1, 4]))),
    "falling offsets": (ValueError, "never fall", lambda m: m(ragged_case([0, 5, 3, 4]))),
    "no offsets": (ValueError, "B \\+ 1", lambda m: m(ragged_case([]))),
    "int32 offsets": (ValueError, "int64", lambda m: m(ragged_case([0, 4], dtype=torch.int32))),
    "padded in Ragged": (ValueError, "2D, got 3D", lambda m: m(ragged_case([0, 4], shape=(4, 1, D)))),
    "strided nested": (
        ValueError,
        "torch.jagged",
        lambda m: m(torch.nested.as_nested_tensor([normal(2, D, seed=1)])),
    ),
    "mask as a list": (TypeError, "list", lambda m: m(normal(2, 1, D, seed=1), mask=[[True], [True]])),
    "mask of integers": (
        ValueError,
        "int64.*torch.bool",
        lambda m: m(normal(2, 1, D, seed=1), mask=torch.ones(2, 1, dtype=torch.int64)),
    ),
    "mask on another device": (
        ValueError,
        "meta",
        lambda m: m(normal(2, 1, D, seed=1), mask=torch.ones(2, 1, dtype=torch.bool, device="meta")),
    ),
    "mask the wrong way round": (
        ValueError,
        r"shape \(2, 3\) for input \(2, 3, 5\), got \(3, 2\)",
        lambda m: m(normal(2, 3, D, seed=1), mask=torch.ones(3, 2, dtype=torch.bool)),
    ),
    "mask of a packed sequence": (
        ValueError,
        "mask.*PackedSequence",
        lambda m: m(packed_case(), mask=torch.ones(2, 2, dtype=torch.bool)),
    ),
    "weights of two dtypes": (
        TypeError,
        "float32",
        lambda m: with_states_to(F32, m)(normal(1, 1, D, seed=1)),
    ),
    "weights on two devices": (
        ValueError,
        "device meta",
        lambda m: with_states_to("meta", m)(normal(1, 1, D, seed=1)),
    ),
}


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype")
@pytest.mark.parametrize("name", REFUSED_BY_US)
def test_refuses_what_it_cannot_do(name):
    kind, message, attempt = REFUSED_BY_US[name]
    with pytest.raises(kind, match=message) as caught:
        attempt(pair(D, H)[1])
    assert "\n" not in str(caught.value)
