"""Where a text may be cut into pieces before tokens are made of them.

Two patterns, because they answer two questions:

- `ENCODE` is used when text is encoded. It is the pattern of Qwen 3.5, which the ecosystem knows: `transformers` reads it from
  tokenizer.json, llama.cpp has it built in under the name in `LLAMA_CPP_NAME` (it can't run patterns of our own).
  Numbers fall into single digits, a word takes one character before it along (" word", ".append"), line ends and
  indentation are pieces of their own.
- `TRAIN` is used while the vocabulary is learned. It cuts wherever `ENCODE` cuts, and also between scripts, inside long Han runs
  and between Han and what stands before it. What never meets in training never becomes a token: so no token mixes
  two scripts, and none holds more than `HAN_RUN` Han characters, whichever of the two patterns cuts the text.

Both mean the same to the engines of `tokenizers` (Oniguruma) and tiktoken (fancy-regex); tests/tokenizer/test_patterns.py compares
the two over every character of Unicode.
"""

from __future__ import annotations

LLAMA_CPP_NAME = "qwen35"

HAN_RUN = 4
"""Most Han characters in a piece of training text: words have 1–4. (6 MB of Chinese, 8k tokens: 3.02 bytes/token with 4, 2.98 with 16.)"""

ENCODE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
    r"|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What `ByteLevel(use_regex=True)` stands for in a tokenizer.json from elsewhere."""

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)
"""The cuts of Qwen 2 and 3: those of `ENCODE`, except that marks are no part of words."""

SPACED_SCRIPTS = (
    "Latin", "Cyrillic", "Greek", "Arabic", "Hebrew", "Armenian", "Georgian", "Hangul", "Devanagari", "Bengali", "Gurmukhi", "Gujarati",
    "Oriya", "Tamil", "Telugu", "Kannada", "Malayalam", "Sinhala", "Ethiopic", "Mongolian",
)  # fmt: skip
UNSPACED_SCRIPTS = ("Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan")
"""Written without spaces between words: what stands before a run (a quotation mark, a comma) is not part of a word."""

# Accents and joiners belong to every script, and so do the letters of none (the Japanese ー, the Hawaiian ʻ).
_OF_ANY_SCRIPT = r"\p{Inherited}[\p{Common}&&\p{L}]"
_ALL_SCRIPTS = "".join(rf"\p{{{name}}}" for name in ("Han", *SPACED_SCRIPTS, *UNSPACED_SCRIPTS))


def _run(script: str) -> str:
    return rf"[[\p{{{script}}}{_OF_ANY_SCRIPT}]&&[\p{{L}}\p{{M}}]]"


SCRIPT_RUNS = "|".join(
    [rf"[^\r\n\p{{L}}\p{{M}}\p{{N}}]?{_run(name)}+" for name in SPACED_SCRIPTS]
    + [rf"{_run('Han')}{{1,{HAN_RUN}}}"]
    + [rf"{_run(name)}+" for name in UNSPACED_SCRIPTS]
    + [rf"[^\r\n\p{{L}}\p{{M}}\p{{N}}]?[\p{{L}}\p{{M}}&&[^{_ALL_SCRIPTS}]]+", r"[\p{L}\p{M}]"]
)

TRAIN = ENCODE.replace(r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+", SCRIPT_RUNS)

EACH_CHARACTER = r"[\s\S]"
"""Every character is a piece (char tokenizers)."""
