"""Say whether a run would work here, and how long it would take. `python -m simclr.doctor --help` shows how to ask."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from contextlib import redirect_stdout
from dataclasses import asdict

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from simclr.commands.app import hint
from simclr.commands.arguments import prepared
from simclr.errors import InputError, first_line
from simclr.runs.compose import compose_config
from simclr.system.output import prepare_output

SIGNS = {"ok": "✓", "warning": "!", "error": "✗"}


def main() -> None:
    prepare_output()
    sys.exit(command(sys.argv[1:]))


def command(arguments: list[str]) -> int:
    """0 where the run would work, 1 where it would not."""
    parser = argparse.ArgumentParser(
        prog="python -m simclr.doctor",
        description="Say whether a run would work on this machine, and how long it would take. Nothing is written.",
        epilog="KEY=VALUE are train.py's: python -m simclr.doctor experiment=study precision=16",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="the run that is asked about")
    parser.add_argument("--json", action="store_true", help="for programs: one object, on standard output")
    parser.add_argument("--seconds", type=float, default=10, help="of the speed probe (10); 0 leaves it out")
    chosen = parser.parse_args(arguments)
    logging.disable(logging.WARNING)  # what the parts would say of themselves in a run is said here
    try:
        config = _composed(chosen.overrides)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1

    from simclr.commands.examination import examine  # not above: --help must not wait for torch

    findings, output = [], sys.stdout
    with redirect_stdout(sys.stderr):  # the bars of what takes long
        for finding in examine(config, chosen.seconds):
            findings.append(finding)
            if not chosen.json:
                print(f"{SIGNS[finding.state]} {finding.name:<10} {finding.text}", file=output, flush=True)
    failed = any(finding.state == "error" for finding in findings)
    if chosen.json:
        print(json.dumps({"ok": not failed, "findings": [asdict(finding) for finding in findings]}, indent=2))
    return int(failed)


def _composed(overrides: list[str]) -> DictConfig:
    try:
        return compose_config(*prepared(overrides, "train"))
    except (HydraException, OmegaConfBaseException) as error:
        said = hint("train", overrides) or f"{first_line(error)}; python train.py --help shows what there is"
        raise InputError(said.strip()) from error
