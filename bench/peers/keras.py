"""`keras.layers.LSTM` on TensorFlow, in a `tf.function` as it is and compiled by XLA.

Batches are [B, T, D], as Keras has them. Its layer has one bias; the gradient of that is each of torch's two.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from bench.cases import Array, Case, arrays
from bench.worker import Job


class Keras:
    """The LSTM of Keras."""

    def __init__(self, threads: int) -> None:
        os.environ["KERAS_BACKEND"] = "tensorflow"
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
        import keras
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        self._keras, self._tf = keras, tf

    def versions(self) -> dict[str, str]:
        return {"tensorflow": self._tf.__version__, "keras": self._keras.__version__}

    def set_threads(self, n: int) -> None:
        raise NotImplementedError("TensorFlow takes its number of threads once, at its start")

    def forget(self) -> None:
        self._keras.backend.clear_session()

    def variants(self, case: Case) -> tuple[str, ...]:
        if case.cell != "lstm" or case.dtype != "float32" or case.recompute:
            return ()
        return ("plain", "XLA") if case.kind in ("training", "inference", "step") else ()

    def prepare(self, case: Case, variant: str) -> Job:
        tf = self._tf
        numbers = arrays(case)
        layer = self._keras.layers.LSTM(case.size.H, return_sequences=True, return_state=True)
        layer.build((case.size.B, case.size.T, case.size.D))
        layer.set_weights([numbers["W"].T, numbers["U"].T, numbers["b_ih"] + numbers["b_hh"]])
        weights = [v.value for v in layer.trainable_variables]
        x = tf.constant(_batch_first(numbers["x"]))
        zeros = np.zeros((case.size.B, case.size.H), np.float32)
        states = [tf.constant(numbers.get(name, zeros)) for name in ("h0", "c0")]
        upstream = [tf.constant(_batch_first(numbers["dy"]))] if case.trains else []
        upstream += [tf.constant(numbers[name]) for name in ("dhT", "dcT") if case.trains]

        @tf.function(jit_compile=variant == "XLA")
        def run(x: Any, states: Any, upstream: Any) -> tuple[Any, Any]:
            if not upstream:
                return layer(x, initial_state=states), []
            with tf.GradientTape() as tape:
                tape.watch(x)
                outputs = layer(x, initial_state=states)
            return outputs, tape.gradient(outputs, [x, *weights], output_gradients=upstream)

        def call() -> tuple[Any, Any]:
            return run(x, states, upstream)  # on a CPU it returns when all is done

        def results() -> dict[str, Array]:
            (y, h, c), gradients = ([v.numpy() for v in values] for values in call())
            named = {"y": _batch_first(y), "hT": h, "cT": c}
            if gradients:
                dx, dW, dU, db = gradients
                named |= {"dx": _batch_first(dx), "dW": dW.T, "dU": dU.T, "db_ih": db, "db_hh": db}
            return named

        return Job(call, results)


def _batch_first(values: Array) -> Array:
    """Between [T, B, ...] and [B, T, ...]."""
    return np.ascontiguousarray(values.swapaxes(0, 1))


def peer(threads: int) -> Keras:
    return Keras(threads)
