"""A tagger's words and tokens are the same wherever its folder is opened."""

from __future__ import annotations

import random

import pytest
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

import wordmill
from tests.tuning import make_folder
from wordmill.cli.app import main
from wordmill.tasks.spans import BY_CHARACTER, BY_WORD, words_of
from wordmill.tokenizer import Tokenizer

SIGNS = "ab9 é\u0301\u0e01\u0e34张三。,.!'-_ \n\t한글カ゛👍🏽👨\u200d👩\u200d👧🇩🇪🇫❤\ufe0f ⅷ²ß\u200cم ه"


@pytest.mark.parametrize("characters", [False, True])
def test_the_library_s_expression_cuts_as_we_do(characters):
    generator, split = random.Random(0), Split(Regex(BY_CHARACTER if characters else BY_WORD), "isolated")
    for _ in range(3000):
        text = "".join(generator.choices(SIGNS, k=generator.randint(1, 14)))
        parts = [(b - len(part.lstrip()), b) for part, (_, b) in split.pre_tokenize_str(text) if part.strip()]
        assert tuple(parts) == words_of(text, characters=characters), repr(text)


PEOPLE, PLACES = ("张三", "李小龙", "王五"), ("北京大学", "上海", "广州")


def sentences(n: int, seed: int) -> list[list[tuple[str, str]]]:
    generator, found = random.Random(seed), []
    for _ in range(n):
        who, where = generator.choice(PEOPLE), generator.choice(PLACES)
        went, end = generator.choice(("去了", "住在", "到")), generator.choice(("。", "读书。", " 2024!"))
        parts = [(who, "PER"), (went, ""), (where, "LOC"), (end, "")]
        found.append([(c, f"{'B' if n == 0 else 'I'}-{kind}" if kind else "O") for text, kind in parts for n, c in enumerate(text.strip())])
    return found


@pytest.mark.parametrize("family", ["bert", "qwen3"])
def test_transformers_cuts_a_text_of_a_tagger_as_wordmill_does(family, tmp_path):
    transformers = pytest.importorskip("transformers")
    known = sentences(60, 0)
    texts = ["".join(c for c, _ in one) for one in known]
    base = make_folder(tmp_path / "base", family, texts * 4)
    data = tmp_path / "train.conll"
    data.write_text("\n\n".join("\n".join(f"{c} {tag}" for c, tag in one) for one in known) + "\n", encoding="utf-8")
    assert main(["finetune", "tag", str(data), "--model", str(base), "-o", str(tmp_path / "run"), "--steps", "2", "--quiet"]) == 0
    model = wordmill.load(tmp_path / "run")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    changed = 0
    for text in [*texts[:10], "李小龙到上海。", "王五 2024 住在广州 ABC 👍🏽!", "王五、张三e\u0301去了.", "  张三 去了 \n"]:
        record = model.task.as_record(text, "here")
        ours = model.task.encode(record, model.tools, answer=False).ids.tolist()
        assert theirs(text)["input_ids"] == ours == model.tokenizer.wrap(model.tokenizer.encode(text)).ids, repr(text)
        plain = Tokenizer.load(base)
        changed += plain.wrap(plain.encode(text)).ids != ours
    assert changed > 5, "as the parent's tokenizer cuts them, tokens crossed the borders of words"
    again = tmp_path / "again"
    assert main(["finetune", "tag", str(data), "--model", str(tmp_path / "run"), "-o", str(again), "--steps", "2", "--quiet"]) == 0
    assert Tokenizer.load(again / "model").hash == Tokenizer.load(tmp_path / "run" / "model").hash, "it is changed once"


def test_words_that_are_cut_otherwise_leave_the_tokenizer_as_it_is(small_models, tmp_path, capsys):
    data = tmp_path / "train.conll"
    data.write_text("the O\nU.S. B-LOC\nmill O\n\n" * 12, encoding="utf-8")
    base = small_models("qwen3")
    assert main(["finetune", "tag", str(data), "--model", str(base), "-o", str(tmp_path / "run"), "--steps", "2"]) == 0
    assert "transformers would cut a whole text into other tokens" in capsys.readouterr().err
    assert Tokenizer.load(tmp_path / "run" / "model").encode("the U.S. mill") == Tokenizer.load(base).encode("the U.S. mill")
    assert Tokenizer.load(tmp_path / "run" / "model").hash == Tokenizer.load(base).hash
