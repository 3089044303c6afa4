"""`wordmill tokenizer …`, as it is typed."""

from __future__ import annotations

import io
import json

import pytest

from wordmill.cli.app import main
from wordmill.corpus import CorpusConfig, build_corpus

TEXTS = [f"The mill grinds word {number} into models; 磨坊磨词语 {number}." for number in range(300)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    return build_corpus([folder / "texts.jsonl"], folder / "corpus", CorpusConfig()).folder


@pytest.fixture(scope="module")
def trained(corpus):
    folder = corpus.parent / "tok"
    assert main(["tokenizer", "train", str(corpus), "-o", str(folder), "--vocab", "280", "--quiet"]) == 0
    return folder


def result(capsys, *words):
    code = main(["tokenizer", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_train_reports_on_validation_text_and_says_what_next(corpus, tmp_path, capsys):
    code, out, _ = result(capsys, "train", corpus, "-o", tmp_path / "tok", "--vocab", "280")
    assert code == 0
    assert "bpe tokenizer, 280 tokens; special: <|endoftext|> 0" in out
    assert "on validation text:" in out
    assert "bytes/token" in out
    assert f"next: wordmill pretrain {corpus} --tokenizer {tmp_path / 'tok'}" in out
    lineage = json.loads((tmp_path / "tok" / "wordmill.json").read_text(encoding="utf-8"))
    assert lineage["settings"]["vocab"] == 280
    assert lineage["report"]["split"] == "validation"
    assert len(lineage["corpus"]) == len(lineage["tokenizer"]["hash"]) == 64


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram", "byte", "char"])
def test_every_kind_trains_with_an_automatic_size(corpus, tmp_path, capsys, kind):
    code, out, _ = result(capsys, "train", corpus, "-o", tmp_path / "tok", "--kind", kind, "--json", "--quiet")
    assert code == 0
    values = json.loads(out)
    assert values["kind"] == kind
    assert values["vocab"] <= 512
    assert values["report"]["all"]["bytes_per_token"] >= 1


def test_purposes(corpus, tmp_path, capsys):
    train = ("train", corpus, "--vocab", "290", "--json", "--quiet")
    code, out, _ = result(capsys, *train, "-o", tmp_path / "masked", "--purpose", "masked")
    assert code == 0
    assert (json.loads(out)["cls_id"], json.loads(out)["sep_id"], json.loads(out)["mask_id"]) == (1, 2, 3)
    code, out, _ = result(capsys, *train, "-o", tmp_path / "denoising", "--purpose", "denoising", "--sentinels", "12")
    assert code == 0
    assert json.loads(out)["special"] == {"<pad>": 0, "</s>": 1, "<mask>": 2, **{f"<extra_id_{n}>": n + 3 for n in range(12)}}
    code, out, _ = result(capsys, "show", tmp_path / "denoising")
    assert "special: <pad> 0, </s> 1, <mask> 2, <extra_id_0> 3, <extra_id_11> 14\n" in out
    code, _, err = result(capsys, *train, "-o", tmp_path / "causal", "--sentinels", "12")
    assert code == 2
    assert "sentinels are for denoising" in err
    code, _, err = result(capsys, *train, "-o", tmp_path / "other", "--purpose", "mask")
    assert code == 2
    assert "masked" in err


def test_a_folder_with_a_vocabulary_alone(tmp_path, capsys):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nmill\n##er\n", encoding="utf-8")
    code, out, _ = result(capsys, "encode", tmp_path, "Miller", "--json")
    assert code == 0
    assert json.loads(out)["tokens"] == ["mill", "##er"]


def test_show(trained, capsys):
    code, out, _ = result(capsys, "show", trained)
    assert code == 0
    assert "on validation text:" in out
    assert json.loads(result(capsys, "show", trained / "tokenizer.json", "--json")[1])["report"] is None


def test_encode_shows_tokens_with_ids(trained, capsys, monkeypatch):
    code, out, _ = result(capsys, "encode", trained, "The mill <|endoftext|>", "--json")
    values = json.loads(out)
    assert code == 0
    assert "".join(values["tokens"]) == "The mill <|endoftext|>"
    assert 0 not in values["ids"]
    monkeypatch.setattr("sys.stdin", io.StringIO("a b"))
    assert "tokens, 3 bytes, " in result(capsys, "encode", trained, "-")[1].splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--vocab", "many"], "not a number of tokens"),
        (["--vocab", "100000"], "not the 100,000 asked for"),
        (["--vocab", "100"], "it needs 260"),
        (["--kind", "bqe"], "kind"),
        (["--kind", "byte", "--vocab", "300"], "no other number"),
        (["--lowercase"], "lowercase is for wordpiece"),
    ],
)
def test_what_can_not_be_is_one_line(corpus, tmp_path, capsys, words, message):
    code, out, error = result(capsys, "train", corpus, "-o", tmp_path / "tok", "--quiet", *words)
    assert (code, out) == (2, "")
    assert message in error
    assert error.count("\n") == 1


def test_an_output_that_exists_is_kept(corpus, trained, capsys):
    before = (trained / "tokenizer.json").read_bytes()
    code, _, error = result(capsys, "train", corpus, "-o", trained)
    assert code == 2
    assert "already exists" in error
    assert (trained / "tokenizer.json").read_bytes() == before


def test_no_such_tokenizer(tmp_path, capsys):
    assert result(capsys, "show", tmp_path)[0] == 2
