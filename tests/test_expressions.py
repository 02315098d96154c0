"""The language of cuts and derived variables: what it computes, and what it refuses."""

import math
import sys

import awkward as ak
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timelike.data.expressions import ELEMENTWISE, REDUCERS, Expression
from timelike.data.table import Column
from timelike.errors import DataError
from timelike.ragged import offsets_of

LENGTHS = [3, 0, 2]
OFFSETS = offsets_of(LENGTHS)
STEPS = {
    "pt": np.array([3.0, 1.0, 2.0, 5.0, 4.0], dtype=np.float32),
    "eta": np.array([-1.0, 0.5, 0.0, 2.0, -0.25]),
    "pid": np.array([11, -11, 22, 211, 13], dtype=np.int32),
    "good": np.array([True, False, True, False, True]),
    "tracks.d0": np.array([0.1, 0.2, 0.3, 0.4, 0.5]),
}
EVENTS = {
    "jet_pt": np.array([6.0, 0.0, 9.0]),
    "run": np.array([1, 2, 3], dtype=np.uint8),
    "event": np.array([2**53 + 1, 5, 7], dtype=np.uint64),
    "signal": np.array([True, False, True]),
    "flags": np.array([6, 1, 4], dtype=np.int16),
    "odd name[3]": np.array([1.0, 2.0, 3.0]),
}
COLUMNS = {name: Column(v, OFFSETS) for name, v in STEPS.items()} | {n: Column(v) for n, v in EVENTS.items()}


def evaluate(text, columns=COLUMNS, **options):
    return Expression.parse(text).evaluate(columns.__getitem__, **options)


# The same columns for Python's own evaluation of the same text, jagged ones by awkward.
BY_AWKWARD = {n: ak.unflatten(v, LENGTHS) for n, v in STEPS.items()} | {
    n: ak.Array(v) for n, v in EVENTS.items()
}
BY_AWKWARD = {n: ak.values_astype(v, np.float64) if n == "pt" else v for n, v in BY_AWKWARD.items()}


@pytest.mark.parametrize(
    "text",
    [
        "pt + eta * 2 - 1 / 4",
        "-pt ** 2",
        "pt / jet_pt",
        "jet_pt - pt",
        "pt % 2",
        "-pid % 4",
        "2 ** pt",
        "(pt > 2) & (eta < 1)",
        "(pt > 2) | ~good",
        "flags & 2",
        "flags ^ 5 | 8",
        "pt >= jet_pt",
        "(pt == 3) != good",
        "pid * run",
        "+pt - -pt",
        "1.5e1",
    ],
)
def test_operators_are_those_of_arrays(text):
    with np.errstate(all="ignore"):
        want = eval(text, {}, BY_AWKWARD)  # our own texts; awkward is the judge
    got = evaluate(text)
    flat = ak.to_numpy(ak.flatten(want, axis=None)) if isinstance(want, ak.Array) else np.asarray(want)
    np.testing.assert_array_equal(got.values, flat)
    jagged = isinstance(want, ak.Array) and want.ndim == 2
    assert (got.offsets is not None) == jagged


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("pt > 2 && eta < 1", "(pt > 2) & (eta < 1)"),
        ("pt > 2 || eta < 1", "(pt > 2) | (eta < 1)"),
        ("pt > 2 and eta < 1 and good", "((pt > 2) & (eta < 1)) & good"),
        ("not pt > 2", "~(pt > 2)"),
        ("!(pt > 2)", "~(pt > 2)"),
        ("  !good", "~good"),
        ("pt!=3&&!good", "(pt != 3) & ~good"),
        ("pt > 2 or eta < 1 and good", "(pt > 2) | ((eta < 1) & good)"),
        ("1 < pt < 4", "(1 < pt) & (pt < 4)"),
        ("1 < pt < 4 != eta", "(1 < pt) & (pt < 4) & (4 != eta)"),
        ("`pt` + `jet_pt`", "pt + jet_pt"),
        ("pt\n  + eta\t- 1", "pt + eta - 1"),
        ("(flags & 4) == 4", "(flags == 6) | (flags == 4)"),
        ("4 == ((flags & 4))", "(flags == 6) | (flags == 4)"),
    ],
)
def test_other_ways_to_say_the_same(text, same):
    np.testing.assert_array_equal(evaluate(text).values, evaluate(same).values)


def test_names_of_any_kind():
    assert Expression.parse("tracks.d0 * 2 + `odd name[3]` - tracks.d0").names == ("tracks.d0", "odd name[3]")
    np.testing.assert_allclose(evaluate("tracks.d0 * `odd name[3]`").values, [0.1, 0.2, 0.3, 1.2, 1.5])
    assert Expression.parse("π + pt_é").names == ("π", "pt_é")


@pytest.mark.parametrize("name", [n for n, (_, arguments) in ELEMENTWISE.items() if arguments < 3])
def test_functions_are_those_of_numpy(name):
    arguments = ELEMENTWISE[name][1]
    text = f"{name}({', '.join(['pt', 'eta'][:arguments])})"
    with np.errstate(all="ignore"):
        want = getattr(np, name)(*[STEPS["pt"].astype(np.float64), STEPS["eta"]][:arguments])
    np.testing.assert_array_equal(evaluate(text).values, want)


def test_where():
    assert evaluate("where(pt > 2, pt, -1)").values.tolist() == [3, -1, -1, 5, 4]
    assert (
        evaluate("where(signal, good, false_)", {**COLUMNS, "false_": COLUMNS["signal"]}).values.dtype == bool
    )
    assert evaluate("where(signal, flags, 0)").values.tolist() == [6, 0, 4]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("num(pt)", [3, 0, 2]),
        ("sum(pt)", [6, 0, 9]),
        ("sum(good)", [2, 0, 1]),
        ("mean(pt)", [2, np.nan, 4.5]),
        ("min(pt)", [1, np.nan, 4]),
        ("max(pid)", [22, np.nan, 211]),
        ("first(pt)", [3, np.nan, 5]),
        ("last(pid)", [22, np.nan, 13]),
        ("any(pt > 4)", [False, False, True]),
        ("all(pt > 2)", [False, True, True]),
        ("sum(pt * (abs(pid) == 11)) / jet_pt", [4 / 6, np.nan, 0]),
        ("max(pt) > 1", [True, False, True]),
    ],
)
def test_functions_of_steps(text, values):
    got = evaluate(text)
    assert got.offsets is None
    np.testing.assert_array_equal(got.values, values)


@given(st.lists(st.lists(st.integers(-9, 9), max_size=4), max_size=6))
def test_functions_of_steps_take_each_event_by_itself(events):
    column = Column(
        np.array([x for e in events for x in e], dtype=np.float64), offsets_of([len(e) for e in events])
    )
    python = {
        "num": len,
        "sum": sum,
        "mean": lambda e: sum(e) / len(e) if e else math.nan,
        "min": lambda e: min(e, default=math.nan),
        "max": lambda e: max(e, default=math.nan),
        "first": lambda e: e[0] if e else math.nan,
        "last": lambda e: e[-1] if e else math.nan,
    }
    for name, function in python.items():
        got = evaluate(f"{name}(x)", {"x": column}).values
        np.testing.assert_allclose(got, [function(e) for e in events], rtol=1e-15)
    for name, function in {"any": any, "all": all}.items():
        assert evaluate(f"{name}(x > 0)", {"x": column}).values.tolist() == [
            function(x > 0 for x in e) for e in events
        ]
    assert set(python) | {"any", "all"} == set(REDUCERS)


class TestTypes:
    def test_a_bare_name_is_as_it_is_in_the_file(self):
        assert evaluate("pt") is COLUMNS["pt"]

    @pytest.mark.parametrize(
        ("text", "dtype"),
        [
            ("pt * 1", "float64"),
            ("run + 1", "int64"),
            ("run / 1", "float64"),
            ("event % 10", "int64"),
            ("signal + signal", "int64"),
            ("run * 10**9 + event", "int64"),
            ("abs(flags)", "int64"),
            ("floor(pt)", "float64"),
            ("run ** 0.5", "float64"),
            ("run ** -1", "float64"),
            ("10 ** 30", "float64"),
            ("minimum(run, 2)", "int64"),
            ("pt > 1", "bool"),
            ("True", "bool"),
        ],
    )
    def test_type_of_a_result(self, text, dtype):
        assert evaluate(text).values.dtype == dtype

    def test_small_integers_do_not_wrap(self):
        assert evaluate("run - 2").values.tolist() == [-1, 0, 1]
        assert evaluate("run * 100").values.tolist() == [100, 200, 300]

    def test_large_integers_are_exact(self):
        assert evaluate("event + 2").values[0] == 2**53 + 3

    def test_logarithms_are_taken_in_float64(self):
        np.testing.assert_array_equal(evaluate("log(pt)").values, np.log(STEPS["pt"].astype(np.float64)))

    @pytest.mark.parametrize(
        "text", ["event * event", "9223372036854775807 + run", "-(-9223372036854775807 - 1)"]
    )
    def test_integers_beyond_the_range_are_refused(self, text):
        with pytest.raises(DataError, match=r"character \d: .*leaves the range of int64"):
            evaluate(text)

    def test_unsigned_integers_beyond_the_range_are_refused(self):
        with pytest.raises(DataError, match="integer 9223372036854775808 leaves the range"):
            evaluate("x + 1", {"x": Column(np.array([2**63], dtype=np.uint64))})

    def test_division_by_zero_is_not_hidden(self):
        assert evaluate("1 / jet_pt").values[1] == np.inf
        with pytest.raises(DataError, match="the remainder of an integer divided by 0"):
            evaluate("event % 0")

    def test_huge_powers_do_not_hang(self):
        assert evaluate("9 ** 9 ** 9 ** 9").values == np.inf
        assert evaluate("run ** 99999999999").values.dtype == np.float64


class TestMismatch:
    columns = COLUMNS | {"other": Column(np.ones(6), offsets_of([3, 0, 3]))}

    @pytest.mark.parametrize(
        "text", ["pt * other", "pt - 1 > other", "good and other > 1", "where(pt > 1, 0, other)"]
    )
    def test_two_lengths_in_an_event(self, text):
        with pytest.raises(DataError, match=r"event 2: '.*' has 2 steps, '.*' has 3"):
            evaluate(text, self.columns)

    def test_the_event_is_counted_in_the_file(self):
        with pytest.raises(DataError, match="event 40: 'log\\(pt\\)' has 2 steps, '`other`' has 3"):
            evaluate("log(pt) + `other`", self.columns, entries=np.array([10, 20, 40]))

    def test_steps_are_needed(self):
        with pytest.raises(DataError, match="'sum' works on steps, and 'jet_pt' has none"):
            evaluate("1 + sum(jet_pt)")

    @pytest.mark.parametrize(
        ("text", "position"),
        [("pt and good", 1), ("not pt", 1), ("any(pt)", 1), ("2 + sum(all(pt))", 9), ("where(pt, 1, 2)", 1)],
    )
    def test_a_condition_is_needed(self, text, position):
        with pytest.raises(DataError, match=rf"character {position}: a condition is needed"):
            evaluate(text)

    @pytest.mark.parametrize("text", ["pt & 1", "good & 1", "~pt", "good | eta"])
    def test_bits_of_numbers_without_bits(self, text):
        with pytest.raises(DataError, match="conditions are needed, or integers"):
            evaluate(text)

    def test_a_name_that_is_not_there(self):
        with pytest.raises(KeyError):
            evaluate("missing + 1")


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("pt +", 5, "syntax error"),
        ("pt > ", 6, "syntax error (something is missing at the end)"),
        ("(pt > 1", 1, "syntax error"),
        ("pt > 1)", 7, "syntax error"),
        ("  pt pt", 6, "syntax error"),
        ("`a` + * pt", 7, "syntax error"),
        ("1or pt", 1, "syntax error"),
        ("a = 1", 1, "syntax error"),
        ("import os", 1, "syntax error"),
        ("a; b", 2, "syntax error"),
        ("lgo(pt)", 1, "no function 'lgo'; nearest: 'log'"),
        ("2 * eval(pt)", 5, "no function 'eval'"),
        ("open(pt)", 1, "no function 'open'"),
        ("__import__(pt)", 1, "no function '__import__'"),
        ("np.log(pt)", 1, "only functions of the language can be called; write log(...)"),
        ("ak.num(pt)", 1, "write num(...)"),
        ("pt.sum()", 1, "only functions of the language can be called; write sum(...)"),
        ("log(pt)(eta)", 1, "only functions of the language can be called"),
        ("(lambda: 1)()", 1, "only functions of the language can be called"),
        ("`log`(pt)", 1, "only functions of the language can be called"),
        ("(1).real", 1, "a dot stands within a name only"),
        ("log(pt).real", 1, "a dot stands within a name only"),
        ("().__class__", 1, "a dot stands within a name only"),
        ("pt.__class__", 1, "the name 'pt.__class__' stands in backticks"),
        ("__builtins__", 1, "the name '__builtins__' stands in backticks"),
        ("pt[0]", 1, "an index cannot be used"),
        ("lambda: pt", 1, "a lambda cannot be used"),
        ("[x for x in pt]", 1, "a comprehension cannot be used"),
        ("sum(x for x in pt)", 4, "a comprehension cannot be used"),
        ("{1: 2}", 1, "this cannot be used"),
        ("pt, eta", 1, "a list cannot be used"),
        ("(x := 1)", 2, "an assignment cannot be used"),
        ("pt if good else eta", 1, "where(condition, a, b) chooses"),
        ("pt // 2", 1, "this operator cannot be used"),
        ("pt @ eta", 1, "this operator cannot be used"),
        ("pt is eta", 1, "this comparison cannot be used"),
        ("pt in eta", 1, "this comparison cannot be used"),
        ("None", 1, "a constant that is no number"),
        ("1j", 1, "a constant that is no number"),
        ("pt == 'text'", 7, '"\'" has no meaning'),
        ('pt == "text"', 7, "'\"' has no meaning"),
        ("pt # more", 4, "'#' has no meaning"),
        ("`pt", 1, "a backtick without its partner"),
        ("pt + ``", 6, "a backtick without its partner"),
        ("pt \\ 2", 4, "has no meaning"),
        ("9223372036854775808", 1, "beyond int64"),
        ("pt > 1 & eta < 2", 6, "'1 & eta' binds tighter than the comparison"),
        ("(a & b > 1)", 2, "'a & b' binds tighter than the comparison"),
        ("log(pt, eta)", 1, "'log' takes 1 argument, not 2"),
        ("hypot(pt)", 1, "'hypot' takes 2 arguments, not 1"),
        ("num()", 1, "'num' takes 1 argument, not 0"),
        ("max(pt, eta)", 1, "'max' takes 1 argument, not 2; maximum takes two"),
        ("log(x=pt)", 1, "'log' takes 1 argument"),
        ("log(*pt)", 5, "this cannot be used"),
    ],
)
def test_what_is_refused(text, position, message):
    with pytest.raises(DataError) as caught:
        Expression.parse(text)
    said = str(caught.value)
    assert message in said
    assert "\n" not in said
    if message != "syntax error":  # where Python sees one differs between its versions
        assert f"character {position}:" in said
    assert "character " in said


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_an_empty_expression(text):
    with pytest.raises(DataError, match="the expression is empty"):
        Expression.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 5000 + "1" + ")" * 5000,
        "+".join(["pt"] * 3000),
        "-" * 3000 + "1",
        "~" * 9999 + "pt",
        "9" * 9999,
        "pt" + "+pt" * 100_000,
        "a.b" * 3000,
        "f(" * 900,
    ],
)
def test_texts_that_are_too_much(text):
    with pytest.raises(DataError) as caught:
        Expression.parse(text)
    assert "\n" not in str(caught.value)


def test_a_name_of_too_many_parts_where_python_would_take_it():
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)  # as libraries do
    try:
        with pytest.raises(DataError, match="nested more than"):
            Expression.parse("a.b" * 3000)
    finally:
        sys.setrecursionlimit(limit)


def test_the_deepest_text_that_is_possible_can_be_computed():
    text = "1 + " * 199 + "1"
    assert evaluate(text).values == 200
    with pytest.raises(DataError, match="nested more than 200 deep"):
        Expression.parse("1 + " + text)
    assert sys.getrecursionlimit() >= 1000


@given(st.text(alphabet="pt .+-*/%&|^~!<>=()`'\"#,0123456789eaxnd_\n\\[]{}:;@é", max_size=30))
def test_any_text_is_an_expression_or_refused(text):
    try:
        names, said = Expression.parse(text).names, ""
    except DataError as error:
        names, said = (), str(error)
    assert "\n" not in said
    assert all(isinstance(name, str) and name for name in names)
