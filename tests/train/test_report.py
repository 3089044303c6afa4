from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from wordmill.train.report import MOST_SAMPLES, write_report


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    rows = []
    for step in range(1, 51):
        row = {"step": step, "time": step * 2.0, "tokens": step * 100, "loss": 9 - step / 10, "lr": 0.01, "tokens_per_second": 50.0}
        rows.append({**row, "mfu": 0.5, "grad_norm": 1.0})
        if step % 5 == 0:
            rows.append({"step": step, "time": step * 2.0, "tokens": step * 100, "validation_loss": 5.0, "validation_bpb": 2 - step / 100})
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    samples = [{"step": step, "prompt": "<p> 你好", "text": f"<p> 你好 text {step} & <b>"} for step in range(5, 51, 2)]
    (folder / "samples.jsonl").write_text("\n".join(map(json.dumps, samples)))
    (folder / "timings.json").write_text(json.dumps({"training": 100.0, "evaluation": 5.0}))
    facts = {"corpus": {"train_bytes": 24_000_000, "dropped": {"duplicate": 3, "too_short": 1}}, "warnings": ["a short one"]}
    (folder / "run.json").write_text(json.dumps({**facts, "model": {"parameters": 13_900_000}}))
    (folder / "config.yaml").write_text("train:\n  optimizer: muon\n")
    return folder


class _Checker(HTMLParser):
    """Collects what a page asks for from elsewhere, and whether its elements close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.resources: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.resources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass


def test_the_page_stands_alone(run):
    path = write_report(run)
    text = path.read_text(encoding="utf-8")
    checker = _Checker()
    checker.feed(text)
    assert path == run / "report.html"
    assert checker.resources == []
    assert checker.open == []
    assert "<script" not in text


def test_the_page_shows_what_there_is(run):
    text = write_report(run).read_text(encoding="utf-8")
    for shown in ("1.500", "13.9M", "1:40", "50 %", "24 MB", "duplicate", "optimizer: muon", "a short one", "Where the time went"):
        assert shown in text, shown


def test_samples_are_escaped_and_few(run):
    text = write_report(run).read_text(encoding="utf-8")
    assert "text 5 &amp; &lt;b&gt;" in text
    assert "<b>\n" not in text
    assert text.count('<td class="text">') == MOST_SAMPLES
    assert "text 49 &amp;" in text


@pytest.mark.parametrize("missing", ["metrics.jsonl", "samples.jsonl", "timings.json", "run.json", "config.yaml"])
def test_any_file_may_be_missing_or_torn(run, missing):
    content = (run / missing).read_text()
    (run / missing).write_text(content[: len(content) // 2])
    assert write_report(run).exists()
    (run / missing).unlink()
    assert write_report(run).exists()


def test_losses_that_are_not_finite_do_not_break_it(run):
    with open(run / "metrics.jsonl", "a") as handle:
        handle.write('\n{"step": 51, "time": 103, "loss": NaN, "lr": null, "grad_norm": Infinity}')
    assert "Curves" in write_report(run).read_text(encoding="utf-8")


def test_an_empty_folder_gives_a_page(tmp_path):
    assert "wordmill" in write_report(tmp_path).read_text(encoding="utf-8")
