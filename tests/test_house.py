"""The house keeps its rules: who imports whom, who knows Hydra, what a file says of itself and how long it is."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "simclr"
CONFIGS = REPOSITORY / "configs"
MODULES = sorted(PACKAGE.rglob("*.py"))

# From the top of the house to its cellar: a room imports only from rooms below it.
ROOMS = (
    "commands",
    "figures",
    "report",
    "training",
    "runs",
    "evaluation",
    "methods",
    "losses",
    "models",
    "data",
    "augment",
    "optim",
    "system",
    "checks",
    "errors",
)
CELLAR = {"system", "checks", "errors"}
STRICT = {"losses", "augment", "optim"}  # they know the cellar alone
NEIGHBOURS = {("data", "augment")}  # in order, and yet they do not know each other
# python -m starts a command from them, and `import simclr` gives load().
ENTRIES = {
    "__init__.py",
    "doctor.py",
    "embed.py",
    "export.py",
    "load.py",
    "search.py",
    "visualize.py",
    "report/__main__.py",
}
KNOW_HYDRA = {"commands", "runs"}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """The dotted names that a module imports, inside its functions too; `from a import b` is a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def targets(*groups: str) -> set[str]:
    """The `_target_`s of ours in these groups of configurations."""

    def within(node: object) -> Iterator[str]:
        if isinstance(node, dict):
            yield from (value for key, value in node.items() if key == "_target_" and value.startswith("simclr."))
            for value in node.values():
                yield from within(value)

    files = [path for group in groups for path in CONFIGS.glob(f"{group}/*.yaml")]
    return {target for path in files for target in within(yaml.safe_load(path.read_text(encoding="utf-8")))}


def test_every_file_lies_in_a_room():
    assert {room_of(path) for path in MODULES if name_of(path) not in ENTRIES} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_rooms_below_it(room):
    below = CELLAR if room in STRICT else set(ROOMS[ROOMS.index(room) + 1 :])
    allowed = {other for other in below | {room} if (room, other) not in NEIGHBOURS}
    if room in CELLAR:
        allowed = set(ROOMS[ROOMS.index(room) :])
    for path in MODULES:
        if room_of(path) == room and name_of(path) not in ENTRIES:
            found = {name.split(".")[1] for name in imports(path) if name.startswith("simclr.")}
            assert found <= allowed, f"{name_of(path)} imports from {sorted(found - allowed)}"


def test_no_file_needs_itself_to_be_there_first():
    """Not even through imports within functions, which hide such circles from Python."""
    dotted = {".".join(("simclr", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in MODULES}
    needs = {
        module: {name for found in imports(path) for name in (found, found.rpartition(".")[0]) if name in dotted}
        for module, path in dotted.items()
    }
    assert "simclr.runs.build" in needs["simclr.runs.assemble"]
    TopologicalSorter(needs).prepare()  # raises CycleError, which names the circle


def test_only_commands_and_runs_know_hydra():
    for path in MODULES:
        if room_of(path) not in KNOW_HYDRA:
            assert not {name.split(".")[0] for name in imports(path)} & {"hydra", "omegaconf"}, name_of(path)


def test_methods_and_sources_are_named_by_configurations_alone():
    """The next one is a file and a configuration; nothing else has to change for it."""
    concrete = {target.rpartition(".")[0] for target in targets("method", "data")}
    concrete = {module for module in concrete if module.startswith(("simclr.methods.", "simclr.data."))}
    assert {"simclr.methods.simclr", "simclr.data.shapes"} <= concrete, "the rule looks at nothing"
    for path in MODULES:
        for name in imports(path):
            assert name not in concrete, f"{name_of(path)} imports {name}"
            assert name.rpartition(".")[0] not in concrete, f"{name_of(path)} imports {name}"


def test_protocols_and_callbacks_are_named_by_configurations_alone():
    """Their files may share functions; the classes are nobody's business but a configuration's."""
    concrete = targets("protocol", "callbacks")
    assert {"simclr.evaluation.knn.KNN", "simclr.training.online_knn.OnlineKNN"} <= concrete, (
        "the rule looks at nothing"
    )
    for path in MODULES:
        assert not concrete & set(imports(path)), name_of(path)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_first_line_says_what_a_module_does(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring is not None
    assert docstring.splitlines()[0].endswith(".")


def test_a_file_over_250_lines_is_two():
    lengths = {name_of(path): path.read_text(encoding="utf-8").count("\n") for path in MODULES}
    assert {name for name, lines in lengths.items() if lines > 250} == set()


def test_a_picture_is_called_an_image():
    """One word for one thing, in code, configurations, tests and docs; CHANGELOG tells of the change."""
    texts = [path for end in ("py", "yaml", "md") for path in REPOSITORY.glob(f"**/*.{end}")]
    texts = [path for path in texts if path.relative_to(REPOSITORY).parts[0] in ("simclr", "configs", "tests", "docs")]
    for path in {*texts, REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"} - {Path(__file__)}:
        assert not re.search(r"\b[Pp]ictures?\b", path.read_text(encoding="utf-8")), path
