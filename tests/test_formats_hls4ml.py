"""Projects of hls4ml: converted, compiled and run where it is installed."""

from __future__ import annotations

import re
import sys

import pytest
from tests.formats_cases import model_file

from timelike.errors import ConfigError, MissingExtraError
from timelike.interop.hls4ml import export_hls4ml

LAYERS = {
    "lstm": [{"cell": "lstm", "units": 4}],
    "stack": [{"cell": "gru", "units": 4}, {"cell": "lstm", "units": 3}],
    "gru": [{"cell": "gru", "units": 4}],
    "bidirectional": [{"cell": "lstm", "units": 4, "bidirectional": True}],
}
_SLOW = ("gru", "bidirectional")  # a compiler takes its time for each


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in _SLOW else ()) for name in LAYERS]
)
def test_the_firmware_computes_nearly_the_same(tmp_path, name):
    """With 20 bits behind the point: what is left are tables of activations, whose entries are 2^-7 apart."""
    pytest.importorskip("hls4ml")
    network = {"recurrent": LAYERS[name], "head": {"units": [4], "output": "linear"}}
    path = model_file(tmp_path, network, data={"targets": {"m": "m"}})
    said = export_hls4ml(path, tmp_path / "project", steps=5, precision="ap_fixed<32,12>")
    assert re.search(r"largest difference \S+ of numbers up to", said)
    assert (tmp_path / "project" / "firmware").is_dir()


def test_steps_must_be_told(tmp_path):
    path = model_file(tmp_path, {})
    with pytest.raises(ConfigError, match="needs a fixed number of steps"):
        export_hls4ml(path, tmp_path / "project")
    with pytest.raises(ConfigError, match="it exists already"):
        export_hls4ml(path, tmp_path, steps=3)
    each = model_file(tmp_path, {"pooling": "none"}, name="each")
    with pytest.raises(ConfigError, match="no scores of each step"):
        export_hls4ml(each, tmp_path / "project", steps=3)
    before = model_file(tmp_path, {"recurrent": [{"cell": "gru", "reset_after": False}]}, name="before")
    with pytest.raises(ConfigError, match="hls4ml has no cell gru_reset_before that is right"):
        export_hls4ml(before, tmp_path / "project", steps=3)


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    pytest.importorskip("keras")
    monkeypatch.setitem(sys.modules, "hls4ml", None)
    with pytest.raises(MissingExtraError, match=r"needs hls4ml.*timelike\[hls4ml\]"):
        export_hls4ml(model_file(tmp_path, {}), tmp_path / "project", steps=3)
