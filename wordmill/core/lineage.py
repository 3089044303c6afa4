"""Where a thing came from: `wordmill.json`, carried from corpus to tokenizer to model, stage by stage."""

from __future__ import annotations

import platform
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from wordmill.core.files import read_json, write_json

FILE = "wordmill.json"


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, wordmill and the packages named (those installed)."""
    found = {"python": platform.python_version()}
    for package in ("wordmill", *packages):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def now() -> str:
    """The time in UTC, to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_lineage(folder: Path, **facts: Any) -> None:
    """Write `wordmill.json` beside what it describes: hashes, recipe, parents, metrics, versions."""
    base = {"written": now(), "versions": versions("torch", "tokenizers"), "command": " ".join(sys.argv)}
    write_json(folder / FILE, {**base, **facts})


def read_lineage(folder: Path) -> dict[str, Any]:
    """What `wordmill.json` says, or an empty dict for a folder that is not ours."""
    return read_json(folder / FILE) if (folder / FILE).exists() else {}
