"""`import morphogen`: light, complete, documented."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import morphogen

ROOT = Path(__file__).resolve().parents[1]


def test_importing_it_imports_neither_torch_nor_ray_nor_anything_of_ours():
    code = "import sys, morphogen; print([m for m in sys.modules if m.split('.')[0] in %r])"
    heavy = ("torch", "ray", "numpy", "pyarrow", "generator", "datalake", "trainer", "orchestration")
    found = subprocess.run([sys.executable, "-c", code % (heavy,)], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("name", morphogen.__all__)
def test_each_name_is_there_and_documented(name):
    value = getattr(morphogen, name)
    if inspect.isclass(value) or callable(value):
        assert len(inspect.getdoc(value) or "") > 20
    assert value is getattr(importlib.import_module(morphogen._HOMES[name]), name)


def test_type_checkers_see_the_names_that_are_there():
    tree = ast.parse((ROOT / "morphogen" / "__init__.py").read_text())
    declared = {
        alias.asname: node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert {name: home for name, home in declared.items() if name in morphogen.__all__} == morphogen._HOMES
    assert (ROOT / "morphogen" / "py.typed").exists()


def test_an_unknown_name_is_an_attribute_error_that_lists_what_is_there():
    with pytest.raises(AttributeError, match="NcaDataset"):
        _ = morphogen.NoSuchThing
    assert set(morphogen.__all__) <= set(dir(morphogen))
