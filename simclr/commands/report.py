"""Write the report of a sweep: `python -m simclr.report multirun/grid`."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from simclr.errors import InputError
from simclr.runs.configs import CONFIGS
from simclr.system.files import replacing
from simclr.system.output import prepare_output


def main() -> None:
    prepare_output()
    sys.exit(command(sys.argv[1:]))


def command(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m simclr.report", description="Write the report of a sweep.")
    parser.add_argument("folder", type=Path, help="the runs lie below it, at any depth: multirun/grid")
    parser.add_argument("--out", type=Path, help="where the report goes (default: FOLDER/report)")
    parser.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="FACTOR=LEVEL",
        help="what the other levels of a factor are compared with (default: baseline, or the first); may be repeated",
    )
    chosen = parser.parse_args(arguments)
    try:
        references = dict(_pair(text) for text in chosen.reference)
        typed = shlex.join(["python", "-m", "simclr.report", *arguments])
        print(f"wrote {make_report(chosen.folder, chosen.out or chosen.folder / 'report', references, typed)}")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _pair(text: str) -> tuple[str, str]:
    factor, equals, level = text.partition("=")
    if not (factor and equals and level):
        raise InputError(f"--reference {text} is not FACTOR=LEVEL, as in --reference augmentation=baseline")
    return factor, level


def make_report(folder: Path, out: Path, references: dict[str, str], command: str) -> Path:
    """Write all files of the report of the runs below `folder` into `out`; returns the HTML page."""
    try:
        from simclr.report.figures import draw_all
        from simclr.report.page import render_page
        from simclr.report.sections import write_report
        from simclr.report.study import study_sweep
        from simclr.report.tables import write_tables
    except ModuleNotFoundError as error:
        if str(error.name).startswith("simclr"):
            raise
        raise InputError(f'the report needs the package {error.name}; pip install -e ".[report]"') from error

    study = study_sweep(folder, CONFIGS, references)
    markdown = write_report(study, draw_all(study, out), command)
    write_tables(study, out)
    for path, text in ((out / "report.md", markdown), (out / "report.html", render_page(markdown, out))):
        with replacing(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    return out / "report.html"
