"""The house keeps its shape: imports point down, and each floor needs no more than it says."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "src" / "timelike"

# From the ground up. A module imports from lower floors, or from the rooms of its own folder.
FLOORS = [
    {"errors", "_core", "statistics"},
    {"cells"},
    {
        "files",
        "ragged",
        "rowwise",
        "gates",
        "modelheader",
        "reference",
        "kernels",
        "threads",
        "yamlfile",
        "progress",
        "canvas",
        "merits",
        "predictions",
        "roc",
        "smallweights",
    },
    {"submit", "ranking", "overtraining"},
    {
        "sequences",
        "configerrors",
        "modelfile",
        "composition",
        "memory",
        "evaluate",
        "multilabel",
        "regression",
        "plots",
        "residual_plots",
        "runtime",
        "info",
    },
    {"config", "layouts", "layerweights", "report", "samples"},
    {"crossval_sections", "scan_page", "scanspace"},
    {"layercalls"},
    {"segments", "recording"},
    {"autograd"},
    {"ops", "vjp"},
    {"data", "recurrent"},
    {"description"},
    {"truncated", "scorer"},
    {"nn"},
    {"initialisers"},
    {"network"},
    {"model"},
    {"inspect", "interop"},
    {"losses", "optimisers", "batches", "checkpoint", "reweighting"},
    {"distributed", "resuming", "backpropagation"},
    {"streams"},
    {"preparation"},
    {"validation", "trainingstep"},
    {"fit"},
    {"train", "apply", "quantise"},
    {"runs", "estimator", "ratefinder"},
    {"tmva", "sklearn"},
    {"crossval", "scan"},
    {"tmvacommands", "studycommands", "exportcommands", "deploycommands"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
TORCH = {
    "composition",
    "memory",
    "layerweights",
    "layercalls",
    "segments",
    "recording",
    "ops",
    "autograd",
    "vjp",
    "layouts",
    "recurrent",
    "truncated",
    "nn",
    "initialisers",
    "network",
    "model",
    "inspect",
    "interop",
    "losses",
    "optimisers",
    "batches",
    "backpropagation",
    "distributed",
    "checkpoint",
    "streams",
    "preparation",
    "validation",
    "trainingstep",
    "fit",
    "train",
    "ratefinder",
    "quantise",
    "runs",
    "estimator",
    "sklearn",
    "tmva",
    "tmvacommands",
    "crossval",
    "scan",
    "studycommands",
    "deploycommands",
    "commands",
}


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in sorted(ROOT.rglob("*.py"))
        if path.name != "__init__.py" or path.parent != ROOT
    }


def imports(path: Path) -> set[str]:
    """Rooms of the package that a file imports, anywhere in it."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "timelike":
            rooms |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("timelike."):
            rooms.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("timelike.")}
    return rooms - {"__version__", "Sequences", "load", "trace"}


def floor(room: str) -> int:
    found = [k for k, rooms in enumerate(FLOORS) if room in rooms]
    assert len(found) == 1, f"{room} stands on {len(found)} floors: give it one in this file"
    return found[0]


@pytest.mark.parametrize("module", modules())
def test_imports_point_down(module):
    room = module.split(".")[0]
    for imported in imports(modules()[module]) - {room}:
        assert floor(imported) < floor(room), f"{module} imports {imported}, which is not below it"


def test_every_floor_is_lived_on():
    rooms = {name.split(".")[0] for name in modules()} | {"_core"}
    assert set().union(*FLOORS) == rooms


def test_the_reference_judges_alone():
    assert imports(ROOT / "reference.py") == {"errors"}
    users = [name for name, path in modules().items() if "reference" in imports(path)]
    assert users == []


def run_without(forbidden: list[str], code: str) -> None:
    """Run code in a process where some libraries cannot be imported."""
    block = f"import sys; sys.modules.update(dict.fromkeys({forbidden!r}))"
    subprocess.run([sys.executable, "-c", f"{block}\n{code}"], check=True)


EXTRAS = ["torch", "pydantic", "yaml", "typer", "rich", "uproot", "awkward", "pyarrow", "h5py", "matplotlib"]
EXTRAS += ["mplhep", "jinja2", "sklearn", "scipy", "onnx", "onnxruntime", "google.protobuf"]


def test_the_base_install_needs_numpy_alone():
    base = [
        "timelike.kernels",
        "timelike.runtime",
        "timelike.reference",
        "timelike.gates",
        "timelike.modelfile",
        "timelike.scorer",
        "timelike.evaluate",
        "timelike.interop.onnx_import",
    ]
    run_without(EXTRAS, "import timelike\n" + "\n".join(f"import {name}" for name in base))


def test_reading_and_reports_need_no_torch():
    lower = [name for name in modules() if name.split(".")[0] not in TORCH | {"cli"}]
    run_without(["torch"], "\n".join(f"import timelike.{name.removesuffix('.__init__')}" for name in lower))
