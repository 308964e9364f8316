"""The report's files: whole, repeatable, and clear about what it cannot read."""

import csv
import re
import subprocess
import sys

import pytest

from simclr.commands.report import command
from tests.conftest import REPOSITORY, environment
from tests.report.sweeps import write_run


def test_the_report_rebuilds_from_json_and_its_own_curves(tmp_path, cells):
    """Events are read once, by a run that has them; then curves.csv alone gives the same figures."""
    from torch.utils.tensorboard import SummaryWriter

    folder = tmp_path / "sweep"
    for seed in range(2):
        run = write_run(folder / f"s{seed}", cells["modified", "slim"], seed, 40.0 + seed)
        with SummaryWriter(str(run)) as events:
            for step in range(0, 2500, 10):
                events.add_scalar("train/loss", 6 - step / 1000 + 0.1 * seed, step)
                events.add_scalar("train/top1", step / 100, step)
            events.add_scalar("val/knn_top1", 20 + seed, 2490)
    assert command([str(folder), "--out", str(tmp_path / "first")]) == 0
    with (tmp_path / "first" / "curves.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if (row["run"], row["tag"]) == ("s1", "train/loss")]
    assert len(rows) == 100
    for row in rows:  # a mean over neighbours of a straight line lies on that line
        assert float(row["value"]) == pytest.approx(6.1 - float(row["step"]) / 1000, abs=1e-4)
    for events_file in folder.rglob("events.out.tfevents.*"):
        events_file.unlink()
    assert command([str(folder), "--out", str(tmp_path / "without")]) == 0
    assert not (tmp_path / "without" / "curves.svg").exists()
    assert "2 of 2 runs have neither TensorBoard events" in (tmp_path / "without" / "report.md").read_text()
    (folder / "curves.csv").write_bytes((tmp_path / "first" / "curves.csv").read_bytes())
    assert command([str(folder), "--out", str(tmp_path / "second")]) == 0
    for name in ("curves.csv", "runs.csv", "effects.csv", "time.svg"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name


def test_the_page_needs_nothing_else_and_shows_names_as_text(tmp_path, cells):
    for seed in range(2):
        folder = tmp_path / f"<script>alert(1)<|script>*{seed}"
        write_run(folder, cells["modified", "slim"], seed, 40.0 + seed).joinpath("metrics.json").rename(folder / "gone")
        write_run(tmp_path / f"s{seed}", cells["modified", "slim"], seed, 40.0 + seed, {"device": "a|b <img src=x>"})
    assert command([str(tmp_path)]) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert not re.search(r"<script|<img src=x|<link|@import|url\(", page)
    sources = re.findall(r"(?:src|href)\s*=\s*\"([^\"]*)", page)
    assert sources
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert "&lt;script&gt;alert(1)" in page
    assert "a|b &lt;img src=x&gt;" in page
    written = sorted(path.name for path in (tmp_path / "report").iterdir())
    assert not [name for name in written if name.endswith(".part")]
    assert set(re.findall(r"\]\((.*?)\)", (tmp_path / "report" / "report.md").read_text())) <= set(written)


def test_runs_that_were_not_made_alike_are_pointed_out(tmp_path, cells):
    for seed in range(2):
        write_run(tmp_path / f"s{seed}", cells["modified", "slim"], seed, 40.0, {"git_commit": "ab"[seed] * 40})
    assert command([str(tmp_path)]) == 0
    report = (tmp_path / "report" / "report.md").read_text()
    assert "**The runs were not all made alike: they differ in commit**" in report
    assert "a" * 40 + " (1 runs)" not in report
    assert "b" * 40 + " (1 run)" in report


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("s0/metrics.json", '{"train/loss": 1.', "metrics.json cannot be read as JSON"),
        ("s0/linear_eval.json", "[]", "linear_eval.json holds no JSON object"),
        ("s0/linear_eval.json", b"\xff\xfe", "linear_eval.json cannot be read as JSON"),
        ("s0/config.yaml", "a: [", "config.yaml cannot be read"),
        ("s0/config.yaml", "epochs: 3", "config.yaml has no whole number as seed"),
        ("curves.csv", "run,tag\n", "curves.csv cannot be read as a table of curves"),
        ("curves.csv", "run,tag,step,value\ns0,train/loss,x,1\n", "curves.csv cannot be read as a table of curves"),
    ],
)
def test_damaged_files_give_one_clear_error(tmp_path, cells, capsys, file, content, words):
    write_run(tmp_path / "s0", cells["modified", "slim"], 0, 40.0)
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert command([str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert not (tmp_path / "report").exists()


def test_nothing_to_report_gives_one_clear_error(tmp_path, cells, capsys):
    assert command([str(tmp_path / "none")]) == 1
    assert command([str(tmp_path)]) == 1
    (write_run(tmp_path / "s0", cells["modified", "slim"], 0, 40.0) / "metrics.json").unlink()
    assert command([str(tmp_path)]) == 1
    assert command([str(tmp_path), "--reference", "head"]) == 1
    errors = capsys.readouterr().err.splitlines()
    words = ["there is no folder", "holds no run;", "1 run, not finished", "is not FACTOR=LEVEL"]
    assert len(errors) == 4
    assert all(word in line for word, line in zip(words, errors, strict=True)), errors


def test_a_missing_package_is_named_with_its_remedy(tmp_path, cells):
    """In a second process in which it cannot be imported."""
    write_run(tmp_path / "s0", cells["modified", "slim"], 0, 40.0)
    program = "import runpy, sys; sys.modules['matplotlib'] = None; "
    program += f"sys.argv[1:] = [{str(tmp_path)!r}]; runpy.run_module('simclr.report', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr == 'error: the report needs the package matplotlib; pip install -e ".[report]"\n'
