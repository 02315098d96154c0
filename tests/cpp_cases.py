"""Networks of all kinds for the C++ header, and one program that runs many of them.

A program is a file of C++ that includes the headers, each in a namespace of its own. For each it reads
``NAME.in`` (sequences of any lengths) and writes ``NAME.out``, the scores, and where the network streams
``NAME.steps``, those of the same sequences after each step.
"""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from timelike.config import DataConfig, FoldsConfig, NetworkConfig, SequenceConfig
from timelike.data.transforms import FittedTransforms
from timelike.model import Ensemble, Model, save_model
from timelike.network import Network
from timelike.ragged import offsets_of
from timelike.sequences import Sequences

D = 5  # variables
NAMES = tuple("abcde")
STRICT = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wshadow", "-fno-exceptions"]

_LSTM = {"cell": "lstm", "units": 7}
_BOTH = {"cell": "gru", "units": 6, "bidirectional": True}
_PLAIN: dict[str, Any] = {"recurrent": [_LSTM], "head": {"units": []}}


def _network(*layers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"recurrent": list(layers), "head": {"units": []}} | more


NETWORKS: dict[str, dict[str, Any]] = {
    "rnn_tanh": _network({"cell": "rnn_tanh", "units": 7}),
    "rnn_relu": _network({"cell": "rnn_relu", "units": 16}),
    "lstm": _network({"cell": "lstm", "units": 20}),
    "peephole": _network({"cell": "lstm", "units": 9, "peephole": True}),
    "coupled": _network({"cell": "lstm", "units": 33, "coupled": True}),
    "projected": _network({"cell": "lstm", "units": 18, "projection": 5}),
    "gru": _network({"cell": "gru", "units": 17}),
    "gru_one_bias": _network({"cell": "gru", "units": 4, "inner_bias": False}),
    "gru_before": _network({"cell": "gru", "units": 17, "reset_after": False}),
    "one_unit": _network({"cell": "gru", "units": 1}),
    "mean": _network(_LSTM, pooling="mean"),
    "largest": _network(_LSTM, pooling="max"),
    "flat": _network(_LSTM, _LSTM, pooling="flatten", steps=4),
    "each": _network(_LSTM, pooling="none"),
    "both": _network(_BOTH),
    "both_mean": _network(_BOTH, pooling="mean"),
    "both_max": _network(_BOTH, pooling="max"),
    "both_flat": _network(_BOTH, pooling="flatten", steps=4),
    "both_each": _network(_BOTH, pooling="none"),
    "stack": _network(_LSTM, {"cell": "gru", "units": 5}, {"cell": "rnn_tanh", "units": 20}),
    "deep": _network(_BOTH, _LSTM, {"cell": "gru", "units": 5}, _BOTH, _BOTH, pooling="max"),
    "deep_each": _network(_LSTM, _BOTH, _LSTM, pooling="none"),
    "no_layers": _network(pooling="max"),
    "no_layers_mean": _network(pooling="mean"),
    "no_layers_each": _network(pooling="none"),
    "no_layers_flat": _network(pooling="flatten", steps=4),
}
for _names in ("relu tanh elu", "gelu silu sigmoid", "softsign symmrelu gauss linear"):
    _head = {"units": [6, 17, 5, 16][: len(_names.split())], "activation": _names.split()}
    NETWORKS[f"dense_{_names.split()[0]}"] = {**_PLAIN, "head": _head}
NETWORKS["normed"] = {**_PLAIN, "head": {"units": [6], "batch_norm": {"before": [0, 1]}}}
for _name in ("softmax", "sigmoid", "multilabel", "linear", "exponential"):
    NETWORKS[f"output_{_name}"] = {**_PLAIN, "head": {"units": [6], "output": _name}}
NETWORKS["quantiles"] = {**_PLAIN, "head": {"units": [], "output": "linear", "quantiles": [0.2, 0.5]}}


LAYERS: dict[str, dict[str, Any]] = {
    "rnn_tanh": {"cell": "rnn_tanh", "units": 18},
    "rnn_relu": {"cell": "rnn_relu", "units": 5},
    "lstm": {"cell": "lstm", "units": 20},
    "lstm_peephole": {"cell": "lstm", "units": 18, "peephole": True},
    "lstm_coupled": {"cell": "lstm", "units": 18, "coupled": True},
    "lstm_projected": {"cell": "lstm", "units": 18, "projection": 7},
    "gru": {"cell": "gru", "units": 18},
    "gru_reset_before": {"cell": "gru", "units": 18, "reset_after": False},
}


def data_config(output: str = "softmax", n: int = 2, **more: Any) -> DataConfig:
    key = {"multilabel": "multilabel", "linear": "targets", "exponential": "targets"}.get(output, "labels")
    named = {f"c{k}": f"y == {k}" for k in range(n)}
    given = {"files": ["e.root"], "variables": list(NAMES), key: named, **more}
    return DataConfig.model_validate_json(json.dumps(given))


def make_model(
    network: dict[str, Any],
    *,
    dtype: torch.dtype = torch.float32,
    transforms: FittedTransforms | None = None,
    data: DataConfig | None = None,
    seed: int = 1,
) -> Model:
    """Make a network whose weights are N(0, 1 / fan-in) and biases N(0, 1): all of them matter."""
    config = NetworkConfig.model_validate_json(json.dumps(network))
    transforms = transforms or FittedTransforms.unchanged(NAMES)
    data = data or data_config(config.head.output, 2 if config.head.output == "sigmoid" else 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Network(config, len(transforms.outputs), len(data.class_names), dtype=dtype)
        for name, value in made.state_dict().items():
            if value.is_floating_point():
                fan_in = value.shape[-1] if value.ndim == 2 else 1
                value.copy_(torch.randn(value.shape, dtype=dtype) / fan_in**0.5)
                if name.endswith("running_var"):
                    value.copy_(torch.rand(value.shape, dtype=dtype) + 0.5)
    return Model(made.eval(), transforms, data, SequenceConfig(), {"seed": seed})


def make_ensemble(network: dict[str, Any], n: int = 3, **more: Any) -> Ensemble:
    members = [make_model(network, seed=k, **more) for k in range(n)]
    return Ensemble(members, FoldsConfig(number=n, by=None), {})


def make_states(layer: dict[str, Any], seed: int = 1) -> Model:
    """Make a network that gives the last hidden states of a layer: what is behind it changes no bit."""
    size = layer.get("projection") or layer["units"]
    data = data_config("linear", size)
    model = make_model(_network(layer, head={"units": [], "output": "linear"}), data=data, seed=seed)
    with torch.no_grad():
        head = model.network.head[0]
        head.weight.copy_(torch.eye(size))
        head.bias.zero_()
    return model


def double(model: Model) -> Model:
    """Give the same weights in float64."""
    if isinstance(model, Ensemble):
        return Ensemble([double(member) for member in model.members], model.folds, model.training)
    network = copy.deepcopy(model.network).double()
    return Model(network, model.transforms, model.data, model.sequence, model.training)


def sequences(
    network: dict[str, Any], dtype: torch.dtype = torch.float32, *, missing: bool = False
) -> Sequences:
    """Draw sequences: none, one and many steps; of a network that flattens all of its steps."""
    rng = np.random.default_rng(7)
    lengths = np.concatenate([[0, 1, 0, 2, 40], rng.integers(0, 9, 25)])
    if "steps" in network:
        lengths[:] = network["steps"]
    values = rng.normal(size=(lengths.sum(), D)) * 2
    if missing:
        values[rng.random(values.shape) < 0.3] = np.nan
    return Sequences(values.astype(str(dtype).removeprefix("torch.")), offsets_of(lengths), names=NAMES)


def save(model: Model, folder: Path, name: str) -> Path:
    path = folder / f"{name}.safetensors"
    save_model(model, path)
    return path


MAIN = """\
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <new>
#include <string>
#include <thread>
#include <vector>

// Allocations are counted while a score is computed.
static thread_local bool counting = false;
static std::atomic<long> allocations{0};
[[gnu::noinline]] void* operator new(std::size_t n) {
  if (counting) ++allocations;
  if (void* p = std::malloc(n ? n : 1)) return p;
  std::abort();
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }

template <class Number>
struct Case {
  std::vector<std::int64_t> offsets;
  std::vector<Number> x;
  Case(const std::string& name, int inputs) {
    std::ifstream file(name + ".in", std::ios::binary);
    std::int64_t n = 0;
    file.read(reinterpret_cast<char*>(&n), sizeof n);
    offsets.resize(std::size_t(n) + 1);
    file.read(reinterpret_cast<char*>(offsets.data()), std::streamsize(offsets.size() * sizeof(n)));
    x.resize(std::size_t(offsets.back() * inputs));
    file.read(reinterpret_cast<char*>(x.data()), std::streamsize(x.size() * sizeof(Number)));
    if (!file) std::abort();
  }
};

template <class Number>
void write(const std::string& name, const std::vector<Number>& out) {
  std::ofstream file(name, std::ios::binary);
  file.write(reinterpret_cast<const char*>(out.data()), std::streamsize(out.size() * sizeof(Number)));
  if (!file) std::abort();
}

// Several threads score all sequences at once with the one network, into memory of their own: all must agree.
template <class Number, class Score>
std::vector<Number> by_threads(std::size_t size, Score score) {
  std::vector<std::vector<Number>> each(4, std::vector<Number>(size));
  std::vector<std::thread> threads;
  for (auto& out : each) threads.emplace_back([&out, &score] { score(out.data()); });
  for (auto& thread : threads) thread.join();
  for (auto& out : each)
    if (size && std::memcmp(out.data(), each[0].data(), size * sizeof(Number)) != 0) std::abort();
  return each[0];
}
"""

CASE = """\
static void run_{name}() {{
  namespace net = {namespace};
  const Case<net::real> given("{name}", net::input_count);
  const std::size_t sequences = given.offsets.size() - 1, steps = std::size_t(given.offsets.back());
  (void)steps;
  const auto score = [&](net::real* out) {{
    std::vector<net::real> scratch({scratch});
    for (std::size_t b = 0; b < sequences; ++b) {{
      const net::real* x = given.x.data() + given.offsets[b] * net::input_count;
      const int n = int(given.offsets[b + 1] - given.offsets[b]);
      net::real* to = out + {place} * net::output_count;
      counting = true;
      if (!net::Network::score(x, n, to{passed})) std::abort();
      counting = false;
    }}
    if (net::Network::score(given.x.data(), -1, out{passed})) std::abort();
  }};
  write("{name}.out", by_threads<net::real>({number} * net::output_count, score));
{streamed}}}
"""

STREAMED = """\
  std::vector<net::real> scores(steps * net::output_count);
  for (std::size_t b = 0; b < sequences; ++b) {{
    net::Network::State state;
    for (std::int64_t t = given.offsets[b]; t < given.offsets[b + 1]; ++t) {{
      net::Network::step(state, given.x.data() + t * net::input_count);
      net::Network::score(state, scores.data() + t * net::output_count);
    }}
  }}
  write("{name}.steps", scores);
"""


def write_program(folder: Path, headers: dict[str, Any], networks: dict[str, dict[str, Any]]) -> Path:
    """Write a program that runs headers (`timelike.interop.cpp.CppHeader` by name)."""
    parts = [f'#include "{header.path.name}"' for header in headers.values()] + [MAIN]
    for name, header in headers.items():
        per_step = networks[name].get("pooling") == "none"
        scratch = f"{header.namespace}::Network::scratch_size(64)" if header.scratch else "0"
        passed = ", scratch.data()" if header.scratch else ""
        streamed = STREAMED.format(name=name) if header.streams else ""
        place = "std::size_t(given.offsets[b])" if per_step else "b"
        parts.append(
            CASE.format(
                name=name,
                namespace=header.namespace,
                scratch=scratch,
                passed=passed,
                place=place,
                number="steps" if per_step else "sequences",
                streamed=streamed,
            )
        )
    runs = "\n".join(f"  run_{name}();" for name in headers)
    parts.append(f'int main() {{\n{runs}\n  std::printf("%ld\\n", allocations.load());\n}}\n')
    path = folder / "program.cpp"
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def write_input(folder: Path, name: str, given: Sequences) -> None:
    with (folder / f"{name}.in").open("wb") as file:
        file.write(np.int64(len(given)).tobytes())
        file.write(given.offsets.astype(np.int64).tobytes())
        file.write(np.ascontiguousarray(given.values).tobytes())


def compiled(sources: list[Path], flags: list[str], *, compiler: str = "g++") -> Path:
    """Compile a program; nothing may be said about it."""
    binary = sources[0].with_suffix(".program")
    command = [compiler, *flags, *map(str, sources), "-o", str(binary), "-pthread"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[:4000]
    return binary


def compile_and_run(program: Path, flags: list[str]) -> str:
    """Compile a program with all warnings and run it beside its inputs; give what it prints."""
    binary = compiled([program], [*STRICT, *flags])
    done = subprocess.run([str(binary)], cwd=program.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr == ""
    return done.stdout
