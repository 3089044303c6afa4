"""`wordmill.load` on the folder of an adapter: the base is found, the adapter counts, and what is missing is named."""

from __future__ import annotations

import json

import pytest
import torch

import wordmill
from wordmill.core.errors import ModelError, UsageError
from wordmill.models.adapters import add_lora, save_adapter
from wordmill.models.folder import load_model
from wordmill.models.lora import LoraConfig, lora_layers

IDS = [[3, 4, 5, 6, 7]]


@pytest.fixture
def folders(make_loaded, tmp_path):
    """`base` and two adapters for it."""
    make_loaded().save(tmp_path / "base")
    for seed, name in enumerate(("one", "two")):
        model = load_model(tmp_path / "base")
        config = LoraConfig(rank=2)
        add_lora(model, config, seed)
        with torch.no_grad():
            for layer in lora_layers(model).values():
                for pair in layer.adapters["default"]:
                    pair.b.fill_(0.02 * (seed + 1))
        save_adapter(model, tmp_path / name, config, base=tmp_path / "base")
    return tmp_path


def test_an_adapter_s_folder_opens_with_its_base(folders):
    base, adapted = wordmill.load(folders / "base", device="cpu"), wordmill.load(folders / "one", device="cpu")
    assert base.adapters == {} and adapted.adapters == {"default": 1.0} and adapted.folder == folders / "base"
    assert not torch.equal(base.logits(IDS), adapted.logits(IDS))
    assert adapted.generate("The mill", max_tokens=3, seed=0)

    adapted.use_adapters({})
    assert torch.equal(base.logits(IDS), adapted.logits(IDS))
    adapted.load_adapter(folders / "two", "two", weight=0.5)
    adapted.use_adapters({"default": 1.0, "two": 0.5})
    both = adapted.logits(IDS)
    adapted.merge_adapters()
    assert adapted.adapters == {} and (adapted.logits(IDS) - both).abs().max() <= 1e-5
    with pytest.raises(UsageError, match="no adapter"):
        adapted.use_adapters({"two": 1.0})


def test_what_an_adapted_model_saves_is_a_whole_model(folders):
    adapted = wordmill.load(folders / "one", device="cpu")
    adapted.save(folders / "whole")
    whole = wordmill.load(folders / "whole", device="cpu")
    assert whole.adapters == {} and (whole.logits(IDS) - adapted.logits(IDS)).abs().max() <= 1e-5


def test_a_base_named_beside_the_adapter(folders, tmp_path, monkeypatch):
    """A folder that was moved as a whole still opens."""
    path = folders / "one" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": "../base"}))
    monkeypatch.chdir(tmp_path.parent)
    assert wordmill.load(folders / "one", device="cpu").adapters == {"default": 1.0}


@pytest.mark.parametrize(
    "base, message",
    [(None, "does not say"), ("/nowhere/base", "'/nowhere/base' is not there"), ("some-org/no-such-model", "some-org/no-such-model")],
)
def test_a_base_that_is_not_there(folders, monkeypatch, base, message):
    def offline(*arguments, **named):
        from huggingface_hub.errors import LocalEntryNotFoundError

        raise LocalEntryNotFoundError("no network in tests")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    path = folders / "one" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": base}))
    with pytest.raises(ModelError, match=message) as found:
        wordmill.load(folders / "one", device="cpu")
    assert "adapter_config.json" in str(found.value)


def test_one_row_is_decoded_with_its_adapters(folders):
    """The fast path for one row works on bare weights: what an adapter adds must not be forgotten in it."""
    adapted = wordmill.load(folders / "one", device="cpu")
    for layer in lora_layers(adapted.model).values():
        for pair in layer.pairs("default"):
            pair.b.data.mul_(20)
    for weights in ({"default": 1.0}, {}):
        adapted.use_adapters(weights)
        ids = adapted.encode_prompt("The mill")
        for _ in range(8):
            ids.append(int(adapted.logits(ids)[0, -1].argmax()))
        made = adapted.generations(["The mill"], max_tokens=8, temperature=0.0)[0].ids
        assert made == ids[-8:][: len(made)]
