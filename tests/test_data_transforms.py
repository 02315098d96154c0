"""Transforms of variables: fitted on weighted steps, applied by name, kept without loss."""

import json

import numpy as np
import pytest
import scipy.stats

from timelike.config import DataConfig
from timelike.data.transforms import KINDS, FittedTransforms
from timelike.errors import DataError, ModelFileError
from timelike.ragged import offsets_of
from timelike.sequences import Sequences


def some(values, lengths=None, **fields):
    values = np.asarray(values, dtype=fields.pop("dtype", np.float64))
    values = values[:, None] if values.ndim == 1 else values
    return Sequences(values, offsets_of([len(values)] if lengths is None else lengths), **fields)


def config(transforms=None, n=2, **more):
    given = {
        "files": ["f.root"],
        "variables": [f"x{d}" for d in range(n)],
        "labels": {"a": "y == 0", "b": "y == 1"},
        "transforms": transforms or {},
        **more,
    }
    return DataConfig.model_validate_json(json.dumps(given))


def affine(fitted, d=0):
    """Mean and scale of the one transform of a variable."""
    (step,) = fitted.steps[d]
    return step.numbers["mean"], step.numbers["scale"]


def weighted(n=4000, seed=3, D=1):
    """Steps of one each, with weights, some negative, and the same steps as often as their weight says."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, D)) @ rng.normal(size=(D, D)) + 5
    times = rng.integers(1, 4, n)
    return some(x, np.ones(n, int), weights=times * rng.choice([-1.0, 1.0], n)), np.repeat(x, times, axis=0)


class TestFit:
    def test_mean_and_deviation_of_steps(self):
        x = np.random.default_rng(0).normal(3, 2, (1000, 4)) * [1, 1e-6, 1e6, 1]
        fitted = FittedTransforms.fit(some(x))
        got = np.array([affine(fitted, d) for d in range(4)])
        np.testing.assert_allclose(got, np.stack([x.mean(axis=0), x.std(axis=0)], axis=1), rtol=1e-13)
        z = fitted.apply(some(x)).values
        np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-13)
        np.testing.assert_allclose(z.std(axis=0), 1, rtol=1e-13)

    def test_a_weight_counts_for_each_step_of_its_event(self):
        s = some([1.0, 2.0, 10.0, 4.0], [2, 0, 1, 1], weights=[3, 5, 0.5, 1])
        fitted = FittedTransforms.fit(s)
        repeated = np.array([1, 2] * 6 + [10] + [4] * 2)
        assert affine(fitted) == pytest.approx((repeated.mean(), repeated.std()), rel=1e-14)

    def test_negative_weights_count_by_their_size(self):
        x, w = [1.0, 2.0, 5.0], np.array([1.0, -2.0, 1.0])
        one = FittedTransforms.fit(some(x, [1, 1, 1], weights=w))
        other = FittedTransforms.fit(some(x, [1, 1, 1], weights=abs(w)))
        assert affine(one) == affine(other)

    def test_steps_of_no_weight_do_not_count(self):
        fitted = FittedTransforms.fit(some([7.0, 7.0, 1e9], [2, 1], weights=[1, 0]))
        assert affine(fitted) == (7.0, 1.0)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("value", [0.0, 0.1, -1e30, 1e-30])
    def test_a_variable_that_never_changes(self, dtype, value):
        s = some(np.full(999, value), dtype=dtype, weights=[0.3])
        fitted = FittedTransforms.fit(s)
        assert affine(fitted)[1] == 1
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
            assert tuple(step.kind for (step,) in fitted.steps) == kinds
            for d, kind in enumerate(kinds):
                if kind == "none":
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


class TestKinds:
    @pytest.mark.parametrize("kind", ["robust", "uniform", "gauss", "clip"])
    def test_quantiles_are_of_the_weight(self, kind):
        s, repeated = weighted()
        fitted = FittedTransforms.fit(s, config({"x0": kind}, 1))
        z = fitted.apply(some(repeated)).values[:, 0]
        # Of 8,000 values that are repeated by threes at most, a share is known to 3 / 8000.
        if kind == "robust":
            low, median, high = np.quantile(repeated, [0.16, 0.5, 0.84])
            assert affine(fitted) == pytest.approx((median, (high - low) / 2), rel=2e-3)
        elif kind == "uniform":
            np.testing.assert_allclose(np.quantile(z, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=2e-3)
            assert (z.min(), z.max()) == (0.5 / 256, 255.5 / 256)
        elif kind == "gauss":
            assert abs(z.mean()) < 0.01
            assert z.std() == pytest.approx(1.0, abs=0.02)
            assert scipy.stats.kstest(z, "norm").statistic < 0.01
        else:
            low, high = np.quantile(repeated, [0.001, 0.999])
            assert (z.min(), z.max()) == pytest.approx((low, high), abs=0.15)  # by the eight values beyond
            inside = (repeated[:, 0] > z.min()) & (repeated[:, 0] < z.max())
            assert np.array_equal(z[inside], repeated[inside, 0])

    def test_to_a_range(self):
        s = some([2.0, 3.0, 6.0])
        assert FittedTransforms.fit(s, config({"x0": "minmax"}, 1)).apply(s).values.ravel().tolist() == [
            -1,
            -0.5,
            1,
        ]
        same = some([2.0, 2.0])
        assert FittedTransforms.fit(same, config({"x0": "minmax"}, 1)).apply(
            same
        ).values.ravel().tolist() == [0, 0]

    def test_logarithms_keep_the_sign(self):
        s = some([-1e9, -1.0, 0.0, 1.0, 1e-20])
        z = FittedTransforms.fit(s, config({"x0": "log"}, 1)).apply(s).values.ravel()
        np.testing.assert_allclose(z, [-np.log(1e9 + 1), -np.log(2), 0, np.log(2), 1e-20], rtol=1e-15)

    def test_limits_are_given(self):
        s = some([-5.0, 0.5, 9.0])
        data = config({"x0": {"name": "clip", "low": 0, "high": 1}}, 1)
        assert FittedTransforms.fit(s, data).apply(s).values.ravel().tolist() == [0, 0.5, 1]

    def test_one_after_the_other(self):
        s, _ = weighted()
        fitted = FittedTransforms.fit(
            s, config({"default": ["log", {"name": "clip", "low": 1, "high": 2}, "standardise"]}, 1)
        )
        x = np.clip(np.sign(s.values) * np.log1p(np.abs(s.values)), 1, 2)
        w = np.abs(s.weights)
        mean = np.average(x, weights=w, axis=0)
        expected = (x - mean) / np.sqrt(np.average((x - mean) ** 2, weights=w, axis=0))
        np.testing.assert_allclose(fitted.apply(s).values, expected, rtol=1e-12)

    def test_values_that_repeat(self):
        s = some([1.0, 1.0, 1.0, 2.0])
        for kind, expected in (("uniform", [0.3125, 0.9375]), ("gauss", [-0.489, 1.534])):
            z = FittedTransforms.fit(s, config({"x0": kind}, 1)).apply(s).values.ravel()
            assert z[0] == z[2]
            np.testing.assert_allclose([z[0], z[3]], expected, atol=4e-3)  # a knot or two

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("kind", KINDS)
    def test_every_kind_keeps_the_type_and_gives_numbers(self, kind, dtype):
        s = some(np.random.default_rng(1).normal(size=(50, 2)), dtype=dtype)
        got = FittedTransforms.fit(s, config({"default": kind})).apply(s).values
        assert got.dtype == dtype
        assert np.isfinite(got).all()
        one = FittedTransforms.fit(some([3.0]), config({"default": kind}, 1)).apply(some([3.0])).values
        assert np.isfinite(one).all()


class TestMix:
    @pytest.mark.parametrize("kind", ["decorrelate", "pca"])
    def test_components_are_not_correlated(self, kind):
        s, repeated = weighted(D=3)
        fitted = FittedTransforms.fit(s, config({"default": "none"}, 3, mix=kind))
        z = fitted.apply(some(repeated)).values
        covariance = np.cov(z.T, bias=True)
        np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-12)
        widths = np.linalg.eigvalsh(np.cov(repeated.T, bias=True))[::-1]
        np.testing.assert_allclose(
            covariance, np.eye(3) if kind == "decorrelate" else np.diag(widths), atol=1e-11
        )
        if kind == "decorrelate":
            assert np.allclose(fitted.mix.matrix, fitted.mix.matrix.T, rtol=1e-12)
            assert fitted.outputs == ("x0", "x1", "x2")
        else:
            np.testing.assert_allclose(fitted.mix.matrix @ fitted.mix.matrix.T, np.eye(3), atol=1e-14)
            assert fitted.outputs == ("component 1", "component 2", "component 3")
            assert fitted.apply(s).names == fitted.outputs

    def test_it_is_behind_the_transforms(self):
        s, _ = weighted(D=2)
        once = FittedTransforms.fit(s, config({"default": "gauss"})).apply(s)
        both = FittedTransforms.fit(s, config({"default": "gauss"}, mix="pca")).apply(s).values
        np.testing.assert_allclose(
            both,
            FittedTransforms.fit(once, config({"default": "none"}, mix="pca")).apply(once).values,
            atol=1e-12,
        )

    @pytest.mark.parametrize("x", [[[1.0, 2.0], [2.0, 4.0], [0.0, 0.0]], [[1.0, 2.0], [1.0, 3.0]]])
    def test_sums_that_never_change(self, x):
        with pytest.raises(DataError, match="a variable, or a sum of some, never changes"):
            FittedTransforms.fit(some(x), config({"default": "none"}, mix="decorrelate"))


class TestMissing:
    data = config({"default": "none"}, missing={"x1": "indicator"})
    s = some([[1.0, 2.0], [2.0, np.nan], [3.0, 4.0], [4.0, 100.0]])

    def test_the_median_is_filled_in_and_the_network_is_told(self):
        fitted = FittedTransforms.fit(self.s, self.data)
        got = fitted.apply(self.s)
        assert got.names == ("x0", "x1", "x1 missing")
        assert got.values.tolist() == [[1, 2, 0], [2, 4, 1], [3, 4, 0], [4, 100, 0]]

    def test_it_can_be_filled_in_silence(self):
        data = config({"default": "none"}, missing={"x1": "fill"})
        got = FittedTransforms.fit(self.s, data).apply(self.s)
        assert got.values.tolist() == [[1, 2], [2, 4], [3, 4], [4, 100]]

    def test_what_is_filled_in_counts_for_what_follows(self):
        data = config({"default": "standardise"}, missing={"x1": "fill"})
        x = np.array([2.0, 4.0, 4.0, 100.0])
        got = FittedTransforms.fit(self.s, data).apply(self.s).values[:, 1]
        np.testing.assert_allclose(got, (x - x.mean()) / x.std(), rtol=1e-14)

    def test_nothing_is_there(self):
        with pytest.raises(DataError, match="variable 'x1' is missing in every training step"):
            FittedTransforms.fit(some([[1.0, np.nan]]), self.data)

    def test_of_no_variable(self):
        steps = {"variables": None, "steps": ["v*"], "transforms": {}}
        with pytest.raises(DataError, match=r"data\.missing: the data have no variable 'x2'"):
            FittedTransforms.fit(some([[1.0, 2.0]]), config(missing={"x2": "fill"}, **steps))


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


def all_kinds():
    s, _ = weighted(D=9)
    s.values[3, 8] = np.nan
    kinds = {f"x{d}": kind for d, kind in enumerate(KINDS)}
    return s, FittedTransforms.fit(s, config(kinds, 9, mix="decorrelate", missing={"x8": "indicator"}))


GOOD = all_kinds()[1].to_dict()
FIRST = {"names": ["a", "b"], "kinds": ["none", "standardise"], "mean": [0.0, 2.0], "scale": [1.0, 4.0]}


def changed(path, value):
    """GOOD with another value somewhere."""
    copied = json.loads(json.dumps(GOOD))
    place = copied
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return copied


def step(kind):
    return ("steps", KINDS.index(kind), 0)


class TestDict:
    def test_there_and_back_by_json(self):
        s, one = all_kinds()
        other = FittedTransforms.from_dict(json.loads(json.dumps(one.to_dict())))
        assert other.to_dict() == one.to_dict()
        assert np.array_equal(other.apply(s).values, one.apply(s).values)
        assert not one.identity

    def test_what_the_first_files_had(self):
        fitted = FittedTransforms.from_dict(FIRST)
        assert fitted.apply(some([[5.0, 6.0]], names=["a", "b"])).values.tolist() == [[5, 1]]

    def test_nothing_done_is_known(self):
        unchanged = FittedTransforms.unchanged(("a", "b"))
        assert unchanged.identity
        s = some([[5.0, 6.0]], names=["b", "a"])
        assert unchanged.apply(s).values.tolist() == [[6, 5]]
        assert FittedTransforms.from_dict(unchanged.to_dict()).identity

    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            (("names",), None, "transforms: TypeError"),
            (("names",), ["a"], "decorrelate of 1 variables with other numbers"),
            ((*step("standardise"), "mean"), "x", "transforms: ValueError"),
            ((*step("standardise"), "mean"), 10**400, "transforms: OverflowError"),
            ((*step("standardise"), "mean"), float("inf"), "standardise with numbers that are not finite"),
            ((*step("robust"), "scale"), 0.0, "a scale that is not above 0"),
            ((*step("robust"), "scale"), float("nan"), "robust with numbers that are not finite"),
            ((*step("none"), "kind"), "non", "no transform 'non'; nearest: 'none'"),
            ((*step("gauss"), "to"), [0.0], "gauss needs as many numbers to go to as values"),
            ((*step("gauss"), "to"), 1.0, "transforms"),
            ((*step("uniform"), "values"), [], "uniform needs as many numbers"),
            ((*step("uniform"), "values", 3), -99.0, "the values of uniform do not rise"),
            (("mix", "kind"), "mixed", "no mix 'mixed'; "),
            (("mix", "mean"), [0.0], "decorrelate of 9 variables with other numbers"),
            (("mix", "matrix", 0, 0), float("nan"), "decorrelate of 9 variables with other numbers"),
            (("mix",), 7, "transforms: TypeError"),
            (("fills",), [1.0], "transforms: 9 names, 9 transforms, 1 fills"),
            (("steps",), [], "transforms: 9 names, 0 transforms, 9 fills"),
            (("fills", 8), float("nan"), "what is filled in is not finite"),
            (("fills", 8), None, "an indicator of 'x8', which is never missing"),
            (("indicators",), ["y"], "an indicator of 'y', which is never missing"),
        ],
    )
    def test_values_that_are_wrong(self, path, value, message):
        with pytest.raises(ModelFileError, match=message):
            FittedTransforms.from_dict(changed(path, value))

    @pytest.mark.parametrize("given", [GOOD, FIRST])
    def test_values_that_are_missing(self, given):
        for key in given.keys() - {"steps"}:
            with pytest.raises(ModelFileError, match=f"transforms: KeyError for '{key}'"):
                FittedTransforms.from_dict({k: v for k, v in given.items() if k != key})
