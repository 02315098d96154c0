"""`Model.fit` of Keras, on padded batches with a mask; as it is, and compiled by XLA."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.cases import Array
from bench.epochs import CLASSES, FIRST, LEARNING_RATE, Epoch, events, weights
from bench.peers.keras import Keras
from bench.worker import Job

_EPOCHS = 3  # in one call of fit, whose beginning costs some


class KerasFit(Keras):
    """Keras as its tutorials use it."""

    def variants(self, epoch: Epoch) -> tuple[str, ...]:
        return ("plain", "XLA")

    def prepare(self, epoch: Epoch, variant: str) -> Job:
        rows, offsets, labels = events(epoch)
        lengths = np.diff(offsets)
        x = np.zeros((epoch.events, epoch.size.T, epoch.size.D), np.float32)
        x[np.arange(epoch.size.T) < lengths[:, None]] = rows

        model = self._model(epoch, jit_compile=variant == "XLA")

        def results() -> dict[str, Array]:
            B, losses = epoch.size.B, []
            judged = self._model(epoch, jit_compile=variant == "XLA")
            for k in range(0, FIRST * B, B):
                judged.reset_metrics()  # or the loss would be the mean over all batches so far
                losses.append(judged.train_on_batch(x[k : k + B], labels[k : k + B]))
            return {"losses": np.array(losses)}

        def call() -> object:
            return model.fit(x, labels, batch_size=epoch.size.B, epochs=_EPOCHS, verbose=0)

        return Job(call, results, _EPOCHS)

    def _model(self, epoch: Epoch, *, jit_compile: bool) -> Any:
        layers, given = self._keras.layers, weights(epoch)
        lstm, dense = layers.LSTM(epoch.size.H), layers.Dense(CLASSES)
        model = self._keras.Sequential(
            [layers.Input((epoch.size.T, epoch.size.D)), layers.Masking(0.0), lstm, dense]
        )
        lstm.set_weights([given["W"].T, given["U"].T, given["b_ih"] + given["b_hh"]])
        dense.set_weights([given["V"].T, given["b"]])
        model.compile(
            optimizer=self._keras.optimizers.Adam(LEARNING_RATE),
            loss=self._keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=jit_compile,
        )
        return model


def peer(threads: int) -> KerasFit:
    return KerasFit(threads)
