"""The report's section on gradient flow."""

from __future__ import annotations

from attribution_cases import events, model
from timelike.inspect.flow_sections import flow_sections
from timelike.sequences import Sequences


def test_it_says_how_far_the_network_remembers():
    (section,) = flow_sections(model(), events(40))
    facts = dict(section.facts)
    assert "nine tenths of the gradient are gone after" in facts["memory of layer 1"]
    assert facts["diagnosis"]
    assert section.figures[0].name == "flow-1"
    assert "40 events" in section.figures[0].caption
    (table,) = section.tables
    assert [row.label for row in table.rows] == list("ifgo")


def test_without_a_second_step_there_is_nothing_to_say():
    given = events(40)
    short = Sequences(given.values[:2], [0, 1, 2], names=given.names)
    assert flow_sections(model(), short) == []


def test_both_directions_of_a_layer_have_its_number():
    (section,) = flow_sections(
        model(recurrent=({"units": 5, "bidirectional": True}, {"units": 3})), events(40)
    )
    names = [name for name, _ in section.facts if name.startswith("memory")]
    assert names == ["memory of layer 1", "memory of layer 1, reverse", "memory of layer 2"]
    assert section.tables[0].rows[4].label == "layer 1, reverse: i"


def test_a_network_that_overflows_is_told_so():
    broken = model()
    next(broken.network.parameters()).data.fill_(float("nan"))
    (section,) = flow_sections(broken, events(40))
    assert not section.figures
    assert "not finite" in dict(section.facts)["diagnosis"]
