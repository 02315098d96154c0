"""Transforms of variables: fitted on weighted steps, applied by name, kept without loss."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timelike.config import DataConfig
from timelike.data.transforms import FittedTransforms
from timelike.errors import DataError, ModelFileError
from timelike.ragged import offsets_of
from timelike.sequences import Sequences


def some(values, lengths=None, **fields):
    values = np.asarray(values, dtype=fields.pop("dtype", np.float64))
    values = values[:, None] if values.ndim == 1 else values
    return Sequences(values, offsets_of([len(values)] if lengths is None else lengths), **fields)


def config(transforms):
    labels = {"a": "y == 0", "b": "y == 1"}
    return DataConfig(files=("f.root",), variables=("x0", "x1"), labels=labels, transforms=transforms)


class TestFit:
    def test_mean_and_deviation_of_steps(self):
        x = np.random.default_rng(0).normal(3, 2, (1000, 4)) * [1, 1e-6, 1e6, 1]
        fitted = FittedTransforms.fit(some(x))
        np.testing.assert_allclose(fitted.mean, x.mean(axis=0), rtol=1e-13)
        np.testing.assert_allclose(fitted.scale, x.std(axis=0), rtol=1e-13)
        z = fitted.apply(some(x)).values
        np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-13)
        np.testing.assert_allclose(z.std(axis=0), 1, rtol=1e-13)

    def test_a_weight_counts_for_each_step_of_its_event(self):
        s = some([1.0, 2.0, 10.0, 4.0], [2, 0, 1, 1], weights=[3, 5, 0.5, 1])
        fitted = FittedTransforms.fit(s)
        repeated = np.array([1, 2] * 6 + [10] + [4] * 2)
        assert fitted.mean[0] == pytest.approx(repeated.mean(), rel=1e-14)
        assert fitted.scale[0] == pytest.approx(repeated.std(), rel=1e-14)

    def test_negative_weights_count_by_their_size(self):
        x, w = [1.0, 2.0, 5.0], np.array([1.0, -2.0, 1.0])
        one = FittedTransforms.fit(some(x, [1, 1, 1], weights=w))
        other = FittedTransforms.fit(some(x, [1, 1, 1], weights=abs(w)))
        assert (one.mean, one.scale) == (other.mean, other.scale)

    def test_steps_of_no_weight_do_not_count(self):
        fitted = FittedTransforms.fit(some([7.0, 7.0, 1e9], [2, 1], weights=[1, 0]))
        assert (fitted.mean[0], fitted.scale[0]) == (7.0, 1.0)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("value", [0.0, 0.1, -1e30, 1e-30])
    def test_a_variable_that_never_changes(self, dtype, value):
        s = some(np.full(999, value), dtype=dtype, weights=[0.3])
        fitted = FittedTransforms.fit(s)
        assert fitted.scale[0] == 1
        assert np.all(fitted.apply(s).values == 0)

    @pytest.mark.parametrize("unit", [1e-300, 1e-30, 1e30, 1e300])
    def test_units_do_not_matter(self, unit):
        s = some(np.array([1.0, 2.0, 4.0]) * unit)
        z = FittedTransforms.fit(s).apply(s).values
        np.testing.assert_allclose(
            z, FittedTransforms.fit(some([1.0, 2.0, 4.0])).apply(some([1.0, 2.0, 4.0])).values, rtol=1e-14
        )

    def test_a_large_offset_in_float32(self):
        x = (1.5e9 + 1000 * np.arange(100)).astype(np.float32)
        s = some(x, dtype=np.float32)
        z = FittedTransforms.fit(s).apply(s).values[:, 0]
        exact = x.astype(np.float64)
        assert z.dtype == np.float32
        np.testing.assert_allclose(z, (exact - exact.mean()) / exact.std(), rtol=1e-6, atol=1e-7)

    def test_a_transform_of_no_variable(self):
        # Of steps that are a branch each, the variables are not known before they are read.
        labels = {"a": "y == 0", "b": "y == 1"}
        data = DataConfig(files=("f.root",), steps=("v*",), labels=labels, transforms={"x2": "none"})
        with pytest.raises(DataError, match=r"transforms: the data have no variable 'x2'; known: 'x0', 'x1'"):
            FittedTransforms.fit(some([[1.0, 2.0]]), data)

    def test_none_and_default(self):
        s = some([[1.0, 2.0], [3.0, 5.0]])
        for transforms, kinds in [
            ({}, ("standardise", "standardise")),
            ({"x1": "none"}, ("standardise", "none")),
            ({"default": "none", "x1": "standardise"}, ("none", "standardise")),
        ]:
            fitted = FittedTransforms.fit(s, config(transforms))
            assert fitted.kinds == kinds
            for d, kind in enumerate(kinds):
                if kind == "none":
                    assert (fitted.mean[d], fitted.scale[d]) == (0, 1)
                    assert np.array_equal(fitted.apply(s).values[:, d], s.values[:, d])

    @pytest.mark.parametrize(
        "s",
        [
            some(np.zeros((0, 2)), [0, 0]),
            some([1.0, 2.0], [2], weights=[0.0]),
            some([1.0], [0, 1], weights=[1.0, 0.0]),
        ],
    )
    def test_no_steps_to_fit(self, s):
        with pytest.raises(DataError, match="no training event has a step of weight other than 0"):
            FittedTransforms.fit(s)


class TestApply:
    fitted = FittedTransforms.fit(some([[1.0, 10.0], [3.0, 50.0]], names=["pt", "eta"]))

    def test_variables_in_another_order(self):
        s = some([[10.0, 0.0, 1.0]], names=["eta", "other", "pt"], labels=[1], events=[7])
        got = self.fitted.apply(s)
        assert got.names == ("pt", "eta")
        assert got.values.tolist() == [[-1, -1]]
        assert (got.labels.tolist(), got.events.tolist()) == ([1], [7])

    def test_a_missing_variable(self):
        with pytest.raises(DataError, match="the data have no variable 'eta'; nearest: 'beta'"):
            self.fitted.apply(some([[1.0, 2.0]], names=["pt", "beta"]))


GOOD = {"names": ["a"], "kinds": ["none"], "mean": [0.0], "scale": [1.0]}


class TestDict:
    @given(st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9)), min_size=1, max_size=5))
    def test_there_and_back_by_json(self, numbers):
        mean, scale = np.array(numbers).T
        names = tuple(f"v{d}" for d in range(len(numbers)))
        one = FittedTransforms(names, ("standardise",) * len(names), mean, scale)
        other = FittedTransforms.from_dict(json.loads(json.dumps(one.to_dict())))
        assert (other.names, other.kinds) == (one.names, one.kinds)
        assert other.mean.tolist() == one.mean.tolist()
        assert other.scale.tolist() == one.scale.tolist()

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"names": None}, "transforms: TypeError"),
            ({"mean": ["x"]}, "transforms: ValueError"),
            ({"mean": [10**400]}, "transforms: OverflowError"),
            ({"mean": []}, "1 names, 1 kinds, 0 means, 1 scales"),
            ({"mean": [[0.0]]}, "1 names, 1 kinds"),
            ({"kinds": ["non"]}, "no transform 'non'; nearest: 'none'"),
            ({"scale": [0.0]}, "a scale not finite and above 0"),
            ({"scale": [float("nan")]}, "a scale not finite and above 0"),
            ({"mean": [float("inf")]}, "a mean is not finite"),
        ],
    )
    def test_values_that_are_wrong(self, wrong, message):
        with pytest.raises(ModelFileError, match=message):
            FittedTransforms.from_dict({**GOOD, **wrong})

    @pytest.mark.parametrize("key", GOOD)
    def test_values_that_are_missing(self, key):
        with pytest.raises(ModelFileError, match=f"transforms: KeyError for '{key}'"):
            FittedTransforms.from_dict({k: v for k, v in GOOD.items() if k != key})
