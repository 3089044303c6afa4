"""`run.json`: what a run is about, for its report: the data with what was dropped, the tokenizer, the model, the plan's notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wordmill.batches.store import TokenStore
from wordmill.core.lineage import read_lineage
from wordmill.corpus import Corpus
from wordmill.models.config import ModelConfig, TransformerConfig
from wordmill.tokenizer import Tokenizer
from wordmill.train.budget import count_parameters

SHAPE = ("cell", "layers", "width", "embedding_size", "hidden_size", "heads", "kv_heads", "ffn_size", "dropout")


def run_facts(
    *,
    summary: str,
    notes: Sequence[str],
    sources: Sequence[str],
    corpus: Corpus,
    tokenizer: Tokenizer,
    tokenizer_folder: Path,
    stores: Mapping[str, TokenStore],
    model: ModelConfig,
    context: int,
    device: str,
    dtype: str,
) -> dict[str, Any]:
    """JSON-ready facts about a run that is about to start; `tokenizer_folder` is where a report of its training may lie."""
    splits = {
        split: {"documents": corpus.count(split), "bytes": corpus.bytes(split), "tokens": store.n_tokens} for split, store in stores.items()
    }
    data: dict[str, Any] = {"sources": list(sources), "split": corpus.info.get("split_rule", {}).get("rule"), "splits": splits}
    for name in ("dropped", "encodings", "skipped_files"):
        if corpus.info.get(name):
            data[name] = corpus.info[name]
    lineage = read_lineage(tokenizer_folder)
    report = (lineage.get("report") or {}) if (lineage.get("tokenizer") or {}).get("hash") == tokenizer.hash else {}
    columns = ("documents", "bytes_per_token", "tokens_per_word", "tokens_per_character")
    shape = {name: value for name, value in model.plain().items() if name in SHAPE}
    return {
        "summary": summary,
        "model": {
            "family": model.family if isinstance(model, TransformerConfig) else model.cell,
            "parameters": count_parameters(model),
            **shape,
            "context": context,
            "device": device,
            "dtype": dtype,
        },
        "data": data,
        "tokenizer": {
            "kind": tokenizer.kind,
            "vocabulary": tokenizer.vocab_size,
            "hash": tokenizer.hash,
            "languages": {name: {column: row.get(column) for column in columns} for name, row in report.get("languages", {}).items()},
        },
        "notes": list(notes),
    }
