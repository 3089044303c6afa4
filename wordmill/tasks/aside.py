"""Which examples are set aside to validate on, where no validation files are given: a function of the settings, so that it can be told
again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wordmill.core.files import write_text
from wordmill.core.progress import Reporter, plural, verb
from wordmill.tasks.examples import Record, Records, split_off
from wordmill.tasks.task import Task

if TYPE_CHECKING:
    from wordmill.tasks.finetune import FinetuneConfig


def _sides(task: Task, records: Sequence[Record], config: FinetuneConfig) -> tuple[list[str], tuple[list[int], list[int]]]:
    """The strata of the records, and which are kept to train on and which set aside."""
    strata, keys = ([ask(r) for r in records] for ask in (task.stratum, task.key))
    seed = config.seed if config.split_seed is None else config.split_seed
    return strata, split_off(strata, keys, config.validation_share, seed, least=task.scarce)


def kept_of(task: Task, records: Sequence[Record], config: FinetuneConfig) -> list[Record]:
    """The records that a run with these settings trains on when it sets some aside."""
    kept, aside = _sides(task, records, config)[1]
    return [records[i] for i in kept] if kept and aside else list(records)


def _counted(task: Task, records: Sequence[Record]) -> str:
    """How many examples there are, and what counts when some are to be set aside: different ones, of each stratum."""
    first = {task.key(record): record for record in reversed(records)}
    by_stratum = Counter(task.stratum(record) for record in first.values())
    different = f" with {plural(len(first), f'different {task.keyed}')}" if len(first) < len(records) else ""
    each = f", at most {max(by_stratum.values())} of one kind," if len(by_stratum) > 1 else ""
    return f"{plural(len(records), 'example')}{different}{each}"


def set_aside(config: FinetuneConfig, task: Task, splits: dict[str, Records], folder: Path, reporter: Reporter) -> dict[str, Records]:
    """Set validation examples aside, and write them down: data/validation.jsonl in the run folder."""
    whole = splits["train"]
    strata, (kept, aside) = _sides(task, whole.records, config)
    if not aside or not kept:
        reporter.warn(f"{_counted(task, whole.records)} {verb(len(whole), 'are')} too few to set some aside for validation: the last "
                      f"weights are kept (--validation names files of their own)")
        return splits

    def part(numbers: list[int]) -> Records:
        return Records([whole.records[i] for i in numbers], whole.fields, whole.kind, whole.headed, whole.files)

    place = folder / "data" / "validation.jsonl"
    place.parent.mkdir(exist_ok=True)
    lines = (json.dumps(whole.records[i].values, ensure_ascii=False, default=str) for i in aside)
    write_text(place, "".join(f"{line}\n" for line in lines))
    shares = f"the same share of {task.shared}, " if len({*strata}) > 1 else ""
    reporter.note(f"no validation files: {len(aside):,} of {plural(len(whole), 'example')} {verb(len(aside), 'are')} set aside "
                  f"({shares}equal texts on one side): "
                  f"{place.relative_to(folder)} of the run")  # fmt: skip
    return {**splits, "train": part(kept), "validation": part(aside)}
