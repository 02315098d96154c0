"""Watching a training: the same weights with it, the numbers of the very step, kept whatever happens."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import timelike
from test_trace import CELLS, Random, batch, made
from timelike.cli import main
from timelike.config import InspectConfig, load_config
from timelike.errors import ConfigError, DataError, MissingExtraError
from timelike.inspect import examine, gradient_flow
from timelike.inspect.runlog import EVENTS, INSPECTION, RunLog, read_looks
from timelike.inspect.watch import Look, TensorBoard, Watch
from timelike.inspect.watch_sections import (
    plot_flow_of_training,
    plot_saturation_of_training,
    watch_sections,
)
from timelike.nn import LSTM, Ragged
from timelike.runs import evaluate_run
from timelike.train import TrainingInterrupted, train

INSPECTED = "training: {inspect: {every: 4, tensorboard: true}, epochs: 3,"


def look_at(module: nn.Module, run, **how) -> Look:
    looks: list[Look] = []
    with Watch(module, to=[looks.append], **how).step():
        run()
    return looks[0]


@pytest.fixture
def watched_config(toy_config):
    toy_config.write_text(toy_config.read_text().replace("training: {epochs: 3,", INSPECTED))
    return toy_config


# What a look says


@pytest.mark.parametrize("cell", CELLS)
def test_a_look_says_of_the_step_what_a_trace_of_it_says(cell):
    layer, loss = made(cell, num_layers=2, bidirectional=True), Random()
    look = look_at(layer, lambda: loss(layer(batch())).backward())
    found = timelike.trace(layer, batch(), loss=Random())
    assert [seen.layer for seen in look.layers] == [
        f":{number} {direction}" for number in (0, 1) for direction in ("forward", "reverse")
    ]
    for seen, layer_trace in zip(look.layers, found.layers, strict=True):
        flow, examined = gradient_flow(layer_trace), examine(layer_trace, probes=16)
        assert seen.distance == tuple(range(9))
        assert seen.dh == tuple(flow.dh)
        assert seen.dc == (None if flow.dc is None else tuple(flow.dc))
        assert seen.horizon == examined.memory.horizon
        assert seen.length == 5  # the median of 5, 9 and 4
        assert seen.findings == examined.findings
        assert (seen.low, seen.high) == (examined.saturation.low, examined.saturation.high)
        for name, weight in layer_trace.weights.items():
            assert seen.weights[name] == np.linalg.norm(weight)
            assert seen.gradients[f"d{name}"] == np.linalg.norm(layer_trace.dweights[name])
        for letter, counts in seen.gates.items():
            values = layer_trace.gates[letter]
            assert sum(counts) == values.size
            low = -1.0 if letter in "gnh" else 0.0
            assert (
                counts[7]
                == ((values >= low + 7 * (1 - low) / 20) & (values < low + 8 * (1 - low) / 20)).sum()
            )


def test_the_gradients_of_a_step_are_the_same_bits_with_a_look():
    plain, watched = (made("lstm", torch.float32, bidirectional=True) for _ in range(2))
    Random()(plain(batch(torch.float32))).backward()
    look_at(watched, lambda: Random()(watched(batch(torch.float32))).backward())
    for p, w in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(p.grad, w.grad)


def test_long_sequences_are_kept_at_64_distances():
    layer = LSTM(2, 3)
    look = look_at(layer, lambda: layer(torch.randn(1000, 1, 2))[0].sum().backward())
    (seen,) = look.layers
    assert len(seen.distance) == 64
    assert (seen.distance[0], seen.distance[-1]) == (0, 999)
    assert len(set(np.diff(seen.distance))) <= 2  # 15 and 16


def test_every_so_many_steps_are_looked_at_from_the_first():
    layer, steps = LSTM(2, 3), []
    watch = Watch(layer, every=3, to=[lambda look: steps.append(look.step)])
    for _ in range(8):
        with watch.step():
            layer(torch.randn(4, 1, 2))[0].sum().backward()
    assert steps == [1, 4, 7]
    assert watch.steps == 8


def test_a_batch_without_steps_is_looked_at_in_vain():
    layer = LSTM(2, 3)
    empty = Ragged(torch.zeros(0, 2), torch.tensor([0, 0]))
    look = look_at(layer, lambda: layer(empty)[1][0].sum().backward())
    assert look.layers == ()
    assert watch_sections([look]) == []


def test_single_steps_have_nothing_to_remember():
    layer = LSTM(2, 3)
    look = look_at(layer, lambda: layer(torch.randn(1, 4, 2))[0].sum().backward())
    (seen,) = look.layers
    assert seen.horizon is None
    assert seen.length == 0
    assert len(watch_sections([look])) == 1


def test_what_is_not_finite_is_found_and_kept(tmp_path):
    layer = LSTM(2, 3)
    with torch.no_grad():
        layer.weight_hh_l0[0, 0] = math.nan
    look = look_at(layer, lambda: layer(torch.randn(4, 1, 2))[0].sum().backward())
    assert [finding.kind for finding in look.findings] == ["overflow"]
    again = Look.from_dict(json.loads(json.dumps(look.to_dict(), allow_nan=False)))
    assert repr(again) == repr(look)  # nan is not equal to itself
    events = TensorBoard(tmp_path)
    events(look)
    events.close()
    assert len(watch_sections([look, replace(look, step=2)])[0].figures) == 2


def test_a_look_survives_json():
    layer = made("lstm", num_layers=2)
    with torch.no_grad():
        layer.weight_hh_l0 *= 0.0
        layer.bias_ih_l0[6:12] = 20.0  # the forget gate stays open: the memory has no end
        layer.bias_ih_l0[18:] = 20.0  # the output gate too: it is saturated
    look = look_at(layer, lambda: Random()(layer(batch())).backward())
    assert look.layers[0].horizon == math.inf
    assert look.findings
    assert Look.from_dict(json.loads(json.dumps(look.to_dict(), allow_nan=False))) == look


@pytest.mark.parametrize("values", [{}, [], {"step": 1, "layers": [{}]}, {"step": "x", "layers": []}])
def test_something_else_is_no_look(values):
    with pytest.raises(DataError, match="not a look into a training"):
        Look.from_dict(values)


def test_watching_what_cannot_be_watched_says_so():
    for how in ({"every": 0}, {"sequences": 0}):
        with pytest.raises(ConfigError, match="0; 1 at least is needed"):
            Watch(LSTM(2, 3), **how)
    dense, layer = nn.Linear(2, 1), LSTM(2, 3)
    with pytest.raises(ConfigError, match=r"Linear: no layer of timelike\.nn ran forward and backward"):
        look_at(dense, lambda: dense(torch.randn(3, 2)).sum().backward())
    with pytest.raises(ConfigError, match=r"LSTM: no layer of timelike\.nn ran forward and backward"):
        look_at(layer, lambda: layer(torch.randn(3, 1, 2)))
    with pytest.raises(ZeroDivisionError):
        look_at(layer, lambda: 1 / 0)


# In the folder of a run


def test_a_training_ends_with_the_same_weights_whether_watched_or_not(toy_config):
    plain = train(toy_config)
    toy_config.write_text(toy_config.read_text().replace("training: {epochs: 3,", INSPECTED))
    watched = train(toy_config)
    assert (toy_config.parent / "run" / INSPECTION).is_file()
    for p, w in zip(plain.model.network.parameters(), watched.model.network.parameters(), strict=True):
        assert torch.equal(p, w)
    losses = [[(e.train_loss, e.validation_loss) for e in result.history] for result in (plain, watched)]
    assert losses[0] == losses[1]


def test_looks_and_epochs_are_in_the_run_and_in_tensorboard(watched_config):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(watched_config)
    looks = read_looks(result.folder)
    batches = 33  # three epochs of 168 events or so in batches of 16 at most
    assert [look.step for look in looks] == list(range(1, batches + 1, 4))
    events = EventAccumulator(str(result.folder / EVENTS), size_guidance={"histograms": 0})
    events.Reload()

    def curve(tag):
        return [(event.step, event.value) for event in events.Scalars(tag)]

    def expected(value):
        return [(look.step, pytest.approx(value(look.layers[0]), rel=1e-6)) for look in looks]

    layer = "recurrent.0 forward"
    assert curve(f"{layer}/gradient/of h, at the last step") == expected(lambda seen: seen.dh[0])
    assert curve(f"{layer}/gradient/of c, at the first step") == expected(lambda seen: seen.dc[-1])
    assert curve(f"{layer}/saturated/f") == expected(lambda seen: seen.low["f"] + seen.high["f"])
    assert curve(f"{layer}/memory/horizon") == expected(lambda seen: min(seen.horizon, seen.length))
    assert curve(f"{layer}/norm/dU") == expected(lambda seen: seen.gradients["dU"])
    losses = [pytest.approx(epoch.validation_loss, rel=1e-6) for epoch in result.history]
    assert curve("epoch/validation_loss") == [(11, losses[0]), (22, losses[1]), (33, losses[2])]
    for event, look in zip(events.Histograms(f"{layer}/gate f"), looks, strict=True):
        assert event.step == look.step
        filled = [count for count in event.histogram_value.bucket if count]
        assert filled == [count for count in look.layers[0].gates["f"] if count]


def test_a_later_training_leaves_nothing_of_an_earlier_one(watched_config):
    folder = train(watched_config).folder
    first = list((folder / EVENTS).iterdir())
    assert len(first) == 1
    watched_config.write_text(watched_config.read_text().replace(", tensorboard: true", ""))
    train(watched_config)
    assert list((folder / EVENTS).iterdir()) == []
    assert len(read_looks(folder)) == 9
    watched_config.write_text(watched_config.read_text().replace("inspect: {every: 4}, ", ""))
    train(watched_config)
    assert not (folder / INSPECTION).exists()
    assert read_looks(folder) == []


def test_an_interrupted_first_epoch_leaves_the_looks_of_the_run_before(watched_config, monkeypatch):
    folder = train(watched_config).folder
    before = (folder / INSPECTION).read_bytes()

    def interrupted(*_args, **_how):
        raise KeyboardInterrupt

    monkeypatch.setattr("timelike.validation.Judge.__call__", interrupted)
    with pytest.raises(TrainingInterrupted):
        train(watched_config)
    assert (folder / INSPECTION).read_bytes() == before


def test_looks_of_a_later_epoch_are_written_at_once(tmp_path):
    layer = LSTM(2, 3)
    log = RunLog(tmp_path, layer, InspectConfig(every=1))

    def step():
        with log.watch.step():
            layer(torch.randn(4, 1, 2))[0].sum().backward()

    step()
    assert not (tmp_path / INSPECTION).exists()
    log.begin()
    assert len(read_looks(tmp_path)) == 1
    step()
    assert [look.step for look in read_looks(tmp_path)] == [1, 2]
    log.close()


def test_half_a_line_of_a_killed_training_is_left_out_but_damage_is_named(tmp_path):
    layer = LSTM(2, 3)
    looks = [look_at(layer, lambda: layer(torch.randn(4, 1, 2))[0].sum().backward()) for _ in range(2)]
    lines = [json.dumps(look.to_dict()) for look in looks]
    path = tmp_path / INSPECTION
    path.write_text(f"{lines[0]}\n{lines[1][:100]}")
    assert read_looks(tmp_path) == looks[:1]
    path.write_text(f"{lines[0]}\n{lines[1][:100]}\n")
    with pytest.raises(DataError, match=f"{INSPECTION}:2: not a look into a training"):
        read_looks(tmp_path)
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(DataError, match="not UTF-8 text"):
        read_looks(tmp_path)


def test_a_file_that_cannot_be_written_is_a_clear_error(tmp_path):
    layer = LSTM(2, 3)
    log = RunLog(tmp_path / "gone", layer, InspectConfig(every=1))
    with log.watch.step():
        layer(torch.randn(4, 1, 2))[0].sum().backward()
    with pytest.raises(ConfigError, match=f"cannot write .*{INSPECTION}: No such file or directory"):
        log.begin()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot write to .*file"):
        TensorBoard(tmp_path / "file" / "events")


def test_tensorboard_that_is_missing_is_said_before_the_training(watched_config, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"needs tensorboard.*timelike\[inspect\]"):
        train(watched_config)
    assert not (watched_config.parent / "run").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{every: 0}", "training.inspect.every"),
        ("{evry: 5}", "nearest: 'every'"),
        ("{tensorboard: maybe}", "training.inspect.tensorboard"),
    ],
)
def test_a_wrong_config_is_one_line(watched_config, capsys, given, message):
    text = watched_config.read_text().replace("{every: 4, tensorboard: true}", given)
    watched_config.write_text(text)
    assert main(["train", str(watched_config)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err


def test_the_written_config_says_it_again(watched_config):
    folder = train(watched_config).folder
    assert load_config(folder / "config.yaml").training.inspect == InspectConfig(every=4, tensorboard=True)


# In the report


def test_the_report_tells_of_the_learning(watched_config):
    folder = train(watched_config).folder
    text = evaluate_run(folder).report.read_text(encoding="utf-8")
    assert "While it learned" in text
    assert "9 batches, from the first to number 33" in text
    assert (folder / "figures" / "watch-flow-1.png").is_file()
    assert (folder / "figures" / "watch-gates-1.png").is_file()


def test_a_report_says_when_something_was_found():
    layer = made("lstm")
    with torch.no_grad():
        layer.bias_ih_l0[6:12] = -9.0  # the forget gate is shut

    def looked(step):
        return replace(look_at(layer, lambda: Random()(layer(batch())).backward()), step=step)

    looks = [looked(1), looked(11)]
    with torch.no_grad():
        layer.bias_ih_l0[6:12] = 3.0
    looks.append(looked(21))
    facts = dict(watch_sections(looks)[0].facts)
    assert facts["forgets"].startswith(
        "in 2 of 3 looks, from batch 1 to 11, not later. layer 1: The forget gate"
    )


def test_figures_of_layers_that_are_not_there_say_which_are():
    layer = made("rnn_relu")
    look = look_at(layer, lambda: Random()(layer(batch())).backward())
    for plot in (plot_flow_of_training, plot_saturation_of_training):
        with pytest.raises(ConfigError, match="layer 'x': there is no such layer"):
            plot([look], "x")
        with pytest.raises(DataError, match="nothing to draw"):
            plot([], "x")
    assert len(watch_sections([look])[0].figures) == 1  # a rectifier has no ends


def test_the_flow_of_a_training_is_drawn_where_it_was_seen():
    layer = made("lstm")
    with torch.no_grad():
        layer.bias_ih_l0[6:12] = -1.0
    look = look_at(layer, lambda: Random()(layer(batch())).backward())
    ax = plot_flow_of_training([look, replace(look, step=11), replace(look, step=31)], "forward")
    mesh = ax.collections[0]
    assert mesh.get_coordinates()[0, :, 0].tolist() == [-4, 6, 21, 41]
    drawn = mesh.get_array().reshape(9, 3)
    assert np.array_equal(drawn, np.repeat(np.array(look.layers[0].dh)[:, None], 3, axis=1))
    (line,) = ax.lines[1:]
    assert line.get_ydata().tolist() == [look.layers[0].horizon] * 3
