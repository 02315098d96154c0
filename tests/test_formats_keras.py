"""Models of Keras, both ways: against Keras itself where it is installed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.formats_cases import VARIABLES, model_file

from timelike.errors import ConfigError, ModelFileError
from timelike.interop.checks import padded, probe
from timelike.interop.keras_weights import PAD, export_keras, from_keras, to_keras
from timelike.interop.source import network_of
from timelike.model import load_model, predict, save_model
from timelike.sequences import Sequences

keras = pytest.importorskip("keras")
layers = keras.layers
# Keras's own way from a tensor to NumPy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CELLS = {
    "lstm": {"cell": "lstm"},
    "gru": {"cell": "gru"},
    "gru, one bias": {"cell": "gru", "inner_bias": False},
    "gru, reset before": {"cell": "gru", "reset_after": False},
    "rnn_tanh": {"cell": "rnn_tanh"},
    "rnn_relu": {"cell": "rnn_relu"},
}
NETWORKS = {name: {"recurrent": [{**cell, "units": 4}]} for name, cell in CELLS.items()} | {
    "stack": {
        "recurrent": [{"units": 4, "bidirectional": True}, {"cell": "gru", "units": 3, "bidirectional": True}]
    },
    "mean": {"recurrent": [{"cell": "gru", "units": 4}], "pooling": "mean"},
    "none": {"recurrent": [{"cell": "rnn_tanh", "units": 4}], "pooling": "none"},
    "flatten": {"recurrent": [{"units": 4}], "pooling": "flatten", "steps": 4},
    "head": {
        "recurrent": [{"cell": "rnn_tanh", "units": 4}],
        "head": {"units": [4, 3], "activation": ["gelu", "silu"], "batch_norm": {"before": [0, 2]}},
    },
}
BACK = {"transforms": {"pt": ["standardise", "minmax"], "eta": "robust"}, "mix": "decorrelate"}


@pytest.mark.parametrize("name", NETWORKS)
def test_there_and_back(tmp_path, name):
    """Keras computes what the model does, and what is read again does too."""
    path = model_file(tmp_path, NETWORKS[name], transforms=BACK)
    said = export_keras(path, tmp_path / "out.keras")
    assert said.startswith("Keras: 3")
    assert "largest difference" in said
    file, description, _ = network_of(path)
    tried = probe(file, description)
    back = from_keras(tmp_path / "out.keras", variables=VARIABLES, classes=description.names)
    save_model(back, tmp_path / "back.safetensors")
    again = load_model(tmp_path / "back.safetensors")
    assert "largest" in tried.check(predict(again, tried.sequences), "read again")
    assert again.output_names == description.names
    assert again.training["keras"]["mask"] == (None if name == "flatten" else PAD)


def test_max_looks_at_no_padding(tmp_path):
    path = model_file(tmp_path, {"recurrent": [{"cell": "rnn_tanh", "units": 4}], "pooling": "max"})
    assert "0 to 40 steps" in export_keras(path, tmp_path / "out.keras")
    with pytest.raises(ConfigError, match="no counterpart of 'Where'"):
        from_keras(tmp_path / "out.keras")
    assert "7 to 7 steps" in export_keras(path, tmp_path / "fixed.keras", steps=7)
    assert from_keras(tmp_path / "fixed.keras").network.config.pooling == "max"


OUTPUTS = {
    "sigmoid": ({"head": {"output": "sigmoid"}}, {"labels": {"b": "y == 0", "s": "y == 1"}}),
    "multilabel": ({"head": {"output": "multilabel"}}, {"multilabel": {"b": "y == 0", "s": "y == 1"}}),
    "linear": ({"head": {"output": "linear"}}, {"targets": {"m": "m"}}),
    "exponential": ({"head": {"output": "exponential"}}, {"targets": {"n": "n"}}),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_there_and_back(tmp_path, name):
    network, data = OUTPUTS[name]
    network = {**network, "recurrent": [{"cell": "rnn_tanh", "units": 3}]}
    path = model_file(tmp_path, network, data=data)
    assert "largest" in export_keras(path, tmp_path / "out.keras")
    back = from_keras(tmp_path / "out.keras")
    assert back.network.config.head.output == name
    assert len(back.output_names) == len(next(iter(data.values())))


def test_a_variable_far_from_0_loses_nothing(tmp_path):
    """Standardised values of 1e6 +- 1: what float32 keeps of the values must reach the network."""
    path = model_file(tmp_path, {"recurrent": [{"cell": "rnn_tanh", "units": 3}]})
    model = load_model(path)
    for d, (mean, scale) in enumerate([(1.3e6, 1.0), (0.1, 1e-9), (-7.7e5, 0.3)]):
        model.transforms.steps[d][0].numbers.update(mean=mean, scale=scale)
    save_model(model, path)
    assert "largest difference" in export_keras(path, tmp_path / "out.keras")


def test_weights_of_float64_are_rounded_and_said_to_be(tmp_path):
    path = model_file(tmp_path, {"recurrent": [{"units": 3}]}, dtype=torch.float64)
    assert export_keras(path, tmp_path / "out.keras").endswith("weights rounded to float32")


def test_padding_is_what_pad_says(tmp_path):
    path = model_file(tmp_path, {"recurrent": [{"cell": "gru", "units": 3, "bidirectional": True}]})
    built = to_keras(path, pad=0.0)
    rng = np.random.default_rng(2)
    ragged = Sequences(rng.normal(size=(9, 3)).astype("f"), [0, 4, 4, 9], names=VARIABLES)
    got = built.predict(padded(ragged, 0.0), verbose=0)
    other = built.predict(padded(ragged, PAD), verbose=0)
    expected = predict(load_model(path), ragged)
    assert np.abs(got - expected).max() < 1e-5 < np.abs(other - expected)[0].max()


# -- what others write --------------------------------------------------------------------------------------


def randomised(model):
    rng = np.random.default_rng(5)
    for layer in model.layers:
        given = [np.abs(rng.normal(0, 0.6, w.shape)) + 0.1 for w in layer.get_weights()]
        signs = -1 if "normalization" not in layer.name else 1
        layer.set_weights([w * np.where(rng.random(w.shape) < 0.5, signs, 1) for w in given])
    return model


def agrees(model, back, *, T=6):
    """Whether Keras and what was read of it say the same of whole sequences."""
    x = np.random.default_rng(1).normal(size=(5, T, 3)).astype("f")
    expected = np.asarray(model.predict(x, verbose=0), np.float64)
    ragged = Sequences(x.reshape(-1, 3), np.arange(6) * T, names=back.variables)
    got = predict(back, ragged)
    if back.network.config.pooling == "none":
        expected = expected.reshape(5 * T, -1)
    if back.network.config.head.output == "sigmoid":
        expected = np.concatenate([1 - expected, expected], axis=1)
    assert got.shape == expected.shape
    # Sums of at most 20 terms of order 1, six steps; a wrong gate or order is off by 0.1.
    assert np.abs(got - expected).max() <= 100 * np.finfo(np.float32).eps * max(1, np.abs(expected).max())


FOREIGN = {
    "lstm without bias": [layers.LSTM(4, use_bias=False), layers.Dense(3, activation="softmax")],
    "two of a kind": [
        layers.GRU(4, return_sequences=True),
        layers.GRU(3),
        layers.Dense(1, activation="sigmoid"),
    ],
    "reset before, both ways": [
        layers.Bidirectional(layers.GRU(4, reset_after=False)),
        layers.Dense(4, activation="elu"),
        layers.Dropout(0.3),
        layers.BatchNormalization(),
        layers.Dense(2),
    ],
    "activation apart": [layers.SimpleRNN(4), layers.Dense(4), layers.Activation("tanh"), layers.Dense(1)],
    "normalised": [
        layers.BatchNormalization(),
        layers.Rescaling(0.5, 1.0),
        layers.LSTM(4, return_sequences=True, dropout=0.2),
        layers.GlobalMaxPooling1D(),
        layers.BatchNormalization(center=False),
        layers.Dense(2, activation="softmax"),
    ],
    "each step": [layers.LSTM(4, return_sequences=True), layers.Dense(3, use_bias=False), layers.Dense(1)],
    "means": [
        layers.Normalization(mean=[1.0, 0.0, 2.0], variance=[4.0, 1.0, 0.5]),
        layers.SimpleRNN(4, return_sequences=True, activation="relu"),
        layers.GlobalAveragePooling1D(),
        layers.Dense(1),
    ],
    "flat": [layers.LSTM(2, return_sequences=True), layers.Flatten(), layers.Dense(1, activation="sigmoid")],
}


@pytest.mark.parametrize("name", FOREIGN)
def test_models_of_others_are_read(tmp_path, name):
    functional = list(FOREIGN).index(name) % 2  # half of them are graphs
    fresh = [type(layer).from_config(layer.get_config()) for layer in FOREIGN[name]]
    if functional:
        x = inputs = keras.Input((6, 3))
        for layer in fresh:
            x = layer(x)
        model = randomised(keras.Model(inputs, x))
    else:
        model = randomised(keras.Sequential([keras.Input((6, 3)), *fresh]))
    agrees(model, from_keras(model))
    model.save_weights(tmp_path / "w.weights.h5")
    (tmp_path / "m.json").write_text(model.to_json())
    agrees(model, from_keras(tmp_path / "w.weights.h5", tmp_path / "m.json"))


def of(*stack, shape=(6, 3)):
    return keras.Sequential([keras.Input(shape), *stack])


REFUSED = {
    "Lambda": ([layers.LSTM(2), layers.Lambda(lambda x: x), layers.Dense(1)], "a Lambda holds code"),
    "Conv1D": ([layers.Conv1D(2, 2), layers.LSTM(2), layers.Dense(1)], "no counterpart of 'Conv1D'"),
    "go_backwards": ([layers.LSTM(2, go_backwards=True), layers.Dense(1)], "LSTM with go_backwards"),
    "sum": ([layers.Bidirectional(layers.LSTM(2), merge_mode="sum"), layers.Dense(1)], "merge_mode='sum'"),
    "hard_sigmoid": (
        [layers.LSTM(2, recurrent_activation="hard_sigmoid"), layers.Dense(1)],
        "recurrent_activation='hard_sigmoid'; possible: sigmoid",
    ),
    "no head": ([layers.LSTM(2)], "the last layer must be Dense"),
    "dense first": ([layers.Dense(5), layers.LSTM(2), layers.Dense(1)], "as many units as inputs"),
    "relu": ([layers.LSTM(2), layers.Dense(1, activation="relu")], "an output with activation relu"),
    "masked max": (
        [
            layers.Masking(),
            layers.LSTM(2, return_sequences=True),
            layers.GlobalMaxPooling1D(),
            layers.Dense(1),
        ],
        "where it looks at padding",
    ),
    "batch norm between": (
        [layers.LSTM(2, return_sequences=True), layers.BatchNormalization(), layers.LSTM(2), layers.Dense(1)],
        "between recurrent layers",
    ),
    "mixed": ([layers.LSTM(2, dtype="mixed_float16"), layers.Dense(1)], "in 'mixed_float16'"),
}


@pytest.mark.filterwarnings("ignore:Layer 'global_max_pooling")  # that it destroys the mask: so it is refused
@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_counterpart_is_refused_by_name(tmp_path, name):
    stack, message = REFUSED[name]
    of(*stack).save(tmp_path / "m.keras")
    with pytest.raises(ConfigError, match=message) as caught:
        from_keras(tmp_path / "m.keras")
    assert str(caught.value).startswith(f"{tmp_path}/m.keras")


def test_a_graph_with_branches_is_refused(tmp_path):
    inputs = keras.Input((6, 3))
    a, b = layers.LSTM(2)(inputs), layers.GRU(2)(inputs)
    keras.Model(inputs, layers.Dense(1)(layers.Concatenate()([a, b]))).save(tmp_path / "m.keras")
    with pytest.raises(ConfigError, match="in a graph with branches"):
        from_keras(tmp_path / "m.keras")


def test_names_must_fit(tmp_path):
    of(layers.LSTM(2), layers.Dense(3, activation="softmax")).save(tmp_path / "m.keras")
    with pytest.raises(ConfigError, match="variables: 1 different names given, 3 needed"):
        from_keras(tmp_path / "m.keras", variables=["a", "a", "a"])
    with pytest.raises(ConfigError, match="classes: 2 different names given, 3 needed"):
        from_keras(tmp_path / "m.keras", classes=["a", "b"])


@pytest.mark.parametrize(
    ("network", "transforms", "message"),
    [
        ({"recurrent": [{"projection": 2}]}, {}, "Keras has no cell lstm_projected"),
        ({"recurrent": [{"peephole": True}]}, {}, "Keras has no cell lstm_peephole"),
        ({"recurrent": [{"coupled": True}]}, {}, "Keras has no cell lstm_coupled"),
        ({"head": {"activation": "gauss"}}, {}, "Keras has no activation gauss"),
        ({}, {"transforms": {"eta": ["log", "standardise"]}}, "no transform log of variable 'eta'"),
        ({}, {"missing": {"pt": "fill"}}, "Keras has no missing values"),
    ],
)
def test_what_keras_lacks_is_refused(tmp_path, network, transforms, message):
    path = model_file(tmp_path, network, transforms=transforms)
    with pytest.raises(ConfigError, match=message):
        export_keras(path, tmp_path / "out.keras")
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_padding_that_masking_would_not_see(tmp_path):
    for pad in (float("nan"), 1e39):
        with pytest.raises(ConfigError, match=r"pad: .*; a finite number of float32 is needed"):
            export_keras(model_file(tmp_path, {}), tmp_path / "out.keras", pad=pad)


def test_files_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match=r"written as \.keras"):
        export_keras(model_file(tmp_path, {}), tmp_path / "out.h5")
    with pytest.raises(ModelFileError, match=r"no file of Keras 3 by its name"):
        from_keras(tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match=r"no such file"):
        from_keras(tmp_path / "none.keras")
