"""The same classifier as modules of PyTorch; padded batches, or packed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from bench.cases import Array
from bench.scores import CLASSES, UNITS, Scores, lengths, parameters, steps
from bench.worker import Job

_NAMES = ("W", "U", "b_ih", "b_hh", "V", "a", "V2", "a2")


class Classifier(nn.Module):
    """Probabilities from the last state."""

    def __init__(self, case: Scores) -> None:
        super().__init__()
        given = {name: torch.from_numpy(values) for name, values in parameters(case).items()}
        self.lstm = nn.LSTM(case.size.D, case.size.H, batch_first=True)
        self.dense = nn.Sequential(nn.Linear(case.size.H, UNITS), nn.ReLU(), nn.Linear(UNITS, CLASSES))
        self.load_state_dict(dict(zip(self.state_dict(), (given[n] for n in _NAMES), strict=True)))
        self.register_buffer("mean", given["mean"])
        self.register_buffer("scale", given["scale"])

    def ready(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale

    def scores(self, h: Tensor) -> Tensor:
        return self.dense(h).softmax(-1)


class Modules:
    """PyTorch in inference mode."""

    def __init__(self, threads: int) -> None:
        self.set_threads(threads)

    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__}

    def set_threads(self, n: int) -> None:
        torch.set_num_threads(n)

    def forget(self) -> None:
        """Nothing is kept."""

    def variants(self, case: Scores) -> tuple[str, ...]:
        return ("padded", "packed") if case.kind == "ragged" else ("",)

    def prepare(self, case: Scores, variant: str, dtype: torch.dtype = torch.float32) -> Job:
        """As `Peer.prepare`; `dtype` for another precision."""
        model, n = Classifier(case).to(dtype).eval(), torch.from_numpy(lengths(case))
        rows = torch.from_numpy(steps(case)).to(dtype)
        x = pad_sequence(list(rows.split(n.tolist())), batch_first=True)  # [B, T, D]; not part of the call
        last = (n - 1)[:, None, None].expand(-1, 1, case.size.H)

        @torch.inference_mode()
        def whole() -> Tensor:
            given = model.ready(x)
            if variant == "packed":
                given = pack_padded_sequence(given, n, batch_first=True, enforce_sorted=False)
            y, (h, _) = model.lstm(given)
            return model.scores(y.gather(1, last)[:, 0] if variant == "padded" else h[0])

        if case.kind != "streamed":
            return Job(whole, lambda: {"scores": whole().numpy()})
        start = (torch.zeros(1, 1, case.size.H, dtype=dtype),) * 2
        carried = [start]

        @torch.inference_mode()
        def step(row: Tensor) -> Tensor:
            y, carried[0] = model.lstm(model.ready(row), carried[0])
            return model.scores(y[:, 0])

        def walk() -> dict[str, Array]:
            carried[0] = start
            found = [step(x[:, t : t + 1]) for t in range(case.size.T)]
            return {"scores": found[-1].numpy()}

        first = x[:, :1]
        return Job(lambda: step(first), walk)


def peer(threads: int) -> Modules:
    return Modules(threads)
