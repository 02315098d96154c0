"""The network of a config, its pooling, its predictions, and the way through a model file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

import timelike
from timelike import network as network_module
from timelike.config import DataConfig, NetworkConfig, SequenceConfig
from timelike.data.transforms import FittedTransforms
from timelike.errors import ConfigError, DataError, ModelFileError
from timelike.model import Model, load_model, predict, save_model
from timelike.modelfile import expected_shapes
from timelike.network import Network, logits, pool, ragged
from timelike.nn import Ragged
from timelike.sequences import Sequences

NETWORKS = {
    "plain": NetworkConfig.model_validate({}),
    "mean": NetworkConfig.model_validate({"pooling": "mean"}),
    "max, no head": NetworkConfig.model_validate_json('{"pooling": "max", "head": {"units": []}}'),
    "deep": NetworkConfig.model_validate_json(
        '{"recurrent": [{"units": 3, "bidirectional": true}, {"units": 4},'
        ' {"units": 2, "bidirectional": true}], "dropout": 0.5,'
        ' "head": {"units": [5, 4], "activation": "tanh", "dropout": 0.5}}'
    ),
}
by_network = pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS)


def sequences(n: int = 30, *, seed: int = 0) -> Sequences:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 9, n)
    lengths[[1, n - 1]] = 0
    rows = int(lengths.sum())
    return Sequences(
        rng.normal(3.0, 2.0, (rows, 2)), np.concatenate([[0], np.cumsum(lengths)]), names=("pt", "eta")
    )


def network(config: NetworkConfig, *, dtype: torch.dtype = torch.float64) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Network(config, 2, 3, dtype=dtype)


def model(config: NetworkConfig = NETWORKS["plain"], *, dtype: torch.dtype = torch.float64) -> Model:
    data = DataConfig.model_validate_json(
        '{"files": ["a.root"], "variables": ["pt", "eta"], "labels": {"a": "0", "b": "1", "c": "2"}}'
    )
    transforms = FittedTransforms.fit(sequences())
    return Model(network(config, dtype=dtype), transforms, data, SequenceConfig(), {"seed": 3})


# -- pooling ------------------------------------------------------------------------------------------------

ROWS = torch.tensor([[1.0, -5.0], [3.0, -1.0], [-2.0, -4.0]], dtype=torch.float64)
OFFSETS = torch.tensor([0, 2, 2, 3])


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("mean", [[2.0, -3.0], [0.0, 0.0], [-2.0, -4.0]]),
        ("max", [[3.0, -1.0], [0.0, 0.0], [-2.0, -4.0]]),
        ("last", [[7.0, 8.0], [9.0, 10.0], [11.0, 12.0]]),
    ],
)
def test_pooling_by_hand(how: str, expected: list[list[float]]) -> None:
    final = torch.tensor([[[7.0], [9.0], [11.0]], [[8.0], [10.0], [12.0]]])  # two directions of one unit
    pooled = pool(Ragged(ROWS, OFFSETS), final, how)
    assert pooled.tolist() == expected


@pytest.mark.parametrize("how", ["mean", "max"])
def test_gradient_of_pooling(how: str) -> None:
    rows = ROWS.clone().requires_grad_()

    def pooled(values: torch.Tensor) -> torch.Tensor:
        return pool(Ragged(values, OFFSETS), torch.empty(1, 3, 2), how)

    assert torch.autograd.gradcheck(pooled, (rows,))


def test_flattened_steps_stand_one_behind_the_other() -> None:
    rows = torch.arange(12.0).view(6, 2)
    final = torch.empty(1, 2, 2)
    pooled = pool(Ragged(rows, torch.tensor([0, 3, 6])), final, "flatten", 3)
    assert pooled.tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    with pytest.raises(DataError, match="a sequence has 2 steps; the network takes 3"):
        pool(Ragged(rows, torch.tensor([0, 3, 5])), final, "flatten", 3)


# -- network ------------------------------------------------------------------------------------------------


@by_network
def test_tensors_are_those_that_the_model_file_expects(config: NetworkConfig) -> None:
    shapes = {name: tuple(value.shape) for name, value in network(config).state_dict().items()}
    assert shapes == expected_shapes(config.model_dump(mode="json"), 2, 3)


@by_network
def test_a_sequence_is_judged_alone(config: NetworkConfig) -> None:
    net, batch = network(config), sequences()
    together = logits(net, batch)
    assert together.shape == (30, 3)
    assert together.isfinite().all()
    scale = together.abs().max()
    for b in range(len(batch)):
        alone = logits(net, batch[b : b + 1])[0]
        # only the head's matrix products, of at most 32 terms each, may round differently
        assert (alone - together[b]).abs().max() <= 100 * torch.finfo(torch.float64).eps * scale


@by_network
def test_a_sequence_without_steps_is_the_head_of_zeros(config: NetworkConfig) -> None:
    net = network(config).eval()
    empty = Sequences(np.zeros((0, 2)), [0, 0, 0])
    width = net.head[0].in_features
    x = torch.zeros(2, width, dtype=torch.float64)
    for layer in net.head[:-1]:
        x = {"relu": torch.relu, "tanh": torch.tanh}[config.head.activations[0]](layer(x))
    torch.testing.assert_close(logits(net, empty), net.head[-1](x).detach(), rtol=1e-14, atol=0)


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_scores_do_not_depend_on_how_they_are_batched(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    net, batch = network(NETWORKS["deep"]), sequences()
    whole = logits(net, batch)
    monkeypatch.setattr(network_module, "_ROWS_AT_ONCE", rows)
    torch.testing.assert_close(logits(net, batch), whole, rtol=1e-13, atol=1e-15)


def test_dropout_is_for_training_only() -> None:
    net, batch = network(NETWORKS["deep"]), ragged(sequences(), torch.float64)
    net.train()
    assert not torch.equal(net(batch), net(batch))
    assert torch.equal(logits(net, sequences()), logits(net, sequences()))
    assert net.training
    net.eval()
    logits(net, sequences())
    assert not net.training


@pytest.mark.parametrize("activation", ["relu", "tanh", "elu", "gelu", "silu"])
def test_activations(activation: str) -> None:
    config = NetworkConfig.model_validate_json(f'{{"head": {{"units": [4], "activation": "{activation}"}}}}')
    net = network(config)
    kind = {"relu": "ReLU", "tanh": "Tanh", "elu": "ELU", "gelu": "GELU", "silu": "SiLU"}[activation]
    pooled = net.recurrent[0](ragged(sequences(), torch.float64))[1][0][0]
    expected = net.head[1](getattr(torch.nn, kind)()(net.head[0](pooled)))
    torch.testing.assert_close(logits(net, sequences()), expected.detach(), rtol=1e-13, atol=1e-15)


CELLS = {
    "lstm": {"cell": "lstm"},
    "peephole": {"cell": "lstm", "peephole": True},
    "coupled": {"cell": "lstm", "coupled": True},
    "projection": {"cell": "lstm", "projection": 3},
    "gru": {"cell": "gru"},
    "reset before": {"cell": "gru", "reset_after": False},
    "one bias": {"cell": "gru", "inner_bias": False},
    "rnn_tanh": {"cell": "rnn_tanh"},
    "rnn_relu": {"cell": "rnn_relu"},
}


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_layers_of_every_cell_are_those_of_the_config(tmp_path: Path, cell: dict[str, Any]) -> None:
    layers = [{**cell, "units": 5, "bidirectional": True}, {**cell, "units": 4}]
    config = NetworkConfig.model_validate_json(json.dumps({"recurrent": layers, "pooling": "last"}))
    m = model(config)
    for made, wanted in zip(m.network.recurrent, layers, strict=True):
        assert made.hidden_size == wanted["units"]
        assert made.bidirectional == wanted.get("bidirectional", False)
        for name, attribute in {"projection": "proj_size"}.items():
            assert getattr(made, attribute) == wanted.get(name, 0)
        for name in ("peephole", "coupled", "reset_after", "inner_bias"):
            assert getattr(made, name, None) == wanted.get(name, getattr(made, name, None))
        assert made.mode.lower() == cell["cell"]
    shapes = expected_shapes(config.model_dump(mode="json"), 2, 3)
    assert shapes == {name: tuple(w.shape) for name, w in m.network.state_dict().items()}

    save_model(m, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    assert again.network.config == config
    np.testing.assert_array_equal(predict(again, sequences()), predict(m, sequences()))
    m.network.train()
    m.network(ragged(sequences(), torch.float64)).square().sum().backward()
    assert all(p.grad.any() for p in m.network.recurrent.parameters())


@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh"])
def test_a_second_bias_that_is_not_wanted_stays_zero(tmp_path: Path, cell: str) -> None:
    config = NetworkConfig.model_validate_json(
        f'{{"recurrent": [{{"cell": "{cell}", "inner_bias": false}}]}}'
    )
    m = model(config)
    layer = m.network.recurrent[0]
    logits_ = m.network(ragged(m.transforms.apply(sequences()), torch.float64))
    logits_.square().sum().backward()
    assert layer.bias_hh_l0.grad is None
    assert layer.bias_ih_l0.grad.abs().min() > 0
    assert not layer.bias_hh_l0.any()
    save_model(m, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors").network.recurrent[0]
    assert not again.bias_hh_l0.requires_grad
    assert again.bias_ih_l0.requires_grad


def test_a_model_file_from_before_there_were_options_is_read(tmp_path: Path) -> None:
    m = model(NETWORKS["deep"])
    path = tmp_path / "m.safetensors"
    save_model(m, path)
    content = path.read_bytes()
    header = json.loads(
        json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["timelike"]
    )
    for layer in header["network"]["recurrent"]:
        for option in ("projection", "peephole", "coupled"):
            del layer[option]
    path.write_bytes(save(load(content), metadata={"timelike": json.dumps(header)}))
    assert load_model(path).network.config == m.network.config
    np.testing.assert_array_equal(predict(load_model(path), sequences()), predict(m, sequences()))


def test_read_only_rows_are_taken() -> None:
    batch = sequences()
    values = batch.values.copy()
    values.flags.writeable = False
    frozen = batch.replace(values=values)
    assert torch.equal(logits(network(NETWORKS["plain"]), frozen), logits(network(NETWORKS["plain"]), batch))


# -- predictions --------------------------------------------------------------------------------------------


def test_predictions_are_probabilities_of_transformed_rows() -> None:
    m, batch = model(), sequences()
    scores = predict(m, batch)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores.sum(axis=1), 1.0, rtol=1e-14)
    by_hand = batch.replace(values=(batch.values - batch.values.mean(axis=0)) / batch.values.std(axis=0))
    expected = torch.softmax(logits(m.network, by_hand), 1).numpy()
    np.testing.assert_allclose(scores, expected, rtol=1e-12)


def test_variables_are_matched_by_name() -> None:
    m, batch = model(), sequences()
    noise = np.random.default_rng(1).normal(size=(batch.n_rows, 1))
    values = np.concatenate([batch.values[:, ::-1], noise], axis=1)
    other = batch.replace(values=values, names=("eta", "pt", "noise"))
    np.testing.assert_array_equal(predict(m, other), predict(m, batch))
    with pytest.raises(DataError, match="'eta'"):
        predict(m, batch.replace(names=("pt", "phi")))


def test_nothing_gives_no_scores() -> None:
    assert predict(model(), sequences()[:0]).shape == (0, 3)


# -- networks that read all steps, with normalisation and one score -----------------------------------------

FLAT = """{"recurrent": [{"units": 3, "bidirectional": true}], "pooling": "flatten", "steps": 5,
    "head": {"units": [4, 3], "activation": ["gauss", "symmrelu"], "output": "sigmoid",
             "batch_norm": {"before": [0, 2], "momentum": null, "epsilon": 1e-3}}}"""


def flat(dtype: torch.dtype = torch.float64) -> tuple[Model, Sequences]:
    rng = np.random.default_rng(2)
    events = Sequences(rng.normal(size=(60, 2)), np.arange(0, 61, 5), names=("pt", "eta"), labels=[0, 1] * 6)
    data = DataConfig.model_validate_json(
        '{"files": ["a.root"], "variables": ["pt", "eta"], "labels": {"a": "0", "b": "1"}}'
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        net = Network(NetworkConfig.model_validate_json(FLAT), 2, 2, dtype=dtype)
        for _ in range(3):  # running means of three batches
            net(Ragged(torch.randn(60, 2, dtype=dtype), torch.arange(0, 61, 5)))
    return Model(net.eval(), FittedTransforms.fit(events), data, SequenceConfig(), {}), events


def test_a_head_of_all_kinds_by_hand() -> None:
    m, events = flat()
    net, ready = m.network, m.transforms.apply(events)
    states = net.recurrent[0](ragged(ready, torch.float64))[0].values.detach().numpy()
    x = states.reshape(12, 30)
    w = {name: value.numpy() for name, value in net.state_dict().items()}

    def normed(k: int, x: np.ndarray) -> np.ndarray:
        away = (x - w[f"norms.{k}.running_mean"]) / np.sqrt(w[f"norms.{k}.running_var"] + 1e-3)
        return away * w[f"norms.{k}.weight"] + w[f"norms.{k}.bias"]

    def dense(k: int, x: np.ndarray) -> np.ndarray:
        return x @ w[f"head.{k}.weight"].T + w[f"head.{k}.bias"]

    assert np.abs(w["norms.0.running_mean"]).max() > 1e-3
    x = np.exp(-(dense(0, normed(0, x)) ** 2))
    x = np.abs(dense(1, x))
    score = dense(2, normed(2, x))[:, 0]
    p = 1 / (1 + np.exp(-score))
    np.testing.assert_allclose(predict(m, events), np.stack([1 - p, p], axis=1), rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_head_of_all_kinds_comes_back_to_the_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    m, events = flat(dtype)
    save_model(m, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    given = events.replace(values=events.values.astype(m.dtype))
    np.testing.assert_array_equal(predict(again, given), predict(m, given))
    kept = {k: tuple(v.shape) for k, v in m.network.state_dict().items() if v.is_floating_point()}
    assert kept == expected_shapes(m.network.config.model_dump(mode="json"), 2, 2)


def test_a_sequence_of_another_length_is_refused() -> None:
    _, events = flat()
    short = Network(NetworkConfig.model_validate_json(FLAT.replace('"steps": 5', '"steps": 4')), 2, 2)
    with pytest.raises(DataError, match="a sequence has 5 steps; the network takes 4"):
        logits(short, events)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
        ("softsign", lambda x: x / (1 + np.abs(x))),
        ("symmrelu", np.abs),
        ("gauss", lambda x: np.exp(-(x**2))),
        ("linear", lambda x: x),
    ],
)
def test_activations_of_tmva(name: str, expected) -> None:
    config = NetworkConfig.model_validate_json(f'{{"head": {{"units": [7], "activation": ["{name}"]}}}}')
    net, batch = network(config), sequences()
    ready = ragged(batch, torch.float64)
    w = {key: value.numpy() for key, value in net.state_dict().items()}
    x = net.recurrent[0](ready)[1][0][0].detach().numpy()
    hidden = expected(x @ w["head.0.weight"].T + w["head.0.bias"])
    scores = hidden @ w["head.1.weight"].T + w["head.1.bias"]
    np.testing.assert_allclose(logits(net, batch).numpy(), scores, rtol=1e-12)


# -- files --------------------------------------------------------------------------------------------------


@by_network
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_comes_back_the_same_to_the_bit(
    tmp_path: Path, config: NetworkConfig, dtype: torch.dtype
) -> None:
    m = model(config, dtype=dtype)
    batch = sequences().replace(values=sequences().values.astype(m.dtype))
    save_model(m, tmp_path / "m.safetensors")
    before = torch.get_rng_state()
    again = load_model(tmp_path / "m.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(predict(again, batch), predict(m, batch))
    assert again.class_names == ("a", "b", "c")
    assert again.signal == "c"
    assert again.variables == ("pt", "eta")
    assert again.data == m.data
    assert again.training == {"seed": 3}
    assert again.n_parameters == m.n_parameters == sum(p.numel() for p in m.network.parameters())


HEADERS = {
    "network key": ({"network": {"recurrent": [{"cell": "lstm", "units": 32, "bidirectional": False}],
                                 "head": {"units": [32]}, "poolin": "max"}}, "poolin: "),
    "classes": ({"classes": ["a", "b", "x"], "signal": "x"}, "'classes' and 'signal' in the header disagree"),
    "signal": ({"signal": "a"}, "'classes' and 'signal' in the header disagree with 'data'"),
    "transforms": ({"transforms": {}}, "the header cannot be used: transforms: "),
    "variables": ({"variables": ["eta", "pt"]}, "'variables' and 'transforms' in the header disagree"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), HEADERS.values(), ids=HEADERS)
def test_a_header_that_contradicts_itself_is_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    path = tmp_path / "m.safetensors"
    save_model(model(), path)
    content = path.read_bytes()
    header = json.loads(
        json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["timelike"]
    )
    path.write_bytes(save(load(content), metadata={"timelike": json.dumps({**header, **changes})}))
    with pytest.raises(ModelFileError) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


# -- traces -------------------------------------------------------------------------------------------------


def labelled(n: int = 30) -> Sequences:
    plain = sequences(n)
    return Sequences(plain.values, plain.offsets, names=plain.names, labels=np.arange(n) % 3)


@by_network
def test_a_trace_has_the_gradients_of_the_loss_and_the_predictions(config: NetworkConfig) -> None:
    trained, events = model(config), labelled()
    trained.network.train()  # dropout would be seen
    trace = timelike.trace(trained, events)
    assert trained.network.training
    np.testing.assert_array_equal(trace.output, predict(trained, events))
    own = trace.output[np.arange(len(events)), events.labels]
    np.testing.assert_allclose(trace.loss, -np.log(own).sum(), rtol=1e-12)
    assert trace.names == ("pt", "eta")
    trained.network.eval()
    scores = trained.network(ragged(trained.transforms.apply(events), torch.float64))
    torch.nn.functional.cross_entropy(scores, torch.from_numpy(events.labels), reduction="sum").backward()
    for index, layer in enumerate(trained.network.recurrent):
        gradients = dict(layer.named_parameters())
        found = trace[f"recurrent.{index}"].dweights
        np.testing.assert_allclose(found["W"], gradients["weight_ih_l0"].grad.numpy(), rtol=0, atol=1e-12)


def test_a_trace_of_a_class_is_of_its_logits() -> None:
    trained, events = model(), sequences()
    trace = timelike.trace(trained, events, loss="b")
    scores = logits(trained.network, trained.transforms.apply(events))
    np.testing.assert_allclose(trace.loss, scores[:, 1].sum().item(), rtol=1e-12)
    of_signal = timelike.trace(trained, events)  # without labels
    np.testing.assert_allclose(
        of_signal.loss, scores[:, trained.class_names.index(trained.signal)].sum().item(), rtol=1e-12
    )
    with pytest.raises(ConfigError, match=r"loss 'd': there is no such class; .*a"):
        timelike.trace(trained, events, loss="d")
    with pytest.raises(ConfigError, match="a model is traced over Sequences, got list"):
        timelike.trace(trained, [1.0])
