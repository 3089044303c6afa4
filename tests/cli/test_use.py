"""The commands that use a model, and what bad input gets: one clear line on standard error, exit code 2."""

from __future__ import annotations

import io
import json
import pickle
import zipfile

import huggingface_hub
import numpy as np
import pytest
import torch

from tests.conftest import TEXT
from wordmill.cli.app import main
from wordmill.generate import Loaded
from wordmill.tokenizer import TokenizerConfig, train_tokenizer

CPU = ("--device", "cpu", "--quiet")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([TEXT] * 4, TokenizerConfig(kind="wordpiece", vocab=160))


@pytest.fixture
def encoder(make_model, tokenizer, tmp_path):
    Loaded(make_model("bert", vocab_size=tokenizer.vocab_size, max_positions=32), tokenizer).save(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.fixture
def decoder(make_loaded, tmp_path):
    make_loaded().save(tmp_path / "qwen3")
    return tmp_path / "qwen3"


def _fails(capsys, *words: object) -> str:
    assert main([str(word) for word in words]) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert captured.out == ""
    return lines[0]


def _json(capsys, *words: object):
    assert main([*(str(word) for word in words), *CPU, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_fill_ranks_words(encoder, capsys):
    value = _json(capsys, "fill", encoder, "the [MASK] stands by the [MASK]", "--top", 3)
    assert [len(gap) for gap in value["masks"]] == [3, 3]
    assert main(("fill", str(encoder), "the [MASK] stands", "--top", "2", *CPU)) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert float(first.split()[0]) >= float(second.split()[0])
    message = _fails(capsys, "fill", encoder, "no gap", *CPU)
    assert "no gap" in message and "[MASK]" in message


def test_fill_refuses_models_that_can_not(decoder, make_model, tmp_path, capsys):
    assert "one way only" in _fails(capsys, "fill", decoder, "a [MASK]", *CPU)
    Loaded(make_model("bert", vocab_size=400), train_tokenizer([TEXT], TokenizerConfig(kind="byte"))).save(tmp_path / "bytes")
    assert "no mask token" in _fails(capsys, "fill", tmp_path / "bytes", "a [MASK]", *CPU)


def test_embed_writes_vectors_in_the_order_of_the_lines(encoder, tmp_path, capsys, monkeypatch):
    texts = ["the mill", "grain falls by the river", "the miller"]
    (tmp_path / "a.txt").write_text("\n".join(texts) + "\n")
    value = _json(capsys, "embed", encoder, tmp_path / "a.txt", "-o", tmp_path / "a.npy", "--normalize", "--pooling", "max")
    vectors = np.load(tmp_path / "a.npy")
    assert (value["texts"], value["width"], value["pooling"], value["normalized"]) == (3, 48, "max", True)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\r\n".join(texts[::-1]).encode())))
    words = ("embed", str(encoder), "-", "-o", str(tmp_path / "b.jsonl"), "--normalize", "--pooling", "max", *CPU)
    assert main(words) == 0
    assert "3 texts" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == texts[::-1]
    np.testing.assert_allclose([line["embedding"] for line in lines][::-1], vectors, atol=1e-5)


def test_embed_refuses_what_it_can_not_do_and_says_where(encoder, tmp_path, capsys):
    files = {"empty-line": b"a\n\nb\n", "nothing": b"", "long": b"a\n" + b"the mill " * 40, "latin": b"a\n\xff\n", "good": b"a\n"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    out = ("-o", tmp_path / "v.npy", *CPU)
    assert "empty-line, line 2: this line is empty" in _fails(capsys, "embed", encoder, tmp_path / "empty-line", *out)
    assert "there is no text" in _fails(capsys, "embed", encoder, tmp_path / "nothing", *out)
    message = _fails(capsys, "embed", encoder, tmp_path / "long", *out)
    assert "long, line 2: 1 of 2 texts is longer than the 32 tokens" in message and "--truncate" in message
    assert "latin, line 2: not UTF-8" in _fails(capsys, "embed", encoder, tmp_path / "latin", *out)
    assert "no such file" in _fails(capsys, "embed", encoder, tmp_path / "absent", *out)
    assert "must end with .npy or .jsonl" in _fails(capsys, "embed", encoder, tmp_path / "good", "-o", tmp_path / "v.csv")
    assert "no such folder" in _fails(capsys, "embed", encoder, tmp_path / "good", "-o", tmp_path / "no" / "v.npy")
    assert "unknown pooling 'sum'" in _fails(capsys, "embed", encoder, tmp_path / "good", *out, "--pooling", "sum")
    assert not (tmp_path / "v.npy").exists()
    assert main([str(word) for word in ("embed", encoder, tmp_path / "long", *out, "--truncate")]) == 0
    assert "1 text cut by" in capsys.readouterr().out
    assert "already exists" in _fails(capsys, "embed", encoder, tmp_path / "good", *out)


def test_info_describes_folders_and_shapes(encoder, capsys):
    assert main(("info", str(encoder))) == 0
    assert "bert (encoder)" in capsys.readouterr().out
    assert main(("info", "--shape", "t5:layers=2,width=64", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "encoder-decoder"
    assert "one thing to describe" in _fails(capsys, "info")
    assert "name=value" in _fails(capsys, "info", "--shape", "bert:x")


def test_generate_writes_targets_and_searches_with_beams(make_loaded, decoder, tmp_path, capsys):
    make_loaded("t5", decoder_start_id=1).save(tmp_path / "t5")
    value = _json(capsys, "generate", tmp_path / "t5", "The mill", "-n", 5)
    assert value["settings"]["temperature"] == 0
    assert main(("generate", str(tmp_path / "t5"), "The mill", "-n", "5", *CPU)) == 0
    assert capsys.readouterr().out == value["answers"][0]["text"] + "\n"
    beams = _json(capsys, "generate", decoder, "The mill", "-n", 5, "--beams", 3, "--length-penalty", 0.5)
    assert beams["settings"]["beams"] == 3 and beams["answers"][0]["score"] < 0
    assert "temperature must be 0" in _fails(capsys, "generate", decoder, "The", "--beams", 3, "-t", 0.5)
    assert "an encoder can't write" in _fails(capsys, "generate", _bert(make_loaded, tmp_path), "The", *CPU)


def _bert(make_loaded, folder):
    make_loaded("bert").save(folder / "bert")
    return folder / "bert"


def test_evaluate_gives_masked_models_pseudo_numbers_named_as_such(encoder, decoder, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("the mill stands by the river. " * 12)
    value = _json(capsys, "evaluate", encoder, tmp_path / "a.txt", "--context", 16)
    assert value["pseudo"] and value["window"] == "block" and "bits_per_byte" not in value
    assert value["pseudo_bits_per_byte"] == pytest.approx(value["nats"] / np.log(2) / 360)
    assert main(("evaluate", str(encoder), str(tmp_path / "a.txt"), *CPU)) == 0
    assert capsys.readouterr().out.startswith("pseudo bits per byte")
    assert "without a sliding window" in _fails(capsys, "evaluate", encoder, tmp_path / "a.txt", "--stride", 4, *CPU)
    assert not _json(capsys, "evaluate", decoder, tmp_path / "a.txt")["pseudo"]


BROKEN = ["generate", "fill", "embed", "evaluate"]


def _words(command, model, tmp_path):
    (tmp_path / "in.txt").write_text("the mill\n")
    rest = {"generate": ["the"], "fill": ["a [MASK]"], "embed": [tmp_path / "in.txt", "-o", tmp_path / "o.npy"],
            "evaluate": [tmp_path / "in.txt"], "info": []}  # fmt: skip
    return command, model, *rest[command]


class _Code:
    def __reduce__(self):
        return print, ("this ran",)


@pytest.mark.parametrize("command", [*BROKEN, "info"])
def test_broken_folders_get_one_line(encoder, tmp_path, capsys, command):
    def fails():
        return _fails(capsys, *_words(command, encoder, tmp_path))

    weights = encoder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert "torn" in fails()
    weights.unlink()
    with zipfile.ZipFile(encoder / "pytorch_model.bin", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({"a": _Code()}))
        file.writestr("archive/version", "3\n")
    assert "would run code" in fails()
    (encoder / "config.json").unlink()
    assert "no config.json" in fails()


@pytest.mark.parametrize("command", BROKEN)
def test_tokenizer_and_model_of_different_sizes_get_one_line(encoder, tmp_path, capsys, command):
    train_tokenizer([TEXT] * 4, TokenizerConfig(vocab=400)).save(encoder)
    assert "belong to different models" in _fails(capsys, *_words(command, encoder, tmp_path))


@pytest.mark.parametrize("command", [*BROKEN, "info"])
def test_a_hub_name_without_network_gets_one_line(tmp_path, capsys, monkeypatch, command):
    def offline(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    message = _fails(capsys, *_words(command, "some-org/some-model", tmp_path))
    assert "some-org/some-model" in message and "no network" in message and "path of a model folder" in message


def test_a_hub_name_is_opened_like_a_folder(encoder, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(encoder))
    value = _json(capsys, "fill", "some-org/some-model", "the [MASK]")
    assert value["model"] == "some-org/some-model" and torch.tensor([c["probability"] for c in value["masks"][0]]).sum() <= 1
