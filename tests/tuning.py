"""Small models and examples for the fine-tuning tests."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from wordmill.tasks import finetune as tuning
from wordmill.tasks.watch import TaskWatch

GOOD = "good fine lovely bright warm kind happy".split()
BAD = "bad poor awful dark cold mean sad".split()
FILL = "the mill river grain flour stone wheel water day night miller sack bread field".split()


TAGGED = "anna boris clara new town old york went with a to".split()


def sentence(label: int, generator: random.Random) -> str:
    """Some words, one of which tells the label."""
    words = generator.choices(FILL, k=generator.randint(3, 9))
    words.insert(generator.randrange(len(words) + 1), generator.choice(GOOD if label else BAD))
    return " ".join(words)


def write_table(path: Path, n: int, seed: int, *, names: bool = True) -> Path:
    """A table of `n` sentences with labels."""
    generator = random.Random(seed)
    rows = ["review\tsentiment"] if names else []
    for i in range(n):
        rows.append(f"{sentence(i % 2, generator)} {seed}{i}\t{'good' if i % 2 else 'bad'}")
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@contextmanager
def stopping(monkeypatch: pytest.MonkeyPatch, when: Callable[[Any, str], bool]) -> Iterator[None]:
    """Within it, fine-tuning is stopped as by SIGTERM once `when(run, event)` holds."""

    class Stopping(TaskWatch):
        def __call__(self, run: Any, event: str) -> None:
            super().__call__(run, event)
            if when(run, event):
                run.stop = "SIGTERM"

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "TaskWatch", Stopping)
        yield


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.tsv, dev.tsv and test.tsv."""
    folder = tmp_path_factory.mktemp("reviews")
    for seed, (name, n) in enumerate({"train": 120, "dev": 30, "test": 40}.items()):
        write_table(folder / f"{name}.tsv", n, seed)
    return folder


SHAPES: dict[str, dict[str, Any]] = {
    "bert": {"width": 32, "layers": 2, "heads": 2, "kv_heads": 2, "head_size": 16, "ffn_size": 64, "max_positions": 64},
    "modernbert": {"width": 32, "layers": 2, "heads": 2, "kv_heads": 2, "head_size": 16, "ffn_size": 64, "max_positions": 64},
    "qwen3": {"width": 32, "layers": 2, "heads": 2, "kv_heads": 2, "head_size": 16, "ffn_size": 64, "max_positions": 64},
    "t5": {"width": 32, "layers": 1, "encoder_layers": 1, "heads": 2, "kv_heads": 2, "head_size": 16, "ffn_size": 64},
    "lstm": {"embedding_size": 24, "hidden_size": 24, "layers": 1},
}


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`small_models("bert")`: the folder of a small model that has learned nothing, with a tokenizer of words."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = make_folder(tmp_path_factory.mktemp(name), name)
        return made[name]

    return folder


def make_folder(place: Path, name: str, texts: list[str] | None = None) -> Path:
    """A model folder of that family, and a tokenizer trained on `texts`."""
    from wordmill.models.folder import build_model, save_model
    from wordmill.tokenizer import TokenizerConfig, train_tokenizer
    from wordmill.train.budget import family_shape, model_config

    purpose = {"bert": "masked", "modernbert": "masked", "t5": "denoising"}.get(name, "causal")
    more = {"sentinels": 4} if purpose == "denoising" else {}
    tokenizer = train_tokenizer(texts or [" ".join(GOOD + BAD + FILL + TAGGED)] * 3,
                                TokenizerConfig(vocab=420, allow_smaller=True, purpose=purpose, **more))  # fmt: skip
    ids = {"vocab_size": tokenizer.vocab_size, "bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id}
    start = {"decoder_start_id": tokenizer.pad_id} if name == "t5" else {}
    model = build_model(model_config(name, {**family_shape(name, 32, 1), **SHAPES[name], **ids, **start}))
    model.initialise(0)
    save_model(model, place)
    tokenizer.save(place)
    return place


QUICK = ["--steps", "80", "--lr", "0.004", "train.evaluations=4", "train.rows=12", "--quiet"]
