"""Tokenizers, from text to ids and back.

Train, encode and decode, special tokens, report:

    text ─► patterns.py cuts it into pieces ─► train.py learns tokens ─► tokenizer.py encodes (fast.py) and decodes ─► report.py judges

    other people's folders ─► convert.py finds the files (sentencepiece.py reads them) and the family ─► families.py builds ─► tokenizer.py
"""

from __future__ import annotations

from wordmill.tokenizer.config import Kind, Purpose, TokenizerConfig, suggest_vocab
from wordmill.tokenizer.report import report, report_text
from wordmill.tokenizer.tokenizer import Tokenizer
from wordmill.tokenizer.train import train_on_corpus, train_tokenizer
from wordmill.tokenizer.wrap import Wrapped

__all__ = [
    "Kind", "Purpose", "Tokenizer", "TokenizerConfig", "Wrapped", "report", "report_text", "suggest_vocab", "train_on_corpus",
    "train_tokenizer",
]  # fmt: skip
