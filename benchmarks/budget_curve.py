"""Does `--time` choose well? Its choice beside hand-set sizes with the same budget: the U-curve.

Repeat it:
    python benchmarks/budget_curve.py --train wiki.train.txt --valid wiki.valid.txt --time 3m --sizes 1m 3m 8m 20m 50m
Needs: wordmill, a training and a validation text, and (number of sizes + 1) × budget of a quiet machine: 18 minutes for 3m, an
hour for 10m. Too small a model stops learning, too large a one sees too few tokens: bits per byte over size is a U. The choice
passes when it is within 3 % of the best hand-set size. Runs are kept in --work, and a run that is there is not repeated. `--at-once 2`
halves the hour: two runs side by side, with half of the cores each.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import _common as common

MARGIN = 0.03
PLOT_WIDTH, PLOT_HEIGHT, EDGE = 640, 360, 56


def train(size: str | None, options: argparse.Namespace, work: Path) -> dict[str, Any] | None:
    """One run with the budget, its size given or chosen; evaluated on the validation text. None: it failed."""
    name = f"size-{size}" if size else "chosen"
    common.log(name)
    try:
        return _train(name, size, options, work)
    except common.BenchmarkError as error:
        common.log(f"  {name} failed: {error}")
        return None


def _train(name: str, size: str | None, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    kept = work / f"{name}.json"
    if kept.exists():
        record: dict[str, Any] = json.loads(kept.read_text())
        return record
    run = work / name
    given = ["--size", size] if size else []
    measured = common.wordmill(
        "pretrain",
        str(options.train),
        "-o",
        str(run),
        "--validation",
        str(options.valid),
        "--time",
        options.time,
        *given,
        "--seed",
        str(options.seed),
        "--json",
        "--quiet",
        env={"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // options.at_once))},
    )
    answer = measured.json()
    evaluated = common.wordmill("evaluate", str(run / "model"), str(options.valid), "--json").json()
    record = {
        "name": name, "seconds": measured.seconds, "peak_bytes": measured.peak_bytes, "parameters": parameters(run / "model"),
        "bits_per_byte": evaluated["bits_per_byte"], "answer": answer,
    }  # fmt: skip
    kept.write_text(json.dumps(record, indent=1))
    return record


def parameters(model: Path) -> int:
    """Number of parameters, from the header of the weights' file."""
    total = 0
    for path in model.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        total += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total


def plot(records: Sequence[dict[str, Any]], title: str) -> str:
    """The U-curve as an SVG: hand-set sizes as a line, the choice as a filled point; the size's axis is logarithmic."""
    xs = [math.log10(r["parameters"]) for r in records]
    ys = [r["bits_per_byte"] for r in records]
    x0, x1, y0, y1 = min(xs) - 0.1, max(xs) + 0.1, min(ys) * 0.99, max(ys) * 1.01

    def place(r: dict[str, Any]) -> tuple[float, float]:
        x = EDGE + (math.log10(r["parameters"]) - x0) / (x1 - x0) * (PLOT_WIDTH - 2 * EDGE)
        y = PLOT_HEIGHT - EDGE - (r["bits_per_byte"] - y0) / (y1 - y0) * (PLOT_HEIGHT - 2 * EDGE)
        return round(x, 1), round(y, 1)

    hand = sorted((r for r in records if r["name"] != "chosen"), key=lambda r: r["parameters"])
    line = " ".join(f"{x},{y}" for x, y in map(place, hand))
    marks = []
    for r in records:
        (x, y), chosen = place(r), r["name"] == "chosen"
        marks.append(f'<circle cx="{x}" cy="{y}" r="{6 if chosen else 4}" fill="{"#c2410c" if chosen else "#1d4ed8"}"/>')
        label = f"{'chosen: ' if chosen else ''}{r['parameters'] / 1e6:.1f}M, {r['bits_per_byte']:.3f}"
        marks.append(f'<text x="{x}" y="{y + 20 if chosen else y - 10}" font-size="11" text-anchor="middle">{label}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {PLOT_WIDTH} {PLOT_HEIGHT}" font-family="sans-serif">'
        f'<rect width="100%" height="100%" fill="white"/><text x="{EDGE}" y="24" font-size="14">{title}</text>'
        f'<polyline points="{line}" fill="none" stroke="#1d4ed8" stroke-width="2"/>{"".join(marks)}'
        f'<text x="{PLOT_WIDTH // 2}" y="{PLOT_HEIGHT - 14}" font-size="12" text-anchor="middle">parameters (logarithmic)</text>'
        f'<text x="14" y="{PLOT_HEIGHT // 2}" font-size="12" transform="rotate(-90 14 {PLOT_HEIGHT // 2})" text-anchor="middle">'
        f"bits per byte</text></svg>\n"
    )


def main() -> None:
    """Parse the command line, run the choice and the sizes, write benchmarks/results/budget_curve_TIME.{json,md,svg}."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--time", default="3m")
    parser.add_argument("--sizes", nargs="+", default=["1m", "3m", "8m", "20m", "50m"], help="hand-set sizes in parameters")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="keep the runs here, and go on from those that are there")
    parser.add_argument("--at-once", type=int, default=1, help="runs side by side, each with its share of the cores")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(options.at_once) as pool:
            found = pool.map(functools.partial(train, options=options, work=work), (None, *options.sizes))
            records = [record for record in found if record is not None]
    best = min(r["bits_per_byte"] for r in records if r["name"] != "chosen")
    rows = [
        [r["name"], f"{r['parameters'] / 1e6:.2f}M", f"{r['bits_per_byte']:.4f}", f"{r['bits_per_byte'] / best - 1:+.1%}",
         f"{r['seconds']:.0f} s", f"{r['peak_bytes'] / 2**30:.2f} GiB"]
        for r in sorted(records, key=lambda r: int(r["parameters"]))
    ]  # fmt: skip
    name = f"budget_curve_{options.time}"
    headers = ["run", "parameters", "bits per byte", "over the best size", "time, all included", "peak memory"]
    common.save(name, {"records": records, "best_of_sizes": best}, common.table(headers, rows))
    (common.RESULTS / f"{name}.svg").write_text(plot(records, f"{options.time} on this machine: size against bits per byte"))
    chosen = next((r["bits_per_byte"] for r in records if r["name"] == "chosen"), math.inf)
    if chosen > best * (1 + MARGIN):
        sys.exit(f"the choice is {chosen / best - 1:.1%} above the best hand-set size (limit {MARGIN:.0%})")


if __name__ == "__main__":
    main()
