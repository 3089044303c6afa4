"""`report.html`: one self-contained page about a run, made from what the run folder holds.

It reads `config.yaml`, `metrics.jsonl`, `samples.jsonl`, `timings.json`, `run.json` and `pages.html`, shows what is there and leaves out
what is not, so that a page can be made at any moment of a run and from a run that was killed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from wordmill.core.files import write_text
from wordmill.core.progress import human_bytes, human_count, human_time
from wordmill.core.svg import line_plot, short_number

PAGES = "pages.html"
"""What a task has to show of its results, as a part of the page."""

MOST_SAMPLES = 8
"""Samples shown a prompt: the first, the last, and some between."""

UNITS = ("bytes", "documents", "tokens", "seconds", "loss", "bpb", "layers", "width", "size", "rate")
"""Names that say what is counted: values under several of them can't share one scale."""

Row = dict[str, Any]

STYLE = """
:root{color-scheme:light dark;--page:#fff;--card:#f7f8fa;--ink:#1f2933;--faint:#5f6c7b;--line:#e1e5ea;--accent:#2266b3}
@media (prefers-color-scheme:dark){:root{--page:#14181d;--card:#1c2229;--ink:#e6e9ee;--faint:#98a3b0;--line:#303842;--accent:#6cb0f5}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans CJK SC',sans-serif}
main{max-width:1120px;margin:0 auto;padding:36px 24px 64px}
h1{font-size:26px;margin:0}h2{font-size:19px;margin:44px 0 12px}h3{font-size:15px;margin:22px 0 8px}
.sub{color:var(--faint);margin:4px 0 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(132px,1fr));gap:12px;margin:24px 0 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 14px}
.tile b{display:block;font-size:24px;line-height:1.25;font-weight:650}.tile span{color:var(--faint);font-size:13px}
.tile.main b{color:var(--accent)}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:16px}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 14px;overflow-x:auto}
main>.card+.card{margin-top:14px}main>.card+h1{margin-top:48px}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:5px 18px 5px 0;vertical-align:top;border-bottom:1px solid var(--line)}
tr:last-child td{border-bottom:0}
th,td.key{color:var(--faint);font-weight:400;white-space:nowrap}td.key{width:1%;min-width:150px}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap;width:1%}
pre{margin:0;white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.5 ui-monospace,'SF Mono',Menlo,Consolas,monospace}
.text pre{max-height:10.5em;overflow-y:auto}
pre .prompt{color:var(--accent);font-weight:600}
td:has(.bar){vertical-align:middle}
.bar{height:9px;border-radius:5px;background:var(--accent);min-width:2px}
details summary{cursor:pointer;font-size:19px;font-weight:650;margin:44px 0 12px}
footer{margin-top:48px;color:var(--faint);font-size:13px}
""".strip()


def write_report(run_folder: Path, *, place: Path | None = None, lead: str = "") -> Path:
    """Make `report.html` from what is in the run folder, there or in `place`, and return its path. `lead`: HTML that stands first, with a
    title of its own."""
    rows = read_rows(run_folder / "metrics.jsonl")
    train = [row for row in rows if "loss" in row]
    tests = [row for row in rows if "validation_loss" in row or "validation_bpb" in row]
    facts, timings = _read_object(run_folder / "run.json"), _read_object(run_folder / "timings.json")
    tiles, pages = facts.pop("tiles", {}), run_folder / PAGES
    parts = [
        lead,
        f"<h1>{escape(str(facts.pop('title', run_folder.resolve().name)))}</h1>",
        f"<p class=sub>{escape(str(facts.pop('summary', 'A language model trained by wordmill.')))}</p>",
        _tiles(train, tests, facts, tiles if isinstance(tiles, Mapping) else {}),
        pages.read_text(encoding="utf-8") if pages.exists() else "",
        _curves(train, tests),
        _samples(read_rows(run_folder / "samples.jsonl")),
        _timings(timings),
        _facts({name: value for name, value in facts.items() if name != "metrics" or "results" not in facts}),
        _settings(run_folder / "config.yaml"),
        "<footer>Made by wordmill. Losses are in nats a token; bits per byte compare across tokenizers, perplexities don't.</footer>",
    ]
    place = place or run_folder
    title = escape(place.resolve().name)
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    )
    page += f"<title>{title} · wordmill</title><style>{STYLE}</style></head><body><main>\n" + "\n".join(filter(None, parts))
    path = place / "report.html"
    write_text(path, page + "\n</main></body></html>\n")
    return path


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSONL file; an unfinished last line (a run that was killed) and a missing file are no errors."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _read_object(path: Path) -> Row:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def _last(rows: list[Row], key: str) -> Any:
    return next((row[key] for row in reversed(rows) if row.get(key) is not None), None)


def _middle(rows: list[Row], key: str) -> float | None:
    """The median: one slow step says nothing about a run."""
    values = sorted(row[key] for row in rows if isinstance(row.get(key), int | float))
    return values[len(values) // 2] if values else None


def _tiles(train: list[Row], tests: list[Row], facts: Row, own: Mapping[str, Any]) -> str:
    """The figures at the head: what came out, and what it took; `own`: the task's, by name."""
    best = min((row["validation_bpb"] for row in tests if isinstance(row.get("validation_bpb"), int | float)), default=None)
    model = facts.get("model") if isinstance(facts.get("model"), dict) else {}
    final = facts.get("metrics") if isinstance(facts.get("metrics"), dict) else {}
    assert isinstance(model, dict) and isinstance(final, dict)
    shown: list[tuple[str, Any, Callable[[float], str]]] = [
        *((str(name), value, lambda value: f"{value:.4g}") for name, value in own.items()),
        ("bits per byte", final.get("validation_bits_per_byte", best), lambda value: f"{value:.3f}"),
        ("perplexity per token", final.get("validation_perplexity", _last(tests, "validation_ppl")), lambda value: f"{value:.1f}"),
        ("of targets right", _last(tests, "validation_accuracy"), lambda value: f"{100 * value:.1f} %"),
        ("parameters", model.get("parameters"), human_count),
        ("tokens seen", _last([*train, *tests], "tokens"), human_count),
        ("training time", _last([*train, *tests], "time"), human_time),
        ("tokens/s (median)", _middle(train, "tokens_per_second"), human_count),
        ("of the peak rate (MFU)", _middle(train, "mfu"), lambda value: f"{100 * value:.0f} %"),
    ]
    tiles = [
        f'<div class="tile{" main" if index == 0 else ""}"><b>{escape(form(value))}</b><span>{escape(label)}</span></div>'
        for index, (label, value, form) in enumerate(shown)
        if isinstance(value, int | float)
    ]
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _curves(train: list[Row], tests: list[Row]) -> str:
    def points(rows: list[Row], key: str, x: str = "step") -> list[tuple[float, float]]:
        return [(row[x], row[key]) for row in rows if isinstance(row.get(key), int | float) and isinstance(row.get(x), int | float)]

    bpb, loss, rate = points(tests, "validation_bpb", "time"), points(train, "loss"), points(train, "lr")
    plots = []
    if bpb:
        plots.append(
            line_plot(
                {"validation": bpb},
                title="Bits per byte on the validation text",
                x_label="time",
                y_label="bits per byte",
                x_format=human_time,
                x_seconds=True,
                y_format=lambda value: f"{value:.3g}",
                marks=len(bpb) <= 30,
            )
        )
    if loss:
        both = {"training": loss, "validation": points(tests, "validation_loss")}
        plots.append(line_plot(both, title="Loss", x_label="step", y_label="nats a token", y_skip=0.06))
    score = points(tests, "validation_score")
    if score:
        name = str(_last(tests, "score"))
        plots.append(
            line_plot({name: score}, title="Score on the validation examples", x_label="step", y_label=name, marks=len(score) <= 30)
        )
    right = points(tests, "validation_accuracy")
    if right:
        title, marks = "Targets that the model held most likely", len(right) <= 30
        plots.append(line_plot({"validation": right}, title=title, x_label="step", y_label="share", marks=marks))
    if rate:
        peak = max(value for _, value in rate) or 1.0  # a share, since several rates may follow the one schedule
        rate = [(step, value / peak) for step, value in rate]
        plots.append(line_plot({"learning rate": rate}, title="Learning rate", x_label="step", y_label="share of its peak"))
    speed, norm = points(train, "tokens_per_second"), points(train, "grad_norm")
    if speed:
        plots.append(line_plot({"tokens/s": speed}, title="Speed", x_label="step", y_label="tokens a second", y_from_zero=True))
    if norm:
        plots.append(line_plot({"norm": norm}, title="Gradient norm (before clipping)", x_label="step", y_label="norm", y_skip=0.06))
    cards = "".join(f'<div class="card">{plot}</div>' for plot in plots)
    return f'<h2>Curves</h2><div class="plots">{cards}</div>' if plots else ""


def _samples(rows: list[Row]) -> str:
    """One table a prompt, oldest first: one reads down and sees it learn."""
    prompts: dict[str, list[Row]] = {}
    for row in rows:
        prompts.setdefault(str(row.get("prompt", "")), []).append(row)
    if not prompts:
        return ""
    parts = ["<h2>What it writes</h2><p class=sub>The same prompts at every evaluation, the first at the top.</p>"]
    for prompt, found in prompts.items():
        if len(found) > MOST_SAMPLES:
            found = [found[round(index * (len(found) - 1) / (MOST_SAMPLES - 1))] for index in range(MOST_SAMPLES)]
        lines = []
        for row in found:
            text = str(row.get("text", ""))
            text = text.removeprefix(prompt)
            shown = f'<pre><span class="prompt">{escape(prompt)}</span>{escape(text)}</pre>'
            lines.append(f'<tr><td class="number">{escape(_number(row.get("step", "")))}</td><td class="text">{shown}</td></tr>')
        table = f"<table><tr><th>step</th><th>text</th></tr>{''.join(lines)}</table>"
        parts.append(f'<h3>{escape(prompt or "from nothing")}</h3><div class="card">{table}</div>')
    return "".join(parts)


def _timings(timings: Row) -> str:
    seconds = {name: float(value) for name, value in timings.items() if isinstance(value, int | float) and value > 0}
    return f'<h2>Where the time went</h2><div class="card">{_bars(seconds, human_seconds)}</div>' if seconds else ""


def human_seconds(seconds: float) -> str:
    """Seconds with one decimal below a minute, `1:15` above."""
    return f"{seconds:.1f} s" if seconds < 60 else human_time(seconds)


def _bars(values: Mapping[str, float], form: Callable[[float], str]) -> str:
    most = max(values.values(), default=0.0) or 1.0
    rows = [
        f'<tr><td class="key">{escape(name.replace("_", " "))}</td><td class="number">{escape(form(value))}</td>'
        f'<td><div class="bar" style="width:{max(0.0, 100 * value / most):.1f}%"></div></td></tr>'
        for name, value in values.items()
    ]
    return f"<table>{''.join(rows)}</table>"


def _facts(facts: Row) -> str:
    """What run.json says, a section for each object in it and one for the rest."""
    loose = {name: value for name, value in facts.items() if not isinstance(value, Mapping)}
    parts = [
        f"<h2>{escape(name.replace('_', ' ').capitalize())}</h2>{_table(value)}"
        for name, value in facts.items()
        if isinstance(value, Mapping) and value
    ]
    if loose:
        parts.append(f"<h2>The run</h2>{_table(loose)}")
    return "".join(parts)


def _table(values: Mapping[str, Any]) -> str:
    """Names and values; an object of counts becomes bars (reasons for drops), one of like objects a table (splits, languages)."""
    rows, below = [], []
    for name, value in values.items():
        label = escape(str(name).replace("_", " "))
        if isinstance(value, Mapping):
            if not value:
                continue
            inner = f'<div class="card">{_bars(value, _number)}</div>' if _comparable(value) else _grid(value) or _table(value)
            below.append(f"<h3>{label}</h3>{inner}")
        else:
            long = isinstance(value, list) and any(isinstance(item, str) and len(item) > 40 for item in value)
            text = "<br>".join(escape(str(item)) for item in value) if long else escape(_value(str(name), value))
            rows.append(f'<tr><td class="key">{label}</td><td>{text}</td></tr>')
    return (f'<div class="card"><table>{"".join(rows)}</table></div>' if rows else "") + "".join(below)


def _grid(values: Mapping[str, Any]) -> str:
    """A row for each object in `values` and a column for each of their names; empty where they are no like, flat objects."""
    rows = list(values.values())
    if not all(isinstance(row, Mapping) and row and list(row) == list(rows[0]) for row in rows):
        return ""
    if any(isinstance(value, Mapping | list) for row in rows for value in row.values()):
        return ""
    head = "".join(f'<th class="number">{escape(str(name).replace("_", " "))}</th>' for name in rows[0])
    lines = [
        f'<tr><td class="key">{escape(str(label).replace("_", " "))}</td>'
        + "".join(f'<td class="number">{escape(_value(str(name), value))}</td>' for name, value in row.items())
        + "<td></td></tr>"
        for label, row in values.items()
    ]
    return f'<div class="card"><table><tr><th></th>{head}<th></th></tr>{"".join(lines)}</table></div>'


def _comparable(values: Mapping[str, Any]) -> bool:
    """Whether these are several numbers of one unit, such as counts by reason or by language."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.values())
    return numbers and len(values) > 1 and not any(unit in str(name) for name in values for unit in UNITS)


def _value(name: str, value: Any) -> str:
    if isinstance(value, list):
        shown = ", ".join(_value(name, item) for item in value[:12])
        return shown + (f" … and {len(value) - 12} more" if len(value) > 12 else "")
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(str(key), inner)}" for key, inner in value.items())
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int | float) and "bytes" in name and "per" not in name:
        return human_bytes(value)
    if isinstance(value, int | float) and "seconds" in name and "per" not in name:
        return human_seconds(value)
    return _number(value)


def _number(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return short_number(value) if isinstance(value, float) else str(value)


def _settings(path: Path) -> str:
    if not path.exists():
        return ""
    text = escape(path.read_text(encoding="utf-8"))
    return f'<details><summary>Settings</summary><div class="card"><pre>{text}</pre></div></details>'
