"""No module of the package runs what it reads: a look through all sources for calls that would."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "src" / "timelike"

# Calls that run what a file says, or may; under the name that they have at the call, but for `as`.
FORBIDDEN = {
    "eval": "runs text as code",
    "exec": "runs text as code",
    "compile": "makes code of text",
    "__import__": "imports what a text says; importlib.import_module is looked at below",
    "pickle.load": "a pickle calls what it names",
    "pickle.loads": "a pickle calls what it names",
    "torch.load": "unpickles; safetensors.torch reads weights",
    "joblib.load": "unpickles",
    "marshal.loads": "gives code",
    "yaml.load": "makes any object that a tag names; yaml.compose with SafeLoader gives nodes",
    "yaml.unsafe_load": "makes any object that a tag names",
    "yaml.full_load": "makes objects of some tags",
    "xml.etree.ElementTree.parse": "expands entities; defusedxml does not",
    "xml.etree.ElementTree.fromstring": "expands entities; defusedxml does not",
    "os.system": "a shell",
    "os.popen": "a shell",
    "shutil.unpack_archive": "writes where the archive says",
}
MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "code",
    "codeop",
    "runpy",
}
PROCESSES = {"subprocess", "multiprocessing", "pty"}

# Who starts processes, and which.
STARTS = {
    "apply.workers": "this package's own worker, by sys.executable and a list of arguments",
    "interop.cpp_check": "a compiler, and the program that it makes of a header of our own writing",
}
# Who imports a module by a name that is not written there, and where the names come from.
IMPORTS = {
    "__init__": "the table _LATER beside it",
    "errors": "`require`, whose callers write the name",
    "exportcommands": "the table FORMATS beside it",
}


def called(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """Give all calls of a module by what they call: "np.load", "x.eval"; names by `as` written out."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0]
                for a in node.names
            }
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, *others = ast.unparse(node.func).split(".")
            found.append((".".join([names.get(first, first), *others]), node))
    return found


def problems(source: str, module: str = "m") -> list[str]:
    """Say what a module does that none of this package may."""
    tree, found = ast.parse(source), []
    for name, call in called(tree):
        keywords = {k.arg: k.value for k in call.keywords}
        if name in FORBIDDEN:
            found.append(f"{module}:{call.lineno}: {name}: {FORBIDDEN[name]}")
        if "allow_pickle" in keywords and ast.unparse(keywords["allow_pickle"]) != "False":
            found.append(f"{module}:{call.lineno}: allow_pickle: a pickle calls what it names")
        if name == "numpy.load" and "allow_pickle" not in keywords:
            found.append(f"{module}:{call.lineno}: np.load: say allow_pickle=False")
        if "shell" in keywords:
            found.append(f"{module}:{call.lineno}: shell: arguments go as a list")
        if (
            name == "importlib.import_module"
            and module not in IMPORTS
            and not isinstance(call.args[0], ast.Constant)
        ):
            found.append(f"{module}:{call.lineno}: imports what a variable says")
    for node in ast.walk(tree):
        given = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        given += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in (n.split(".")[0] for n in given):
            if name in MODULES or (name in PROCESSES and module not in STARTS):
                found.append(f"{module}:{node.lineno}: imports {name}")
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_runs_what_it_reads(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    assert problems(path.read_text(encoding="utf-8"), module) == []


def test_who_may_start_processes_and_import_by_name_does_so():
    """The exceptions are needed: none is left from what is gone."""
    for module in STARTS:
        assert "subprocess." in (ROOT / f"{module.replace('.', '/')}.py").read_text()
    for module in IMPORTS:
        assert "import_module(" in (ROOT / f"{module}.py").read_text()


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "import numpy as np\nnp.load(f)",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "f(allow_pickle=asked)",
        "import torch\ntorch.load(f)",
        "from torch import load as read\nread(f)",
        "from pickle import loads",
        "yaml = require('yaml', 'data')\nyaml.load(f, Loader=yaml.Loader)",
        "import subprocess",
        "import os\nos.system('ls')",
        "f(shell=True)",
        "from importlib import import_module\nimport_module(text)",
    ],
)
def test_what_is_forbidden_is_found(source):
    assert len(problems(source)) >= 1
