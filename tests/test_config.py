"""The config: what is given is kept, what cannot be is refused in one line that says where and what can."""

from __future__ import annotations

from pathlib import Path

import pytest

from timelike.config import (
    AdamConfig,
    Config,
    CosineSchedule,
    PlateauSchedule,
    RMSpropConfig,
    SGDConfig,
    load_config,
)
from timelike.errors import ConfigError
from timelike.yamlfile import read_yaml, write_yaml

DATA = """\
data:
  files: jets.root
  variables: [part_pt, part_eta]
  labels: {qcd: "label == 0", top: "label == 1"}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "jets.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, DATA))
    assert config.data.files == ("jets.root",)
    assert config.data.class_names == ("qcd", "top")
    assert config.data.signal_name == "top"
    assert config.data.transforms_of("part_pt") == [("standardise", {})]
    assert config.training.optimiser == AdamConfig()
    assert config.base == tmp_path
    assert config.run_folder == tmp_path / "runs" / "timelike"


def test_every_section_is_read(tmp_path: Path) -> None:
    config = load_config(
        written(
            tmp_path,
            """\
data:
  files: [a.root, b/*.root]
  format: root
  treename: jets
  selection: "(jet_pt > 550) & (num(part_pt) >= 2)"
  new_variables: {part_logpt: "log(part_pt)"}
  steps: vars_time*
  classes:
    background: {treename: bkg, weights: w}
    signal: {treename: sgn, files: s.root, selection: "x > 0"}
  signal: background
  weights: weight
  event_number: eventNumber
  observers: [jet_pt]
  transforms: {default: none, vars0: standardise}
sequence: {sort_by: part_pt, order: ascending, keep_last: 40, direction: backward}
split:
  by: event_number
  modulo: 4
  remainders: {train: [0, 1], validation: [2], test: [3]}
network:
  recurrent:
    - {cell: lstm, units: 16, bidirectional: true}
    - {units: 8}
    - {cell: gru, units: 4, reset_after: false}
    - {cell: rnn_relu}
  dropout: 0.1
  pooling: mean
  head: {units: [], activation: tanh, dropout: 0.2}
training:
  loss: cross_entropy
  optimiser: {name: adamw, learning_rate: 1e-3, weight_decay: 1}
  schedule: {name: cosine, final: 0.1}
  epochs: 3
  batch_size: 7
  early_stopping: null
  clip_norm: null
  class_balance: false
  dtype: float64
  seed: 5
  threads: 1
evaluation: {bootstrap: 10, seed: 3}
output: ../out
""",
        )
    )
    assert config.data.steps == ("vars_time*",)
    assert config.data.classes["signal"].files == ("s.root",)
    assert config.data.signal_name == "background"
    assert config.data.transforms_of("anything") == [("none", {})]
    assert config.sequence.keep_last == 40
    assert config.split.remainders.test == (3,)
    assert [layer.summary for layer in config.network.recurrent] == [
        "lstm 16 bidirectional",
        "lstm 8",
        "gru 4 reset_after false",
        "rnn_relu 32",
    ]
    assert config.network.head.units == ()
    assert config.training.optimiser == AdamConfig(name="adamw", learning_rate=1e-3, weight_decay=1.0)
    assert config.training.schedule == CosineSchedule(name="cosine", final=0.1)
    assert config.training.early_stopping is None
    assert config.training.clip_norm is None
    assert config.run_folder == tmp_path.parent / "out"


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("{name: sgd, momentum: 0.5}", SGDConfig),
        ("{name: rmsprop}", RMSpropConfig),
        ("{learning_rate: 2e-3}", AdamConfig),
    ],
)
def test_an_optimiser_is_chosen_by_its_name(tmp_path: Path, given: str, kind: type) -> None:
    config = load_config(written(tmp_path, f"{DATA}training: {{optimiser: {given}}}\n"))
    assert type(config.training.optimiser) is kind


@pytest.mark.parametrize("split", ["{by: event_number, modulo: 20}", "{seed: 3}"])
def test_the_written_config_says_the_same_from_another_folder(tmp_path: Path, split: str) -> None:
    extra = "training: {schedule: {name: plateau}, clip_norm: null, early_stopping: null}\noutput: runs/a\n"
    extra += f"split: {split}\n"
    config = load_config(written(tmp_path, DATA + extra), overrides={"training.epochs": 2})
    folder = config.run_folder
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config.written_for(folder), encoding="utf-8")
    again = load_config(folder / "config.yaml")
    assert again.run_folder.resolve() == folder.resolve()
    assert (again.base / again.data.files[0]).resolve() == tmp_path / "jets.root"
    assert again.training == config.training
    assert again.training.epochs == 2
    assert isinstance(again.training.schedule, PlateauSchedule)
    for section in ("sequence", "split", "network", "evaluation"):
        assert getattr(again, section) == getattr(config, section)
    assert again.data.model_copy(update={"files": ()}) == config.data.model_copy(update={"files": ()})


def test_phases_name_what_changes(tmp_path: Path) -> None:
    extra = "training: {epochs: 3, clip_norm: 2.0, early_stopping: {every: 7}, "
    extra += "then: [{epochs: 5}, {clip_norm: null}]}"
    config = load_config(written(tmp_path, f"{DATA}{extra}\n"))
    first, second, third = config.training.phases
    assert (first.epochs, second.epochs, third.epochs) == (3, 5, 3)
    assert (first.clip_norm, second.clip_norm, third.clip_norm) == (2.0, 2.0, None)
    assert second.early_stopping.every == 7
    (tmp_path / "again.yaml").write_text(config.written_for(tmp_path), encoding="utf-8")
    assert load_config(tmp_path / "again.yaml").training.phases == config.training.phases


def test_a_sigmoid_is_for_two_classes(tmp_path: Path) -> None:
    three = DATA.replace("top:", 'w: "label == 2", top:')
    path = written(tmp_path, f"{three}network: {{head: {{output: sigmoid}}}}\n")
    check_refused(path, "network.head.output: sigmoid is for two classes; there are 3")


def test_absolute_paths_stay(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, DATA.replace("jets.root", "/data/jets.root")))
    assert "- /data/jets.root" in config.written_for(tmp_path / "elsewhere")


# Text below DATA, or in its place, and what the error says after the file's name.
BELOW_DATA = {
    "seed beyond torch's": (
        "training: {seed: 9223372036854775808}",
        "it must be less than 9223372036854775808",
    ),
    "null character": ('output: "a\\0b"', "output: given text with a null character"),
    "misspelt key": ("  variabels: [a]", ":5: data.variabels: unknown key; nearest: 'variables'"),
    "misspelt section": ("trainin: {}", ":5: trainin: unknown key; nearest: 'training'"),
    "misspelt in list": (
        "network: {recurrent: [{unit: 3}]}",
        "network.recurrent.0.unit: unknown key; nearest: 'units'",
    ),
    "misspelt in class": (
        "  classes: {a: {fils: b}}",
        ":5: data.classes.a.fils: unknown key; nearest: 'files'",
    ),
    "misspelt in choice": (
        "training: {schedule: {name: plateau, factr: 1}}",
        "training.schedule.factr: unknown key; nearest: 'factor'",
    ),
    "key of another choice": (
        "training: {optimiser: {name: adam, momentum: 1}}",
        "training.optimiser.momentum: unknown key; known: 'learning_rate'",
    ),
    "unknown choice": (
        "training: {optimiser: {name: adm}}",
        "training.optimiser.name: given 'adm'; nearest: 'adam'",
    ),
    "unknown word": (
        "sequence: {order: down}",
        "sequence.order: given 'down'; known: 'ascending', 'descending'",
    ),
    "number for text": ("  treename: 5", ":5: data.treename: given 5; text is needed"),
    "text for number": (
        "training: {epochs: many}",
        "training.epochs: given 'many'; a whole number is needed",
    ),
    "fraction of epochs": ("training: {epochs: 2.5}", "training.epochs: given 2.5; a whole number is needed"),
    "yes for true": ("training: {class_balance: yes}", "given 'yes'; true or false or 'number' is needed"),
    "unknown cell": (
        "network: {recurrent: [{cell: gruu}]}",
        "network.recurrent.0.cell: given 'gruu'; nearest: 'gru'",
    ),
    "option of another cell": (
        "network: {recurrent: [{units: 3}, {cell: gru, peephole: true}]}",
        "network.recurrent.1.peephole: unknown key; known: 'units', 'bidirectional', 'cell', 'reset_after'",
    ),
    "option of the cell by default": (
        "network: {recurrent: [{peepholes: true}]}",
        "network.recurrent.0.peepholes: unknown key; nearest: 'peephole'",
    ),
    "two variants of a cell": (
        "network: {recurrent: [{peephole: true, coupled: true}]}",
        "network.recurrent.0: given peephole and coupled; at most one of them is possible",
    ),
    "projection to more": (
        "network: {recurrent: [{units: 8, projection: 8}]}",
        "network.recurrent.0: given a projection of 8 units to 8; it must be to fewer",
    ),
    "projection below zero": (
        "network: {recurrent: [{projection: -1}]}",
        "network.recurrent.0.projection: given -1; it must be greater than or equal to 0",
    ),
    "mapping for list": (
        "network: {recurrent: {units: 3}}",
        'network.recurrent: given {"units": 3}; a list is needed',
    ),
    "value for mapping": ("network: 3", "network: given 3; a mapping of keys to values is needed"),
    "batch size of 0": (
        "training: {batch_size: 0}",
        "training.batch_size: given 0; it must be greater than 0",
    ),
    "not finite": (
        "training: {clip_norm: .inf}",
        "training.clip_norm: given Infinity; a finite number is needed",
    ),
    "no layers": (
        "network: {recurrent: []}",
        "network: without recurrent layers there is no last state; pooling: mean, max or flatten",
    ),
    "empty text": ("output: ''", "output: given ''; it must have at least 1 character"),
    "both ends": (
        "sequence: {keep_first: 1, keep_last: 1}",
        "sequence: give either 'keep_first' or 'keep_last'",
    ),
    "fractions": (
        "split: {fractions: {train: 0.5}}",
        "split.fractions: train, validation and test sum to 0.8",
    ),
    "order of nothing": ("sequence: {order: ascending}", "sequence: order: ascending has no meaning without"),
    "counts by number": (
        "split: {by: event_number, counts: {train: {qcd: 3}}}",
        "split: 'counts' has no meaning with by: event_number",
    ),
    "fractions in turn": (
        "split: {by: block, fractions: {train: 0.5, test: 0.4}}",
        "split: 'fractions' has no meaning with by: block",
    ),
    "counts of nothing": (
        "split: {counts: {train: {tpo: 3}}}",
        "split.counts.train: 'tpo' is not a class; nearest: 'top'",
    ),
    "two ways of shares": (
        "split: {fractions: {train: 0.5, test: 0.4}, counts: {test: {top: 1}}}",
        "split: give either 'fractions' or 'counts', not both",
    ),
    "flat without steps": ("network: {pooling: flatten}", "network: pooling: flatten needs 'steps'"),
    "steps without flat": ("network: {steps: 3}", "network: 'steps' has no meaning with pooling: last"),
    "too few activations": (
        "network: {head: {units: [3, 4, 5], activation: [tanh, relu]}}",
        "network.head: 3 layers of units have 2 activations",
    ),
    "no such activation": ("network: {head: {activation: tahn}}", "network.head.activation: given 'tahn'"),
    "no such activation of one": (
        "network: {head: {units: [3], activation: [tahn]}}",
        "network.head.activation.0: given 'tahn'",
    ),
    "normalised beyond": (
        "network: {head: {units: [3], batch_norm: {before: [2]}}}",
        "network.head: batch_norm before dense layer 2: the layers are 0..1",
    ),
    "initialiser": ("network: {initialiser: xavir}", "network.initialiser: given 'xavir'"),
    "strength": (
        "training: {regularisation: {name: l2, strength: 0}}",
        "training.regularisation.strength: given 0; it must be greater than 0",
    ),
    "phase": ("training: {then: [{epohcs: 2}]}", "training.then.0.epohcs: unknown key; nearest: 'epochs'"),
    "phase without epochs": ("training: {then: [{epochs: null}]}", "training.then.0.epochs: given null"),
    "balance": ("training: {class_balance: equal}", "training.class_balance: given 'equal'"),
    "forgotten by": ("split: {modulo: 20}", "split: 'modulo' has no meaning with by: random"),
    "two ways of splitting": (
        "split: {by: event_number, fractions: {train: 0.5, test: 0.4}}",
        "split: 'fractions' has no meaning with by: event_number",
    ),
    "remainder": ("split: {by: event_number, modulo: 9}", "split: remainder 9 cannot occur modulo 9"),
    "remainder twice": (
        "split: {by: event_number, remainders: {train: [0, 7]}}",
        "split: remainder 7 is given twice",
    ),
    "transform of nothing": (
        "  transforms: {part_et: none}",
        "transform of 'part_et', which is not among the var",
    ),
    "clip": (
        "  transforms: {part_pt: [log, {name: clip, low: 2, high: 1}]}",
        "clip from 2 to 1: the first must be smaller",
    ),
    "no such transform": ("  transforms: {part_pt: logg}", "part_pt: given 'logg'; nearest: 'log'"),
    "no such transform of several": (
        "  transforms: {part_pt: [log, stand]}",
        "data.transforms.part_pt.1: given 'stand'",
    ),
    "missing of nothing": ("  missing: {part_et: fill}", "missing: 'part_et' is not among the variables"),
    "mix": ("  mix: pcb", "data.mix: given 'pcb'"),
    "signal": ("  signal: tpo", "signal 'tpo' is not a class; nearest: 'top'"),
    "two ways of steps": ("  steps: x*", "give either 'variables' (inputs of each step) or 'steps'"),
    "two ways of labels": (
        "  classes: {a: {files: b}}",
        "give either 'labels' (an expression per class) or 'classes'",
    ),
    "nesterov": (
        "training: {optimiser: {name: sgd, momentum: 0.0, nesterov: true}}",
        "training.optimiser: nesterov needs a momentum above 0",
    ),
    "key twice": ("output: a\noutput: b", ":6: output: given twice, first on line 5"),
    "list as key": ("[1]: 2", ":5: a list as a key; a key is text"),
    "object": ("output: !!python/name:os.system", "has no meaning in a config"),
    "circle": ("output: &a [*a]", ":5: an alias that contains itself"),
    "several": ("a: 1\nb: 2\nc: 3", "a: unknown key"),
}
WHOLE = {
    "empty": ("", ": empty; a config with at least 'data' is needed"),
    "list": ("- a", ": holds a list; a mapping of keys to values is needed"),
    "no data": ("output: a", ": data: this key is needed"),
    "broken": ("data: [a\nb: c", ":2:2: not valid YAML: expected ',' or ']', but got ':'"),
    "tab": ("data:\n\tfiles: a", ":2:1: not valid YAML: found character '\\t' that cannot start any token"),
    "one class": (
        "data: {files: a, variables: [b], labels: {c: d}}",
        "data: one class only ('c'); a classification needs two or more",
    ),
    "no files": ('data: {variables: [a], labels: {b: "0", c: "1"}}', "data: 'files' is needed"),
    "no files of class": (
        "data: {variables: [a], classes: {b: {files: x}, c: {}}}",
        "data: 'files' is needed for class 'c'",
    ),
    "variable twice": (
        'data: {files: a, variables: [a, b, a], labels: {b: "0", c: "1"}}',
        "data: variable 'a' is given twice",
    ),
    "number in list": ("data: {files: [a, 7], variables: [b]}", "data.files.1: given 7; text is needed"),
}


@pytest.mark.parametrize(("text", "said"), BELOW_DATA.values(), ids=BELOW_DATA)
def test_what_cannot_be_is_refused(tmp_path: Path, text: str, said: str) -> None:
    check_refused(written(tmp_path, f"{DATA}{text}\n"), said)


@pytest.mark.parametrize(("text", "said"), WHOLE.values(), ids=WHOLE)
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str, said: str) -> None:
    check_refused(written(tmp_path, text), said)


def test_a_bad_entry_of_a_list_is_one_mistake(tmp_path: Path) -> None:
    path = written(tmp_path, f"{DATA}network: {{recurrent: [{{units: 0}}]}}\n")
    with pytest.raises(ConfigError, match=r"units: given 0; it must be greater than 0$"):
        load_config(path)


def test_a_number_where_files_belong(tmp_path: Path) -> None:
    path = written(tmp_path, DATA.replace("files: jets.root", "files: 3"))
    with pytest.raises(ConfigError, match=r":\d+: data\.files: given 3; text or a list of texts is needed$"):
        load_config(path)


def check_refused(path: Path, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert said in message
    assert "\n" not in message


def test_several_errors_are_counted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"jets\.yaml:5: a: unknown key; .* \(and 1 more\)$"):
        load_config(written(tmp_path, f"{DATA}a: 1\nb: 2\n"))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="is a directory"):
        load_config(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"data:\xff")
    with pytest.raises(ConfigError, match=r"not a text file in UTF-8 \(byte 5\)"):
        load_config(tmp_path / "binary.yaml")


def test_an_override_is_checked_as_the_file_is(tmp_path: Path) -> None:
    path = written(tmp_path, DATA)
    assert load_config(path, overrides={"output": "b"}).output == "b"
    with pytest.raises(ConfigError, match=r"training\.epoch: unknown key; nearest: 'epochs'"):
        load_config(path, overrides={"training.epoch": 3})
    with pytest.raises(ConfigError, match=r"data\.files\.x: 'files' is neither a mapping nor a list"):
        load_config(path, overrides={"data.files.x": 3})


def test_an_override_fills_what_is_null(tmp_path: Path) -> None:
    path = written(tmp_path, f"{DATA}training: {{early_stopping: null}}\n")
    assert load_config(path).training.early_stopping is None
    stopping = load_config(path, overrides={"training.early_stopping.patience": 7}).training.early_stopping
    assert stopping is not None
    assert stopping.patience == 7


def test_a_mapping_is_checked_without_a_file() -> None:
    with pytest.raises(ConfigError, match=r"^config: data: this key is needed$"):
        Config.from_dict({})


def test_a_path_is_good_for_text_and_other_objects_are_refused() -> None:
    data = {"files": Path("a.root"), "variables": ["x"], "labels": {"b": "y == 0", "s": "y == 1"}}
    assert Config.from_dict({"data": data}).data.files == ("a.root",)
    assert Config.from_dict({"data": {**data, "files": [Path("a.root")]}}).data.files == ("a.root",)
    with pytest.raises(ConfigError, match=r"^config: given 3j, a complex; text"):
        Config.from_dict({"data": data, "training": {"seed": 3j}})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("0x1F", 31),
        ("0o17", 15),
        ("012", 12),
        ("no", "no"),
        ("on", "on"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("12:30", "12:30"),
        ("'5'", "5"),
        ("true", True),
        ("~", None),
        ("", None),
    ],
)
def test_scalars_follow_yaml_1_2(tmp_path: Path, text: str, value: object) -> None:
    read = read_yaml(written(tmp_path, f"key: {text}\n")).values["key"]
    assert read == value
    assert type(read) is type(value)


def test_keys_are_text(tmp_path: Path) -> None:
    assert read_yaml(written(tmp_path, "0: a\nno: b\n")).values == {"0": "a", "no": "b"}


@pytest.mark.parametrize(
    "text",
    [
        *("1e-3", "1e5", "1e400", ".5", "1.", "0x1F", "0o17", "012", ".nan", "-.inf", "1_000", "12:30"),
        *("no", "on", "true", "~", "null", "", "2024-01-01", "<<", "=", "#", "-", "é", "'", " a", "a\nb"),
        *("a: b", "- a", "a # b", "!x", "&a", "*a", "a" * 200 + " + " + "b" * 200),
    ],
)
def test_text_stays_text_when_it_is_written_and_read(tmp_path: Path, text: str) -> None:
    values = {"key": text, "list": [text], text: "key"}
    assert read_yaml(written(tmp_path, write_yaml(values))).values == values
