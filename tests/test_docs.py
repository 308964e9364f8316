"""The docs are true where a program can tell: commands compose, links lead somewhere, the tests they name exist."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from simclr.runs.assemble import assemble
from simclr.runs.compose import compose_config, prefer_own_configs
from simclr.runs.configs import CONFIGS
from tests.conftest import REPOSITORY, Run

DOCS = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").glob("*.md"))]
DOCS += sorted(path for room in ("concepts", "methods") for path in (REPOSITORY / "docs" / room).glob("*.md"))
TESTS = {path.name: path.read_text(encoding="utf-8") for path in (REPOSITORY / "tests").rglob("test_*.py")}
COMMANDS = {
    "train.py": "train",
    "linear_eval.py": "linear_eval",
    "simclr.visualize": "visualize",
    "simclr.export": "export",
    "simclr.search": "search",
    "simclr.embed": "embed",
}
PROGRAMS = "|".join(map(re.escape, COMMANDS))


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """The configuration and the overrides of every command in the blocks of a document."""
    for block in re.findall(r"^```(?:\n|(?!yaml)\w+\n)(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.search(rf"(?:python(?: -m)?|torchrun .*?) ({PROGRAMS})\b(.*)", line)
            if found and "--config-dir" not in line:  # test_extend.py runs those
                arguments = shlex.split(found[2].partition(";")[0], comments=True)
                yield COMMANDS[found[1]], [word for word in arguments if "=" in word]


def files_to_read() -> list[str]:
    """The files that a newcomer is told to read, in order."""
    return re.findall(r"^\d+\. `(simclr/\S+\.py)`", text_of(REPOSITORY / "docs" / "code.md"), re.MULTILINE)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_commands_compose(path):
    prefer_own_configs()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for config_name, overrides in commands(text_of(path)):
            each = [override for override in overrides if not override.startswith("hydra/launcher=")]
            swept = OverridesParser.create().parse_overrides(each)
            first = [
                f"{one.get_key_element()}={next(one.sweep_string_iterator())}" if one.is_sweep_override() else given
                for one, given in zip(swept, each, strict=True)
            ]
            compose(config_name, first)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text_of(path)):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_tests_that_hold_a_promise_exist(path):
    """As `test_file.py`, `test_file.py::test_name`, or `test_name` alone; … stands for what is left out."""
    for quoted in re.findall(r"`(…?test_[^`]*)`", text_of(path)):
        file, name = re.fullmatch(r"(?:(test_\w+\.py)(?:::)?)?…?(\w*).*", quoted).groups()
        if file:
            assert f"def {name}" in TESTS[file] if name else file in TESTS, quoted
        else:
            assert any(f"def {name}" in text for text in TESTS.values()), quoted


def test_a_newcomer_reads_less_than_1500_lines():
    files = files_to_read()
    assert len(files) > 5
    assert sum(text_of(REPOSITORY / name).count("\n") for name in files) < 1500


def test_every_room_is_listed():
    listed = re.findall(r"^\| `(\w+)` \|", text_of(REPOSITORY / "docs" / "code.md"), re.MULTILINE)
    rooms = {path.name.removesuffix(".py") for path in (REPOSITORY / "simclr").iterdir() if path.name[0] != "_"}
    assert set(listed) == rooms - {"errors", "checks", "doctor", "embed", "export", "load", "search", "visualize"}


def test_every_choice_and_every_key_is_listed():
    text = text_of(REPOSITORY / "docs" / "configuration.md")
    table = dict(re.findall(r"^\| `(\S+)` \| ((?:`\w+`(?:, )?)+) \|", text, re.MULTILINE))
    keys = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", text, re.MULTILINE)))
    assert top_level_keys() - {"defaults", "hydra"} <= set(keys)
    groups = {path.parent.relative_to(CONFIGS).as_posix() for path in CONFIGS.glob("*/*.yaml")} - {"hydra", "protocol"}
    assert groups | {"hydra/launcher"} == table.keys() - top_level_keys()
    for group in groups:
        assert set(re.findall(r"`(\w+)`", table[group])) == {path.stem for path in (CONFIGS / group).glob("*.yaml")}


def top_level_keys() -> set[str]:
    groups = {path.name for path in CONFIGS.iterdir() if path.is_dir()}
    return set(map(str, OmegaConf.load(CONFIGS / "train.yaml"))) - groups


def test_the_tutorials_own_experiment_composes(run: Run, tmp_path):
    (content,) = re.findall(
        r"^```yaml\n(.*?)^```$", text_of(REPOSITORY / "docs" / "tutorial.md"), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "mine.yaml").write_text(content)
    shown = run("train.py", "--config-dir", tmp_path / "mine", "experiment=mine", "--cfg", "job").stdout
    config = OmegaConf.create(shown)
    assert (config.epochs, config.temperature, config.augmentation.blur_p) == (20, 0.2, 0.0)


def test_readme_is_read_in_some_minutes():
    assert len(text_of(REPOSITORY / "README.md").split()) < 900


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_shows_every_configuration(tmp_path):
    asked = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # which is about MkDocs itself
    done = subprocess.run(asked, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    page = text_of(tmp_path / "site" / "files.html")
    for path in CONFIGS.glob("*/*.yaml"):
        assert f'id="{path.parent.name}{path.stem}"' in page
    interface = text_of(tmp_path / "site" / "api.html")
    assert "keeps its gradients" in interface  # a docstring's own words


def test_contributing_shows_a_method_as_it_is():
    (snippet,) = re.findall(
        r"^```python\n(.*?)^```$", text_of(REPOSITORY / "CONTRIBUTING.md"), re.MULTILINE | re.DOTALL
    )
    assert text_of(REPOSITORY / "simclr" / "methods" / "simsiam.py").endswith(snippet)


def test_every_method_has_its_page_with_the_headings_of_all():
    """A table and a page for a newcomer to choose by; a number of parameters that is stated is the true one."""
    table, pages = text_of(REPOSITORY / "docs" / "methods" / "index.md"), {}
    for path in sorted((CONFIGS / "method").glob("*.yaml")):
        assert f"[`{path.stem}`]({path.stem}.md)" in table
        pages[path.stem] = text_of(REPOSITORY / "docs" / "methods" / f"{path.stem}.md")
    for name, page in pages.items():
        assert re.findall(r"^## (.+)$", page, re.MULTILINE) == ["Settings", "Cost", "What failure looks like", "Run"]
        stated = re.search(r"([\d,]+) parameters(?: that)? learn", page)
        if stated:
            method = assemble(compose_config("data=shapes", f"method={name}")).method
            learning = [parameter for group in method.parameter_groups() for parameter in group["params"]]
            assert sum(parameter.numel() for parameter in learning) == int(stated[1].replace(",", "")), name
