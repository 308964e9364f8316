"""The project as somebody else meets it: installed from a wheel without the checkout, and checked before a commit."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY, TINY_RUN, environment, only_run


class Installed:
    """A wheel of this checkout, installed into a folder of its own."""

    def __init__(self, folder: Path) -> None:
        source = folder / "source"  # setuptools writes beside what it builds
        source.mkdir()
        for name in ("simclr", "configs"):
            shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(REPOSITORY / name, source / name)
        self._pip("wheel", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
        (self.wheel,) = folder.glob("*.whl")
        self.site = folder / "site"
        self._pip("install", "--target", str(self.site), str(self.wheel))

    @staticmethod
    def _pip(*arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "pip", *arguments, "--no-deps", "--no-index", "--quiet"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    def run(self, folder: Path, command: str, *overrides: str) -> str:
        """What a console command says in `folder`, where there is no checkout."""
        done = subprocess.run(
            [self.site / "bin" / command, *overrides],
            cwd=folder,
            env=environment() | {"PYTHONPATH": str(self.site)},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"))


def test_a_wheel_holds_every_module_and_every_configuration(installed):
    with zipfile.ZipFile(installed.wheel) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    modules = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "simclr").rglob("*.py")}
    configs = {f"simclr/{path.relative_to(REPOSITORY).as_posix()}" for path in REPOSITORY.glob("configs/**/*.yaml")}
    assert held == modules | configs


def test_an_installed_command_composes_its_own_configurations(installed, tmp_path):
    code = "import simclr; print(simclr.__file__)"
    arguments = [sys.executable, "-c", code]
    found = subprocess.check_output(arguments, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(installed.site)})
    assert Path(found.decode().strip()).is_relative_to(installed.site)
    shown = installed.run(tmp_path, "simclr-train", "head=baseline", "--cfg", "job")
    assert yaml.safe_load(shown)["head"]["hidden_features"] == 512
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_installed_package_trains_and_judges_from_an_empty_folder(installed, tmp_path):
    """In two processes, which find the package as the command did."""
    processes = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")
    installed.run(tmp_path, "simclr-train", *TINY_RUN, "epochs=1", *processes)
    run_dir = only_run(tmp_path / "outputs")
    assert (run_dir / "metrics.json").exists()
    assert "linear top-1" in installed.run(tmp_path, "simclr-eval", f"run={run_dir}")


def test_pre_commit_runs_the_checks_that_ci_runs():
    (repository,) = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    hooks = {hook["entry"].removesuffix(" --force-exclude") for hook in repository["hooks"]}
    lines = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    checks = {line.replace(" --check", "").removesuffix(" .") for line in lines if line.startswith(("ruff", "mypy"))}
    assert hooks == checks


def test_the_workflow_runs_what_a_person_would():
    workflow = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    jobs = workflow["jobs"]
    assert jobs["everything"]["steps"][-1] == {"run": ".ci/run"}
    assert os.access(REPOSITORY / ".ci" / "run", os.X_OK)
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    start = readme.partition("## Start")[2].partition("## ")[0]
    assert [step["run"] for step in jobs["elsewhere"]["steps"] if "run" in step] == re.findall(
        "^pip install .*", start, re.M
    )


def test_the_workflow_tries_every_python_and_the_oldest_torch():
    jobs = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    fast = jobs["fast"]["strategy"]["matrix"]["include"]
    tried = {entry["python"] for entry in fast} | set(jobs["everything"]["strategy"]["matrix"]["python"])
    assert tried == set(re.findall(r"Python :: (3\.\d+)", project))
    oldest = re.findall(r'"(torch|torchvision)>=([\d.]+)"', project)
    assert fast[0]["torch"] == " ".join(f"{name}=={version}.*" for name, version in oldest)
