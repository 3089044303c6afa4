"""One fine-tuning with several seeds: how much of a score is luck.

runs/NAME/   seeds.json (what was asked, and the scores)   seed-0/ seed-1/ … (a run each)   model/ (the best's)   report.html
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from wordmill.core.errors import UsageError, WordmillError
from wordmill.core.files import read_json, write_json
from wordmill.core.progress import SILENT, Reporter, human_count, plural
from wordmill.tasks.finetune import FinetuneConfig, as_given, finetune
from wordmill.tasks.run import CONFIG, Run, check_unchanged, make_run_folder, run_folder
from wordmill.tasks.tune_asked import check_asked
from wordmill.train.distributed import processes
from wordmill.train.loop import Stopped
from wordmill.train.report import write_report

FILE = "seeds.json"


def finetune_seeds(
    seeds: int,
    task: str | None = None,
    data: str | Path | Sequence[str | Path] = (),
    *,
    model: str | Path | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    tensorboard: bool = False,
    reporter: Reporter = SILENT,
    **settings: Any,
) -> Run:
    """The same run with `seeds` seeds, each in OUT/seed-N, on the same split of the examples; the mean and spread of their scores, and the
    best by validation as OUT/model.

    `resume` goes on with all of them as they were asked for, or with more seeds; finished ones are left alone. Raises as `finetune`.
    """
    if processes() > 1:
        raise UsageError(f"several seeds are trained one after the other, by one process, and here are {processes()}", where="--seeds",
                         fix="Leave torchrun away; or train each seed by itself, with --seed")  # fmt: skip
    given = as_given(task, data, model, settings)
    if resume:
        asked, seeds, folder = _resumed(given, seeds, out)
    else:
        asked, folder = _begun(given, out)
    write_json(folder / FILE, {"asked": asked, "seeds": seeds})
    runs = []
    for seed in range(asked["seed"], asked["seed"] + seeds):
        place = folder / f"seed-{seed}"
        reporter.note(f"seed {seed}:")
        one = {**asked, "seed": seed}
        try:
            runs.append(finetune(out=place, resume=(place / CONFIG).exists(), device=device, tensorboard=tensorboard, reporter=reporter,
                                 **one))  # fmt: skip
        except Stopped as stopped:
            raise Stopped(stopped.args[0], folder) from None
        except WordmillError:
            if not any(folder.glob("seed-*")):  # it never began: the mended command may take the same folder
                shutil.rmtree(folder, ignore_errors=True)
            raise
    metrics = _summed_up(runs, folder, reporter)
    write_json(folder / FILE, {"asked": asked, **metrics})
    return Run(folder, metrics)


def has_seeds(folder: Path) -> bool:
    """Whether a folder holds a run of several seeds."""
    return (folder / FILE).exists()


def _begun(given: Mapping[str, Any], out: str | Path | None) -> tuple[dict[str, Any], Path]:
    """What is asked for, and a new folder for it. Raises as `finetune`."""
    first = given.get("seed") or 0
    set_aside = not given.get("validation") and given.get("validation_share") != 0
    asked = {**({"split_seed": first} if set_aside else {}), **given, "seed": first}  # the same examples are set aside for all seeds
    config = FinetuneConfig.of(asked)
    check_asked(config, asked)
    return config.model_dump(mode="json", exclude_unset=True), make_run_folder(run_folder(out), FILE)


def _resumed(given: Mapping[str, Any], seeds: int, out: str | Path | None) -> tuple[dict[str, Any], int, Path]:
    """What was asked for, how many seeds there are to be, and the folder. Raises `UsageError` when there is no such run, or its settings
    have changed."""
    saved = read_json(Path(out) / FILE) if out is not None and has_seeds(Path(out)) else {}
    if out is None or not isinstance(saved.get("asked"), dict):
        raise UsageError("there is no run of several seeds to resume here", where=out,
                         fix="Name its folder with -o; the run of one seed is resumed without --seeds")  # fmt: skip
    asked, before = saved["asked"], int(saved["seeds"])
    check_unchanged(FinetuneConfig, FinetuneConfig.of(asked).plain(), given, Path(out))
    if 1 < seeds < before:
        raise UsageError(f"this run has {before} seeds, and can only get more", where=out, fix="Leave --seeds away")
    return asked, max(seeds, before), Path(out)


def _summed_up(runs: Sequence[Run], folder: Path, reporter: Reporter) -> dict[str, Any]:
    """Mean and spread of the scores; the best run's model and report are put into the folder."""
    summary: dict[str, Any] = {}
    for split in ("validation", "test"):
        if split in runs[0].metrics:
            scores = {name: [run.metrics[split]["metrics"][name] for run in runs] for name in runs[0].metrics[split]["metrics"]}
            summary[split] = {name: {"mean": statistics.fmean(values), "spread": statistics.stdev(values) if len(values) > 1 else 0.0,
                                     "values": values} for name, values in scores.items()}  # fmt: skip
            told = ", ".join(f"{name} {s['mean']:.4f} ± {s['spread']:.4f}" for name, s in summary[split].items())
            reporter.note(f"{split}, mean and standard deviation of {plural(len(runs), 'seed')}: {told}")
    headline = runs[0].metrics["validation"]["headline"] if "validation" in runs[0].metrics else None
    sign = -1 if headline and runs[0].metrics["validation"]["lower_is_better"] else 1
    best = max(runs, key=lambda run: sign * run.metrics["validation"]["metrics"][headline]) if headline else runs[0]
    for part in ("model", "adapter"):
        if (best.folder / part).exists():
            shutil.copytree(best.folder / part, folder / part, dirs_exist_ok=True)
    write_report(best.folder, place=folder, lead=_page(runs, best, summary, folder))
    reporter.note(f"{folder / 'model'} is the model of {best.folder.name}, about {human_count(best.metrics['parameters'])} weights")
    return {"seeds": len(runs), "best": best.folder.name, **summary}


def _page(runs: Sequence[Run], best: Run, summary: Mapping[str, Any], folder: Path) -> str:
    """HTML: mean and spread of the scores and those of each seed, before the page of the best."""
    links = "".join(f'<th class="number"><a href="{run.folder.name}/report.html">{run.folder.name}</a></th>' for run in runs)
    rows = []
    for split, scores in summary.items():
        for name, found in scores.items():
            cells = "".join(f'<td class="number">{value:.4f}</td>' for value in found["values"])
            rows.append(f'<tr><td class="key">{split}: {name.replace("_", " ")}</td>'
                        f'<td class="number">{found["mean"]:.4f} ± {found["spread"]:.4f}</td>{cells}</tr>')  # fmt: skip
    head = f'<tr><th></th><th class="number">mean ± standard deviation</th>{links}</tr>'
    table = f'<div class="card"><table>{head}{"".join(rows)}</table></div>'
    note = f"<p class=sub>model/ is that of {best.folder.name}; its page stands below.</p>"
    return f"<h1>{escape(folder.resolve().name)}: {plural(len(runs), 'seed')}</h1>{note}{table if rows else ''}"
