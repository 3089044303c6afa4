from __future__ import annotations

import json
import re

import pytest

from tests.conftest import FAMILIES
from wordmill.core.errors import ConfigError, ModelError, UsageError
from wordmill.core.lineage import write_lineage
from wordmill.models.adapters import add_lora, save_adapter
from wordmill.models.folder import save_model
from wordmill.models.heads import HeadConfig, save_headed, with_head
from wordmill.models.lora import LoraConfig
from wordmill.tasks.info import info, shape_config, text
from wordmill.train.optim import OptimConfig, Optimizer


@pytest.mark.parametrize("shape", ["qwen3", "bert", "t5", "gru"])
def test_counts_are_those_of_the_model_and_its_optimiser(make_model, tmp_path, shape):
    model = make_model(shape)
    save_model(model, tmp_path)
    facts = info(tmp_path)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    counts = facts["parameters"]
    assert counts["total"] == sum(sizes.values()) == counts["embedding"] + counts["non_embedding"]
    assert counts["embedding"] == sizes["embedding.weight"] + sizes.get("head.weight", 0)
    assert facts["weights_bytes"] == {"fp32": 4 * counts["total"], "bf16": 2 * counts["total"], "int8": counts["total"]}
    for kind in ("adamw", "muon"):
        optimizer = Optimizer(model, OptimConfig.of({"kind": kind}))
        states = sum(x.nbytes for store in (optimizer.first, optimizer.second) for x in store.values())
        assert facts["training_bytes"][kind] == 2 * 4 * counts["total"] + states
    if shape in ("qwen3", "t5"):
        cache = model.new_state(1, 10)
        assert facts["state"]["bytes_per_token"] * 11 * 2 == sum(x.nbytes for x in (*cache.keys, *cache.values))  # float32, a spare slot
    if shape == "gru":
        assert facts["state"]["bytes"] == sum(x.nbytes for x in model.new_state(1, 0).h)


def test_a_recurrent_model_that_reads_both_ways_is_an_encoder(tmp_path):
    from wordmill.models.config import RecurrentConfig
    from wordmill.models.recurrent import RecurrentLM

    model = RecurrentLM(RecurrentConfig(vocab_size=29, embedding_size=6, hidden_size=7, bidirectional=True))
    model.initialise(0)
    save_model(model, tmp_path)
    facts = info(tmp_path)
    assert facts["state"] == {"bytes_per_token": None} and facts["parts"]["reads"] == "both ways"
    assert "does not write text" in text(facts) and "(encoder)" in text(facts)


def test_of_an_adapter_the_base_is_told_and_what_it_adds(make_loaded, tmp_path):
    loaded = make_loaded()
    loaded.save(tmp_path / "base")
    config = LoraConfig(rank=3)
    add_lora(loaded.model, config, 0)
    size = sum(p.numel() for name, p in loaded.model.named_parameters() if "lora" in name or p.requires_grad)
    save_adapter(loaded.model, tmp_path / "adapter", config, base=tmp_path / "base")
    facts, base = info(tmp_path / "adapter"), info(tmp_path / "base")
    told = facts.pop("adapter")
    facts.pop("lineage", None)
    base.pop("lineage", None)
    assert facts == base and (told["rank"], told["parameters"], told["whole"]) == (3, size, 0)
    assert "LoRA of rank 3" in text({**facts, "adapter": told}) and "base" in told["base"]


def test_a_folder_tells_its_tokenizer_and_its_origin(make_loaded, tmp_path):
    make_loaded().save(tmp_path)
    write_lineage(tmp_path, task="pretrain", corpus={"hash": "abc"}, metrics={"validation_bits_per_byte": 1.25})
    facts = info(tmp_path)
    assert facts["tokenizer"]["kind"] == "bpe" and facts["tokenizer"]["special"]["eos"] == "<|endoftext|>"
    assert facts["lineage"]["metrics"]["validation_bits_per_byte"] == 1.25
    shown = text(facts)
    for part in ("qwen3 (decoder)", "lineage: corpus.hash", "1.25", "operations a token", "<|endoftext|>", "QK-norm"):
        assert part in shown
    assert json.loads(json.dumps(facts)) == facts


def test_a_bare_encoder_a_config_alone_and_a_tokenizer_of_another_size(make_model, make_loaded, tmp_path):
    save_model(make_model("bert", lm_head=False), tmp_path / "bare")
    assert info(tmp_path / "bare")["parts"]["output layer"] == "none"
    (tmp_path / "bare" / "model.safetensors").unlink()
    facts = info(tmp_path / "bare")
    assert facts["weights"] is False and "holds no weights" in text(facts)
    assert info(tmp_path / "bare" / "config.json")["parameters"] == facts["parameters"]
    assert "no tokenizer here" in facts["tokenizer"]["problem"]
    make_loaded().tokenizer.save(tmp_path / "bare")
    assert "don't belong together" in text(info(tmp_path / "bare"))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_shape_that_is_built_without_weights(family):
    facts = info(shape=f"{family}:layers=3,width=128")
    assert facts["family"] == family and facts["parts"]["layers"] == 3
    assert facts["flops_per_token"]["forward"] * 3 == pytest.approx(facts["flops_per_token"]["training"])
    assert text(facts)


def test_shapes_of_real_models_have_their_published_sizes():
    """BERT base and GPT-2 small as `transformers` counts them, and Llama 3.1 405B as its makers do."""
    small = "gpt2:layers=12,width=768,heads=12,vocab_size=50257,ffn_size=3072,max_positions=1024"
    assert info(shape=small)["parameters"]["total"] == 124_439_808
    base = "bert:layers=12,width=768,heads=12,vocab_size=30522,lm_head=false,pooler=true"
    assert info(shape=base)["parameters"]["total"] == 109_482_240
    huge = "llama:layers=126,width=16384,heads=128,kv_heads=8,ffn_size=53248,vocab_size=128256,tie_embeddings=false"
    assert info(shape=huge)["parameters"]["total"] == pytest.approx(405.85e9, rel=1e-3)


def test_what_can_not_be_described_is_refused(tmp_path):
    for call, kind, part in [
        (lambda: info(), UsageError, "one thing"), (lambda: info(tmp_path, shape="bert"), UsageError, "one thing"),
        (lambda: info(tmp_path), ModelError, "no config.json"), (lambda: info(shape="brt:layers=2"), ConfigError, "bert"),
        (lambda: shape_config("bert:layer=2"), ConfigError, "layers"), (lambda: shape_config("bert:layers"), ConfigError, "name=value"),
        (lambda: info(shape="bert", context=1000), UsageError, "512 positions"),
    ]:  # fmt: skip
        with pytest.raises(kind, match=part):
            call()
    assert shape_config("gru:hidden_size=64").cell == "gru"


@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [
        ("sequence", {}, "one of 2 labels: no, yes"),
        ("sequence", {"multi_label": True}, "any number of 2 labels: no, yes"),
        ("token", {"crf": True}, "for each word one of 2 labels, told together by a CRF: no, yes"),
        ("span", {}, "where an answer begins and ends"),
    ],
)
def test_a_head_is_named_with_its_labels(make_model, tmp_path, kind, more, said):
    model = with_head(make_model("bert"), HeadConfig(kind=kind, labels=("no", "yes"), **more), seed=0)
    save_headed(model, tmp_path)
    facts = info(tmp_path)
    assert facts["head"]["labels"] == ["no", "yes"]
    assert re.search(rf"^head +{re.escape(said)}$", text(facts), re.MULTILINE)
    assert "head" not in info(shape="bert:layers=1,width=64")
