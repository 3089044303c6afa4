"""How long a command line takes until it answers: `wordmill --help` beside the start-up of its peers.

Repeat it:
    python benchmarks/startup.py --rounds 7
Needs: wordmill; transformers, tokenizers and datasets are measured where they are installed. Every start is a process of its
own and the cases run in turn; the first round warms the disk cache and is not counted.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import shutil
import sys
from collections.abc import Sequence

import _common as common

LIMIT = 0.3  # seconds: what the project promises for `wordmill --help`


def cases() -> dict[str, Sequence[str]]:
    """The commands to measure: ours, the bare interpreter as the floor, and the peers that are installed."""
    python = sys.executable
    script = shutil.which("wordmill", path=str(common.Path(python).parent))
    commands: dict[str, Sequence[str]] = {
        "python -c pass (the floor)": (python, "-c", "pass"),
        "wordmill --help": (script, "--help") if script else (*common.WORDMILL, "--help"),
        "wordmill pretrain --help": (*((script,) if script else common.WORDMILL), "pretrain", "--help"),
        "import wordmill": (python, "-c", "import wordmill"),
    }
    if importlib.util.find_spec("torch"):
        commands["import torch"] = (python, "-c", "import torch")
    if importlib.util.find_spec("transformers"):
        commands["import AutoModelForCausalLM"] = (python, "-c", "from transformers import AutoModelForCausalLM")
        if cli := shutil.which("transformers", path=str(common.Path(python).parent)):
            commands["transformers --help"] = (cli, "--help")
    if importlib.util.find_spec("accelerate"):
        commands["import Trainer"] = (python, "-c", "from transformers import Trainer")
    for package in ("tokenizers", "datasets"):
        if importlib.util.find_spec(package):
            commands[f"import {package}"] = (python, "-c", f"import {package}")
    return commands


def main() -> None:
    """Parse the command line, run the rounds, write benchmarks/results/startup.{json,md}; exit 1 above the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    runs = {name: functools.partial(common.measure, command) for name, command in cases().items()}
    results = common.interleave(runs, options.rounds + 1)
    seconds = {name: [m.seconds for m in measured[1:]] for name, measured in results.items() if len(measured) > 1}
    rows = [
        [name, f"{common.median(values):.3f} s", f"{min(values):.3f} s", f"{results[name][0].peak_bytes / 2**20:.0f} MiB"]
        for name, values in seconds.items()
    ]
    common.save("startup", {"seconds": seconds}, common.table(["command", "median", "best", "peak memory"], rows))
    if common.median(seconds["wordmill --help"]) > LIMIT:
        sys.exit(f"wordmill --help takes more than {LIMIT} s")


if __name__ == "__main__":
    main()
