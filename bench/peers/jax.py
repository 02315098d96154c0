"""JAX: `lax.scan` over the steps, compiled by XLA, with `jax.vjp` for the gradients.

The input products stand in the loop, or ahead of it for all steps at once, or ahead of a loop that is
unrolled five times: each is the fastest somewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.cases import Array, Case, arrays
from bench.worker import Job

_WEIGHTS = ("W", "U", "b_ih", "b_hh")


class Jax:
    """An LSTM as a program for XLA."""

    def __init__(self, threads: int) -> None:
        # Read when the library is imported; its pools have as many threads as this process has processors.
        os.environ["JAX_PLATFORMS"] = "cpu"
        if threads == 1:
            os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
        import jax

        self._jax = jax

    def versions(self) -> dict[str, str]:
        return {"jax": self._jax.__version__}

    def set_threads(self, n: int) -> None:
        raise NotImplementedError("JAX takes its number of threads once, at its start")

    def forget(self) -> None:
        self._jax.clear_caches()

    def variants(self, case: Case) -> tuple[str, ...]:
        if case.cell != "lstm" or case.dtype != "float32" or case.recompute:
            return ()
        if case.kind == "step":
            return ("in the loop",)
        if case.kind in ("training", "inference"):
            return ("in the loop", "ahead", "ahead, unrolled")
        return ()

    def prepare(self, case: Case, variant: str) -> Job:
        jax = self._jax
        numbers = {name: jax.numpy.asarray(values) for name, values in arrays(case).items()}
        ahead, unroll = variant.startswith("ahead"), 5 if variant.endswith("unrolled") else 1

        def layer(weights: Any, x: Any, states: Any) -> tuple[Any, Any, Any]:
            return lstm(jax, weights, x, states, ahead=ahead, unroll=unroll)

        weights = tuple(numbers[name] for name in _WEIGHTS)
        zeros = np.zeros((case.size.B, case.size.H), np.float32)
        states = tuple(jax.numpy.asarray(numbers.get(name, zeros)) for name in ("h0", "c0"))
        if case.trains:
            upstream = tuple(numbers[name] for name in ("dy", "dhT", "dcT"))

            def step(weights: Any, x: Any, states: Any, upstream: Any) -> tuple[Any, Any, Any]:
                outputs, backward = jax.vjp(lambda weights, x: layer(weights, x, states), weights, x)
                return outputs, *backward(upstream)

            return _job(jax, jax.jit(step), (weights, numbers["x"], states, upstream))
        return _job(jax, jax.jit(lambda *a: (layer(*a), (), None)), (weights, numbers["x"], states))


def _job(jax: Any, run: Callable[..., Any], arguments: tuple[Any, ...]) -> Job:
    jax.block_until_ready(arguments)

    def call() -> Any:
        return jax.block_until_ready(run(*arguments))

    def results() -> dict[str, Array]:
        outputs, weights, x = call()
        named = dict(zip(("y", "hT", "cT"), outputs, strict=True))
        named |= {f"d{name}": value for name, value in zip(_WEIGHTS, weights, strict=False)}
        named |= {} if x is None else {"dx": x}
        return {name: np.asarray(value) for name, value in named.items()}

    return Job(call, results)


def lstm(jax: Any, weights: Any, x: Any, states: Any, *, ahead: bool, unroll: int) -> tuple[Any, Any, Any]:
    """Outputs y [T, B, H] and the last states [B, H]; x [T, B, D]."""
    W, U, b_ih, b_hh = weights
    sigmoid, tanh = jax.nn.sigmoid, jax.numpy.tanh

    def product(x: Any) -> Any:
        return x @ W.T + (b_ih + b_hh)

    def step(states: Any, x: Any) -> tuple[Any, Any]:
        h, c = states
        i, f, g, o = jax.numpy.split((x if ahead else product(x)) + h @ U.T, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(c)
        return (h, c), h

    (h, c), y = jax.lax.scan(step, states, product(x) if ahead else x, unroll=unroll)
    return y, h, c


def peer(threads: int) -> Jax:
    return Jax(threads)
