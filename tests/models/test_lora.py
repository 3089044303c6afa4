"""LoRA: what it computes, what learns, merging, stacking, and folders in PEFT's format; the last against `peft` where it is installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from wordmill.core.errors import ConfigError, ModelError, UsageError
from wordmill.models import kernels
from wordmill.models.adapters import adapter_tensors, add_lora, endings, load_adapter, places, read_adapter, save_adapter
from wordmill.models.blocks import Linear
from wordmill.models.folder import load_model, save_model
from wordmill.models.lora import (
    LoraConfig,
    LoraLinear,
    active_adapters,
    lora_layers,
    merge_lora,
    merged_state,
    remove_adapter,
    use_adapters,
)
from wordmill.train.optim import OptimConfig, Optimizer

IDS = torch.randint(3, 97, (2, 12), generator=torch.Generator().manual_seed(0))


def logits(model, ids=IDS):
    with torch.no_grad():
        memory = model.encode(ids.flip(0)) if model.config.kind == "encoder-decoder" else None
        return model.logits(model(ids, memory=memory)[0])


def stir(model, name="default", seed=5):
    """Make an adapter do something: B is zero at first."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in lora_layers(model).values():
            for pair in layer.pairs(name):
                pair.b.copy_(torch.randn(pair.b.shape, generator=generator) * 0.05)
    return model


@pytest.fixture
def adapted(make_model):
    def make(shape="qwen3", seed=0, stirred=True, **config):
        model = make_model(shape)
        add_lora(model, LoraConfig(**{"rank": 4, "alpha": 8, **config}), seed)
        return stir(model) if stirred else model

    return make


def test_a_new_adapter_changes_nothing_and_alone_learns(make_model):
    model = make_model("qwen3")
    before = logits(model)
    add_lora(model, LoraConfig(rank=4), seed=0)
    assert torch.equal(logits(model), before)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {name for name, _ in model.named_parameters() if ".adapters.default." in name}
    # Seven matrices a block: queries, keys, values, output, gate, up, down; each A and B.
    assert len(learning) == 2 * 7 * 2
    sizes = {name: tuple(p.shape) for name, p in model.named_parameters() if name.startswith("blocks.0.attention.qkv.adapters")}
    assert list(sizes.values()) == [(4, 48), (48, 4), (4, 48), (24, 4), (4, 48), (24, 4)]


def test_the_same_seed_draws_the_same_adapter(adapted):
    one, same, other = (adapter_tensors(adapted(seed=seed, stirred=False)) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    drawn = [name for name in one if "lora_A" in name]
    assert not any(torch.equal(one[name], other[name]) for name in drawn)
    assert all(one[name].abs().max() <= one[name].shape[1] ** -0.5 for name in drawn)


def test_a_rank_alone_is_an_adapter():
    from wordmill.tasks.finetune import FinetuneConfig
    from wordmill.tasks.pretrain import PretrainConfig

    assert FinetuneConfig.of({"task": "classify", "lora": 4}).lora == LoraConfig(rank=4)
    assert PretrainConfig.of({"lora": 4, "parent": "x"}).lora == LoraConfig(rank=4)
    with pytest.raises(ConfigError, match="lora"):
        FinetuneConfig.of({"task": "classify", "lora": True})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_layer_with_two_adapters_and_dropout_computes_what_its_formula_says(dtype, monkeypatch):
    torch.manual_seed(0)
    layer = LoraLinear(Linear(10, 12)).to(dtype)
    from wordmill.models import lora
    from wordmill.models.lora import Pair

    parts = {"one": [(0, 5, 3, 0.5), (7, 5, 3, 0.5)], "two": [(0, 12, 2, 2.0)]}
    for name, spans in parts.items():
        pairs = [Pair(torch.randn(r, 10).to(dtype), torch.randn(rows, r).to(dtype), start, scale) for start, rows, r, scale in spans]
        layer.adapters[name] = torch.nn.ModuleList(pairs)
    layer.active = {"one": 1.0, "two": 0.3}
    mask = (torch.rand(21, 10) > 0.5).to(dtype) * 2
    monkeypatch.setattr(lora, "dropout", lambda x, share, training: x * mask)
    for share in (0.0, 0.5):
        layer.dropout = share
        x = torch.randn(3, 7, 10).to(dtype).requires_grad_()
        grad = torch.randn(3, 7, 12).to(dtype)
        out = layer(x)
        out.backward(grad)
        found = [x.grad, *(p.grad for p in layer.adapters.parameters())]
        y, tensors = x.detach().double().requires_grad_(), [p.detach().double().requires_grad_() for p in layer.adapters.parameters()]
        read = y.flatten(0, 1) * (mask.double() if share else 1)
        (a1, b1, a2, b2, a3, b3) = tensors
        added = F.pad(0.5 * read @ a1.t() @ b1.t(), (0, 7)) + F.pad(0.5 * read @ a2.t() @ b2.t(), (7, 0)) + 0.6 * read @ a3.t() @ b3.t()
        wanted = F.linear(y, layer.weight.double(), layer.bias.double()) + added.view(3, 7, 12)
        wanted.backward(grad.double())
        near = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-2}[dtype]
        for got, want in zip([out.detach(), *found], [wanted.detach(), y.grad, *(t.grad for t in tensors)], strict=True):
            assert (got.double() - want).abs().max() <= near * (1 + want.abs().max())
        assert layer.weight.grad is None and layer.bias.grad is None
        layer.zero_grad()


def test_the_gradient_of_a_frozen_weight_is_never_computed(monkeypatch, adapted):
    """Each would be a product of its own; it's counted by its shape. The output layer's is the largest of all."""
    made = []
    real = kernels.across
    monkeypatch.setattr(kernels, "across", lambda a, b: made.append((a.shape[1], b.shape[1])) or real(a, b))
    from wordmill.models.ops import linear_cross_entropy

    for model, frozen in ((adapted("qwen3", targets=("ffn.down",)), True), (adapted("qwen3", targets=("ffn.down",)), False)):
        made.clear()
        if not frozen:
            for layer in model.modules():
                if isinstance(layer, Linear) and not isinstance(layer, LoraLinear):
                    layer.requires_grad_(True)
            model.embedding.requires_grad_(True)
        hidden, _ = model.train()(IDS)
        weight, bias = model.output_layer()
        linear_cross_entropy(hidden.flatten(0, 1), weight, bias, IDS.flatten()).backward()
        assert (model.embedding.weight.grad is None) == frozen
        assert bool(made) != frozen
        assert all(pair.b.grad is not None for layer in lora_layers(model).values() for pair in layer.pairs("default"))


def test_the_optimiser_keeps_nothing_of_what_is_frozen(adapted):
    model = adapted()
    optimizer = Optimizer(model, OptimConfig(kind="adamw"))
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(optimizer.master) == set(optimizer.first) == set(optimizer.second) == learning
    assert {name for group in optimizer.groups for name in group.names} == learning


@pytest.mark.parametrize("shape", ["qwen3", "gpt2", "phi3", "bert", "modernbert", "t5", "bart", "wordmill-transformer"])
def test_merging_changes_no_logit(adapted, shape):
    model = adapted(shape, rslora=True)
    if shape == "t5":  # scores without a factor: weights drawn as wide as the others' would make a softmax of one word, all rounding
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.5)
    use_adapters(model, {})
    plain = logits(model)
    use_adapters(model, {"default": 1.0})
    before = logits(model)
    assert (before - plain).abs().max() > 1e-3, "the adapter does something"
    state = {name: tensor.clone() for name, tensor in merged_state(model).items()}
    merge_lora(model)
    assert (logits(model) - before).abs().max() <= 1e-5 * max(1.0, float(before.abs().max()))
    assert not lora_layers(model)
    assert state.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(state[name], parameter) for name, parameter in model.named_parameters())


def test_what_is_saved_of_an_adapted_model_is_the_adapted_model(adapted, tmp_path):
    """Not its base: the trap of exports (trap 14)."""
    model = adapted()
    save_model(model, tmp_path)
    assert (logits(load_model(tmp_path)) - logits(model)).abs().max() <= 1e-5
    assert active_adapters(model) == {"default": 1.0}


@pytest.fixture
def folders(make_model, tmp_path):
    """A base and two adapters for it, one on some layers alone."""
    base = make_model("qwen3")
    save_model(base, tmp_path / "base")
    for seed, name, targets in ((1, "one", ("all-linear",)), (2, "two", ("q_proj", "ffn.down"))):
        model = load_model(tmp_path / "base")
        config = LoraConfig(rank=4, alpha=8, targets=targets)
        add_lora(model, config, seed)
        save_adapter(stir(model, seed=seed), tmp_path / name, config, base=tmp_path / "base")
    return tmp_path


def test_adapters_load_swap_and_stack(folders):
    model = load_model(folders / "base")
    plain = logits(model)
    load_adapter(model, folders / "one", "one")
    load_adapter(model, folders / "two", "two", weight=0.0)
    assert active_adapters(model) == {"one": 1.0, "two": 0.0}
    first = logits(model)
    use_adapters(model, {"two": 1.0})
    second = logits(model)
    use_adapters(model, {"one": 0.5, "two": -2.0})
    both = logits(model)
    use_adapters(model, {})
    assert torch.equal(logits(model), plain)
    assert min((a - b).abs().max() for a, b in ((first, plain), (second, plain), (first, second), (both, first))) > 1e-3

    merged = load_model(folders / "base")
    for name, weight in (("one", 0.5), ("two", -2.0)):
        with torch.no_grad():
            for key, tensor in adapter_changes(folders / name, merged).items():
                merged.get_parameter(key).add_(tensor, alpha=weight)
    assert (logits(merged) - both).abs().max() <= 1e-4

    use_adapters(model, {"one": 0.5, "two": -2.0})
    merge_lora(model)
    assert (logits(model) - both).abs().max() <= 1e-5


def adapter_changes(folder, model):
    """What an adapter adds to our weights, from its files alone."""
    read, known = read_adapter(folder), places(model)
    changes = {}
    for name, (a, b) in read.pairs.items():
        place = known[name]
        whole = changes.setdefault(f"{place.module}.weight", torch.zeros_like(model.get_submodule(place.module).weight))
        whole[place.start : place.start + place.rows] = b @ a * read.config.scale
    return changes


def test_an_adapter_can_be_removed_and_learned_beside_another(folders):
    model = load_model(folders / "base")
    plain = logits(model)
    load_adapter(model, folders / "one", "one")
    with_one = logits(model)
    add_lora(model, LoraConfig(rank=2), 0, "mine")
    assert torch.allclose(logits(model), with_one, atol=1e-5)  # a product with more columns may add up in another order
    assert {name.split(".adapters.")[1].split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"mine"}
    remove_adapter(model, "one")
    assert torch.equal(logits(model), plain) and active_adapters(model) == {"mine": 1.0}


def test_the_folder_is_peft_s(folders):
    values = json.loads((folders / "two" / "adapter_config.json").read_text())
    assert values["peft_type"] == "LORA" and values["task_type"] == "CAUSAL_LM" and values["r"] == 4 and values["lora_alpha"] == 8
    assert values["target_modules"] == ["down_proj", "q_proj"] and values["base_model_name_or_path"] == str(folders / "base")
    read = read_adapter(folders / "two")
    assert next(iter(read.pairs)) == "model.layers.0.mlp.down_proj" and len(read.pairs) == 4


def test_ends_of_names_that_mean_the_wanted_layers_alone():
    layers = [f"encoder.layer.{i}.{name}" for i in (0, 10) for name in ("attention.output.dense", "output.dense", "attention.self.query")]
    assert endings([name for name in layers if "attention" in name], ["pooler.dense", "encoder.layer.0.output.dense"]) == [
        "attention.output.dense", "query"]  # fmt: skip
    alone = endings([name for name in layers if name.endswith(("0.output.dense",))], [name for name in layers if "attention" in name])
    assert alone == ["0.output.dense", "10.output.dense"]


# Against peft.

PARITY = {"llama": ("all-linear",), "qwen3": ("attention.qkv", "ffn.up"), "gpt2": ("all-linear",), "bert": ("all-linear",),
          "t5 1.1": ("all-linear",)}  # fmt: skip


def theirs_logits(model):
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            return model(input_ids=IDS.flip(0), decoder_input_ids=IDS).logits
        return model(input_ids=IDS).logits


@pytest.fixture
def peft():
    pytest.importorskip("transformers", reason="parity tests need transformers")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        return pytest.importorskip("peft", reason="these tests compare with peft, which is not installed")


def fresh(case: str, folder: Path):
    from tests.models.reference import CASES, build

    kind, settings = CASES[case]
    return build(kind, settings, folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", PARITY)
def test_peft_opens_our_adapter_with_equal_logits(peft, case, tmp_path):
    base = fresh(case, tmp_path / "base")
    plain = theirs_logits(base)
    ours = load_model(tmp_path / "base")
    config = LoraConfig(rank=4, alpha=8, targets=PARITY[case])
    add_lora(ours, config, 0)
    save_adapter(stir(ours), tmp_path / "adapter", config, base=tmp_path / "base")
    opened = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    found = theirs_logits(opened)
    assert (found - plain).abs().max() > 1e-3
    assert (found - logits(ours)).abs().max() <= 1e-5 * max(1.0, float(found.abs().max()))
    # Not a layer more or less than ours.
    named = {name for name, module in opened.named_modules() if hasattr(module, "lora_A")}
    assert {name.removeprefix("base_model.model.") for name in named} == set(read_adapter(tmp_path / "adapter").pairs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", PARITY)
def test_peft_s_adapter_opens_here_with_equal_logits(peft, case, tmp_path):
    base = fresh(case, tmp_path / "base")
    targets = {"gpt2": ["c_attn", "c_fc"], "bert": ["query", "value", "output.dense"], "t5 1.1": ["q", "v", "wi_0", "wo"]}
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=targets.get(case, ["q_proj", "v_proj", "up_proj"]), use_rslora=True,
                             init_lora_weights=False, fan_in_fan_out=case == "gpt2")  # fmt: skip
    torch.manual_seed(1)
    theirs = peft.get_peft_model(base, config).eval()
    with torch.no_grad():
        for name, tensor in theirs.named_parameters():
            if "lora_" in name:
                tensor.mul_(0.3)
    theirs.save_pretrained(tmp_path / "adapter")
    ours = load_model(tmp_path / "base")
    plain = logits(ours)
    load_adapter(ours, tmp_path / "adapter")
    found = logits(ours)
    assert (found - plain).abs().max() > 1e-3
    assert (found - theirs_logits(theirs)).abs().max() <= 1e-5 * max(1.0, float(found.abs().max()))


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_of_a_bare_encoder_goes_both_ways(peft, tmp_path):
    from tests.models.reference import BERT, transformers

    base = transformers.BertModel(transformers.BertConfig(**BERT), add_pooling_layer=False).eval()
    base.save_pretrained(tmp_path / "base")
    ours = load_model(tmp_path / "base")
    assert not ours.config.lm_head
    config = LoraConfig(rank=4)
    add_lora(ours, config, 0)
    save_adapter(stir(ours), tmp_path / "adapter", config, base=tmp_path / "base")
    again = load_model(tmp_path / "base")
    load_adapter(again, tmp_path / "adapter")
    opened = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        wanted = opened(input_ids=IDS).last_hidden_state
        assert (ours(IDS)[0] - wanted).abs().max() <= 1e-5
        assert torch.equal(again(IDS)[0], ours(IDS)[0])


# Bad input.


@pytest.mark.parametrize(
    "targets, message", [(("attention.qvk",), "attention.qkv"), (("lm_head",), "lm_head"), (("embedding",), "embedding")]
)
def test_a_target_that_does_not_exist(make_model, targets, message):
    with pytest.raises(ConfigError, match=message):
        add_lora(make_model("llama"), LoraConfig(targets=targets), 0)


def test_models_and_names_that_can_t_be_adapted(make_model, adapted):
    with pytest.raises(UsageError, match="recurrent"):
        add_lora(make_model("lstm"), LoraConfig(), 0)
    with pytest.raises(UsageError, match="already"):
        add_lora(adapted(), LoraConfig(), 0)
    for name in ("a.b", "pop", ""):
        with pytest.raises(UsageError, match="name"):
            add_lora(adapted(), LoraConfig(), 0, name)
    with pytest.raises(UsageError, match="default"):
        use_adapters(adapted(), {"defualt": 1.0})
    with pytest.raises(UsageError, match="none at all"):
        use_adapters(make_model("qwen3"), {"default": 1.0})
    with pytest.raises(UsageError, match="no adapter"):
        remove_adapter(adapted(), "other")
    for bad in ({"rank": 0}, {"alpha": 0}, {"dropout": 1.0}, {"targets": ()}, {"ranks": 4}):
        with pytest.raises(ConfigError):
            LoraConfig.of(bad)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"r": 8}, "rank 8"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"something_new": True}, "something_new"),
        ({"init_lora_weights": "pissa"}, "pissa"),
    ],
)
def test_adapters_that_can_t_be_honoured(folders, changes, message):
    path = folders / "one" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ModelError, match=message):
        load_adapter(load_model(folders / "base"), folders / "one")


def test_adapters_of_another_model(folders, make_model):
    model = make_model("llama", layers=1, kv_heads=2)
    with pytest.raises(ModelError, match=r"layers\.1"):
        load_adapter(model, folders / "one")
    assert not lora_layers(model), "nothing was changed"
    with pytest.raises(ModelError, match="belongs to another base"):
        load_adapter(make_model("qwen3", ffn_size=32), folders / "one")


def test_adapter_folders_that_lack_something(folders):
    from safetensors.torch import load_file, save_file

    base, one = folders / "base", folders / "one"
    with pytest.raises(ModelError, match="no adapter"):
        load_adapter(load_model(base), base)
    with pytest.raises(ModelError, match="holds an adapter"):
        load_model(one)
    tensors = load_file(one / "adapter_model.safetensors")
    first = next(name for name in tensors if "lora_A" in name)
    for change, message in (
        ({name: x for name, x in tensors.items() if name != first}, "only one of the two"),
        ({**tensors, "base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(4, 97)}, "lora_embedding_A"),
        ({}, "adapts nothing"),
    ):
        save_file(change, one / "adapter_model.safetensors")
        with pytest.raises(ModelError, match=message):
            load_adapter(load_model(base), one)
    (one / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match="torn"):
        load_adapter(load_model(base), one)
    (one / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no adapter_model"):
        load_adapter(load_model(base), one)


def test_layers_trained_whole_go_along_and_are_refused_by_a_language_model(folders):
    model = load_model(folders / "base")
    config = LoraConfig(rank=4)
    add_lora(model, config, 0)
    save_adapter(model, folders / "head", config, base=folders / "base", whole={"score.weight": torch.ones(3, 48)}, task="SEQ_CLS")
    assert json.loads((folders / "head" / "adapter_config.json").read_text())["modules_to_save"] == ["score"]
    assert torch.equal(read_adapter(folders / "head").whole["score.weight"], torch.ones(3, 48))
    with pytest.raises(ModelError, match="score"):
        load_adapter(load_model(folders / "base"), folders / "head")
