"""ONNX Runtime on padded batches: an LSTM node that is told the lengths, a dense layer, a softmax.

Batches are padded in the order of the events, or with events of like lengths together, whichever is faster.
From file to file it is the loop that its users write: uproot, padding, a run per batch, uproot.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.applications import Application, batches, names, write_events
from bench.cases import Array
from bench.epochs import CLASSES, events, weights
from bench.peers.onnxruntime import Runtime
from bench.worker import Job


class OnnxApplied(Runtime):
    """A model of three nodes."""

    def variants(self, case: Application) -> tuple[str, ...]:
        return ("in order", "by length")

    def prepare(self, case: Application, variant: str) -> Job:
        session = self.session(model(case))

        def scores(x: Array, offsets: Array) -> Array:
            found = np.empty((len(offsets) - 1, CLASSES), np.float32)
            for chosen in batches(offsets, by_length=variant == "by length"):
                padded, lengths = pad(x, offsets, chosen)
                (found[chosen],) = session.run(["scores"], {"x": padded, "lengths": lengths})
            return found

        if not case.files:
            x, offsets, _ = events(case)
            return Job(lambda: scores(x, offsets), lambda: {"scores": scores(x, offsets)})

        import awkward as ak
        import uproot

        folder = Path(tempfile.mkdtemp())
        write_events(case, folder / "events.root")

        def run() -> Array:
            with uproot.open(folder / "events.root") as file:
                columns = file["events"].arrays(names(case), library="ak")
            offsets = np.concatenate([[0], np.cumsum(ak.to_numpy(ak.num(columns[names(case)[0]])))])
            x = np.stack([ak.to_numpy(ak.flatten(columns[name])) for name in names(case)], axis=1)
            found = scores(x, offsets)
            numbers = np.arange(len(found))
            with uproot.recreate(folder / "scores.root") as file:
                types = {"event_number": np.int64, "score_a": np.float32, "score_b": np.float32}
                tree = file.mktree("scores", types)
                tree.extend({"event_number": numbers, "score_a": found[:, 0], "score_b": found[:, 1]})
            return found

        return Job(run, lambda: {"scores": run()})


def pad(x: Array, offsets: Array, chosen: Array) -> tuple[Array, Array]:
    """Give events as ``[T, B, D]`` with zeros behind each, and their lengths."""
    lengths = (offsets[chosen + 1] - offsets[chosen]).astype(np.int32)
    there = np.arange(lengths.max()) < lengths[:, None]  # [B, T]
    rows = np.repeat(offsets[chosen], lengths) + np.arange(lengths.max())[None].repeat(len(chosen), 0)[there]
    padded = np.zeros((*there.shape, x.shape[1]), np.float32)
    padded[there] = x[rows]
    return np.ascontiguousarray(padded.swapaxes(0, 1)), lengths


def model(case: Application) -> onnx.ModelProto:
    """A graph of an LSTM node, whose gates stand in the order i o f g, a dense layer and a softmax."""
    _, _, D, H = case.size
    given = weights(case)

    def reordered(values: Array) -> Array:
        i, f, g, o = values.reshape(4, H, -1)
        return np.concatenate([i, o, f, g])

    constants = {
        "W": reordered(given["W"])[None],
        "R": reordered(given["U"])[None],
        "B": np.concatenate([reordered(given[name]).ravel() for name in ("b_ih", "b_hh")])[None],
        "V": given["V"],
        "b": given["b"],
        "axis": np.array([0]),
    }
    nodes = [
        helper.make_node("LSTM", ["x", "W", "R", "B", "lengths"], ["", "h"], hidden_size=H),
        helper.make_node("Squeeze", ["h", "axis"], ["last"]),
        helper.make_node("Gemm", ["last", "V", "b"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", "B", D]),
            helper.make_tensor_value_info("lengths", TensorProto.INT32, ["B"]),
        ],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", CLASSES])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(proto)
    return proto


def peer(threads: int) -> OnnxApplied:
    return OnnxApplied(threads)
