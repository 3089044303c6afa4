"""What a model is: its parts, size, memory, arithmetic, tokenizer and origin. Nothing of its weights is read: the shape is built on the
meta device, so that a model of any size takes no memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wordmill.core.config import parse_overrides
from wordmill.core.errors import ConfigError, ModelError, UsageError, nearest
from wordmill.core.lineage import read_lineage
from wordmill.core.progress import human_bytes, human_count, plural
from wordmill.models.adapters import adapter_base, is_adapter, read_adapter
from wordmill.models.config import UNLIMITED, ModelConfig, RecurrentConfig, TransformerConfig
from wordmill.models.families import families
from wordmill.models.folder import build_model, head_kind, read_config, read_config_file, whole_config
from wordmill.models.heads import read_head
from wordmill.models.hub import resolve_model
from wordmill.models.meta import without_weights
from wordmill.models.tensors import OLD_WEIGHTS, WEIGHTS, open_weights
from wordmill.tokenizer import Tokenizer
from wordmill.train.budget import flops_per_token
from wordmill.train.optim import OptimConfig, assign

SHOWN_LABELS = 12
"""Labels that are named."""
SHOWN_CONTEXT = 2048
"""Context for which operations are counted, where the model reaches further."""
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}


def info(place: str | Path | None = None, *, shape: str | None = None, context: int | None = None) -> dict[str, Any]:
    """Facts of a model folder, a hub's model, a config.json, or a `shape` ("bert:layers=6,width=384"); JSON-ready.

    `context` in tokens for which operations are counted: the model's positions by default, at most `SHOWN_CONTEXT`. Raises `ModelError` and
    `ConfigError` for what can't be read, `UsageError` unless there is exactly one of place and shape.
    """
    if (place is None) == (shape is None):
        raise UsageError("one thing to describe is needed: a model folder, a config.json, or --shape family:name=value,…")
    extra: dict[str, Any] = {}
    if shape is not None:
        config = shape_config(shape)
    else:
        path = resolve_model(str(place))
        if path.is_file():
            config = read_config_file(path)
        else:
            config, extra = _folder_facts(path)
    if context is not None and not 1 <= context <= config.max_positions:
        raise UsageError(
            f"a context of {context:,} tokens does not fit: the model has {config.max_positions:,} positions", where="--context"
        )
    with without_weights():
        model = build_model(config)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    total = sum(sizes.values())
    embedding = sum(size for name, size in sizes.items() if name.startswith(("embedding.", "head.")) or ".embedding." in name)
    context = context or min(config.max_positions, SHOWN_CONTEXT)
    flops = flops_per_token(config, context)
    return {
        "family": config.family,
        "kind": config.kind,
        "parts": parts(config),
        "parameters": {"total": total, "embedding": embedding, "non_embedding": total - embedding},
        "weights_bytes": {name: size * total for name, size in BYTES.items()},
        "state": _state(config),
        "training_bytes": {kind: training_bytes(model, sizes, kind) for kind in ("adamw", "muon")},
        "flops_per_token": {"context": context, "forward": flops / 3, "training": flops},
        "positions": None if config.max_positions == UNLIMITED else config.max_positions,
        **extra,
    }


def shape_config(text: str) -> ModelConfig:
    """"bert:layers=6,width=384" as settings: the family's parts, and the values given; heads of 64 and a usual feed-forward size where only
    the width is. Raises `ConfigError` for names that there are not."""
    name, _, rest = text.partition(":")
    values = parse_overrides([pair for pair in rest.split(",") if pair])
    if name in ("lstm", "gru"):
        return RecurrentConfig.of({"cell": name, **values}, where="--shape")
    known = families()
    if name not in known:
        raise ConfigError(f"no family {name!r}", where="--shape", fix=nearest(name, [*known, "lstm", "gru"]))
    settings = {**known[name].parts, "family": name, **values}
    width = settings.get("width", 384)
    if not isinstance(width, int) or isinstance(width, bool) or width < 1:
        raise ConfigError(f"width must be a whole number above 0, not {width!r}", where="--shape")
    settings.setdefault("heads", max(1, width // 64))
    settings.setdefault("kv_heads", settings["heads"])
    settings.setdefault("head_size", max(1, width // settings["heads"]))
    settings.setdefault("ffn_size", round(width * 8 / 3 / 64) * 64 or 64 if settings.get("gated", True) else 4 * width)
    return TransformerConfig.of(settings, where="--shape")


def parts(config: ModelConfig) -> dict[str, Any]:
    """The parts that a model is made of, in words and numbers."""
    if isinstance(config, RecurrentConfig):
        return {"cell": config.cell, "reads": "one way" if config.causal else "both ways", "layers": config.layers,
                "embedding": config.embedding_size, "hidden": config.hidden_size, "vocabulary": config.vocab_size,
                "tied output layer": config.tie_embeddings}  # fmt: skip
    c = config
    heads = f"{c.heads} heads of {c.head_size}" + (f", {c.kv_heads} for keys and values" if c.kv_heads != c.heads else "")
    windows = [c.window(layer) for layer in range(c.layers)]
    seen = sorted({f"{w:,} tokens" if w else "all" for w in windows})
    scaling = f", {c.rope_scaling.kind} × {c.rope_scaling.factor:g}" if c.rope_scaling is not None else ""
    positions = c.positions + (f" (base {c.rope_theta:,.0f}{scaling})" if c.positions == "rotary" else "")
    return {
        "width": c.width,
        "layers": c.layers,
        **({"encoder layers": c.encoder_layers} if c.encoder_layers else {}),
        "norm": f"{c.norm}, {c.norm_position}",
        "positions": positions,
        "attention": f"{'causal' if c.causal else 'both ways'}, {heads}, sees {' or '.join(seen)}" + (", QK-norm" if c.qk_norm else ""),
        "feed-forward": f"{c.ffn_size}, {'gated ' if c.gated else ''}{c.activation}" + (", parallel" if c.parallel else ""),
        "vocabulary": c.vocab_size,
        "output layer": "none" if not c.lm_head else "tied to the embedding" if c.tie_embeddings else "its own",
        **({"soft-cap": c.logit_softcap} if c.logit_softcap else {}),
    }


def _state(config: ModelConfig) -> dict[str, Any]:
    """Bytes that generating keeps, in bfloat16: of each token, or in all for recurrent models. None for encoders, which keep nothing."""
    if config.kind == "encoder":
        return {"bytes_per_token": None}
    if isinstance(config, RecurrentConfig):
        return {"bytes_per_token": 0, "bytes": config.layers * config.hidden_size * (2 if config.cell == "lstm" else 1) * 4}
    own = 2 * config.layers * config.kv_heads * config.head_size * 2
    return {"bytes_per_token": own, **({"bytes_per_source_token": own} if config.encoder_layers else {})}


def training_bytes(model: Any, sizes: Mapping[str, int], kind: str) -> int:
    """Bytes that weights, gradients and the optimiser's states take in training in float32 (activations come on top): 4 for a weight,
    4 for its gradient, 4 for each of its moments: two with AdamW, one for the matrices under Muon."""
    groups = assign(model, OptimConfig.of({"kind": kind}))
    moments = {name: 1 if group.rule == "muon" else 2 for group in groups for name in group.names}
    return sum(size * 4 * (2 + moments[name]) for name, size in sizes.items())


def _folder_facts(folder: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """The settings of a folder's model, and what only a folder has: its tokenizer and its lineage. Of an adapter's folder these are those
    of its base, and what the adapter adds."""
    if is_adapter(folder):
        base, adapter = adapter_base(folder), read_adapter(folder)
        config, beneath = _folder_facts(base)
        size = sum(tensor.numel() for pair in adapter.pairs.values() for tensor in pair)
        told = {"base": str(base), "rank": adapter.config.rank, "alpha": adapter.config.alpha, "matrices": len(adapter.pairs),
                "parameters": size, "whole": sum(tensor.numel() for tensor in adapter.whole.values())}  # fmt: skip
        beneath.pop("lineage", None)  # the base's tells nothing of the adapter
        own = read_lineage(folder)
        return config, {**beneath, **({"lineage": own} if own else {}), "adapter": told}
    config = read_config(folder)
    has_weights = any((folder / f"{name}{end}").exists() for name in (WEIGHTS, OLD_WEIGHTS) for end in ("", ".index.json"))
    if has_weights:
        config = whole_config(folder)
    facts: dict[str, Any] = {"weights": has_weights, "tokenizer": _tokenizer(folder, config)}
    if head_kind(folder) is not None:
        config = config.replace(lm_head=False)  # type: ignore[assignment]  # a head for a task stands in the output layer's place
        head = read_head(folder, open_weights(folder) if has_weights else {})
        facts["head"] = {"kind": head.kind, "labels": list(head.labels), "several": head.multi_label, "crf": head.crf,
                         "ngrams": head.ngrams}  # fmt: skip
    lineage = read_lineage(folder)
    return config, {**facts, "lineage": lineage} if lineage else facts


def _tokenizer(folder: Path, config: ModelConfig) -> dict[str, Any] | None:
    try:
        tokenizer = Tokenizer.load(folder)
    except ModelError as error:
        return {"problem": error.what}
    roles = ("bos", "eos", "pad", "unk", "mask", "cls", "sep")
    special = {role: getattr(tokenizer, f"{role}_id") for role in roles}
    facts: dict[str, Any] = {
        "kind": tokenizer.kind,
        "vocabulary": tokenizer.vocab_size,
        "special": {role: tokenizer.token_text(index) for role, index in special.items() if index is not None},
        "chat_template": tokenizer.chat_template is not None,
    }
    if tokenizer.vocab_size > config.vocab_size:
        facts["problem"] = f"it has {tokenizer.vocab_size:,} tokens, and the model only {config.vocab_size:,}: they don't belong together"
    return facts


def text(facts: Mapping[str, Any]) -> str:
    """The facts for people: one line each."""
    counts, memory, flops, state = facts["parameters"], facts["weights_bytes"], facts["flops_per_token"], facts["state"]
    rows: list[tuple[str, str]] = [("family", f"{facts['family']} ({facts['kind']})")]
    rows += [(name, f"{value:,}" if type(value) is int else str(value)) for name, value in facts["parts"].items()]
    reach = facts["positions"]
    rows += [
        ("longest context", f"{reach:,} tokens" if reach else "no limit"),
        ("parameters", f"{human_count(counts['total'])} ({counts['total']:,}): {counts['embedding']:,} in embedding and output layer, "
                       f"{counts['non_embedding']:,} elsewhere"),
        ("weights", ", ".join(f"{human_bytes(size)} in {name}" for name, size in memory.items())),
        ("generating", _state_text(state)),
        ("training", ", ".join(f"{human_bytes(size)} with {name}" for name, size in facts["training_bytes"].items())
                     + " in float32 (weights, gradients, moments; activations come on top)"),
        ("arithmetic", f"{human_count(flops['forward'])} operations a token to read, {human_count(flops['training'])} to train, "
                       f"at a context of {flops['context']:,}"),
    ]  # fmt: skip
    if "head" in facts:
        rows.append(("head", _head_text(facts["head"])))
    if "adapter" in facts:
        rows.append(("adapter", _adapter_text(facts["adapter"])))
    if facts.get("weights") is False:
        rows.append(("folder", "holds no weights"))
    rows += _tokenizer_rows(facts.get("tokenizer"))
    rows += [(f"lineage: {name}", value) for name, value in lineage_rows(facts.get("lineage") or {})]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def _head_text(facts: Mapping[str, Any]) -> str:
    labels = facts["labels"]
    shown = ", ".join(labels[:SHOWN_LABELS]) + (" …" if len(labels) > SHOWN_LABELS else "")
    told = {"sequence": "any number of" if facts["several"] else "one of", "token": "for each word one of"}.get(facts["kind"])
    beside = "".join([", told together by a CRF"] * facts["crf"] + [", n-grams beside the network"] * facts["ngrams"])
    return f"{told} {plural(len(labels), 'label')}{beside}: {shown}" if told else "where an answer begins and ends"


def _adapter_text(facts: Mapping[str, Any]) -> str:
    whole = f", and {human_count(facts['whole'])} in layers that were trained whole" if facts["whole"] else ""
    return (f"LoRA of rank {facts['rank']}, alpha {facts['alpha']:g}: {human_count(facts['parameters'])} parameters beside "
            f"{facts['matrices']} matrices{whole}; what stands above is its base, {facts['base']}")  # fmt: skip


def _state_text(state: Mapping[str, Any]) -> str:
    if state["bytes_per_token"] is None:
        return "does not write text, keeps nothing"
    if not state["bytes_per_token"]:
        return f"{human_bytes(state['bytes'])} of state, however long the text"
    source = ", as much for a token of the source" if "bytes_per_source_token" in state else ""
    return f"{human_bytes(state['bytes_per_token'])} of keys and values a token in bf16{source}"


def _tokenizer_rows(facts: Mapping[str, Any] | None) -> Sequence[tuple[str, str]]:
    if facts is None:
        return []
    rows = []
    if "kind" in facts:
        special = ", ".join(f"{role} {token}" for role, token in facts["special"].items())
        rows.append(("tokenizer", f"{facts['kind']}, {facts['vocabulary']:,} tokens{'; chat template' if facts['chat_template'] else ''}"))
        rows.append(("special tokens", special or "none"))
    return [*rows, ("tokenizer problem", facts["problem"])] if "problem" in facts else rows


def lineage_rows(lineage: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The short facts of a lineage, nested names joined by a point; long ones (settings) are in wordmill.json."""
    rows = []
    for name in ("task", "written", "command", "parent", "corpus", "tokenizer", "train", "metrics"):
        value = lineage.get(name)
        inner = value.items() if isinstance(value, Mapping) else [("", value)]
        for key, each in inner:
            if isinstance(each, str | int | float) and not isinstance(each, bool) and each != "":
                shown = f"{each:,.4g}" if isinstance(each, float) else f"{each:,}" if isinstance(each, int) else each
                rows.append((f"{name}.{key}" if key else name, shown))
    return rows
