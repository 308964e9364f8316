"""What MkDocs makes of the project itself: a page with every file of configs/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
ABOUT = "Every default of the project, as it lies in `configs/`. [Configuration](configuration.md) explains the groups."


def on_files(files: Files, config: Any) -> Files:
    files.append(File.generated(config, "files.md", content=page()))
    return files


def page() -> str:
    """Markdown with the files of configs/, commands first, then group by group."""
    commands = sorted(CONFIGS.glob("*.yaml"))
    groups = sorted({path.parent for path in CONFIGS.glob("*/*.yaml")})
    parts = ["# Configuration files", ABOUT]
    for heading, paths in (("Commands", commands), *((group.name, sorted(group.glob("*.yaml"))) for group in groups)):
        parts.append(f"## {heading}")
        for path in paths:
            name = path.relative_to(CONFIGS).with_suffix("").as_posix().replace("/", "=")
            parts += [f"### {name}", f"```yaml\n{path.read_text(encoding='utf-8').rstrip()}\n```"]
    return "\n\n".join(parts) + "\n"
