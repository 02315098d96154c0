"""Bookings of TMVA as configs: what is carried over, and what is said of the rest."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from timelike.config import load_config
from timelike.errors import ConfigError
from timelike.network import Network
from timelike.nn import Ragged
from timelike.tmva import convert, parse
from timelike.tmva.annotated import Annotated, comment

LSTM = "Layout=LSTM|10|30|10|0|1,RESHAPE|FLAT,DENSE|64|TANH,LINEAR:InputLayout=10|30"


@pytest.fixture
def config_of(tmp_path):
    """Read a converted text as ``timelike train`` does."""

    def read(options, split=None, **more):
        path = tmp_path / "config.yaml"
        path.write_text(convert(options, split, **more), encoding="utf-8")
        return load_config(path)

    return read


def comments_of(text):
    return " ".join(line.strip().removeprefix("# ") for line in text.splitlines() if line.strip()[:1] == "#")


def head_of(layout):
    return f"Layout=LSTM|4|3|5|0|0,{layout}"


# -- network -------------------------------------------------------------------------------------------------


def test_the_network_of_the_tutorial_is_carried_over(config_of):
    network = config_of(LSTM + ":WeightInitialization=XAVIERUNIFORM").network
    assert [(layer.cell, layer.units) for layer in network.recurrent] == [("lstm", 10)]
    assert (network.pooling, network.steps) == ("flatten", 10)
    assert (network.head.units, network.head.activations) == ((64,), ("tanh",))
    assert (network.head.output, network.initialiser) == ("sigmoid", "xavier_uniform")


def test_the_network_has_as_many_weights_as_that_of_tmva(config_of):
    network = Network(config_of(LSTM).network, 30, 2)
    assert network(Ragged(torch.zeros(20, 30), torch.tensor([0, 10, 20]))).shape == (2, 2)
    weights = sum(p.numel() for name, p in network.named_parameters() if p.ndim > 1)
    assert weights == 4 * 10 * 30 + 4 * 10 * 10 + 64 * 100 + 64


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("RNN|4|3|5|0|0", {"cell": "rnn_tanh", "inner_bias": False}),
        (
            "LSTM|4|3|5|0|0",
            {"cell": "lstm", "projection": 0, "peephole": False, "coupled": False, "inner_bias": False},
        ),
        ("GRU|4|3|5|0|0", {"cell": "gru", "reset_after": False, "inner_bias": False}),
        ("GRU|4|3|5|0|0|1", {"cell": "gru", "reset_after": True, "inner_bias": False}),
    ],
)
def test_each_cell_is_carried_over_in_tmvas_form(config_of, layer, expected):
    (made,) = config_of(f"Layout={layer},LINEAR").network.recurrent
    assert made.model_dump() == {"units": 4, "bidirectional": False, **expected}


def test_the_last_state_is_pooled_where_no_sequence_is_returned(config_of):
    for layout in ("LSTM|4|3|5|0|0,LINEAR", "LSTM|4|3|5|0|0,RESHAPE|FLAT,LINEAR"):
        network = config_of("Layout=" + layout).network
        assert (network.pooling, network.steps) == ("last", None)


def test_recurrent_layers_stand_on_top_of_each_other(config_of):
    network = config_of("Layout=LSTM|6|5|4|0|1,GRU|7|6|4|0|1,RESHAPE|1|1|28,LINEAR").network
    assert [(layer.cell, layer.units) for layer in network.recurrent] == [("lstm", 6), ("gru", 7)]
    assert (network.pooling, network.steps) == ("flatten", 4)


def test_every_activation_has_its_counterpart(config_of):
    names = ("TANH", "RELU", "SYMMRELU", "SOFTSIGN", "SIGMOID", "LINEAR", "GAUSS", "FTANH", "FASTTANH")
    layers = ",".join(f"DENSE|{8 + k}|{name}" for k, name in enumerate(names))
    options = head_of(layers + ",LINEAR")
    head = config_of(options).network.head
    assert head.units == tuple(range(8, 8 + len(names)))
    assert head.activations == (
        *("tanh", "relu", "symmrelu", "softsign", "sigmoid", "linear", "gauss", "tanh", "tanh"),
    )
    assert "FTANH is tanh here" in comments_of(convert(options))


def test_normalisation_stands_before_the_dense_layer_that_follows_it(config_of):
    head = config_of(head_of("BNORM|0.9|1e-3,DENSE|8|RELU,DENSE|7|RELU,BNORM|0.9|1e-3,LINEAR")).network.head
    assert head.batch_norm.before == (0, 2)
    assert head.batch_norm.momentum == pytest.approx(0.1, rel=1e-12)
    assert head.batch_norm.epsilon == 1e-3


@pytest.mark.parametrize(("momentum", "expected"), [("-1", None), ("0", 1.0), ("0.25", 0.75)])
def test_tmvas_momentum_is_the_share_of_the_old_mean(config_of, momentum, expected):
    assert config_of(head_of(f"BNORM|{momentum},LINEAR")).network.head.batch_norm.momentum == expected


def test_other_settings_of_a_second_normalisation_are_named():
    text = convert(head_of("BNORM,DENSE|8|RELU,BNORM|0.5,LINEAR"))
    assert "BNORM|0.5, before dense layer 1, has other settings" in comments_of(text)


@pytest.mark.parametrize(
    ("tmva", "ours"),
    [
        ("XAVIER", "xavier"),
        ("XAVIERUNIFORM", "xavier_uniform"),
        ("GAUSS", "gauss"),
        ("UNIFORM", "uniform"),
        ("IDENTITY", "identity"),
        ("ZERO", "zero"),
    ],
)
def test_every_initialisation_has_its_counterpart(config_of, tmva, ours):
    assert config_of(f"{LSTM}:WeightInitialization={tmva}").network.initialiser == ours


def test_the_number_of_variables_goes_into_the_width(config_of):
    options = "Layout=LSTM|4|3|5|0|0,DENSE|(N+1)*2|TANH,LINEAR"
    assert config_of(options + ":InputLayout=5|3").network.head.units == (32,)
    assert config_of(options, n_variables=20).network.head.units == (42,)


def test_a_dense_network_reads_its_variables_side_by_side(config_of):
    network = config_of("Layout=DENSE|N|TANH,LINEAR", n_variables=7).network
    assert (network.recurrent, network.pooling, network.steps) == ((), "flatten", 7)
    assert network.head.units == (7,)
    assert config_of("InputLayout=1|1|9:Layout=LINEAR").network.steps == 9
    assert "FILL IN: the number of variables" in comments_of(convert("Layout=LINEAR"))


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("LSTM|4|3|5|0|1,LINEAR", "RESHAPE|FLAT is needed behind it"),
        ("LSTM|4|3|5|0|1,BNORM,RESHAPE|FLAT,LINEAR", "RESHAPE|FLAT is needed behind it"),
        ("LSTM|4|3|5|0|1,RESHAPE|1|1|19,LINEAR", "RESHAPE|1|1|20"),
        ("LSTM|4|3|5|0|0,LSTM|4|4|5|0|0,LINEAR", "returnSequence=0"),
        ("LSTM|4|3|5|0|1,LSTM|4|3|5|0|0,LINEAR", "the layer below gives 5 of 4"),
        ("LSTM|4|3|5|0|1,LSTM|4|4|6|0|0,LINEAR", "reads 6 steps of 4"),
        ("DENSE|4|TANH,LSTM|4|3|5|0|0,LINEAR", "no other layer can stand before it"),
        ("LSTM|4|3|5|0|0,DENSE|4|TANH", "the last layer is LINEAR"),
        ("LSTM|4|3|5|0|0,LINEAR,BNORM", "the last layer is LINEAR"),
        ("LSTM|4|3|5|0|0,DENSE|1|SIGMOID", "the last layer is LINEAR"),
        ("LSTM|4|3|5|0|0", "no dense layers"),
        ("LSTM|4|3|5|0|0,DENSE|3|LINEAR", "3 outputs for 2 classes"),
        ("LSTM|4|3|5|0|0,BNORM,BNORM,LINEAR", "twice in a row"),
        ("LSTM|4|3|5|0|0,DENSE|4|TANH,RESHAPE|FLAT,LINEAR", "RESHAPE has no meaning"),
    ],
)
def test_layers_that_do_not_fit_together_are_an_error(layout, message):
    with pytest.raises(ConfigError) as caught:
        convert("Layout=" + layout)
    assert message in str(caught.value)


def test_an_input_layout_that_disagrees_with_the_layers_is_an_error():
    options = LSTM.replace("InputLayout=10|30", "InputLayout=10|31")
    with pytest.raises(ConfigError) as caught:
        convert(options)
    column = options.index("10|31") + 1
    assert f"InputLayout, column {column}: '10|31': 10 steps of 31 variables" in str(caught.value)


def test_states_that_are_remembered_are_named():
    text = convert("Layout=LSTM|10|30|10|1|0,LINEAR")
    assert "rememberState=1 is not carried over" in comments_of(text)
    assert text.index("# rememberState") < text.index("- cell: lstm")


def test_the_reset_gate_on_a_gpu_is_named():
    text = comments_of(convert("Layout=GRU|4|3|5|0|0,LINEAR:Architecture=GPU"))
    assert "with Architecture=GPU TMVA takes resetGateAfter=1" in text
    assert "resetGateAfter" not in comments_of(convert("Layout=GRU|4|3|5|0|0|1,LINEAR:Architecture=GPU"))


# -- training ------------------------------------------------------------------------------------------------

THREE = {"files": "x.root", "steps": "v*", "classes": {"a": {}, "b": {}, "c": {}}}


@pytest.mark.parametrize(
    ("strategy", "data", "loss"),
    [
        ("CROSSENTROPY", None, "cross_entropy"),
        ("SUMOFSQUARES", None, "squared_error"),
        ("MUTUALEXCLUSIVE", THREE, "cross_entropy"),
        ("CROSSENTROPY", THREE, "sigmoid_cross_entropy"),
        ("SUMOFSQUARES", THREE, "squared_error"),
    ],
)
def test_every_error_strategy_has_its_counterpart(config_of, strategy, data, loss):
    config = config_of(f"{LSTM}:ErrorStrategy={strategy}", data=data)
    assert config.training.loss == loss
    assert config.network.head.output == ("softmax" if data else "sigmoid")


def test_a_loss_that_tmva_does_not_have_for_two_classes_is_an_error():
    options = f"{LSTM}:ErrorStrategy=MUTUALEXCLUSIVE"
    with pytest.raises(ConfigError, match=f"column {options.index('MUTUAL') + 1}: 'MUTUALEXCLUSIVE'"):
        convert(options)


def test_two_outputs_for_two_classes_are_those_of_many(config_of):
    config = config_of("Layout=LSTM|4|3|5|0|0,DENSE|2|LINEAR:ErrorStrategy=MUTUALEXCLUSIVE")
    assert (config.network.head.output, config.training.loss) == ("softmax", "cross_entropy")


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (
            "Optimizer=ADAM,LearningRate=1e-3",
            {"name": "adam", "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-7, "epsilon_hat": True},
        ),
        ("Optimizer=SGD,LearningRate=1e-3", {"name": "sgd", "momentum": 0.3, "nesterov": False}),
        (
            "Optimizer=RMSPROP,LearningRate=1e-3,Momentum=0.1",
            {"name": "rmsprop", "alpha": 0.9, "momentum": 0.1, "epsilon": 1e-7, "epsilon_in_root": True},
        ),
        (
            "Optimizer=ADAGRAD,LearningRate=1e-3",
            {"name": "adagrad", "epsilon": 1e-8, "epsilon_in_root": True},
        ),
        ("Optimizer=ADADELTA,LearningRate=1e-3", {"name": "adadelta", "rho": 0.95, "epsilon": 1e-8}),
        (
            "Optimizer=ADAM,LearningRate=1e-3,ADAM_beta1=0.5,ADAM_beta2=0.6,ADAM_eps=0.7",
            {"name": "adam", "beta1": 0.5, "beta2": 0.6, "epsilon": 0.7, "epsilon_hat": True},
        ),
    ],
)
def test_every_optimiser_has_its_counterpart(config_of, strategy, expected):
    optimiser = config_of(f"{LSTM}:TrainingStrategy={strategy}").training.optimiser
    assert optimiser.model_dump() == {"learning_rate": 1e-3, "weight_decay": 0.0, **expected}


def test_epochs_and_patience_are_counted_as_in_tmva(config_of):
    strategy = "MaxEpochs=20,ConvergenceSteps=5,TestRepetitions=7,BatchSize=100"
    text = convert(f"{LSTM}:TrainingStrategy={strategy}")
    training = config_of(f"{LSTM}:TrainingStrategy={strategy}").training
    assert (training.epochs, training.batch_size) == (21, 100)
    stopping = training.early_stopping
    assert (stopping.patience, stopping.every, stopping.metric) == (6, 7, "loss")
    assert training.clip_norm is None
    assert "MaxEpochs=20: TMVA looks at it every 7 epochs" in comments_of(text)


@pytest.mark.parametrize(("kind", "name"), [("L1", "l1"), ("L2", "l2")])
def test_regularisation_is_carried_over(config_of, kind, name):
    training = config_of(f"{LSTM}:TrainingStrategy=Regularization={kind},WeightDecay=0.01").training
    assert (training.regularisation.name, training.regularisation.strength) == (name, 0.01)


def test_weight_decay_alone_does_nothing_as_in_tmva(config_of):
    options = f"{LSTM}:TrainingStrategy=WeightDecay=0.01"
    training = config_of(options).training
    assert training.regularisation is None
    assert training.optimiser.weight_decay == 0.0
    assert "WeightDecay=0.01 does nothing without Regularization" in comments_of(convert(options))


def test_later_phases_name_all_that_differs(config_of):
    config = config_of(
        f"{LSTM}:TrainingStrategy=LearningRate=1e-2,Regularization=L2,WeightDecay=1e-3,BatchSize=50,"
        "TestRepetitions=1,MaxEpochs=3|LearningRate=1e-3,Optimizer=SGD,TestRepetitions=1,MaxEpochs=4|"
        "LearningRate=1e-4,TestRepetitions=2,MaxEpochs=6,ConvergenceSteps=8"
    )
    first, second, third = config.training.phases
    assert (first.optimiser.name, first.epochs, first.batch_size) == ("adam", 3, 50)
    assert (second.optimiser.name, second.epochs, second.batch_size) == ("sgd", 4, 30)
    assert (third.optimiser.name, third.epochs) == ("adam", 6)
    assert (third.early_stopping.patience, third.early_stopping.every) == (9, 2)
    assert [phase.regularisation is None for phase in (first, second, third)] == [False, True, True]


@pytest.mark.parametrize(
    ("mode", "balance"), [("EqualNumEvents", True), ("NumEvents", "number"), ("None", False)]
)
def test_every_norm_mode_has_its_counterpart(config_of, mode, balance):
    assert config_of(LSTM, f"NormMode={mode}").training.class_balance == balance


def test_negative_weights_are_ignored_where_tmva_ignores_them(config_of):
    assert config_of(LSTM).training.negative_weights == "use"
    assert config_of(LSTM + ":IgnoreNegWeightsInTraining").training.negative_weights == "ignore"


def test_a_seed_of_0_is_named(config_of):
    assert config_of(LSTM + ":RandomSeed=12").training.seed == 12
    assert "RandomSeed=0 is another seed" in comments_of(convert(LSTM))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (LSTM + ":CreateMVAPdfs:NbinsMVAPdf=40", "CreateMVAPdfs=1, NbinsMVAPdf=40"),
        (LSTM + ":Architecture=CPU:H:!V", "H, Architecture=CPU"),
        (LSTM + ":BatchLayout=100|10|30", "BatchLayout=100|10|30 is not carried over"),
        (LSTM + ":TrainingStrategy=DropConfig=0.0+0.5", "DropConfig=0+0.5 is not carried over"),
        (LSTM + ":TrainingStrategy=Multithreading=True,Repetitions=3", "Multithreading=True, Repetitions=3"),
        (LSTM + ":TrainingStrategy=Momentum=0.5", "Momentum=0.5 (ADAM has none)"),
        (LSTM, "no TrainingStrategy was given"),
        (LSTM.replace(":InputLayout=10|30", ""), "no InputLayout was given; the layout reads 10 steps of 30"),
        (LSTM + ":VarTransform=D,G", "Not carried over, there is one mix of all variables, at the end: G."),
    ],
)
def test_what_is_not_carried_over_is_named(options, said):
    assert said in comments_of(convert(options))


# -- data and split ------------------------------------------------------------------------------------------


def test_the_signal_is_the_last_of_two_classes(config_of):
    config = config_of(LSTM, "nTrain_Signal=1600:nTrain_Background=1500:nTest_Signal=400")
    assert config.data.class_names == ("Background", "Signal")
    assert config.split.counts.train == {"Signal": 1600, "Background": 1500}
    assert config.split.counts.test == {"Signal": 400}
    assert (config.split.by, config.split.seed, config.split.counts.validation) == ("random", 100, 0.2)


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("", ("Background", "Signal")),
        ("nTrain_Background=2:nTrain_Signal=1", ("Background", "Signal")),
        ("nTest_background=2", ("background", "Signal")),
        ("nTrain_signal=2", ("Background", "signal")),
        ("nTrain_top=2", ("Background", "top")),
        ("nTrain_top=2:nTest_qcd=1", ("qcd", "top")),
        ("nTrain_a=2:nTest_b=1:nTrain_c=1", ("a", "c", "b")),
    ],
)
def test_classes_are_those_that_a_split_names(config_of, split, names):
    options = LSTM + (":ErrorStrategy=MUTUALEXCLUSIVE" if len(names) > 2 else "")
    assert config_of(options, split).data.class_names == names


@pytest.mark.parametrize(
    ("mode", "by"), [("Random", "random"), ("Alternate", "alternate"), ("Block", "block")]
)
def test_every_split_mode_has_its_counterpart(config_of, mode, by):
    split = config_of(LSTM, f"SplitMode={mode}:SplitSeed=7").split
    assert (split.by, split.seed) == (by, 7 if by == "random" else 0)


def test_classes_are_found_in_any_case_and_others_are_refused(config_of):
    data = {"files": "x.root", "steps": "v*", "classes": {"bkg": {}, "Sig": {}}}
    assert config_of(LSTM, "nTrain_SIG=5", data=data).split.counts.train == {"Sig": 5}
    with pytest.raises(ConfigError, match="'nTrain_Signal': no such class"):
        convert(LSTM, "nTrain_Signal=5", data=data)


def test_a_number_of_events_for_validation_becomes_a_share(config_of):
    options, split = LSTM + ":ValidationSize=100", "nTrain_Signal=300:nTrain_Background=200"
    assert config_of(options, split).split.counts.validation == pytest.approx(0.2, rel=1e-12)
    assert "ValidationSize=100 of 500 events" in comments_of(convert(options, split))
    assert "FILL IN: ValidationSize=100 is a number of events" in comments_of(convert(options))
    with pytest.raises(ConfigError, match="of 100 that are for training"):
        convert(options, "nTrain_Signal=50:nTrain_Background=50")


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ("MixMode=Block", "MixMode=Block is not carried over"),
        ("TrainTestSplit_Signal=0.8", "TrainTestSplit_Signal=0.8 is not carried over"),
        ("SplitSeed=0", "SplitSeed=0 is another seed"),
        ("!CalcCorrelations:V", "CalcCorrelations=0, V=1"),
    ],
)
def test_what_is_not_carried_over_of_a_split_is_named(split, said):
    assert said in comments_of(convert(LSTM, split))


@pytest.mark.parametrize(
    ("letters", "transforms", "mix", "left"),
    [
        ("None", ("none",), None, ""),
        ("N", ("minmax",), None, ""),
        ("G,D", ("gauss",), "decorrelate", ""),
        ("U,N,P", ("uniform", "minmax"), "pca", ""),
        ("D,N", ("none",), "decorrelate", "N."),
        ("D,P,G", ("none",), "decorrelate", "P, G."),
        ("N_Signal", ("minmax",), None, "that of all classes and variables"),
    ],
)
def test_variables_are_transformed_as_tmva_transforms_them(config_of, letters, transforms, mix, left):
    data = config_of(f"{LSTM}:VarTransform={letters}").data
    assert (data.transforms, data.mix) == ({"default": transforms}, mix)
    text = convert(f"{LSTM}:VarTransform={letters}")
    said = " ".join(line.strip("# ") for line in text.splitlines())
    assert left in said
    assert ("TMVA takes each by itself" in said) == (letters != "None")


def test_data_that_is_given_stays_as_it_is(config_of):
    data = {**THREE, "transforms": {"default": "standardise"}, "selection": "x > 1"}
    config = config_of(LSTM, data=data)
    assert config.data.class_names == ("a", "b", "c")
    assert config.data.selection == "x > 1"
    assert config.data.transforms == {"default": ("standardise",)}


# -- the text ------------------------------------------------------------------------------------------------


def test_the_text_begins_with_what_it_was_made_from():
    text = convert(LSTM, "SplitMode=Block", name="TMVA_LSTM", source="macro.C, line 12")
    assert text.startswith(
        "# Made from 'TMVA_LSTM', a booking of TMVA's method DL, macro.C, line 12:\n# Layout=LSTM"
    )
    assert "# SplitMode=Block\n" in text
    assert text.endswith("output: runs/TMVA_LSTM\n")


def test_a_parsed_string_gives_the_same_text():
    assert convert(parse(LSTM)) == convert(LSTM)


def test_whatever_a_name_holds_stays_within_its_comment(config_of):
    name = "x\ndata:\r  evil\u2028: 1\u0085\x00"
    config = config_of(LSTM, name=name, source=name, notes=[(("network", "head"), name)])
    assert config.data.files == ("events.root",)
    assert config.output.startswith("runs/x_data")


def test_comments_stand_above_their_keys_and_within_the_width():
    config = Annotated("head")
    config.values = {"a": {"b": [{"c": 1}, {"c": 2}]}, "d": "x"}
    config.note(("a", "b", 1, "c"), "on the second")
    config.note(("a", "absent"), "on the nearest")
    config.note(("nowhere",), "at the top")
    assert config.text().splitlines() == [
        *("# head", "# at the top", "", "# on the nearest", "a:", "  b:", "  - c: 1"),
        *("    # on the second", "  - c: 2", "", "d: x"),
    ]
    assert all(len(line) <= 100 for line in comment("word " * 100, 8))


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_every_booking_that_is_read_gives_a_config_that_is_read(tmp_path_factory, data):
    draw = data.draw
    steps, inputs = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    layers, size = [], inputs
    depth = draw(st.integers(1, 3))
    for k in range(depth):
        cell, units = draw(st.sampled_from(["RNN", "LSTM", "GRU"])), draw(st.integers(1, 50))
        layers.append(f"{cell}|{units}|{size}|{steps}|{draw(st.integers(0, 1))}|{int(k < depth - 1)}")
        size = units
    for _ in range(draw(st.integers(0, 3))):
        layers += draw(st.sampled_from([[], ["BNORM"], ["BNORM|0.7|1e-2"]]))
        layers.append(f"DENSE|{draw(st.integers(1, 99))}|{draw(st.sampled_from(['TANH', 'GAUSS', 'RELU']))}")
    optimiser = draw(st.sampled_from(["ADAM", "SGD", "RMSPROP", "ADAGRAD", "ADADELTA"]))
    rate, epochs = draw(st.floats(1e-6, 1.0)), draw(st.integers(1, 99))
    phase = f"Optimizer={optimiser},LearningRate={rate!r},MaxEpochs={epochs}"
    layout = ",".join([*layers, "LINEAR"])
    options = f"Layout={layout}:InputLayout={steps}|{inputs}:TrainingStrategy={phase}|{phase}"
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(convert(options), encoding="utf-8")
    config = load_config(path)
    assert len(config.network.recurrent) == depth
    assert len(config.training.phases) == 2
    assert config.training.optimiser.name == optimiser.lower()
