"""Imports go down only: the graph of all imports, lazy and type-only ones too, has no circle and no edge upwards."""

import ast
import graphlib
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("generator", "datalake", "trainer", "orchestration", "morphogen")
ARCHITECTURE = ROOT / "docs" / "architecture.md"

# From the ground up. An entry is a package, a room or a module, and stands for all below it that is not listed itself;
# it imports what stands before it, and what it stands for. `docs/architecture.md` shows the same lines.
FLOORS = """
generator.errors generator.regular_files generator.cache_folder generator.machine_code generator.vector_code
generator.arm_instructions generator.philox generator.tables
generator.spec generator.initial generator.family generator.tokens generator.toml_files
generator.nca generator.lattice generator.families
generator.gzip_bytes generator.gzip_trees generator.gzip_sweep generator.gzip_cells generator.gzip_kernel
generator.score generator.cost generator.accept generator.pipeline
generator.registry generator.batch generator.compute generator.profile generator.presets generator

datalake.errors datalake.clock datalake.events datalake.canonical datalake.names
datalake.store datalake.log datalake.shards datalake.plan datalake.reading
datalake.registry datalake.runs datalake.lake datalake.maintenance datalake

trainer

orchestration.errors orchestration.folders orchestration.toml_files
orchestration.console orchestration.telemetry orchestration.reports orchestration.runs orchestration.cluster
orchestration.generation orchestration.corpus orchestration.evaluation
orchestration.training orchestration.live orchestration.lattice
orchestration.experiment orchestration.pipeline orchestration.tune orchestration.doctor
orchestration.jobs orchestration.serve orchestration.commands orchestration.cli orchestration

morphogen
"""
# What one reads before one finds a room.
MOST_LOOSE = {"orchestration": 8, "datalake": 6}

Graph = dict[str, set[str]]


def find_modules(root: Path, packages: tuple[str, ...] = PACKAGES) -> dict[str, Path]:
    """Dotted name → file of every module of the packages; a package's own name is that of its ``__init__``."""
    paths = [path for package in packages for path in sorted((root / package).rglob("*.py"))]
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def import_graph(modules: Mapping[str, Path]) -> Graph:
    """Module → modules of ours that it imports, wherever the import stands."""
    graph: Graph = {name: set() for name in modules}
    for name, path in modules.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text())):
            for found in _imported(node, package, modules):
                graph[name].add(found)
        graph[name].discard(name)
    return graph


def _imported(node: ast.AST, package: str, modules: Mapping[str, Path]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name in modules]
    if not isinstance(node, ast.ImportFrom):
        return []
    above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    origin = ".".join([*above, *([node.module] if node.module else [])])
    names = [f"{origin}.{alias.name}" for alias in node.names]
    return [name if name in modules else origin for name in names if name in modules or origin in modules]


def circle_in(graph: Graph) -> list[str]:
    """One circle of the graph, its first member again at its end; empty if there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def folder_of(module: str, path: Path) -> str:
    """The room that a module lies in: the folder below its package; a loose module is its own."""
    parts = module.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 or path.name != "__init__.py" else module


def rooms_graph(graph: Graph, modules: Mapping[str, Path]) -> Graph:
    """The graph of the rooms."""
    rooms: Graph = {folder_of(name, modules[name]): set() for name in graph}
    for name, imported in graph.items():
        room = folder_of(name, modules[name])
        rooms[room] |= {folder_of(other, modules[other]) for other in imported} - {room}
    return rooms


def upward_imports(graph: Graph, floors: list[str]) -> list[str]:
    """``importer -> imported`` for each import of what does not stand before its importer."""
    height = {entry: place for place, entry in enumerate(floors)}

    def entry_of(module: str) -> int:
        while module not in height:
            module, dot, _ = module.rpartition(".")
            assert dot, "every package stands in FLOORS"
        return height[module]

    return sorted(
        f"{name} -> {other}"
        for name, imported in graph.items()
        for other in imported
        if entry_of(name) < entry_of(other)
    )


@pytest.fixture(scope="module")
def modules():
    return find_modules(ROOT)


@pytest.fixture(scope="module")
def graph(modules):
    return import_graph(modules)


def test_no_modules_import_each_other(graph):
    assert circle_in(graph) == []


def test_no_rooms_import_each_other(graph, modules):
    assert circle_in(rooms_graph(graph, modules)) == []


def test_no_import_goes_upwards(graph):
    floors = FLOORS.split()
    assert not {entry for entry in floors if entry not in graph}, "a floor is stated for what is not there"
    assert upward_imports(graph, floors) == []


def test_every_package_is_looked_at():
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name.rstrip("*.") for name in found} == set(PACKAGES)


def test_rooms_hold_nearly_all_modules(modules):
    for package, most in MOST_LOOSE.items():
        parents = [(name.rpartition(".")[0], path.name) for name, path in modules.items()]
        loose = [name for parent, name in parents if parent == package and not name.startswith("__")]
        assert len(loose) <= most, (
            f"{package} has {len(loose)} modules outside its rooms ({loose}); find a room for one"
        )


def test_the_architecture_page_shows_the_floors():
    assert FLOORS.strip() in ARCHITECTURE.read_text()


def write(root: Path, **sources: str) -> None:
    for name, source in sources.items():
        path = root / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        for parent in path.relative_to(root).parents[:-1]:
            (root / parent / "__init__.py").touch()


@pytest.mark.parametrize(
    "line",
    [
        "import app.roof.top",
        "from app.roof import top",
        "from app.roof.top import THING",
        "from ..roof import top",
        "from ..roof.top import THING",
        "def late():\n    from app.roof.top import THING",
        "if TYPE_CHECKING:\n    from app.roof.top import THING",
        "try:\n    from app.roof.top import THING\nexcept ImportError:\n    pass",
    ],
)
def test_an_import_upwards_is_found_however_it_is_written(tmp_path, line):
    floors = ["app.ground", "app.roof", "app"]
    write(tmp_path, app__ground__base="THING = 1", app__roof__top="from app.ground.base import THING")
    modules = find_modules(tmp_path, ("app",))
    assert upward_imports(import_graph(modules), floors) == []
    write(tmp_path, app__ground__other=line)
    graph = import_graph(modules := find_modules(tmp_path, ("app",)))
    assert upward_imports(graph, floors) == ["app.ground.other -> app.roof.top"]
    assert circle_in(graph) == []
    assert set(circle_in(rooms_graph(graph, modules))) == {"app.ground", "app.roof"}
    write(tmp_path, app__ground__base=line)
    assert set(circle_in(import_graph(modules))) == {"app.ground.base", "app.roof.top"}


def test_what_no_floor_is_stated_for_stands_above_its_package():
    assert upward_imports({"app.store": {"app.new"}, "app.new": set(), "app": set()}, ["app.store", "app"]) == [
        "app.store -> app.new"
    ]
