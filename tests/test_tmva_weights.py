"""TMVA's weight files: what is read computes what they say; what is written comes back; damage is told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import tmva_files as tmva
from tests.tmva_files import FLAT, array_variables, dense, file_text, norm, probabilities, recurrent

from timelike.config import DataConfig, NetworkConfig, SequenceConfig
from timelike.data.transforms import FittedTransforms, Step
from timelike.errors import ConfigError, ModelFileError
from timelike.model import Model, load_model, predict, save_model
from timelike.network import Network
from timelike.sequences import Sequences
from timelike.tmva import read_weights, write_weights

T, D, H = 4, 3, 5


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def network_of(cells: list[tuple[str, int]], *, flat: bool, tail: list[Any], r: np.random.Generator) -> Any:
    """Recurrent layers upon each other, a flattening, and what follows."""
    layers, size = [], D
    for index, (kind, after) in enumerate(cells):
        steps = flat or index + 1 < len(cells)
        layers.append(recurrent(r, kind, size, H + index, steps=steps, after=after))
        size = H + index
    return [*layers, FLAT, *tail], size * (T if flat else 1)


def simple(kind: str = "LSTM", *, flat: bool = False, after: int = 0, outputs: int = 1) -> Any:
    r = rng()
    layers, size = network_of([(kind, after)], flat=flat, tail=[], r=r)
    return [*layers, dense(r, size, 6, "tanh"), dense(r, 6, outputs)]


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "TMVA_RNN.weights.xml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def events(n: int = 40) -> np.ndarray:
    """Events [n, T, D] whose numbers float32 holds."""
    return np.random.default_rng(3).normal(0, 1, (n, T, D)).astype(np.float32).astype(np.float64)


def predicted(model: Model, x: np.ndarray) -> np.ndarray:
    """Probabilities by name of class: columns in TMVA's order (Signal, Background) or that of the file."""
    rows = x.reshape(-1, x.shape[2]).astype(model.dtype)
    offsets = np.arange(len(x) + 1) * x.shape[1]
    return predict(model, Sequences(rows, offsets, names=model.variables))


def agree(folder: Path, network: Any, **options: Any) -> None:
    x = events()
    expected = probabilities(network, x)
    path = written(folder, file_text(network, T, D, **options))
    model = read_weights(path, dtype="float64")
    order = [model.class_names.index(name) for name in options.get("classes", ("Signal", "Background"))]
    got = predicted(model, x)[:, order]
    assert np.isfinite(got).all()
    assert np.ptp(expected, axis=0).min() > 1e-3  # something depends on the events
    assert np.abs(got - expected).max() <= 1e-12
    # float32: a probability is off by a few roundings of a sum of at most T H + 1 numbers of size 1
    single = predicted(read_weights(path), x)[:, order]
    assert np.abs(single - expected).max() <= 1e-6


# -- reading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(("kind", "after"), [("LSTM", 0), ("GRU", 0), ("GRU", 1), ("RNN", 0)])
def test_each_layer_computes_what_its_matrices_say(tmp_path, kind, after, flat):
    agree(tmp_path, simple(kind, flat=flat, after=after))


@pytest.mark.parametrize("flat", [False, True])
def test_layers_upon_each_other(tmp_path, flat):
    r = rng()
    cells = [("LSTM", 0), ("GRU", 1), ("RNN", 0), ("GRU", 0)]
    layers, size = network_of(cells, flat=flat, tail=[], r=r)
    agree(tmp_path, [*layers, dense(r, size, 1)])


@pytest.mark.parametrize("activation", list(tmva.CODES))
def test_each_activation(tmp_path, activation):
    r = rng()
    layers, size = network_of([("RNN", 0)], flat=True, tail=[], r=r)
    agree(tmp_path, [*layers, dense(r, size, 7, activation), dense(r, 7, 4, "tanh"), dense(r, 4, 1)])


@pytest.mark.parametrize("before", [(0,), (1,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("momentum", [0.9, -1.0])
def test_batch_normalisation_before_any_dense_layer(tmp_path, before, momentum):
    r = rng()
    layers, size = network_of([("LSTM", 0)], flat=True, tail=[], r=r)
    for k, width in enumerate((6, 4, 1)):
        layers += [norm(r, size, momentum)] if k in before else []
        layers += [dense(r, size, width, "tanh" if k < 2 else "linear")]
        size = width
    agree(tmp_path, layers)
    config = read_weights(tmp_path / "TMVA_RNN.weights.xml").network.config.head.batch_norm
    assert config.before == before
    assert config.epsilon == 1e-4
    # TMVA's momentum is the share of what is old, ours of what is new
    assert config.momentum == (None if momentum < 0 else pytest.approx(0.1))


@pytest.mark.parametrize("classes", [("a", "b", "c"), ("qcd", "Signal", "w", "z"), ("only", "two")])
def test_several_classes_keep_their_order(tmp_path, classes):
    network = simple(flat=True, outputs=len(classes))
    agree(tmp_path, network, classes=classes, output="M")
    model = read_weights(tmp_path / "TMVA_RNN.weights.xml")
    assert model.class_names == classes
    assert model.signal == ("Signal" if "Signal" in classes else classes[0])
    assert model.network.config.head.output == "softmax"


def test_the_single_score_is_of_the_signal(tmp_path):
    path = written(tmp_path, file_text(simple(), T, D))
    model = read_weights(path)
    assert model.class_names == ("Background", "Signal")
    assert model.signal == "Signal"
    assert model.network.config.head.output == "sigmoid"
    # TMVA knows the signal by its name, wherever it stands, and else takes the first class
    for classes, signal in ((("Background", "Signal"), "Signal"), (("sgn", "bkg"), "sgn")):
        model = read_weights(written(tmp_path, file_text(simple(), T, D, classes=classes)))
        assert model.signal == model.class_names[-1] == signal
        x = events()
        assert predicted(model, x)[:, -1] == pytest.approx(probabilities(simple(), x)[:, 0], abs=1e-6)


def test_a_network_without_recurrent_layers(tmp_path):
    r = rng()
    agree(tmp_path, [FLAT, dense(r, T * D, 5, "tanh"), dense(r, 5, 1)])
    x = events(10).reshape(10, 1, T * D)
    network = [dense(r, T * D, 5, "relu"), dense(r, 5, 1)]
    text = file_text(network, 1, T * D, variables=[(f"v{k}", f"v{k}") for k in range(T * D)])
    text = text.replace('BatchHeight="1"', 'BatchHeight="100"').replace('BatchDepth="100"', 'BatchDepth="1"')
    model = read_weights(written(tmp_path, text), dtype="float64")
    assert model.variables == tuple(f"v{k}" for k in range(T * D))
    assert predicted(model, x)[:, 1] == pytest.approx(probabilities(network, x)[:, 0], abs=1e-12)


def test_a_last_state_may_go_to_a_dense_layer_as_it_is(tmp_path):
    network = [layer for layer in simple() if layer is not FLAT]
    agree(tmp_path, network)


def test_the_legacy_layout_of_inputs_and_a_first_reshape(tmp_path):
    network = simple("GRU")
    text = file_text(network, T, D)
    old = text.replace(f'InputDepth="{T}" InputHeight="1"', f'InputDepth="1" InputHeight="{T}"')
    first = f'<ReshapeLayer Depth="1" Height="{T}" Width="{D}" Flattening="0"/>\n<GRULayer'
    old = old.replace("<GRULayer", first).replace('NetDepth="4"', 'NetDepth="5"')
    assert old != text
    x = events()
    got = predicted(read_weights(written(tmp_path, old), dtype="float64"), x)
    assert np.abs(got[:, 1] - probabilities(network, x)[:, 0]).max() <= 1e-12


def test_numbers_are_rounded_once(tmp_path):
    values = np.array([["0.1", "1e-45", "3.4028235e38"], ["-0.0", "16777217", "1.00000006e0"]])
    network = simple("RNN")
    network[0]["H"], network[0]["W_h"] = 2, np.zeros((2, 3))
    network[0]["U_h"], network[0]["b_h"] = np.zeros((2, 2)), np.zeros((2, 1))
    network[2] = dense(rng(), 2, 6)
    text = file_text(network, T, D)
    numbers = " ".join(values.ravel())
    text = re.sub("(<InputWeights[^>]*>)[^<]*", lambda found: found[1] + numbers, text, count=1)
    path = written(tmp_path, text)
    got = read_weights(path).network.recurrent[0].weight_ih_l0.detach().numpy()
    assert got.tobytes() == np.array(values, dtype=np.float64).astype(np.float32).tobytes()
    got = read_weights(path, dtype="float64").network.recurrent[0].weight_ih_l0.detach().numpy()
    assert got.tobytes() == np.array([[float(v) for v in row] for row in values]).tobytes()


def test_reading_leaves_the_random_numbers_alone(tmp_path):
    path = written(tmp_path, file_text(simple(), T, D))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    read_weights(path)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_read_is_a_model_file_away_from_everything_else(tmp_path):
    x = events()
    model = read_weights(written(tmp_path, file_text(simple("GRU", flat=True, after=1), T, D)))
    save_model(model, tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    assert predicted(again, x).tobytes() == predicted(model, x).tobytes()
    assert again.training["tmva"]["method"] == "TMVA_RNN"
    assert again.training["tmva"]["steps"] == T
    assert again.training["tmva"]["options"] == {"InputLayout": f"{T}|{D}"}
    assert "someone" not in json.dumps(again.training)  # whose work it was is not ours to pass on


# -- names --------------------------------------------------------------------------------------------------


def _model_with(folder: Path, variables: list[tuple[str, str]], t: int, d: int) -> Model:
    r = rng()
    network = [recurrent(r, "RNN", d, 2, steps=False), dense(r, 2, 1)]
    return read_weights(written(folder, file_text(network, t, d, variables=variables)))


def _plain(*names: str) -> list[tuple[str, str]]:
    return [(name, re.sub(r"\W", "_", name)) for name in names]


@pytest.mark.parametrize(
    ("variables", "t", "d", "steps", "names"),
    [
        (array_variables(3, 2), 3, 2, ("vars_time0", "vars_time1", "vars_time2"), ("x0", "x1")),
        # each element added by its own
        (_plain("a[0]", "a[1]", "b[0]", "b[1]"), 2, 2, ("a", "b"), ("x0", "x1")),
        (_plain("e0", "e1+1", "e2"), 3, 1, ("e0", "e1+1", "e2"), ("x0",)),
        (_plain("pt_0", "eta_0", "pt_1", "eta_1"), 2, 2, None, ("pt", "eta")),
        (_plain("pt1", "eta1", "pt2", "eta2"), 2, 2, None, ("pt", "eta")),
        (_plain("pt1", "eta1", "pt3", "eta3"), 2, 2, None, ("x0", "x1")),
        (_plain("pt_0", "pt0", "pt_1", "pt1"), 2, 2, None, ("x0", "x1")),
        (_plain("0", "1", "2", "3"), 2, 2, None, ("x0", "x1")),
        ([("v", f"v[{k}]") for k in range(6)], 3, 2, None, ("x0", "x1")),  # one array of all
        (_plain("mass", "tau21"), 1, 2, None, ("mass", "tau21")),
        (_plain("mass", "mass"), 1, 2, None, ("x0", "x1")),
    ],
)
def test_variables_get_the_names_that_they_have_in_common(tmp_path, variables, t, d, steps, names):
    model = _model_with(tmp_path, variables, t, d)
    assert model.variables == names
    assert model.data.steps == steps
    assert model.data.variables == (None if steps else names)


def test_variables_come_in_the_order_of_their_index(tmp_path):
    network = simple("RNN")
    text = file_text(network, T, D)
    lines = text.split("\n")
    first = next(k for k, line in enumerate(lines) if line.startswith("<Variable "))
    lines[first : first + T * D] = lines[first : first + T * D][::-1]
    assert read_weights(written(tmp_path, "\n".join(lines))).data.steps == tuple(
        f"vars_time{t}" for t in range(T)
    )


def test_special_characters_of_names(tmp_path):
    variables = [(f"p&lt;{k}&amp;&quot;&apos;", f"p_{k}") for k in range(2)]
    model = _model_with(tmp_path, variables, 2, 1)
    assert model.data.steps == ("p<0&\"'", "p<1&\"'")


# -- refusals in reading ------------------------------------------------------------------------------------


def _conv(text: str) -> str:
    return text.replace("<RNNLayer", "<ConvLayer").replace("</RNNLayer", "</ConvLayer")


NORMALISED = """<Transformations NTransformations="1">
<Transform Name="Normalize"><Selection/></Transform></Transformations>"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace('"Classification"', '"Regression"'), "regression"),
        (lambda text: text.replace("<MVAPdfs/>", "<MVAPdfs/><Targets/>"), "regression"),
        (lambda text: text.replace('OutputFunction="S"', 'OutputFunction="I"'), "identity"),
        (lambda text: text.replace('RememberState="0"', 'RememberState="1"'), "RememberState=1 carries"),
        (_conv, "has no counterpart"),
        (lambda text: _conv(text).replace("ConvLayer", "MaxPoolLayer"), "has no counterpart"),
        (
            lambda text: re.sub("<Transformations.*/>", NORMALISED, text),
            "'Normalize': a range for each variable",
        ),
        (
            lambda text: re.sub("<Transformations.*/>", NORMALISED.replace("Normalize", "PCA"), text),
            "'PCA': it has",
        ),
    ],
)
def test_what_has_no_counterpart_is_refused(tmp_path, change, message):
    text = file_text(simple("RNN"), T, D)
    assert change(text) != text
    path = written(tmp_path, change(text))
    with pytest.raises(ConfigError, match=message) as caught:
        read_weights(path)
    assert str(caught.value).startswith(f"{path}:")
    assert "\n" not in str(caught.value)


def _shuffled(order: list[int]) -> Any:
    def change(layers: list[Any]) -> list[Any]:
        return [layers[k] for k in order]

    return change


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([0], "the last layer is no dense one"),
        ([0, 1], "the last layer is no dense one"),
        ([0, 1, 2, 4], "the last layer is no dense one"),
        ([0, 2, 3], "reads steps; possible: RESHAPE"),
        ([0, 1, 1, 2, 3], "flattens what is flat"),
        ([1, 0, 2, 3], "a recurrent layer needs steps"),
        ([0, 1, 2, 0, 3], "a recurrent layer needs steps"),
        ([0, 1, 4, 4, 2, 3], "normalises what is normalised"),
        ([0, 1, 2, 5, 3], "RESHAPE between layers"),
        ([0, 1, 2], "the last layer's activation is tanh"),
    ],
)
def test_an_order_of_layers_without_counterpart_is_refused(tmp_path, order, message):
    r = rng()
    layers = [*simple("RNN", flat=True), norm(r, 6 if order[-1] == 4 else T * H)]
    inverse = {"kind": "reshape"}
    network = [(*layers, inverse)[k] for k in order]
    if inverse in network:
        with pytest.MonkeyPatch.context() as patch:
            usual = tmva.layer_text
            shape = '<ReshapeLayer Depth="1" Height="2" Width="3" Flattening="0"/>\n'
            patch.setattr(
                tmva, "layer_text", lambda la, *a, **k: shape if la is inverse else usual(la, *a, **k)
            )
            text = file_text(network, T, D)
    else:
        text = file_text(network, T, D)
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=message):
        read_weights(path)


def test_norms_of_different_numbers_are_refused(tmp_path):
    r = rng()
    for other in ({"momentum": 0.5}, {"epsilon": 1e-3}):
        layers, size = network_of([("RNN", 0)], flat=False, tail=[], r=r)
        network = [*layers, norm(r, size), dense(r, size, 3), norm(r, 3) | other, dense(r, 3, 1)]
        with pytest.raises(ConfigError, match="all have the same here"):
            read_weights(written(tmp_path, file_text(network, T, D)))


def test_a_last_state_has_no_steps_for_a_next_layer(tmp_path):
    r = rng()
    layers = [recurrent(r, "RNN", D, H, steps=False), recurrent(r, "RNN", H, H, steps=False), dense(r, H, 1)]
    with pytest.raises(ConfigError, match="a recurrent layer needs steps"):
        read_weights(written(tmp_path, file_text(layers, T, D)))


def test_another_dtype_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="float16"):
        read_weights(tmp_path / "x", dtype="float16")


# -- damage -------------------------------------------------------------------------------------------------


def small_text() -> str:
    """A file with every kind of element, as short as it gets."""
    r = np.random.default_rng(5)
    network = [
        recurrent(r, "LSTM", 2, 1, steps=True),
        recurrent(r, "GRU", 1, 1, steps=True),
        recurrent(r, "RNN", 1, 1, steps=True),
        FLAT,
        norm(r, 2),
        dense(r, 2, 1),
    ]
    return file_text(network, 2, 2, digits=6)


def refused(path: Path, match: str | None = None) -> str:
    """Read a file that cannot be read, and give the one line that says so."""
    with pytest.raises(ModelFileError, match=match) as caught:
        read_weights(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < 1000
    return message


def test_a_file_cut_short_anywhere_is_told(tmp_path):
    read_weights(written(tmp_path, small_text()))
    content = small_text().rstrip().encode()
    for size in range(0, len(content), 50):
        refused(written(tmp_path, content[:size]), "no well-formed XML")


NEEDED = re.findall(r'(?<=[ ])([A-Za-z]+)="', small_text())
# What the file says beside the network: texts, kept or not, and ranges of variables.
FREE = {"name", "value", "modified", "Label", "Title", "Unit", "Type", "Min", "Max", "version", "NSpec"}


def _spots(text: str) -> list[tuple[str, int, int]]:
    """Every attribute: its name, and where its value is."""
    return [(m[1], m.start(2), m.end(2)) for m in re.finditer(r' ([A-Za-z]+)="([^"]*)"', text)]


def test_each_attribute_that_is_needed_is_missed(tmp_path):
    text = small_text()
    for name, start, end in _spots(text):
        without = text[: start - len(name) - 3] + text[end + 1 :]
        if name not in FREE:
            message = refused(written(tmp_path, without))
            assert f"attribute '{name}' is missing" in message


@pytest.mark.parametrize(
    "wrong", ["", "-1", "2000000000", "99", "1.5", "nan", "x", "\N{SUPERSCRIPT TWO}", "1_0"]
)
def test_each_attribute_that_is_wrong_is_told(tmp_path, wrong):
    text = small_text()
    kept = {"Expression", "Internal", "Name", "Method"}  # any text will do
    for name, start, end in _spots(text):
        if name in FREE | kept or text[start:end] == wrong:
            continue
        if name in ("Momentum", "Epsilon", "WeightDecay") and wrong in ("99", "1.5", "2000000000", "-1"):
            continue  # numbers; tested below
        if name in ("BatchSize", "BatchDepth") and wrong == "99":
            continue  # the batch of the training
        if (name, wrong) in (("InputDepth", "99"), ("InputHeight", "99"), ("InputWidth", "99")):
            continue  # a recurrent layer knows better
        path = written(tmp_path, text[:start] + wrong + text[end:])
        with pytest.raises((ModelFileError, ConfigError)) as caught:
            read_weights(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('Method="DL::', 'Method="BDT::', "of method 'BDT'; possible: DL"),
        ("<MethodSetup", "<Other", "mismatched tag"),
        ('Rows="1" Columns="2"', 'Rows="2" Columns="1"', "is 2 x 1; 1 x 2 is needed"),
        ('StateSize="1" CellSize="1"', 'StateSize="1" CellSize="2"', "'CellSize' is '?2"),
        ('StateSize="1" CellSize="1"', 'StateSize="2" CellSize="2"', "is 1 x 2; 2 x 2 is needed"),
        ('StateSize="1" CellSize="1"', 'StateSize="999999999" CellSize="999999999"', "is needed"),
        ('NetDepth="6"', 'NetDepth="7"', "'NetDepth' is 7; there are 6"),
        ("<OuputWeights", "<x/><OuputWeights", "<x>: does not belong to a LSTMLayer"),
        ("<ReshapeLayer", "<ReshapLayer", "nearest: 'ReshapeLayer'"),
        ('Flattening="1"', 'Flattening="2"', "possible: 0, 1"),
        ('Width="2" Flattening', 'Width="3" Flattening', "gives 3 numbers; the layer before gives 2"),
        ('ActivationFunction="0"', 'ActivationFunction="8"', "possible: 0..7"),
        ('Momentum="0.9"', 'Momentum="1.0"', "below 1 and above 0 are possible"),
        ('Epsilon="0.0001"', 'Epsilon="0.0"', "below 1 and above 0 are possible"),
        ('Epsilon="0.0001"', 'Epsilon="1e999"', "a finite number is needed"),
        ('NClass="2"', 'NClass="3"', "there are 2 elements"),
        ('Name="Background"', 'Name="Signal"', "two classes have the same name"),
        ('Name="Background"', 'Name=" "', "is empty"),
        ('Name="Background" Index="1"', 'Name="Background" Index="0"', "each once"),
        ('VarIndex="3"', 'VarIndex="4"', "0..3 are needed, each once"),
        ('NTransformations="0"', 'NTransformations="1"', "there are 0 elements"),
        ('OutputFunction="S"', 'OutputFunction="M"', "the last layer gives 1 numbers; 2 are needed"),
        ('"Classification"', '"Nothing"', "AnalysisType is 'nothing'"),
        ("<Classes", "<Classes/><Classes", "there is one already, in line"),
        ('BatchWidth="2"', 'BatchWidth="3"', "takes 2 x 3 numbers; the file has 4 variables"),
        ('InputSize="2"', 'InputSize="3"', "takes 2 steps of 3 variables; the file has 4"),
        ('InputSize="1"', 'InputSize="3"', "the layer before gives 2 of 1"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, old, new, message):
    text = small_text()
    assert old in text
    refused(written(tmp_path, text.replace(old, new, 1)), message)


@pytest.mark.parametrize(
    "word", ["nan", "-inf", "1e999", "1e39", "1.0.0", "x", "1_0", "\N{ARABIC-INDIC DIGIT ONE}"]
)
def test_numbers_that_are_none_are_told_by_their_place(tmp_path, word):
    text = small_text()
    at = text.index("<Biases")
    first = re.compile(r">[^ ]+ ").search(text, at)
    path = written(tmp_path, text[: first.start()] + f">{word} " + text[first.end() :])
    assert "number 1 is" in refused(path, "<Biases>")


@pytest.mark.parametrize(
    ("change", "message"), [("", "has 0 numbers"), ("1 2 3 4", "has more numbers than its 1 x 2")]
)
def test_a_wrong_count_of_numbers_is_told(tmp_path, change, message):
    text = re.sub(r'(<InputWeights Rows="1" Columns="2">)[^<]*', rf"\g<1>{change}", small_text(), count=1)
    refused(written(tmp_path, text), f"<InputWeights>: {message}")


def test_a_variance_below_zero_is_told(tmp_path):
    text = re.sub(r'(<Training-variance Rows="1" Columns="2">)[^<]*', r"\g<1>1.0 -1.0", small_text())
    refused(written(tmp_path, text), "<Training-variance>: holds a variance below 0")


BOMB = """<!DOCTYPE MethodSetup [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]>"""
OUTSIDE = '<!DOCTYPE MethodSetup [<!ENTITY secret SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    "declaration", [BOMB, OUTSIDE, '<!DOCTYPE MethodSetup SYSTEM "http://nowhere.invalid/x.dtd">']
)
def test_no_document_type_is_read(tmp_path, declaration):
    text = small_text().replace('<?xml version="1.0"?>', f'<?xml version="1.0"?>{declaration}')
    text = text.replace('Name="Background"', 'Name="&c;"' if "ENTITY c" in declaration else 'Name="B"')
    refused(written(tmp_path, text), "has a document type declaration, which is not read")


def test_an_entity_that_is_not_declared_is_told(tmp_path):
    refused(written(tmp_path, small_text().replace("<Biases", "&lol;<Biases", 1)), "undefined entity")


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"PK\3\4", "<é/>".encode("latin-1"), b"<a>\xff</a>", b"<a " * 10**5]
)
def test_what_is_no_xml_is_told(tmp_path, content):
    refused(written(tmp_path, content), "no well-formed XML")


def test_a_file_of_something_else_is_told(tmp_path):
    refused(written(tmp_path, "<html><body/></html>"), "begins with <MethodSetup>")
    refused(tmp_path / "nowhere.xml", "no such file")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "is a directory")


def test_there_are_limits(tmp_path):
    path = written(tmp_path, small_text())
    with pytest.raises(ModelFileError, match="larger than 100 bytes; max_bytes allows more"):
        read_weights(path, max_bytes=100)
    read_weights(path, max_bytes=path.stat().st_size)
    refused(written(tmp_path, "<a>" * 100_000), "nested deeper than 32")
    refused(written(tmp_path, "<a>" + "<b/>" * 100_001), "more than 100000 elements")
    refused(written(tmp_path, "<a " + 'b=""' * 1_000_001), "more than 1000000 attributes")
    layers = "<ReshapeLayer/>" * 101
    text = re.sub("(<Weights[^>]*>).*(</Weights>)", rf"\g<1>{layers}\g<2>", small_text(), flags=re.DOTALL)
    refused(written(tmp_path, text), "has 101 layers; up to 100 are read")


def test_long_names_are_cut_in_messages(tmp_path):
    refused(written(tmp_path, f'<MethodSetup Method="{"x" * 10**6}"/>'), "of method 'xxx")
    refused(written(tmp_path, f"<{'x' * 10**6}/>"), "begins with <MethodSetup>")
    text = small_text().replace("<ReshapeLayer", f"<{'R' * 10**5}")
    refused(written(tmp_path, text), "is no layer of TMVA")


CONTENT = small_text().encode()


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """The file with some bytes replaced, taken out, put in, or parts of it moved."""
    content = bytearray(CONTENT)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content) - 1))
        size = draw(st.sampled_from([0, 1, 1, 2, 10, 100]))
        what = draw(
            st.one_of(
                st.binary(max_size=4), st.sampled_from([b"<", b">", b"&", b'"', b"1", b"0", b"-", b"e9"])
            )
        )
        if draw(st.integers(0, 9)) == 0:
            other = draw(st.integers(0, len(content) - 1))
            what = bytes(content[other : other + 60])
        content[at : at + size] = what
    return bytes(content)


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(content=mutated())
def test_no_damage_gives_any_other_error(tmp_path, content):
    path = written(tmp_path, content)
    message = ""
    try:
        read_weights(path)
    except (ModelFileError, ConfigError) as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 1000


# -- writing ------------------------------------------------------------------------------------------------


def made(
    network: dict[str, Any] | None = None, *, dtype: str = "float32", classes: str = "bs", **data: Any
) -> Model:
    """A model of random weights on T steps of D variables."""
    torch.manual_seed(11)
    values = {"recurrent": [{"cell": "lstm", "units": H}], "pooling": "flatten", "steps": T} | (network or {})
    config = NetworkConfig.model_validate_json(json.dumps({k: v for k, v in values.items() if v is not None}))
    data = {"steps": [f"vars_time{t}" for t in range(T)], **data}
    data |= {"files": ["a.root"], "classes": {name: {} for name in data.pop("names", list(classes))}}
    module = Network(config, D, len(data["classes"]), dtype=getattr(torch, dtype))
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if "running_var" in name:
                value.uniform_(0.5, 2.0)
            elif value.is_floating_point():
                value.normal_(0, 0.5)
    none = FittedTransforms.unchanged(tuple(f"x{d}" for d in range(D)))
    section = DataConfig.model_validate_json(json.dumps(data))
    return Model(module.eval(), none, section, SequenceConfig())


def test_branches_of_a_pattern_are_numbered(tmp_path):
    write_weights(made(steps=["vars_time*"]), tmp_path / "a.xml")
    text = (tmp_path / "a.xml").read_text()
    assert f'Internal="vars_time{T - 1}[{D - 1}]"' in text
    assert read_weights(tmp_path / "a.xml").data.steps == tuple(f"vars_time{t}" for t in range(T))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(("kind", "after"), [("LSTM", 0), ("GRU", 0), ("GRU", 1), ("RNN", 0)])
def test_what_was_read_comes_back_to_the_bit(tmp_path, kind, after, flat, dtype):
    r = rng()
    layers, size = network_of([(kind, after), (kind, after)], flat=flat, tail=[], r=r)
    network = [*layers, norm(r, size), dense(r, size, 6, "gauss"), dense(r, 6, 1)]
    first = read_weights(written(tmp_path, file_text(network, T, D)), dtype=dtype)
    write_weights(first, tmp_path / "again.weights.xml")
    second = read_weights(tmp_path / "again.weights.xml", dtype=dtype)
    assert first.network.config == second.network.config
    assert (first.data, first.variables, first.class_names) == (
        second.data,
        second.variables,
        second.class_names,
    )
    states = [model.network.state_dict() for model in (first, second)]
    assert states[0].keys() == states[1].keys()
    for name in states[0]:
        assert states[0][name].numpy().tobytes() == states[1][name].numpy().tobytes(), name


def test_the_last_bits_of_awkward_numbers_come_back(tmp_path):
    model = made(
        {"recurrent": [{"cell": "gru", "units": H, "inner_bias": False}], "head": {"output": "sigmoid"}}
    )
    weight = model.network.recurrent[0].weight_ih_l0
    bits = np.random.default_rng(2).integers(0, 2**32, weight.numel(), dtype=np.uint32).view(np.float32)
    bits = np.where(np.isfinite(bits), bits, -0.0).astype(np.float32)
    bits[:3] = 1e-45, -0.0, np.finfo(np.float32).max
    with torch.no_grad():
        weight.copy_(torch.from_numpy(bits.reshape(weight.shape)))
    write_weights(model, tmp_path / "a.weights.xml")
    again = read_weights(tmp_path / "a.weights.xml").network.recurrent[0].weight_ih_l0
    assert again.detach().numpy().tobytes() == bits.tobytes()


def test_elements_are_written_under_the_names_of_tmva(tmp_path):
    """The file has the matrices where the table of `tmva_files` says, by an XML parser of its own."""
    import defusedxml.ElementTree as ElementTree

    cells = [{"cell": "lstm", "units": H}, {"cell": "gru", "units": H, "reset_after": False}]
    cells += [{"cell": "gru", "units": H, "inner_bias": False}, {"cell": "rnn_tanh", "units": H}]
    model = made({"recurrent": cells, "pooling": "last", "steps": None}, dtype="float64")
    write_weights(model, tmp_path / "a.weights.xml")
    root = ElementTree.parse(tmp_path / "a.weights.xml").getroot()
    for index, layer in enumerate(list(root.find("Weights"))[:4]):
        kind = layer.tag.removesuffix("Layer")
        gates = tmva.GATES[kind]
        state = {name: value.numpy() for name, value in model.network.recurrent[index].state_dict().items()}
        W, U = (np.split(state[f"weight_{s}_l0"], len(gates)) for s in ("ih", "hh"))
        b = np.split(state["bias_ih_l0"] + state.get("bias_hh_l0", 0.0), len(gates))
        # timelike's gates are i f g o and r z n: in the order of TMVA's, i f c o and r u c
        holds = {
            f"{m}_{g}": part
            for m, parts in zip("WUb", (W, U, b), strict=True)
            for g, part in zip(gates, parts, strict=True)
        }
        pairs = [word.split("=") for word in tmva.TABLES[kind].split()]
        assert [child.tag for child in layer] == [element for element, _ in pairs]
        for child, (_, name) in zip(layer, pairs, strict=True):
            values = np.array(child.text.split(), dtype=np.float64)
            expected = holds[name].reshape(H, -1)
            assert (int(child.get("Rows")), int(child.get("Columns"))) == expected.shape
            assert values.tobytes() == expected.tobytes(), child.tag
        assert layer.get("ReturnSequence") == str(int(index < 3))
    assert [layer.get("ResetGateAfter") for layer in root.find("Weights")][:4] == [None, "0", "1", None]
    options = {option.get("name"): option.text for option in root.find("Options")}
    assert options["InputLayout"] == f"{T}|{D}"
    layers = [f"LSTM|5|3|{T}|0|1", f"GRU|5|5|{T}|0|1|0", f"GRU|5|5|{T}|0|1|1", f"RNN|5|5|{T}|0|0"]
    assert options["Layout"].split(",") == [*layers, "RESHAPE|FLAT", "DENSE|32|RELU", "LINEAR"]
    names = [(v.get("Expression"), v.get("Internal"), v.get("Type")) for v in root.find("Variables")]
    assert names == [(e, i, "F[]") for e, i in array_variables(T, D)]
    assert [c.get("Name") for c in root.find("Classes")] == ["s", "b"]


def _same_scores(folder: Path, model: Model, tolerance: float, **options: Any) -> Model:
    write_weights(model, folder / "a.weights.xml", **options)
    again = read_weights(folder / "a.weights.xml", dtype=str(model.dtype))
    x = events()
    order = [again.class_names.index(name) for name in model.class_names]
    rows = Sequences(x.reshape(-1, D).astype(model.dtype), np.arange(len(x) + 1) * T, names=model.variables)
    renamed = rows.replace(names=again.variables)
    expected, got = predict(model, rows), predict(again, renamed)[:, order]
    assert np.ptp(expected[:, 0]) > 1e-3
    assert np.abs(got - expected).max() <= tolerance
    assert again.signal == model.signal
    return again


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("signal", ["b", "s"])
@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_two_classes_come_back_with_their_scores(tmp_path, output, signal, dtype):
    model = made({"head": {"units": [4], "output": output}}, signal=signal, dtype=dtype)
    # a difference of two rounded numbers, and sums of 4 and of T H terms of size 1 to 10
    again = _same_scores(tmp_path, model, 200 * float(np.finfo(dtype).eps))
    assert again.network.config.head.output == "sigmoid"


@pytest.mark.parametrize(("names", "signal"), [("abc", "c"), (("a", "Signal", "c"), "Signal"), ("abc", "a")])
def test_three_classes_come_back_with_their_scores(tmp_path, names, signal):
    model = made({"head": {"units": [4]}}, names=list(names), signal=signal)
    again = _same_scores(tmp_path, model, 200 * float(np.finfo(np.float32).eps))
    assert again.class_names[0] == ("a" if signal == "Signal" else signal)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "cell", [{"cell": "lstm"}, {"cell": "rnn_tanh"}, {"cell": "gru", "reset_after": False}]
)
def test_two_biases_come_back_as_their_sum(tmp_path, cell, dtype):
    model = made({"recurrent": [cell | {"units": H}], "head": {"output": "sigmoid"}}, dtype=dtype)
    again = _same_scores(tmp_path, model, 200 * float(np.finfo(dtype).eps))
    layer, read = model.network.recurrent[0], again.network.recurrent[0]
    total = layer.bias_ih_l0.detach().numpy() + layer.bias_hh_l0.detach().numpy()
    assert read.bias_ih_l0.detach().numpy().tobytes() == total.tobytes()


@pytest.mark.parametrize("zero", ["bias_ih_l0", "bias_hh_l0"])
def test_a_bias_beside_zeros_keeps_its_bits(tmp_path, zero):
    model = made({"head": {"output": "sigmoid"}})
    layer = model.network.recurrent[0]
    other = "bias_hh_l0" if zero == "bias_ih_l0" else "bias_ih_l0"
    with torch.no_grad():
        getattr(layer, zero).zero_()
        getattr(layer, other)[0] = -0.0
    write_weights(model, tmp_path / "a.weights.xml")
    again = read_weights(tmp_path / "a.weights.xml").network.recurrent[0].bias_ih_l0
    assert again.detach().numpy().tobytes() == getattr(layer, other).detach().numpy().tobytes()


def test_a_gru_whose_inner_bias_is_zero_is_written(tmp_path):
    model = made({"recurrent": [{"cell": "gru", "units": H}], "head": {"output": "sigmoid"}})
    with torch.no_grad():
        model.network.recurrent[0].bias_hh_l0[2 * H :] = 0.0
    _same_scores(tmp_path, model, 200 * float(np.finfo(np.float32).eps))


def test_a_network_without_recurrent_layers_is_written(tmp_path):
    _same_scores(tmp_path, made({"recurrent": [], "head": {"units": [4], "output": "sigmoid"}}), 1e-6)


def test_dropout_leaves_no_trace(tmp_path):
    model = made({"dropout": 0.3, "head": {"dropout": 0.2, "output": "sigmoid"}})
    again = _same_scores(tmp_path, model, 1e-6)
    assert again.network.config.dropout == again.network.config.head.dropout == 0.0


def test_variables_by_name_come_back(tmp_path):
    names = {"variables": ["pt", "eta", "x_1"], "steps": None}
    model = made({"pooling": "last", "steps": None}, **names)
    model = Model(
        model.network,
        FittedTransforms.unchanged(("pt", "eta", "x_1")),
        model.data,
        model.sequence,
    )
    with pytest.raises(ConfigError, match="steps=None; TMVA needs the number of steps"):
        write_weights(model, tmp_path / "a.weights.xml")
    write_weights(model, tmp_path / "a.weights.xml", steps=T)
    again = read_weights(tmp_path / "a.weights.xml")
    assert again.variables == ("pt", "eta", "x_1")
    assert again.training["tmva"]["steps"] == T
    write_weights(again, tmp_path / "b.weights.xml")  # which knows its steps
    assert read_weights(tmp_path / "b.weights.xml").training["tmva"]["steps"] == T


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"recurrent": [{"cell": "lstm", "units": 5, "bidirectional": True}]}, "no bidirectional"),
        ({"recurrent": [{"cell": "lstm", "units": 5, "projection": 2}]}, "no lstm_projected"),
        ({"recurrent": [{"cell": "lstm", "units": 5, "peephole": True}]}, "no lstm_peephole"),
        ({"recurrent": [{"cell": "lstm", "units": 5, "coupled": True}]}, "no lstm_coupled"),
        ({"recurrent": [{"cell": "rnn_relu", "units": 5}]}, "no rnn_relu"),
        ({"recurrent": [{"cell": "gru", "units": 5}]}, "no bias inside the reset"),
        ({"pooling": "mean", "steps": None}, "no pooling: mean"),
        ({"pooling": "max", "steps": None}, "no pooling: max"),
        *(
            ({"head": {"units": [3], "activation": name}}, f"no activation '{name}'")
            for name in ("elu", "gelu", "silu")
        ),
        ({"head": {"units": [2] * 100}}, "103 layers; up to 100"),
    ],
)
def test_a_network_that_tmva_has_not_is_refused(tmp_path, network, message):
    path = tmp_path / "a.weights.xml"
    with pytest.raises(ConfigError, match=message) as caught:
        write_weights(made(network), path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_is_around_the_network_is_refused_too(tmp_path):
    model, path = made(), tmp_path / "a.weights.xml"
    names = ("x0", "x1", "x2")
    nothing = Step("standardise", {"mean": 0.0, "scale": 1.0})
    write_weights(
        Model(model.network, FittedTransforms(names, ((nothing,),) * 3), model.data, model.sequence), path
    )
    path.unlink()
    for step in (
        Step("standardise", {"mean": 0.5, "scale": 1.0}),
        Step("robust", {"mean": 0.0, "scale": 2.0}),
        Step("log", {}),
    ):
        fitted = FittedTransforms(names, ((nothing,), (nothing, step), (nothing,)))
        with pytest.raises(ConfigError, match=f"'x1' is not .standardise, {step.kind}"):
            write_weights(Model(model.network, fitted, model.data, model.sequence), path)
    filled = FittedTransforms(names, ((nothing,),) * 3, fills=(None, 1.0, None))
    with pytest.raises(ConfigError, match="mixed or filled in where they are missing"):
        write_weights(Model(model.network, filled, model.data, model.sequence), path)
    for section in (SequenceConfig(direction="backward"), SequenceConfig(keep_first=2)):
        with pytest.raises(ConfigError, match="'sequence'"):
            write_weights(Model(model.network, model.transforms, model.data, section), path)
    with pytest.raises(ConfigError, match="steps=7; the network takes 4"):
        write_weights(model, path, steps=7)
    with pytest.raises(ConfigError, match="takes class 'Signal' for the signal"):
        write_weights(made(names=["Signal", "b"], signal="b"), path)
    with pytest.raises(ConfigError, match="cannot be written as XML"):
        write_weights(made(names=["a\nb", "c"]), path)
    with pytest.raises(ConfigError, match="cannot be written as XML"):
        write_weights(model, path, method="\0")
    with pytest.raises(ConfigError, match="cannot write"):
        write_weights(model, tmp_path / "nowhere" / "a.weights.xml")
    assert not list(tmp_path.iterdir())


def test_numbers_that_no_file_can_hold_are_refused(tmp_path):
    model, path = made(), tmp_path / "a.weights.xml"
    layer, last = model.network.recurrent[0], model.network.head[-1]
    with torch.no_grad():
        layer.bias_ih_l0[3] = layer.bias_hh_l0[3] = 3e38
    with pytest.raises(ConfigError, match="the sum of its biases is beyond float32"):
        write_weights(model, path)
    with torch.no_grad():
        layer.bias_ih_l0[3] = 0.0
        last.weight[0, 0], last.weight[1, 0] = 3e38, -3e38
    with pytest.raises(ConfigError, match="the difference of the two scores is beyond float32"):
        write_weights(model, path)
    with torch.no_grad():
        last.weight[0, 0] = float("nan")
    with pytest.raises(ConfigError, match=r"head\.1\.weight holds a value that is not finite"):
        write_weights(model, path)


def test_names_with_special_characters_come_back(tmp_path):
    names = ["a<b>&\"'", "Signal é"]
    model = made(names=names, signal=names[1], steps=[f"v{t} & <{t}>" for t in range(T)])
    write_weights(model, tmp_path / "a.weights.xml")
    again = read_weights(tmp_path / "a.weights.xml")
    assert list(again.class_names) == names
    assert again.data.steps == model.data.steps
