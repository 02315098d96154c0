"""The training loop of timelike itself, `timelike.fit`."""

from __future__ import annotations

import numpy as np
import torch

from bench.cases import Array
from bench.epochs import CLASSES, FIRST, LEARNING_RATE, Epoch, events, weights
from bench.peers.loop import Loop
from bench.worker import Job
from timelike import fit
from timelike.batches import Batch, ShuffledBatches
from timelike.config import AdamConfig, HeadConfig, LSTMConfig, NetworkConfig, TrainingConfig
from timelike.network import Network
from timelike.nn import Ragged
from timelike.progress import Silent
from timelike.sequences import Sequences
from timelike.trainingstep import TrainingStep

_NAMES = {
    "W": "recurrent.0.weight_ih_l0",
    "U": "recurrent.0.weight_hh_l0",
    "b_ih": "recurrent.0.bias_ih_l0",
    "b_hh": "recurrent.0.bias_hh_l0",
    "V": "head.0.weight",
    "b": "head.0.bias",
}


class Fit(Loop):
    """The loop behind `timelike train`."""

    def variants(self, epoch: Epoch) -> tuple[str, ...]:
        return ("",)

    def prepare(self, epoch: Epoch, variant: str, dtype: torch.dtype = torch.float32) -> Job:
        x, offsets, labels = events(epoch)
        config = TrainingConfig(
            optimiser=AdamConfig(learning_rate=LEARNING_RATE), batch_size=epoch.size.B, clip_norm=None
        )

        def start() -> TrainingStep:
            layers = NetworkConfig(recurrent=(LSTMConfig(units=epoch.size.H),), head=HeadConfig(units=()))
            network = Network(layers, epoch.size.D, CLASSES, dtype=dtype)
            given = weights(epoch)
            network.load_state_dict({name: torch.from_numpy(given[n]) for n, name in _NAMES.items()})
            return TrainingStep(network, config)

        batches = ShuffledBatches(
            Sequences(x, offsets, labels=labels),
            np.ones(epoch.events),
            batch_size=epoch.size.B,
            dtype=dtype,
            seed=epoch.seed,
        )
        step = start()
        schedule = fit._Schedule(step.optimiser.torch, config, len(batches))

        def results() -> dict[str, Array]:
            fresh = start()
            losses = []
            for first in range(0, FIRST * epoch.size.B, epoch.size.B):
                cuts = offsets[first : first + epoch.size.B + 1]
                rows = Ragged(torch.from_numpy(x[cuts[0] : cuts[-1]]), torch.from_numpy(cuts - cuts[0]))
                chosen = torch.from_numpy(labels[first : first + epoch.size.B])
                batch = Batch(rows, chosen, torch.ones(len(chosen)))
                losses.append(fresh.take(batch))
            return {"losses": np.array(losses)}

        def call() -> float:
            return fit.run_epoch(step, batches, schedule, 1, Silent())

        return Job(call, results)


def peer(threads: int) -> Fit:
    return Fit(threads)
