"""The page in a browser: every number that it shows, and every way to move, against the reference."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import timelike
from browser import Visit, chromium, number
from inspect_cases import by_steps, compare, computed, same
from test_trace import CELLS, LENGTHS, Random, batch, made
from timelike.inspect import example_page, write_page
from timelike.sequences import Sequences


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    return example_page(tmp_path_factory.mktemp("example") / "example.html")


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A trace of two layers in two directions, and its page with names and scores."""
    found = timelike.trace(made("lstm", num_layers=2, bidirectional=True), batch(), loss=Random())
    B = len(LENGTHS)
    sequences = Sequences(batch().values.numpy(), np.concatenate([[0], np.cumsum(LENGTHS)]), labels=[1] * B)
    rng = np.random.default_rng(5)
    scores = rng.dirichlet([1, 1], B)
    object.__setattr__(found, "output", scores)
    path = tmp_path_factory.mktemp("deep") / "page.html"
    write_page(found, path, sequences=sequences, class_names=["qcd", "top"])
    return found, scores, path


# Numbers


@pytest.mark.parametrize("cell", CELLS)
def test_every_number_of_every_line_is_that_of_the_reference(cell, browser, tmp_path):
    loss = Random()
    found = timelike.trace(made(cell, bidirectional=True), batch(), loss=loss)
    with Visit(browser, write_page(found, tmp_path / "page.html")) as visit:
        for k, layer in enumerate(found.layers):
            visit.page.select_option("#layer", str(k))
            for b, unit in ((0, 0), (0, 5), (1, 2)):
                visit.page.select_option("#sequence", str(b))
                visit.page.fill("#unit", str(unit + 1))
                visit.page.press("#unit", "Tab")
                visit.page.fill("#stage", "0")
                steps = by_steps(layer, loss, k, b)
                T = len(steps)
                for at in range(2 * T + 1):
                    w = at if at < T else 2 * T - at
                    t = T - 1 - w if layer.reverse else w
                    if at == T:
                        assert "Loss." in visit.text("#summary")
                    else:
                        side = "Forward" if at < T else "Backward"
                        assert visit.text("#summary").startswith(f"{side}, step {t + 1} of {T}.")
                        compare(visit.shown(), steps[w][at > T], unit)
                        for d, text in enumerate(visit.shown("#inputs").values()):
                            assert same(text, steps[w][2][d])
                        expected = steps[w][0] | steps[w][1]
                        for name, text in visit.shown("#drawing", "number").items():
                            if name in expected:
                                assert same(text, expected[name][unit]), name
                    visit.press("ArrowRight")


@pytest.mark.parametrize("cell", CELLS)
def test_both_sides_of_every_line_are_equal(cell, browser, tmp_path):
    found = timelike.trace(made(cell, bidirectional=True), batch(), loss=Random())
    with Visit(browser, write_page(found, tmp_path / "page.html")) as visit:
        lines = visit.page.evaluate("""
            DATA.layers.flatMap((layer) => [0, 1, 3, 4].flatMap((b) => {
              const range = (n) => [...Array(n).keys()];
              const lines = [...layer.kind.forward, ...layer.kind.backward];
              return range(lengthOf(b)).flatMap((w) => lines.flatMap(({ id, vector, tree, text }) => {
                const s = new Step(layer, b, w);
                return range(vector ? layer.R : layer.H).map(
                  (k) => [text, s.value(id, k), evaluate(tree, (part) => s.value(part, k))]);
              }));
            }))""")
    assert len(lines) > 1000
    for text, left, right in lines:
        # Sums of at most 24 terms, of order 1 up to some ten, in two orders: some hundred roundings.
        assert abs(left - right) <= 1e-12, (text, left, right)


def test_the_values_filled_in_give_the_value_of_the_line(browser, deep):
    _, _, path = deep
    squares_of_negative = 0
    with Visit(browser, path) as visit:
        visit.press("End")
        for _ in range(5):
            for unit in range(6):
                visit.page.fill("#unit", str(unit + 1))
                visit.page.press("#unit", "Tab")
                line = visit.page.locator('#lines li:has([data-id="da_g"])')
                squares_of_negative += "(\u2212" in line.inner_text()
                shown = visit.shown()
                # dg (1 - g²), both known to 5 digits, |g| < 1: (5e-5 + 2 · 5e-5 + 5e-5) dg
                assert abs(computed(line) - number(shown["da_g"])) <= 2e-4 * abs(number(shown["dg"]))
            visit.press("ArrowLeft")
    assert squares_of_negative > 5


class Uneven(Random):
    """A loss with upstream gradients over six decades: small ones beside large ones of the step after."""

    def __call__(self, output) -> torch.Tensor:
        torch.manual_seed(self.seed)
        y, states = output
        outputs = [y.values, *states]
        self.upstream = [torch.randn_like(out) * 10 ** (-6 * torch.rand_like(out)) for out in outputs]
        return sum((out * d).sum() for out, d in zip(outputs, self.upstream, strict=True))


def test_what_comes_from_outside_is_written_only_as_far_as_it_is_known(browser, tmp_path):
    loss = Uneven()
    found = timelike.trace(made("lstm", torch.float32), batch(torch.float32), loss=loss)
    path = write_page(found, tmp_path / "page.html")
    dy, dhT, dcT = (u.numpy().astype(float) for u in loss.upstream)
    with Visit(browser, path) as visit:
        texts = visit.page.evaluate(
            "[0, 1, 3, 4].map((b) => [...Array(lengthOf(b)).keys()].map((w) =>"
            "[...Array(6).keys()].map((k) => [new Step(DATA.layers[0], b, w).written('dy', k),"
            "new Step(DATA.layers[0], b, w).written('d+c', k)])))"
        )
    for b, steps in zip((0, 1, 3, 4), texts, strict=True):
        start, end = found.layers[0].offsets[b : b + 2]
        for w, units in enumerate(steps):
            last = w == end - start - 1
            for k, (outside, later) in enumerate(units):
                pairs = [(outside, dy[start + w, k] + last * dhT[0, b, k])]
                pairs += [(later, dcT[0, b, k])] if last else []
                for text, expected in pairs:
                    # known to one unit of its last digit, and rounded by half of one
                    mantissa, _, power = text.replace("\u2212", "-").partition("e")
                    unit = 10.0 ** (int(power or 0) - len(mantissa.partition(".")[2]))
                    assert abs(number(text) - expected) <= 1.5 * unit, (b, w, k, text, expected)


# Moving


def test_keys_buttons_and_slider_go_the_same_way(browser, deep):
    _, _, path = deep
    with Visit(browser, path) as visit:
        seen = [visit.text("#summary")]
        for _ in range(10):
            visit.press("ArrowRight")
            seen.append(visit.text("#summary"))
        assert len(set(seen)) == 11
        visit.press("ArrowRight")
        assert visit.text("#summary") == seen[-1]
        visit.press("Home")
        for text in seen[:-1]:
            assert visit.text("#summary") == text
            visit.page.click("#on")
        assert visit.page.is_disabled("#on")
        for k, text in enumerate(seen):
            visit.page.fill("#stage", str(k))
            assert visit.text("#summary") == text
            assert visit.page.get_attribute("#stage", "aria-valuetext").split(",")[0] in text.lower()
        visit.press("End")
        for text in reversed(seen):
            assert visit.text("#summary") == text
            visit.press("ArrowLeft")
        visit.press("ArrowDown", 2)
        assert visit.page.input_value("#unit") == "3"
        visit.press("ArrowUp", 5)
        assert visit.page.input_value("#unit") == "1"
        visit.press("f")
        assert visit.text("#summary").startswith("Backward, step 1 of 5")


def test_lines_are_walked_through_and_light_up_the_wires(browser, deep):
    _, _, path = deep
    with Visit(browser, path) as visit:
        count = visit.page.locator("#lines li").count()
        for k in range(count):
            visit.press(".")
            assert visit.page.get_attribute("#lines li[aria-current]", "data-line") == str(k)
            assert visit.page.locator("#drawing .lit").count() > 0
        assert visit.text("#summary").startswith("Forward, step 1")
        visit.press(".")
        assert visit.text("#summary").startswith("Forward, step 2")
        visit.press(",")
        assert visit.text("#summary").startswith("Forward, step 1")
        assert visit.page.get_attribute("#lines li[aria-current]", "data-line") == str(count - 1)


def test_playing_walks_on_and_halts(browser, deep):
    _, _, path = deep
    with Visit(browser, path) as visit:
        visit.page.evaluate("document.activeElement.blur()")
        visit.press(" ")
        assert visit.page.get_attribute("#play", "aria-label") == "Pause"
        visit.page.wait_for_function("document.getElementById('stage').value === '1'")
        visit.press(" ")
        assert visit.page.get_attribute("#play", "aria-label") == "Play"
        assert visit.page.evaluate("chosen.timer") is None


def test_a_click_on_a_map_goes_to_that_step_and_unit(browser, deep):
    found, _, path = deep
    with Visit(browser, path) as visit:
        for array, t, k in (("gate_f", 3, 4), ("dc", 1, 2)):
            box = visit.page.locator(f'[data-map="{array}"] .field')
            size = box.bounding_box()
            box.click(position={"x": (t + 0.5) / 5 * size["width"], "y": (k + 0.5) / 6 * size["height"]})
            assert visit.page.input_value("#unit") == str(k + 1)
            assert f"step {t + 1} of 5" in visit.text("#summary")
        shown = number(visit.text('[data-map="dc"] figcaption span'))
        assert shown == pytest.approx(found.layers[0].dc[1, 2], rel=5e-5)


def test_layers_and_sequences_are_chosen(browser, deep):
    found, scores, path = deep
    with Visit(browser, path) as visit:
        options = visit.page.locator("#layer option").all_inner_texts()
        assert options == [f"layer:{n}, {d}" for n in (0, 1) for d in ("forward", "reverse")]
        visit.page.select_option("#layer", "3")
        visit.page.select_option("#sequence", "4")
        last = found.layers[3]
        first_of_walk = last.offsets[5] - 1
        assert visit.text("#summary").startswith("Forward, step 4 of 4")
        assert same(visit.shown()["h"], last.h[first_of_walk, 0])
        assert visit.page.locator("#inputs tbody th").first.inner_text() == "h 1 below"
        for c in range(2):
            assert same(visit.text(f'[data-score="{c}"]'), scores[4, c])
        assert "in truth top" in visit.text("#event")
        visit.page.select_option("#sequence", "2")  # one without steps
        assert "No steps." in visit.text("#summary")
        visit.press("ArrowRight")
        visit.page.select_option("#sequence", "1")
        assert "step 1 of 1" in visit.text("#summary")


def test_the_table_says_what_the_maps_show(browser, deep):
    found, _, path = deep
    with Visit(browser, path) as visit:
        visit.page.click("#numbers summary")
        rows = visit.page.locator("#table tbody tr").all_inner_texts()
        layer = found.layers[0]
        columns = [*layer.gates.values(), layer.c, layer.h, *layer.dgates.values(), layer.dc, layer.dh]
        assert len(rows) == 5
        for t, row in enumerate(rows):
            texts = re.split(r"\s+", row.strip())
            assert texts[0] == str(t + 1)
            assert len(texts) == 1 + len(columns)
            assert all(same(text, c[t, 0]) for text, c in zip(texts[1:], columns, strict=True))


# Looks


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_wider_than_the_window(browser, deep, example, width, scheme):
    for path in (deep[2], example):
        with Visit(browser, path, width=width, scheme=scheme) as visit:
            background = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
            light = sum(map(int, re.findall(r"\d+", background))) > 3 * 128
            assert light == (scheme == "light")
            for _ in range(int(visit.page.get_attribute("#stage", "max")) + 1):
                assert visit.overflow() <= 0
                visit.press("ArrowRight")


def test_everything_that_acts_has_a_name_and_a_visible_focus(browser, deep):
    _, _, path = deep
    with Visit(browser, path) as visit:
        nameless = visit.page.evaluate(
            "[...document.querySelectorAll('button, input, select, [role=region], [role=img]')]"
            ".filter((e) => !(e.ariaLabel || e.getAttribute('aria-labelledby') || e.labels?.length))"
            ".map((e) => e.outerHTML.slice(0, 80))"
        )
        assert nameless == []
        reached = set()
        for _ in range(40):
            visit.press("Tab")
            where, outline = visit.page.evaluate(
                "[document.activeElement.id, getComputedStyle(document.activeElement).outlineStyle]"
            )
            assert outline != "none" or where == ""
            reached.add(where)
        assert {"sequence", "layer", "unit", "on", "play", "stage", "line-on", "decades"} <= reached


# The worked example, beginning to end


def test_the_example_is_walked_through_to_the_new_loss(browser, example):
    with Visit(browser, example) as visit:
        for h in (0.5363134, 0.77198111):
            assert number(visit.shown()["h"]) == pytest.approx(h, abs=5e-9)
            visit.press("ArrowRight")
        assert number(visit.shown()["loss"]) == pytest.approx(0.11491036305861509, abs=6e-9)
        visit.press("ArrowRight")
        assert visit.text("#summary").startswith("Backward, step 2")
        assert number(visit.shown()["dh"]) == pytest.approx(0.77198111 - 1.25, abs=6e-9)
        visit.press("ArrowRight")
        assert visit.text("#summary").startswith("Backward, step 1")
        visit.press("ArrowRight")
        assert "Gradients of the weights." in visit.text("#summary")
        for row in visit.page.locator("#lines tbody tr").all():
            first, second, total = (number(text) for text in row.locator("td").all_inner_texts())
            assert first + second == pytest.approx(total, abs=1.6e-8)  # three roundings of 5e-9
        visit.press("ArrowRight")
        after = {
            row.get_attribute("data-weight"): row.locator("td").last.inner_text()
            for row in visit.page.locator("#lines tbody tr").all()
        }
        published = {"Wg1": 0.45267162, "Wg2": 0.25922011, "bo": 0.1053613}
        for name, value in published.items():
            assert number(after[name]) == pytest.approx(value, abs=1.1e-8)
        visit.press("ArrowRight")
        assert number(visit.shown()["new-loss"]) == pytest.approx(0.11088080130722884, abs=6e-9)
        assert visit.page.is_disabled("#on")
        visit.press("Home")
        for at in range(5):
            for line in visit.page.locator("#lines li").all() if at != 2 else []:
                if line.locator(".filled").count():
                    value = number(line.locator(".value").inner_text())
                    # At most ten numbers below 4, each known to 8 digits: 2e-8.
                    assert abs(computed(line) - value) <= 2e-7
            visit.press("ArrowRight")
        assert number(visit.text("#loss-before")) == pytest.approx(0.11491036305861509, abs=1e-15)
        assert number(visit.text("#loss-after")) == pytest.approx(0.11088080130722884, abs=1e-15)
