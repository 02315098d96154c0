"""Option strings of TMVA: what they say, and that nothing in them is passed over."""

import math
import operator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from timelike.errors import ConfigError
from timelike.tmva import parse, parse_split
from timelike.tmva.layout import BatchNorm, Dense, Piece, Recurrent, Reshape, parse_layout, width_of

WHOLE = (
    "!H:V:ErrorStrategy=CROSSENTROPY:VarTransform=None:WeightInitialization=XAVIERUNIFORM:ValidationSize=0.2:"
    "RandomSeed=1234:InputLayout=10|30:Layout=LSTM|10|30|10|0|1,RESHAPE|FLAT,DENSE|64|TANH,LINEAR:"
    "TrainingStrategy=LearningRate=1e-3,Momentum=0.0,Repetitions=1,ConvergenceSteps=5,BatchSize=100,"
    "TestRepetitions=1,WeightDecay=1e-2,Regularization=None,MaxEpochs=20,Optimizer=ADAM,"
    "DropConfig=0.0+0.+0.+0.|LearningRate=1e-4,Optimizer=SGD:Architecture=CPU:CreateMVAPdfs"
)


def layers_of(layout):
    return parse("Layout=" + layout).layout


def phase_of(strategy):
    return parse("Layout=LINEAR:TrainingStrategy=" + strategy).training[0]


# -- what a string says --------------------------------------------------------------------------------------


def test_a_whole_string_is_read_option_by_option():
    options = parse(WHOLE)
    assert (options.help, options.verbose) == (False, True)
    assert options.error_strategy == "CROSSENTROPY"
    assert options.weight_initialization == "XAVIERUNIFORM"
    assert options.validation == 0.2
    assert options.random_seed == 1234
    assert options.input_layout == (10, 30)
    assert options.var_transform == ()
    assert options.architecture == "CPU"
    assert dict(options.other) == {"CreateMVAPdfs": "1"}
    lstm, reshape, dense, linear = options.layout
    assert (lstm.cell, lstm.state_size, lstm.input_size, lstm.time_steps) == ("LSTM", 10, 30, 10)
    assert (lstm.remember_state, lstm.return_sequence) == (False, True)
    assert (reshape.shape, reshape.flat) == ((), True)
    assert (dense.width, dense.activation) == ("64", "TANH")
    assert (linear.width, linear.activation) == (None, "LINEAR")
    first, second = options.training
    assert (first.learning_rate, first.momentum, first.weight_decay) == (1e-3, 0.0, 1e-2)
    assert (first.convergence_steps, first.batch_size, first.max_epochs) == (5, 100, 20)
    assert (first.test_repetitions, first.regularization, first.optimizer) == (1, "NONE", "ADAM")
    assert first.drop_config == (0.0, 0.0, 0.0, 0.0)
    assert dict(first.unused) == {"Repetitions": "1"}
    assert (second.learning_rate, second.optimizer) == (1e-4, "SGD")


def test_a_phase_without_keys_of_its_own_has_the_defaults_of_tmva():
    phase = phase_of("Optimizer=SGD")
    assert (phase.learning_rate, phase.momentum, phase.convergence_steps) == (1e-5, 0.3, 100)
    assert (phase.max_epochs, phase.batch_size, phase.test_repetitions) == (2000, 30, 7)
    assert (phase.weight_decay, phase.regularization, phase.drop_config) == (0.0, "NONE", ())


@pytest.mark.parametrize(
    ("strategy", "settings"),
    [
        ("Optimizer=ADAM", {"beta1": 0.9, "beta2": 0.999, "eps": 1e-7}),
        ("Optimizer=SGD", {}),
        ("Optimizer=ADAGRAD", {"eps": 1e-8}),
        ("Optimizer=RMSPROP", {"rho": 0.9, "eps": 1e-7}),
        ("Optimizer=ADADELTA", {"rho": 0.95, "eps": 1e-8}),
        ("BatchSize=1", {"beta1": 0.9, "beta2": 0.999, "eps": 1e-7}),
        ("ADAM_beta1=0.5,ADAM_eps=1e-3,Optimizer=ADAM", {"beta1": 0.5, "beta2": 0.999, "eps": 1e-3}),
        ("Optimizer=RMSPROP,rmsprop_RHO=0.8", {"rho": 0.8, "eps": 1e-7}),
    ],
)
def test_each_optimiser_has_its_own_settings(strategy, settings):
    assert dict(phase_of(strategy).settings) == settings


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("RNN|3|4|5", ("RNN", 3, 4, 5, False, False, False)),
        ("LSTM|3|4|5|1|1", ("LSTM", 3, 4, 5, True, True, False)),
        ("GRU|3|4|5|0|1|1", ("GRU", 3, 4, 5, False, True, True)),
        ("GRU|3|4|5|0|1", ("GRU", 3, 4, 5, False, True, False)),
    ],
)
def test_recurrent_layers_have_their_fields_in_order(layout, expected):
    (layer,) = layers_of(layout)
    assert isinstance(layer, Recurrent)
    fields = (layer.cell, layer.state_size, layer.input_size, layer.time_steps)
    assert (*fields, layer.remember_state, layer.return_sequence, layer.reset_gate_after) == expected


@pytest.mark.parametrize("layout", ["DENSE|64|RELU", "DENSE|RELU|64", "RELU|64"])
def test_a_dense_layer_has_width_and_activation_in_any_order(layout):
    (layer,) = layers_of(layout)
    assert (layer.width, layer.activation) == ("64", "RELU")


@pytest.mark.parametrize("layout", ["LINEAR", "DENSE|LINEAR", "DENSE|0|LINEAR", "DENSE|LINEAR|0"])
def test_a_width_of_0_or_none_is_the_number_of_outputs(layout):
    (layer,) = layers_of(layout)
    assert (layer.width, layer.activation) == (None, "LINEAR")
    assert width_of(layer, None, 3) == 3


def test_a_dense_layer_without_an_activation_has_tanh_as_in_tmva():
    assert layers_of("DENSE|5")[0].activation == "TANH"


def test_normalisation_and_reshaping_have_tmvas_defaults():
    norm, given, reshape = layers_of("BNORM,BNORM|0.9|1e-3,RESHAPE|2|3|4|FLAT")
    assert isinstance(norm, BatchNorm)
    assert (norm.momentum, norm.epsilon) == (-1.0, 1e-4)
    assert (given.momentum, given.epsilon) == (0.9, 1e-3)
    assert isinstance(reshape, Reshape)
    assert (reshape.shape, reshape.flat) == ((2, 3, 4), True)


@pytest.mark.parametrize(
    ("text", "expected", "kind"),
    [("20%", 0.2, float), ("12.5%", 0.125, float), ("0.3", 0.3, float), ("100", 100, int), ("1", 1, int)],
)
def test_validation_is_a_share_or_a_number_of_events(text, expected, kind):
    value = parse(f"Layout=LINEAR:ValidationSize={text}").validation
    assert value == expected
    assert type(value) is kind


@pytest.mark.parametrize(
    ("text", "letters"),
    [("None", ()), ("N", ("N",)), ("G,D", ("G", "D")), ("N_Signal+P", ("N", "P")), ("D(a,b),U", ("D", "U"))],
)
def test_transforms_are_read_by_their_letters(text, letters):
    assert parse(f"Layout=LINEAR:VarTransform={text}").var_transform == letters


@pytest.mark.parametrize(("text", "verbose"), [("V", True), ("!v", False), ("V=False", False), ("v=T", True)])
def test_switches_are_set_in_all_ways_of_tmva(text, verbose):
    assert parse(f"{text}:Layout=LINEAR").verbose is verbose


def test_keys_are_read_in_any_case_and_empty_parts_do_nothing():
    options = parse(":layout=LINEAR,:INPUTLAYOUT=3|4:trainingstrategy=batchsize=7,,:")
    assert options.input_layout == (3, 4)
    assert options.training[0].batch_size == 7


def test_an_input_layout_of_zeros_is_none():
    assert parse("Layout=LINEAR:InputLayout=0|0|0:BatchLayout=0|0|0").input_layout == ()


def test_the_options_of_a_split_are_read():
    split = parse_split(
        "nTrain_Signal=1600:nTest_my_class=20:SplitMode=alternate:SplitSeed=7:MixMode=Random:NormMode=None:"
        "TrainTestSplit_Signal=0.8:!V:!CalcCorrelations:nTest_Signal=0"
    )
    assert (split.mode, split.mix_mode, split.norm_mode, split.seed) == ("Alternate", "Random", "None", 7)
    assert (dict(split.train), dict(split.test)) == ({"Signal": 1600}, {"my_class": 20})
    assert dict(split.train_share) == {"Signal": 0.8}
    assert dict(split.other) == {"V": "0", "CalcCorrelations": "0"}


def test_a_split_without_options_has_the_defaults_of_tmva():
    split = parse_split("")
    assert (split.mode, split.norm_mode, split.seed) == ("Random", "EqualNumEvents", 100)


# -- what TMVA passes over -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "what", "parts"),
    [
        ("Layout=LINEAR:TrainingStrategy=MaxEpochs=10Optimizer=ADAM", "MaxEpochs", ["','", "'Optimizer'"]),
        ("Layout=LINEAR:CPU", "CPU", ["options", "nearest: 'Architecture=CPU'"]),
        ("Layout=LSTM|12|3|10|0|1|RESHAPE|FLAT", "RESHAPE", ["Layout", "begins with ','"]),
        ("Layout=GRU|12|3|10|0|1|RESHAPE|FLAT", "RESHAPE", ["Layout", "begins with ','"]),
        ("Layout=LINEAR:TrainingStrategy=BatchSize=9,MaxEpoch=20", "MaxEpoch", ["nearest: 'MaxEpochs'"]),
        ("Layout=LINEAR:TrainingStrategy=LearningRate=abc", "abc", ["learning rate is a number"]),
        ("Layout=LINEAR:TrainingStrategy=BatchSize=1O0", "1O0", ["batch size is a whole number"]),
        ("Layout=LINEAR:TrainingStrategy=MaxEpochs", "MaxEpochs", ["no value"]),
        (
            "Layout=LINEAR:TrainingStrategy=BatchSize=1,batchsize=2",
            "batchsize",
            ["given twice", "first at column 32"],
        ),
        ("Layout=LINEAR:TrainingStrategy=Optimizer=adam", "adam", ["nearest: 'ADAM'"]),
        ("Layout=LINEAR:TrainingStrategy=Regularization=L3", "L3", ["no such regularisation"]),
        ("Layout=LINEAR:TrainingStrategy=ADAM_eps=1,Optimizer=SGD", "ADAM_eps", ["Optimizer=SGD"]),
        ("Layout=LINEAR:TrainingStrategy=LearningRate=1e999999", "1e999999", ["learning rate"]),
        ("Layout=LINEAR:TrainingStrategy=BatchSize=1000000000000", "1000000000000", ["from 1 to"]),
        ("Layout=LINEAR:ErrorStrategy=CrossEntropy", "CrossEntropy", ["nearest: 'CROSSENTROPY'"]),
        ("Layout=LINEAR:WeightInitialization=XAVIERUNIFORN", "XAVIERUNIFORN", ["nearest: 'XAVIERUNIFORM'"]),
        ("Layout=LINEAR:ValidationSize=0", "0", ["above 0"]),
        ("Layout=LINEAR:ValidationSize=many", "many", ["number"]),
        ("Layout=LINEAR:VarTransform=Z", "Z", ["N, D, P, G, U"]),
        ("Layout=LINEAR:RandomSeed=-1", "-1", ["the seed"]),
        ("Layout=LINEAR:Layuot=LINEAR", "Layuot", ["unknown key", "nearest: 'Layout'"]),
        ("Layout=LINEAR:V=maybe", "V=maybe", ["switch"]),
        ("Layout=LINEAR:!Architecture", "!Architecture", ["no value"]),
        ("Layout=LINEAR:InputLayout=10,30", "10,30", ["whole number"]),
        ("Layout=LSTM|12|3", "LSTM|12|3", ["stateSize|inputSize|timeSteps"]),
        ("Layout=LSTM|12||10", "|10", ["empty field"]),
        ("Layout=LSTM|12|3|0", "0", ["from 1"]),
        ("Layout=LSTM|12|3|10|2", "2", ["0 or 1"]),
        ("Layout=LSTM|12|3|10|0|1|1", "1", ["no more fields"]),
        ("Layout=LSTN|12|3|10", "LSTN", ["nearest: 'LSTM'"]),
        ("Layout=CONV|12|3|3|1|1|1|1|RELU,LINEAR", "CONV", ["images"]),
        ("Layout=LINEAR,MAXPOOL|2|2|1|1", "MAXPOOL", ["images"]),
        ("Layout=DENSE|64|TAHN", "TAHN", ["nearest: 'TANH'"]),
        ("Layout=DENSE|TAHN", "TAHN", ["nearest: 'TANH'"]),
        ("Layout=DENSE|64|TANH|RELU", "RELU", ["second activation"]),
        ("Layout=DENSE|64|TANH, LINEAR", " LINEAR", ["nearest: 'LINEAR'"]),
        ("Layout=DENSE|64|DENSE|32", "DENSE|32", ["begins with ','"]),
        ("Layout=RESHAPE|1|2|FLAT", "RESHAPE", ["RESHAPE|FLAT"]),
        ("Layout=RESHAPE", "RESHAPE", ["RESHAPE|FLAT"]),
        ("Layout=BNORM|1", "1", ["momentum of 1"]),
        ("Layout=BNORM|0.9|x", "x", ["epsilon"]),
        ("Layout=BNORM|0.9|1e-3|4", "4", ["no more fields"]),
        ("Layout=", "", ["at least one layer"]),
        ("Layout=LINEAR:TrainingStrategy=|", "|", ["at least one phase"]),
    ],
)
def test_what_tmva_passes_over_is_an_error_with_its_column(options, what, parts):
    with pytest.raises(ConfigError) as caught:
        parse(options)
    message = str(caught.value)
    assert "\n" not in message
    assert f"column {options.rindex(what) + 1}: " in message
    for part in parts:
        assert part in message


def test_a_string_without_a_layout_is_an_error():
    with pytest.raises(ConfigError, match="no 'Layout='"):
        parse("!H:V")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("SplitMode=Ramdom", "SplitMode, column 11: 'Ramdom': no such SplitMode; nearest: 'Random'"),
        ("nTrain_Signal=many", "nTrain_Signal, column 15: 'many': a number of events is a whole number"),
        ("nTrain_=1", "options, column 1: 'nTrain_=1': unknown key; nearest: 'nTrain_'"),
        ("Random", "options, column 1: 'Random': neither key=value nor a switch"),
        ("NormMode=EqualNumEvent", "nearest: 'EqualNumEvents'"),
        ("TrainTestSplit_a=2", "from 0 to 1"),
    ],
)
def test_errors_in_the_options_of_a_split_say_where_they_are(options, message):
    with pytest.raises(ConfigError) as caught:
        parse_split(options)
    assert message in str(caught.value)


# -- formulas ------------------------------------------------------------------------------------------------


@st.composite
def formulas(draw, depth=3):
    """A formula in N, and its value computed beside it."""
    if depth == 0 or draw(st.booleans()):
        number = draw(st.integers(1, 99))
        return draw(st.sampled_from([(str(number), lambda n: float(number)), ("N", float), ("n", float)]))
    (left, f), (right, g) = draw(formulas(depth - 1)), draw(formulas(depth - 1))
    sign, apply = draw(st.sampled_from([("+", operator.add), ("-", operator.sub), ("*", operator.mul)]))
    return f"({left}{sign}{right})", lambda n: apply(f(n), g(n))


@given(formulas(), st.integers(1, 300))
@settings(deadline=None)
def test_a_width_is_what_its_formula_gives(formula, n):
    text, compute = formula
    expected = compute(n)
    layer = Dense(Piece(f"DENSE|{text}|TANH", 0, "Layout"), text, "TANH")
    if 1 <= expected <= 1_000_000:
        assert width_of(layer, n, 1) == int(expected)
    else:
        with pytest.raises(ConfigError, match="units"):
            width_of(layer, n, 1)


@pytest.mark.parametrize(
    ("text", "n", "expected"),
    [("N+5", 3, 8), ("(N+100)*2", 4, 208), ("2+3*4", 1, 14), ("8/4/2", 1, 1), ("7-2-1", 1, 4), ("N/2", 7, 3)],
)
def test_operators_bind_as_in_arithmetic(text, n, expected):
    (layer,) = layers_of(f"DENSE|{text}|TANH")
    assert width_of(layer, n, 1) == expected


@pytest.mark.parametrize(
    "width",
    [
        "10**12",
        "1e9",
        "((N",
        "N)",
        "N N",
        "2N",
        "+",
        "-3",
        "()",
        "N/0",
        "__import__",
        "N.x",
        "1..2",
        "9" * 40,
    ],
)
def test_what_is_no_formula_is_an_error(width):
    with pytest.raises(ConfigError, match="Layout, column"):
        layers_of(f"DENSE|{width}|TANH")


@pytest.mark.parametrize("width", ["1000000000000", "N-9", "999999999*999999999*999999999", "N*0"])
def test_a_width_without_bounds_is_an_error_when_it_is_computed(width):
    (layer,) = layers_of(f"DENSE|{width}|TANH")
    with pytest.raises(ConfigError, match="units; from 1 to 1000000 are possible"):
        width_of(layer, 3, 1)


def test_a_formula_in_n_needs_the_number_of_variables():
    (layer,) = layers_of("DENSE|N+1|TANH")
    with pytest.raises(ConfigError, match="InputLayout"):
        width_of(layer, None, 1)


# -- any text ------------------------------------------------------------------------------------------------

_WORDS = (
    "Layout= LSTM GRU RNN DENSE LINEAR RESHAPE FLAT BNORM | , : = ! TrainingStrategy= LearningRate= "
    "Optimizer= ADAM 1 0 10 1e-3 20% N ( ) + * / - V H InputLayout= ValidationSize= nTrain_ SplitMode="
)


def refusal_of(function, text):
    try:
        return None if function(text).text == text else "another text"
    except ConfigError as error:
        return str(error)


@given(st.one_of(st.text(max_size=200), st.lists(st.sampled_from(_WORDS.split()), max_size=40).map("".join)))
@example("Layout=" + "DENSE|" + "(" * 190 + "N")
@example("Layout=LINEAR:" + "V:" * 100)
@example("Layout=\0")
@settings(deadline=None)
def test_any_text_is_read_or_refused_in_one_line(text):
    for refusal in (refusal_of(parse, text), refusal_of(parse_split, text)):
        assert refusal is None or (":" in refusal and "\n" not in refusal and len(refusal) < 1000)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 10**6,
        "Layout=" + "LINEAR," * 2500,
        "Layout=" + "|" * 10**5,
        "=" * 10**6,
        "TrainingStrategy=" + "|A" * 5000,
    ],
)
def test_hostile_lengths_are_refused(text):
    with pytest.raises(ConfigError):
        parse(text)


@given(
    rate=st.floats(1e-8, 10.0),
    batch=st.integers(1, 10**6),
    epochs=st.integers(1, 10**6),
    momentum=st.floats(0.0, 0.999),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None)
def test_numbers_are_read_as_they_were_written(rate, batch, epochs, momentum, seed):
    options = parse(
        f"Layout=LINEAR:RandomSeed={seed}:TrainingStrategy=LearningRate={rate!r},BatchSize={batch},"
        f"MaxEpochs={epochs},Momentum={momentum!r}"
    )
    (phase,) = options.training
    assert (phase.learning_rate, phase.batch_size, phase.max_epochs) == (rate, batch, epochs)
    assert (phase.momentum, options.random_seed) == (momentum, seed)
    assert math.isfinite(phase.learning_rate)


def test_a_layout_keeps_the_column_of_each_layer():
    layers = parse_layout(Piece("LSTM|2|3|4|0|0,DENSE|5|TANH,LINEAR", 100, "Layout"))
    assert [layer.piece.start for layer in layers] == [100, 115, 128]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("nTrain_a\nb=x", r"^nTrain_a\\nb, column 12: 'x': a number of events is"),
        ("V:nTest_a\nb", r"^options, column 3: 'nTest_a\\nb': no value; nTest_a\\nb=... is possible"),
    ],
)
def test_a_class_whose_name_has_a_line_break_is_told_of_in_one_line(options, said):
    with pytest.raises(ConfigError, match=said) as caught:
        parse_split(options)
    assert "\n" not in str(caught.value)
