"""The house rules that no reviewer should have to check: imports, file sizes, docstrings, no pickle."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "generator": set(),
    "datalake": set(),
    "trainer": {"generator", "datalake"},
    "orchestration": {"generator", "datalake", "trainer"},
    "morphogen": {"generator", "datalake", "trainer", "orchestration"},
}
ONLY_IN = {"ray": {"orchestration"}, "torch": {"generator", "trainer", "orchestration"}}
MAX_LINES = 400

SOURCES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            modules.add(node.module)
    return {module.split(".")[0] for module in modules}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_source_file_keeps_the_rules(path):
    package = path.relative_to(ROOT).parts[0]
    imports = imported_modules(path)
    forbidden = (set(MAY_IMPORT) - {package} - MAY_IMPORT[package]) & imports
    assert not forbidden, f"{package} may not import {forbidden}"
    for module, homes in ONLY_IN.items():
        assert module not in imports or package in homes, f"only {homes} may import {module}"
    assert not imports & {"pickle", "cloudpickle"}, "nothing of the lake is ever unpickled"
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES, "one idea per file: split it"
    assert ast.get_docstring(ast.parse(text)), "a module says its idea in its docstring"
