"""One fine-tuning with several seeds: how much of a score is luck."""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from wordmill.core.files import new_folder, write_json
from wordmill.core.progress import SILENT, Reporter, human_count, plural
from wordmill.tasks.finetune import finetune
from wordmill.tasks.run import Run


def finetune_seeds(seeds: int, *, out: str | Path | None, reporter: Reporter = SILENT, **given: Any) -> Run:
    """The same run with `seeds` seeds, each in OUT/seed-N, on the same split of the examples; the mean and spread of their scores, and the
    best by validation as OUT/model.

    Finished ones are left alone with `resume`. Raises as `finetune`.
    """
    resume = bool(given.pop("resume", False))
    folder = Path(out) if out is not None else Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    if not resume:
        new_folder(folder)
    first = int(given.pop("seed", 0) or 0)
    # Where examples are set aside, all seeds set the same ones aside.
    same = {} if given.get("validation") or given.get("validation_share") == 0 else {"split_seed": first}
    runs = []
    for seed in range(first, first + seeds):
        place = folder / f"seed-{seed}"
        reporter.note(f"seed {seed}:")
        again = resume and (place / "config.yaml").exists()
        runs.append(finetune(out=place, reporter=reporter, **({"resume": True} if again else {**same, **given, "seed": seed})))
    summary: dict[str, Any] = {}
    for split in ("validation", "test"):
        if split in runs[0].metrics:
            scores = {name: [run.metrics[split]["metrics"][name] for run in runs] for name in runs[0].metrics[split]["metrics"]}
            summary[split] = {name: {"mean": statistics.fmean(values), "spread": statistics.stdev(values) if len(values) > 1 else 0.0,
                                     "values": values} for name, values in scores.items()}  # fmt: skip
            told = ", ".join(f"{name} {s['mean']:.4f} ± {s['spread']:.4f}" for name, s in summary[split].items())
            reporter.note(f"{split}, mean and standard deviation of {plural(seeds, 'seed')}: {told}")
    headline = runs[0].metrics["validation"]["headline"] if "validation" in runs[0].metrics else None
    sign = -1 if headline and runs[0].metrics["validation"]["lower_is_better"] else 1
    best = max(runs, key=lambda run: sign * run.metrics["validation"]["metrics"][headline]) if headline else runs[0]
    for part in ("model", "adapter"):
        if (best.folder / part).exists():
            shutil.copytree(best.folder / part, folder / part, dirs_exist_ok=True)
    shutil.copyfile(best.report, folder / "report.html")
    metrics = {"seeds": seeds, "best": best.folder.name, **summary}
    write_json(folder / "seeds.json", metrics)
    reporter.note(f"{folder / 'model'} is the model of {best.folder.name}, about {human_count(best.metrics['parameters'])} weights")
    return Run(folder, metrics)
