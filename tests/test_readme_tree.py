"""The README's tree names every file with one line, and for Python files it is the module's own first line.

Run as a script, it writes the tree: ``python tests/test_readme_tree.py``.
"""

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(r"(<!-- tree -->\n```text\n)(.*?)(```\n<!-- /tree -->)", re.DOTALL)

# Files that cannot carry a docstring say here what they are.
OTHER = {
    ".ci/run": "What continuous integration runs: `make lint`, `make test`.",
    ".gitignore": "What is made, not written.",
    "LICENSE": "Apache License 2.0.",
    "Makefile": "Sets up .venv; `demo`, `test`, `lint`, `bench`, `soak`.",
    "README.md": "This page.",
    "infra/s3/bucket-policy.json": "What the jobs may do in the bucket: list, read, create, drop old checkpoints.",
    "constraints.txt": "The versions that were tested together.",
    "pyproject.toml": "Package, dependencies, and the settings of the linter, the type checker and the tests.",
}


def tracked_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for path in listed.splitlines() if (ROOT / path).exists()]


def described(path: str) -> bool:
    """Markdown pages and pictures under docs/, data of tests and package markers of tests speak for themselves."""
    return not (path.startswith("docs/") or (path.startswith("tests/") and not path.endswith(".py"))) and not (
        path.endswith("__init__.py") and not (ROOT / path).read_text().strip()
    )


def first_line(path: str) -> str:
    if path in OTHER:
        return OTHER[path]
    text = (ROOT / path).read_text()
    if path.endswith(".py"):
        docstring = ast.get_docstring(ast.parse(text))
        assert docstring, f"{path} has no module docstring"
        return docstring.splitlines()[0]
    if path.endswith((".html", ".css", ".js")):
        found = re.match(r"(?:\{#|/\*)\s*(.*?)\s*(?:#\}|\*/)", text)
        assert found, f"{path}: give it a first comment line"
        return found.group(1)
    mark = "#" if path.endswith(".md") else "# "
    comments = [line.lstrip("# ").strip() for line in text.splitlines() if line.startswith(mark)]
    assert comments, f"{path}: give it a first comment line, or a line in OTHER"
    return comments[0]


def tree() -> str:
    lines, folder = [], None
    for path in sorted(filter(described, tracked_files()), key=lambda path: (path.count("/") > 0, path)):
        parent = str(Path(path).parent)
        if parent != folder and parent != ".":
            lines.append(f"{parent}/")
        folder = parent
        indent = "" if parent == "." else "  "
        lines.append(f"{indent}{Path(path).name:<24} {first_line(path)}")
    return "\n".join(lines) + "\n"


def test_the_readme_tree_is_true():
    found = BLOCK.search(README.read_text())
    assert found, "README.md has no tree block"
    assert found.group(2) == tree(), "run `python tests/test_readme_tree.py` and read what it changed"


if __name__ == "__main__":
    written = BLOCK.sub(lambda match: match.group(1) + tree() + match.group(3), README.read_text())
    README.write_text(written)
