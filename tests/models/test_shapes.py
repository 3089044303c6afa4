"""New embeddings that begin with how tokens are written."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

import wordmill
from wordmill.models.shapes import shape, start_from_shapes
from wordmill.tokenizer import TokenizerConfig, train_tokenizer


@pytest.mark.parametrize(
    ("text", "said"),
    [(" Lisbon", " Xxx"), ("Us", "Xx"), (" USA", " XX"), ("2026", "dd"), ("U.S.", "X.X."), ("王芳", "oo"), ("", ""), ("é", "x"),
     ("e\u0301", "x"), ("...", ".."), ("x2", "xd")],
)  # fmt: skip
def test_the_shape_of_a_token(text, said):
    assert shape(text) == said


def test_tokens_of_one_shape_begin_half_alike():
    tokens = ["Anna", "Boris", "grain", "mill", "1", "7"]
    drawn = torch.randn(8, 4096, generator=torch.Generator().manual_seed(1)) * 0.3
    found = drawn.clone()
    start_from_shapes(found, tokens, seed=2)
    assert torch.equal(found[6:], drawn[6:])
    assert float(found[:6].std()) == pytest.approx(float(drawn.std()), rel=0.03)
    alike = torch.corrcoef(found[:6])
    shapes = [shape(token) for token in tokens]
    wanted = torch.tensor([[1.0 if a == b else 0.5 if shapes[a] == shapes[b] else 0.0 for b in range(6)] for a in range(6)])
    assert torch.allclose(alike, wanted, atol=0.06)
    again = drawn.clone()
    start_from_shapes(again, tokens, seed=2)
    assert torch.equal(again, found)


def invented(n: int, generator: random.Random) -> list[str]:
    """So many words that don't exist."""
    found: set[str] = set()
    while len(found) < n:
        found.add("".join(generator.choice("bdfgklmnprstvz") + generator.choice("aeiou") for _ in range(3)))
    return sorted(found)


def test_a_tagger_from_new_weights_knows_names_that_no_example_has(tmp_path: Path):
    generator = random.Random(0)
    words = invented(240, generator)
    generator.shuffle(words)
    names, others = [word.title() for word in words[:120]], words[120:]

    def write(name: str, n: int, names: list[str], others: list[str]) -> Path:
        lines = []
        for _ in range(n):
            for _ in range(6):
                lines.append(f"{generator.choice(names)} B-PER" if generator.random() < 0.3 else f"{generator.choice(others)} O")
            lines.append("")
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
        return tmp_path / name

    train, test = write("train.conll", 60, names[:60], others[:60]), write("test.conll", 40, names[60:], others[60:])
    texts = [" ".join(generator.sample(names + others, 60)) for _ in range(200)]
    train_tokenizer(texts, TokenizerConfig(vocab=1500, allow_smaller=True)).save(tmp_path / "tokenizer")
    run = wordmill.finetune("tag", train, test=test, model="lstm", tokenizer_folder=str(tmp_path / "tokenizer"), out=tmp_path / "run",
                            steps=80, lr=0.02, shape={"embedding_size": 48, "hidden_size": 32})  # fmt: skip
    assert run.metrics["test"]["metrics"]["f1"] > 0.9
