"""What bad input gets: one line that says what is wrong and what to do, exit code 2, and nothing lost."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import TINY_RUN
from wordmill.cli.app import main

pytestmark = pytest.mark.usefixtures("unmeasured")


@pytest.fixture
def expect_refusal(capsys, tmp_path):
    """`expect_refusal("words", argument, …)`: run pretrain on them, check that it fails as it should, and return the line; nothing may be
    left behind."""

    def run(words: str, *arguments: object, out: Path | None = None, left: bool = False) -> str:
        folder = out or tmp_path / "run"
        before = sorted(folder.rglob("*")) if folder.exists() else None
        code = main(["pretrain", *map(str, arguments), "-o", str(folder)])
        lines = capsys.readouterr().err.splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        assert code == 2, lines
        assert len(errors) == 1 and lines[-1] == errors[0], lines
        assert not any("Traceback" in line for line in lines)
        assert re.search(words, errors[0]), errors[0]
        if not left:
            assert (sorted(folder.rglob("*")) if folder.exists() else None) == before, "a run that never began leaves nothing"
        return errors[0]

    return run


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_no_such_file(expect_refusal, tmp_path):
    assert "nowhere.txt" in expect_refusal("no such", tmp_path / "nowhere.txt", "--steps", 2)


def test_nothing_readable(expect_refusal, tmp_path):
    _write(tmp_path / "pictures" / "a.png", "x")
    expect_refusal(r"pictures.*(no|nothing)", tmp_path / "pictures", "--steps", 2)


def test_what_is_no_file(expect_refusal, tmp_path):
    """A link that leads nowhere, and a named pipe, which would be waited for for ever."""
    folder = tmp_path / "texts"
    _write(folder / "a.txt", "Some text.\n" * 50)
    (folder / "z.txt").symlink_to(tmp_path / "nowhere")
    expect_refusal(r"z\.txt.*leads nowhere.*nowhere", folder, "--steps", 2)
    (folder / "z.txt").unlink()
    os.mkfifo(folder / "p.txt")
    expect_refusal(r"p\.txt.*named pipe", folder, "--steps", 2)
    expect_refusal(r"p\.txt.*named pipe", folder / "p.txt", "--steps", 2)


@pytest.mark.parametrize("content", [b"asked: [", b"other: 1", b"- 1", b"\xff\xfe\x00\xd8", b"asked: {family: 3}"])
def test_a_damaged_config(expect_refusal, tmp_path, content):
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.yaml").write_bytes(content)
    expect_refusal("(config.yaml|family)", "--resume", left=True)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("place", ["corpus.json", "tokenizer.json", "index.json", "step-", "model.safetensors", "report.html"])
def test_writing_is_refused(expect_refusal, texts, tmp_path, monkeypatch, place, number):
    """Wherever a run saves, what the system refuses is one line that says how to go on."""
    real = os.replace

    def refuse(source, target):
        if place in str(target):
            raise OSError(number, os.strerror(number), str(source), None, str(target))
        real(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    line = expect_refusal("(read-only|permission denied|no space left)", texts, "--steps", 2, "train.save_steps=1", *TINY_RUN, left=True)
    assert place in line or (place == "index.json" and "tokens" in line)
    assert "--resume" in line


def test_empty_text(expect_refusal, tmp_path):
    expect_refusal("(empty|no document|nothing)", _write(tmp_path / "empty.txt", ""), "--steps", 2)


def test_one_line(expect_refusal, tmp_path):
    line = expect_refusal("(need|at least)", _write(tmp_path / "one.txt", "One line.\n"), "--steps", 2)
    assert re.search(r"\d", line), "it says how much is needed"


def test_no_source(expect_refusal):
    expect_refusal("no text given", "--steps", 2)


def test_broken_json(expect_refusal, texts, tmp_path, capsys):
    rows = [json.dumps({"text": path.read_text()}) for path in sorted(texts.iterdir())]
    path = _write(tmp_path / "data.jsonl", "\n".join([*rows[:5], '{"text": "broken', *rows[5:]]) + "\n")
    expect_refusal(r"data\.jsonl:6", path, "--steps", 2, *TINY_RUN)
    assert main(["pretrain", str(path), "-o", str(tmp_path / "run"), "--skip-bad", "--steps", "2", *TINY_RUN]) == 0
    assert "1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("model.layer=6", "'layer'.*'layers'"),
        ("rate=0.5", r"section: corruption\.rate=0\.5$"),
        ("corruption=0.5", r"group of settings: corruption\.NAME=value"),
        ("model.n_embd=64", "'n_embd'.*'width' here"),
        ("model.hidden_act=gelu", "'hidden_act'.*'activation' here"),
        ("train.optm.lr=1", "'optm'.*'optim'"),
        ("train.optim.lrr=1", "'lrr'.*'lr'"),
        ("modle.layers=6", "'modle'.*'model'"),
        ("tokenizer.vocabs=6", "'vocabs'.*'vocab'"),
        ("layers=6", r"model\.layers=6"),
        ("train.rows=many", "rows.*many"),
        ("model.layers=[1", r"can't read the value"),
        ("--stepps", "--stepps"),
        ("--model=quen3", "quen3.*qwen3"),
        ("--objective=chess", "chess"),
        ("--time=soon", "soon.*10m"),
        ("--tokens=lots", "lots.*15m"),
        ("--device=tpu", "tpu"),
        ("--dtype=fp7", "fp7.*bf16"),
        ("--epochs=0", "more than 0"),
        ("--seed=-1", "seed"),
    ],
)
def test_wrong_words(expect_refusal, texts, argument, words):
    length = [] if argument.startswith(("--time", "--tokens", "--epochs")) else ["--steps", "2"]
    expect_refusal(words, texts, argument, *length)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "0"], "--steps.*at least 1"),
        (["--size", "5x", "--steps", "2"], "--size.*5x"),
        (["--dtype", "fp8", "--steps", "2"], "fp8"),
        (["--tokenizer", "nope", "--steps", "2"], "nope"),
        (["--objective", "mlm", "--steps", "2"], "decoder can't learn mlm.*clm"),
        (["--model", "lstm", "--objective", "prefix", "--steps", "2"], "recurrent model can't learn prefix"),
        (["--steps", "2", "train.seed=3"], "train.seed.*--seed"),
        (["--steps", "2", "train.steps=3"], "train.steps.*--steps"),
        (["--steps", "2", "train.compile=true"], "train.compile.*--compile"),
        (["--steps", "2", "corruption.rate=0.3"], "clm corrupts nothing.*rate"),
        (["--steps", "2", "--model", "bert", "--prompt", "x"], "--prompt would have no effect"),
        (["--steps", "2", "tokenizer.purpose=masked"], "tokenizer.purpose"),
        (["--steps", "2", "--model", "bert", "train.corruption=0.3"], r"train.corruption.*group of its own: corruption\.rate"),
        (["--steps", "2", "--model", "bert", "model.heads=3", "model.width=100"], "model.width be a multiple of model.heads"),
        (["--steps", "2", "--model", "gpt2", "model.norm=rmsnorm"], "gpt2 has no way to say norm='rmsnorm'"),
        (["--steps", "2", "model.dropout=2"], "dropout"),
        (["--time", "1m", "model.activation=gleu"], "activation.*gelu"),
        (["--steps", "2", "--model", "gru", "model.dropout=1.5"], "dropout"),
        (["--steps", "2", "model.width=96", "model.heads=4", "model.kv_heads=3"], "heads"),
        (["--steps", "2", "train.optim.kind=adamw", "train.optim.lr=0"], "train: optim: nothing would be learned: lr is 0"),
        (["--steps", "2", "model.windows=[16,null]"], "a window is a number of tokens; a layer without one has 0"),
        (["--steps", "2", "--model", "lstm", "--objective", "mlm", "model.bidirectional=false"], "is learned from both sides"),
        (["--steps", "2", "--model", "lstm", "model.width=64"], "unknown setting 'width'.*It is called 'hidden_size' here"),
        (["--steps", "2", "--find-learning-rate", "--resume"], "--resume would have no effect"),
        (["--steps", "2", "--find-learning-rate", "--tensorboard"], "--tensorboard would have no effect"),
    ],
)
def test_what_is_wrong_is_said_before_the_text_is_read(expect_refusal, texts, monkeypatch, arguments, words):
    from wordmill.tasks import pretrain

    monkeypatch.setattr(pretrain, "prepare", lambda *_: pytest.fail("the text was read first"))
    expect_refusal(words, texts, *arguments)


def test_settings_without_effect_are_named(expect_refusal, prepared, texts, tmp_path):
    corpus, tokenizer = prepared / "corpus", prepared / "tokenizer"
    expect_refusal("corpus.field would have no effect", corpus, "--field", "body", "--steps", 2)
    expect_refusal("corpus.skip_bad, corpus.validation would have no effect", corpus, "--skip-bad", "corpus.validation=0.2", "--steps", 2)
    expect_refusal("tokenizer.vocab would have no effect", texts, "--tokenizer", tokenizer, "tokenizer.vocab=300", "--steps", 2)


def test_a_corpus_among_raw_texts(expect_refusal, prepared, texts, tmp_path):
    """Its validation documents would be trained on."""
    expect_refusal("corpus.*validation documents would be trained on", prepared / "corpus", texts, "--steps", 2)
    expect_refusal("corpus.*validation documents would be trained on", prepared, "--steps", 2)
    expect_refusal("corpus.*validation documents would be trained on", texts, "--validation", prepared / "corpus", "--steps", 2)
    _write(tmp_path / "own" / "corpus.json", json.dumps([{"text": f"Mine, number {i}."} for i in range(40)]))
    assert main(["pretrain", str(tmp_path / "own"), "-o", str(tmp_path / "run"), "--steps", "1", *TINY_RUN, "-q"]) == 0


def test_the_vocabulary_follows_from_the_text_unless_it_is_given(texts, tmp_path, expect_refusal):
    from wordmill.tokenizer import Tokenizer

    assert main(["pretrain", str(texts), "-o", str(tmp_path / "a"), "tokenizer.min_count=3", "--steps", "1", *TINY_RUN, "-q"]) == 0
    assert Tokenizer.load(tmp_path / "a" / "model").vocab_size <= 512
    line = expect_refusal("not the 8,192 asked for", texts, "tokenizer.vocab=8192", "--steps", 1, *TINY_RUN)
    assert "tokenizer.vocab=" in line


def test_the_command_line_overrides_the_length_of_a_recipe(texts, tmp_path):
    recipe = _write(tmp_path / "recipe.yaml", "epochs: 3\nmodel: {layers: 1}\n")
    out = tmp_path / "run"
    assert main(["pretrain", str(texts), "--recipe", str(recipe), "-o", str(out), "--steps", "1", *TINY_RUN, "-q"]) == 0
    assert json.loads((out / "run.json").read_text())["metrics"]["step"] == 1


def test_two_lengths(expect_refusal, texts):
    expect_refusal("steps.*time", texts, "--time", "3m", "--steps", 5)
    expect_refusal("tokens.*epochs", texts, "--tokens", "1m", "--epochs", 5)


def test_time_too_short(expect_refusal, texts):
    expect_refusal("too short", texts, "--time", "1s")


def test_context_beyond_the_positions(expect_refusal, texts):
    expect_refusal(r"train\.context.*128.*64", texts, "--model", "gpt2", "model.max_positions=64", "train.context=128", "--steps", 2)


def test_vocabulary_too_large(expect_refusal, texts):
    expect_refusal("100,?000", texts, "tokenizer.vocab=100000", "tokenizer.allow_smaller=false", "--steps", 2)


def test_output_exists(expect_refusal, texts, tmp_path):
    _write(tmp_path / "mine" / "novel.txt", "mine")
    expect_refusal("not empty.*another folder", texts, "--steps", 2, out=tmp_path / "mine")
    assert (tmp_path / "mine" / "novel.txt").read_text() == "mine"


def _prepared(prepared: Path) -> list[str]:
    return [str(prepared / "corpus"), "--tokenizer", str(prepared / "tokenizer"), *TINY_RUN]


def test_resume(expect_refusal, prepared, tmp_path, capsys):
    """Nothing to resume; changed settings; a corrupt checkpoint: each its own line."""
    expect_refusal("no run to resume", "--resume")
    out = tmp_path / "run"
    arguments = [*_prepared(prepared), "--steps", "6", "train.save_steps=2", "--quiet"]
    assert main(["pretrain", *arguments, "-o", str(out)]) == 0
    expect_refusal(r"--resume", *arguments)
    (out / "model" / "config.json").unlink()  # as if it had been killed while it wrote the model
    line = expect_refusal("changed", "--resume", "model.layers=3", "train.save_steps=9", left=True)
    assert "model.layers: 2 → 3" in line and "train.save_steps: 2 → 9" in line and "width" not in line
    plan = (out / "config.yaml").read_text()
    _write(out / "config.yaml", plan.replace("clip: 0.0", "clip: 0.25"))
    assert "clip: 0.0 → 0.25" in expect_refusal("plan", "--resume", left=True)
    _write(out / "config.yaml", plan)
    newest = out / "checkpoints" / "step-00000006" / "state.safetensors"
    data = newest.read_bytes()
    newest.write_bytes(data[:-7] + b"scratch")
    assert re.search("step-00000006.*step-00000004", expect_refusal("corrupt", "--resume", left=True))
    newest.write_bytes(data[:100])
    expect_refusal("corrupt", "--resume", left=True)
    for path in newest.parent.iterdir():
        path.unlink()
    newest.parent.rmdir()
    assert main(["pretrain", "--resume", "-o", str(out), "--quiet"]) == 0
    assert (out / "model" / "config.json").exists()


def test_a_loss_that_is_no_number(expect_refusal, prepared, tmp_path):
    settings = [
        "train.optim.kind=adamw",
        "train.optim.lr=1e30",
        "train.clip=0",
        "train.save_steps=1",
        "train.schedule.warmup=0",
        "--steps",
        "9",
    ]
    line = expect_refusal("not finite", *_prepared(prepared), *settings, left=True)
    assert "train.optim.lr" in line
    assert (tmp_path / "run" / "config.yaml").exists()


def test_no_space_left(expect_refusal, prepared, tmp_path, monkeypatch):
    """The second checkpoint finds the disk full: one line, the first one still there, and it can be resumed."""
    from wordmill.train import checkpoint

    real, calls = checkpoint.write_tensors, []

    def full(tensors, path):
        calls.append(path)
        if len(calls) == 2:
            path.write_bytes(b"some")
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "write_tensors", full)
    line = expect_refusal("no space left", *_prepared(prepared), "--steps", "6", "train.save_steps=2", "train.evaluations=1", left=True)
    assert "--resume" in line
    assert [place.name for place in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000002"]
    assert main(["pretrain", "--resume", "-o", str(tmp_path / "run"), "--quiet"]) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_save_and_say_how_to_go_on(prepared, tmp_path, capsys, number, code):
    out = tmp_path / "a run"
    arguments = [*_prepared(prepared), "--steps", "100000", "train.evaluations=1", "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-m", "wordmill", "pretrain", *arguments, "-o", str(out)], stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not (out / "metrics.jsonl").exists():
        time.sleep(0.01)
    assert main(["pretrain", "--resume", "-o", str(out)]) == 2
    assert "another wordmill is at work" in capsys.readouterr().err, "a run that goes on is not resumed beside itself"
    process.send_signal(number)
    errors = process.communicate(timeout=100)[1]
    assert process.returncode == code, errors
    command = errors.splitlines()[-1].partition("Go on with: ")[2]
    assert command, errors
    (place,) = (out / "checkpoints").iterdir()
    steps = int(place.name.removeprefix("step-"))
    words = shlex.split(command)
    assert words[:2] == ["wordmill", "pretrain"]
    if number == signal.SIGINT:
        return
    again = subprocess.Popen([sys.executable, "-m", *words], stderr=subprocess.PIPE, text=True)
    rows = (out / "metrics.jsonl").read_text().count("\n")
    while again.poll() is None and (out / "metrics.jsonl").read_text().count("\n") <= rows:
        time.sleep(0.01)
    again.send_signal(number)
    errors = again.communicate(timeout=100)[1]
    assert again.returncode == code, errors
    assert max(int(place.name.removeprefix("step-")) for place in (out / "checkpoints").iterdir()) > steps
    assert f"resumed at step {steps}" in errors
