from __future__ import annotations

import json
import math

import pytest
import torch

import wordmill
from wordmill.core.errors import ConfigError, ModelError, UsageError
from wordmill.core.progress import Reporter
from wordmill.generate import Loaded, SamplingConfig


def test_a_prompt_starts_with_the_start_token_exactly_once(make_loaded, tiny_tokenizer):
    loaded = make_loaded()
    bos = tiny_tokenizer.bos_id
    assert loaded.encode_prompt("The mill") == [bos, *tiny_tokenizer.encode("The mill")]
    assert loaded.encode_prompt("") == [bos]
    assert loaded.encode_prompt("<|endoftext|>The mill").count(bos) == 1
    assert next(loaded.encode_documents(["The mill"])) == [bos, *tiny_tokenizer.encode("The mill"), tiny_tokenizer.eos_id]


def test_streamed_and_returned_text_are_the_same_and_no_piece_splits_a_character(make_loaded):
    loaded = make_loaded()
    for seed in range(3):
        pieces = list(loaded.stream("磨坊", max_tokens=40, temperature=1.5, seed=seed))
        assert "".join(pieces) == loaded.generate("磨坊", max_tokens=40, temperature=1.5, seed=seed)


def test_the_text_is_that_of_the_tokens(make_loaded, tiny_tokenizer):
    (answer,) = make_loaded().generations(["The mill"], max_tokens=30, seed=4)
    assert answer.text == tiny_tokenizer.decode(answer.ids)
    assert answer.plain()["tokens"] == len(answer.ids)


def test_generation_ends_before_a_stop_text(make_loaded):
    loaded = make_loaded()
    whole = loaded.generate("The mill", max_tokens=30, seed=1)
    stop = whole[10:13]
    (answer,) = loaded.generations(["The mill"], max_tokens=30, seed=1, stop=stop)
    assert answer.text == whole[: whole.index(stop)]
    assert answer.reason == "stop"
    assert "".join(loaded.stream("The mill", max_tokens=30, seed=1, stop=(stop,))) == answer.text


def test_seeds_decide_and_rows_have_their_own(make_loaded):
    loaded = make_loaded()
    first, second, other = (loaded.generate("The", max_tokens=20, seed=seed) for seed in (5, 5, 6))
    assert first == second != other
    assert loaded.generate(["The", "The"], max_tokens=20, seed=5) == [first, other]


def test_a_prompt_too_long_is_refused_and_too_many_tokens_are_told(make_loaded):
    loaded = make_loaded(max_positions=20)
    with pytest.raises(UsageError, match="20 positions"):
        loaded.generate("磨" * 30)
    report = Reporter(quiet=True)
    (answer,) = loaded.generations(["The"], max_tokens=100, reporter=report)
    assert answer.reason == "context"
    assert "1 of 1 answer ended at the model's last position (20)" in report.warnings[0]


def test_logits_do_not_depend_on_padding_on_either_side(make_loaded):
    for shape in ("qwen3", "gpt2", "lstm"):
        loaded = make_loaded(shape)
        ids = torch.tensor([[0, 5, 6, 7]])
        plain = loaded.logits(ids)
        assert torch.equal(plain, loaded.logits([0, 5, 6, 7]))
        right = loaded.logits([[0, 5, 6, 7, 1, 1]], [[1, 1, 1, 1, 0, 0]])[:, :4]
        left = loaded.logits([[1, 1, 0, 5, 6, 7]], [[0, 0, 1, 1, 1, 1]])[:, 2:]
        assert torch.allclose(right, plain, atol=1e-5)
        assert torch.allclose(left, plain, atol=1e-5)


def test_calls_that_can_not_be_honoured_are_refused(make_loaded, tiny_tokenizer, make_model):
    loaded = make_loaded(max_positions=8)
    for call, part in [
        (lambda: loaded.logits([0] * 9), "8 positions"), (lambda: loaded.logits([[0, 1]], [[1]]), "mask"),
        (lambda: loaded.logits([]), "not empty"), (lambda: loaded.logits([10**6]), "ids must lie in"),
        (lambda: loaded.fill("a [MASK]"), "one way only"), (lambda: loaded.embed("a"), "must be a list"),
        (lambda: loaded.predict("a"), "can't predict"), (lambda: list(loaded.stream("a", beams=2)), "beam search"),
    ]:  # fmt: skip
        with pytest.raises(UsageError, match=part):
            call()
    with pytest.raises(AttributeError, match="generate"):
        loaded.generat  # noqa: B018
    with pytest.raises(ConfigError, match="max_tokens"):
        loaded.generate("a", max_token=3)
    with pytest.raises(ConfigError, match="a prompt is a text"):
        loaded.generate([1, 2, 3])
    with pytest.raises(ModelError, match="different models"):
        Loaded(make_model(vocab_size=5), tiny_tokenizer)


@pytest.mark.parametrize("shape", ["qwen3", "gpt2", "gru"])
def test_a_saved_folder_loads_as_the_same_model(make_loaded, tmp_path, shape):
    loaded = make_loaded(shape)
    loaded.save(tmp_path / "model")
    again = wordmill.load(tmp_path / "model", device="cpu")
    assert again.folder == tmp_path / "model"
    assert again.score("The mill stands.") == loaded.score("The mill stands.")
    assert wordmill.generate(tmp_path / "model", "The", max_tokens=5) == loaded.generate("The", SamplingConfig(max_tokens=5))
    assert again.eos == {again.tokenizer.eos_id}


def test_all_end_tokens_of_the_generation_config_end_an_answer(make_loaded, tmp_path):
    make_loaded().save(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 7]}))
    assert wordmill.load(tmp_path, device="cpu").eos == {0, 7}


def test_score_counts_the_bytes_of_the_text_and_the_end_token(make_loaded, tiny_tokenizer):
    score = make_loaded().score("磨坊。")
    assert (score.bytes, score.tokens) == (9, len(tiny_tokenizer.encode("磨坊。")) + 1)
    assert score.bits_per_byte == pytest.approx(score.nats / math.log(2) / 9)


def test_beams_give_the_likeliest_answer_with_its_score(make_loaded):
    loaded = make_loaded()
    many = loaded.generations(["The mill", "grain"], beams=3, max_tokens=8)
    assert [answer.text for answer in many] == loaded.generate(["The mill", "grain"], beams=3, max_tokens=8)
    for answer in many:
        prompt = loaded.encode_prompt(answer.prompt)
        scores = loaded.logits([*prompt, *answer.ids[:-1]])[0, len(prompt) - 1 :].log_softmax(-1)
        total = float(scores[torch.arange(len(answer.ids)), torch.tensor(answer.ids)].sum())
        assert answer.score == answer.plain()["score"] == pytest.approx(total / len(answer.ids), abs=1e-4)


def test_an_encoder_decoder_writes_a_target_and_not_the_source(make_loaded):
    loaded = make_loaded("t5", decoder_start_id=1)
    (answer,) = loaded.generations(["The mill stands"], max_tokens=6)
    assert answer.text == "".join(loaded.stream("The mill stands", max_tokens=6)) == loaded.tokenizer.decode(answer.ids)
    assert answer.prompt_tokens == len(loaded.tokenizer.wrap(loaded.tokenizer.encode("The mill stands")).ids)
    assert loaded.sampling({}).temperature == 0
    with pytest.raises(UsageError, match="targets given sources"):
        loaded.score("The mill stands")
    with pytest.raises(ModelError, match="decoder_start_token_id"):
        make_loaded("t5", decoder_start_id=None).generate("The")


def test_a_masked_model_scores_by_its_pseudo_likelihood(make_model):
    from wordmill.tokenizer import TokenizerConfig, train_tokenizer

    tokenizer = train_tokenizer(["the mill stands by the river"] * 4, TokenizerConfig(kind="wordpiece", vocab=40))
    loaded = Loaded(make_model("bert", vocab_size=tokenizer.vocab_size), tokenizer)
    score = loaded.score("the river")
    assert score.pseudo and score.tokens == len(tokenizer.encode("the river"))
    with pytest.raises(UsageError, match="no window"):
        loaded.score("the river", context=8)


def test_folders_that_are_no_models_are_refused(tmp_path):
    with pytest.raises(ModelError, match="no such model folder"):
        wordmill.load(tmp_path / "nothing")
    with pytest.raises(ModelError, match="no config.json"):
        wordmill.load(tmp_path)


def test_a_folder_with_another_tokenizer_than_it_was_trained_with_is_refused(make_model, tiny_tokenizer, tmp_path):
    """A smaller vocabulary fits the model's ids, and every number would be quietly wrong."""
    from wordmill.core.lineage import write_lineage
    from wordmill.models.folder import save_model
    from wordmill.tokenizer import TokenizerConfig, train_tokenizer

    save_model(make_model("qwen3", vocab_size=tiny_tokenizer.vocab_size), tmp_path)
    write_lineage(tmp_path, tokenizer=tiny_tokenizer.hash)
    tiny_tokenizer.save(tmp_path)
    assert wordmill.load(tmp_path).tokenizer.hash == tiny_tokenizer.hash
    train_tokenizer(["the mill grinds words all night"] * 9, TokenizerConfig(vocab=280)).save(tmp_path)
    write_lineage(tmp_path, tokenizer=tiny_tokenizer.hash)
    with pytest.raises(ModelError, match="not the tokenizer"):
        wordmill.load(tmp_path)
