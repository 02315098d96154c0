"""Macros of TMVA as configs: what stands in them, read without running them."""

from pathlib import Path

import numpy as np
import pytest
import torch
import uproot
from hypothesis import example, given, settings
from hypothesis import strategies as st

from timelike.config import load_config
from timelike.data import read
from timelike.errors import ConfigError
from timelike.network import Network, logits
from timelike.tmva import convert_macro
from timelike.tmva.cuts import translated

FOLDER = Path(__file__).parent / "tmva_macros"
BOOK = 'factory->BookMethod(loader, TMVA::Types::kDL, "net", "Layout=LSTM|4|3|5|0|0,LINEAR");\n'


def macro(name):
    return convert_macro((FOLDER / name).read_text(encoding="utf-8"), name)


@pytest.fixture
def configs_of(tmp_path):
    """Read the configs of a macro as ``timelike train`` does."""

    def read_all(found):
        configs = {}
        for name, text in found:
            path = tmp_path / f"{name}.yaml"
            path.write_text(text, encoding="utf-8")
            configs[name] = load_config(path)
        return configs

    return read_all


def comments_of(text):
    return " ".join(line.strip().removeprefix("# ") for line in text.splitlines() if line.strip()[:1] == "#")


def text_of(lines, name="m.C"):
    ((_, text),) = convert_macro(lines + BOOK, name)
    return text


def data_of(configs_of, lines):
    (config,) = configs_of(convert_macro(lines + BOOK, "m.C")).values()
    return config.data


# -- whole macros --------------------------------------------------------------------------------------------


def test_the_tutorials_three_networks_are_read(configs_of):
    found = macro("sequences.C")
    configs = configs_of(found)
    assert list(configs) == ["TMVA_RNN", "TMVA_LSTM", "TMVA_GRU"]
    assert [c.network.recurrent[0].cell for c in configs.values()] == ["rnn_tanh", "lstm", "gru"]
    for config in configs.values():
        data = config.data
        assert (data.files, data.steps, data.variables) == (
            ("time_data_t10_d30.root",),
            ("vars_time*",),
            None,
        )
        assert [(n, s.treename, s.weights) for n, s in data.classes.items()] == [
            ("Background", "bkg", "2"),
            ("Signal", "sgn", None),
        ]
        assert config.split.counts.train == {"Signal": 1600, "Background": 1600}
        assert config.training.class_balance == "number"
        assert (config.training.epochs, config.training.batch_size) == (20, 100)
        assert config.training.early_stopping.patience == 6
        assert (config.network.pooling, config.network.steps) == ("flatten", 10)
    for _, text in found:
        assert "NOT READ" not in text
        assert "FILL IN" not in text
        assert "directive" not in text


def test_a_script_in_python_is_read(configs_of):
    found = macro("sequences.py")
    configs = configs_of(found)
    assert list(configs) == ["Py_LSTM", "Py_GRU"]
    lstm, gru = configs.values()
    assert (lstm.network.recurrent[0].cell, gru.network.recurrent[0].cell) == ("lstm", "gru")
    assert (lstm.training.optimiser.momentum, gru.training.optimiser.momentum) == (0.5, 0.9)
    assert lstm.data.files == ("time_data_t10_d30.root",)
    assert (lstm.data.steps, lstm.data.observers) == (("vars_time*",), ("event_id",))
    assert [s.treename for s in lstm.data.classes.values()] == ["bkg", "sgn"]
    assert (lstm.split.by, lstm.split.counts.train) == ("block", {"Signal": 1600, "Background": 1600})
    assert (lstm.training.loss, lstm.network.initialiser) == ("squared_error", "gauss")
    assert (lstm.network.pooling, lstm.network.head.units) == ("last", (16,))
    assert all("NOT READ" not in text for _, text in found)


def test_single_variables_weights_and_cuts_are_read(configs_of):
    found = macro("dense.C")
    (config,) = configs_of(found).values()
    data = config.data
    assert data.steps == ("m_jj", "m_jjj", "ratio")
    assert data.new_variables == {"ratio": "m_bb / m_wbb"}
    assert data.selection == "(m_jj > 0 && abs(m_jjj) < 500) && (m_bb**2 > 4)"
    assert {n: s.weights for n, s in data.classes.items()} == {
        "Background": "w_gen",
        "Signal": "0.5 * (w_gen * w_pu)",
    }
    assert config.split.counts.train == {"Signal": 7000, "Background": 6000}
    assert config.split.counts.test == {"Signal": 1000}
    assert config.split.counts.validation == 0.1  # 1300 of 13000
    assert config.network.head.units == ((4 + 2) * 4, 64)  # N counts the variable that is not read
    assert [phase.optimiser.name for phase in config.training.phases] == ["rmsprop", "adagrad"]
    said = comments_of(found[0][1])
    assert 'NOT READ: line 13: loader->AddVariable("Sum$(jet_pt)");' in said
    assert "NOT READ: line 33: an option that is not put together of literals: Architecture=..." in said


def test_several_classes_and_chains_are_read(configs_of):
    found = macro("multiclass.C")
    (config,) = configs_of(found).values()
    assert found[0][0] == "three_ways_1"
    classes = config.data.classes
    assert list(classes) == ["ttbar", "qcd", "other"]
    assert classes["ttbar"].files == ("ttbar_1.root", "ttbar_2.root")
    assert (classes["qcd"].files, classes["qcd"].treename) == (("qcd.root",), "events")
    assert classes["qcd"].selection == "(n_jets >= 2) and (!(pt > 20) || eta < 2)"
    assert classes["ttbar"].weights == "weight"
    assert config.data.steps == ("jet*",)
    assert config.network.head.output == "softmax"
    said = comments_of(found[0][1])
    assert 'NOT READ: line 13: loader.AddTree((TTree*)other->Get("events"), "other");' in said


def test_a_macro_without_a_network_says_what_it_has():
    with pytest.raises(ConfigError, match=r"^no_network\.C: no booking .* booked in it are BDT, MLP$"):
        macro("no_network.C")
    with pytest.raises(ConfigError, match="books no method at all"):
        convert_macro("int x = 3;", "m.C")


def test_a_converted_macro_reads_events_and_makes_a_network(tmp_path):
    rng = np.random.default_rng(5)
    with uproot.recreate(tmp_path / "time_data_t10_d30.root") as file:
        for tree, n in (("sgn", 7), ("bkg", 9)):
            file[tree] = {f"vars_time{i}": rng.normal(size=(n, 30)).astype(np.float32) for i in range(10)}
    (tmp_path / "lstm.yaml").write_text(macro("sequences.C")[1][1], encoding="utf-8")
    config = load_config(tmp_path / "lstm.yaml")
    events = read(config.data, config.sequence, base=config.base)
    assert events.values.shape == (160, 30)
    assert sorted(events.weights.tolist()) == [1.0] * 7 + [2.0] * 9
    torch.manual_seed(0)
    scores = logits(Network(config.network, 30, 2), events)
    assert scores.shape == (16, 2)
    assert scores.isfinite().all()


# -- parts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        'TFile f("a.root"); loader->AddSignalTree((TTree*)f.Get("t"));',
        'TFile *f = new TFile("a.root"); auto t = f->Get<TTree>("t"); loader->AddSignalTree(t);',
        'auto f = TFile::Open("a" ".root"); TTree *t; f->GetObject("t", t); loader->AddSignalTree(t);',
        'std::string n = "a"; n += ".root"; TFile f(n.c_str()); loader->AddSignalTree((TTree*)f.Get("t"));',
        'TChain c("t"); c.Add(TString("a") + ".root"); loader->AddSignalTree(&c, 1.);',
        'TString n; n = Form("%s.%s", "a", "root"); TFile f{n}; loader->AddSignalTree((TTree*)f.Get("t"));',
    ],
)
def test_files_and_trees_are_found_however_they_are_opened(configs_of, lines):
    source = data_of(configs_of, lines).classes["Signal"]
    assert (source.files, source.treename) == (("a.root",), "t")


@pytest.mark.parametrize(
    ("lines", "steps"),
    [
        ('for (int i = 0; i < 3; ++i) loader->AddVariablesArray(Form("v%d", i), 2);', ("v*",)),
        (
            'for (int i = 1; i <= 2; i++) { loader->AddVariablesArray(TString::Format("v%d", i), 2); }',
            ("v1", "v2"),
        ),
        (
            'int n = 2; for (int i = 0; i < n * 1; i++) loader->AddVariable("x" + std::to_string(i));',
            ("x0", "x1"),
        ),
        ('for (auto v : {"a", "b"}) loader->AddVariable(v);', ("a", "b")),
        (
            'std::vector<TString> vs = {"a", "b"}; for (const auto &v : vs) { loader->AddVariable(v, "F"); }',
            ("a", "b"),
        ),
        (
            'const char *vs[2] = {"p", "q"}; for (int i = 0; i < 2; ++i) loader->AddVariable(vs[i]);',
            ("p", "q"),
        ),
        ('if (false) loader->AddVariable("a"); else loader->AddVariable("b");', ("b",)),
        ('bool on = true; if (!on) { loader->AddVariable("a"); } loader->AddVariable("b");', ("b",)),
        ('if (asked()) loader->AddVariable("a"); else loader->AddVariable("b");', ("a", "b")),
    ],
)
def test_variables_in_loops_and_conditions_are_read(configs_of, lines, steps):
    assert data_of(configs_of, lines).steps == steps


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("loader->AddVariable(names[i]);", "NOT READ: line 1: loader->AddVariable(names[i]);"),
        ('for (int i = 0; i < n(); ++i) loader->AddVariable(Form("v%d", i));', "NOT READ: line 1"),
        ("loader->AddSignalTree(tree_of(file));", "NOT READ: line 1: loader->AddSignalTree"),
        ("loader->AddSignalTree(t, scale());", "NOT READ: line 1"),
        ("loader->SetSignalWeightExpression(w);", "NOT READ: line 1: loader->SetSignalWeightExpression(w);"),
        ('loader->AddTarget("mass");', "a target is for regression"),
        ('loader->PrepareTrainingAndTestTree("x[0] > 1", "V");', "the cut 'x[0] > 1'"),
        ('loader->PrepareTrainingAndTestTree("", "V:SplitSeed=" + seed());', "the option SplitSeed=..."),
        ('loader->PrepareTrainingAndTestTree("", 1000, 1000);', "write nTrain_Signal=... and so on"),
        ('loader->AddSignalTree(t, 1.0, "Training");', "a tree for training or test alone"),
    ],
)
def test_what_is_not_read_is_named_with_its_line(line, said):
    assert said in comments_of(text_of(line + "\n"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("options_of(1)", "m.C:1: 'net': its options are not put together of literals alone"),
        (
            'TString("Layout=LSTM|") + n() + "|3|5,LINEAR"',
            "a part of its options cannot be read: 'Layout=LSTM|...|3|5,LINEAR'",
        ),
        ('"Layout=LSTM|4|3|5|0|1,LINEAR"', "m.C:1: 'net': Layout, column 8"),
        ('"Layout=LINEAR:TrainingStrategy=MaxEpoch=20"', "nearest: 'MaxEpochs'"),
    ],
)
def test_options_that_cannot_be_read_are_an_error_with_the_line(options, message):
    with pytest.raises(ConfigError) as caught:
        convert_macro(f'factory->BookMethod(loader, TMVA::Types::kDL, "net", {options});', "m.C")
    assert message in str(caught.value)


def test_a_mistake_in_the_split_is_an_error_with_the_line():
    with pytest.raises(ConfigError, match=r"^m\.C: line 1: PrepareTrainingAndTestTree: SplitMode, column 11"):
        text_of('loader->PrepareTrainingAndTestTree("", "SplitMode=Ramdom");\n')


def test_parameters_and_files_of_a_python_function_are_read(configs_of):
    script = """
def main(n=5, w=0.5):
    loader = TMVA.DataLoader("d")
    with ROOT.TFile.Open("a.root") as f:
        loader.AddSignalTree(f.Get("s"), w)
        loader.AddBackgroundTree(f["b"])
        for v in ["x", "y"]:
            loader.AddVariablesArray(v, n)
    options = ":".join(["!H", "Layout=LSTM|4|%d|2|0|0,LINEAR" % n])
    factory.BookMethod(loader, TMVA.Types.kDL, "net", options)
"""
    (config,) = configs_of(convert_macro(script, "m.py")).values()
    assert (config.data.files, config.data.steps) == (("a.root",), ("x", "y"))
    assert config.data.classes["Signal"].weights == "0.5"
    assert [source.treename for source in config.data.classes.values()] == ["b", "s"]


def test_each_loader_has_its_own_variables():
    lines = (
        'a->AddVariablesArray("one", 3); b->AddVariablesArray("two", 3);\n'
        'factory->BookMethod(a, TMVA::Types::kDL, "net", "Layout=LSTM|4|3|1|0|0,LINEAR");\n'
        'factory->BookMethod(b, TMVA::Types::kDL, "net", "Layout=LSTM|4|3|1|0|0,LINEAR");\n'
    )
    (first, one), (second, two) = convert_macro(lines, "m.C")
    assert (first, second) == ("net", "net_2")
    assert "- one" in one
    assert "- two" in two


def test_arrays_that_the_network_does_not_read_are_named():
    text = text_of('for (int i = 0; i < 4; ++i) loader->AddVariablesArray(Form("v%d", i), 7);\n')
    assert "FILL IN: there are 4 arrays (of 7); the network reads 5 steps of 3" in comments_of(text)
    text = text_of('for (int i = 0; i < 15; ++i) loader->AddVariable(Form("v%d", i));\n')
    assert "TMVA cuts 15 variables into 5 steps of 3" in comments_of(text)


def test_the_name_of_a_booking_is_fit_for_a_file():
    lines = BOOK.replace('"net"', '"../../etc/net"')
    ((name, _),) = convert_macro(lines, "m.C")
    assert "/" not in name
    assert not name.startswith(".")


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("pt > 20 && abs(eta) < 2.5", "pt > 20 && abs(eta) < 2.5"),
        ("TMath::Max(a, b)^2", "maximum(a, b)**2"),
        ("fabs(x) > TMath::Pi()", "abs(x) > pi"),
        ("!(a > 1)", "!(a > 1)"),
        ("!flag && a > 1", "!flag && a > 1"),
        ("jet.pt > 1", "jet.pt > 1"),
        ("!a == b", None),
        ("1 < a < 3", None),
        ("(a > 1) == (b > 1)", None),
        ("Sum$(x)", None),
        ("x[2] > 1", None),
        ("a & 4", None),
        ("pow(a, 2)", None),
        ("a > ", None),
    ],
)
def test_formulas_are_translated_where_they_mean_the_same(formula, expected):
    assert translated(formula) == expected


# -- any text ------------------------------------------------------------------------------------------------

_WORDS = (
    'for ( ) { } [ ] ; : , = += + - * / ? < int i 0 10 ++ if else "a" "%d" \' // /* \n \t def while in range '
    'loader -> . AddVariable BookMethod TMVA::Types::kDL TFile::Open Form "Layout=LINEAR" return new ! # '
)


@given(st.lists(st.sampled_from([*_WORDS.split(" "), " "]), max_size=80).map(" ".join), st.booleans())
@example("for (;;) " * 10, False)
@example("for x in\n  if", True)
@settings(deadline=None, max_examples=300)
def test_any_text_gives_configs_or_an_error_of_one_line(text, python):
    try:
        found = convert_macro(text, "m.py" if python else "m.C")
    except ConfigError as error:
        message = str(error)
    else:
        message = "" if all(isinstance(t, str) for _, t in found) else "no text"
    assert "\n" not in message
    assert message != "no text"


@pytest.mark.parametrize(
    "text",
    [
        "(" * 50_000,
        "{" * 50_000,
        "if (x) " * 20_000,
        '"' * 50_000,
        "/*" * 50_000,
        "x = " + "1 + " * 50_000,
        "x = " + "(TTree*)" * 50_000 + "y;",
        "x = " + "new " * 50_000,
        "x = " + "-" * 50_000,
        "x = " + "f(" * 100_000,
        'TString s("abc");' + "s += s;" * 5000,
        "for (int i = 0; i < 1000; ++i) " * 8 + "x = 1;",
        "for (int i = 0; i < 1000; ++i) { " * 8 + 'loader->AddVariable("x");' + "}" * 8,
        'x = Form("%' + "9" * 50_000 + 'd", 1);',
        "x" * 1_000_001,
        "\n".join(" " * k + "if x:" for k in range(400)),
        "AddVariable(" * 20_000,
    ],
)
@pytest.mark.parametrize("name", ["m.C", "m.py"])
def test_hostile_macros_are_refused(text, name):
    with pytest.raises(ConfigError):
        convert_macro(text, name)
