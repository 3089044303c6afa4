"""The pictures and the table of docs/families.md, made by the code that they describe: python docs/figures.py

Who sees whom is found by trying: one input is changed, and the outputs that change have seen it. Sizes are those of shapes on the meta
device (`wordmill info --shape …`), so nothing is downloaded and no memory is taken.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

import torch
from torch import Tensor

from wordmill.core.progress import human_bytes, human_count
from wordmill.models.config import RecurrentConfig, TransformerConfig
from wordmill.models.folder import build_model
from wordmill.tasks.info import info

HERE = Path(__file__).resolve().parent
WORDS = ["the", "mill", "grinds", "words", "all", "night"]
CELL, EDGE, TOP = 26, 64, 84
STYLE = """
text{font:12px system-ui,sans-serif;fill:#6b7785}.title{font-size:15px;font-weight:600;fill:#1f2933}.on{fill:#2266b3}.off{fill:#e4e7eb}
@media (prefers-color-scheme:dark){.title{fill:#e6e9ee}.on{fill:#6cb0f5}.off{fill:#333b45}}
""".strip()
SHAPES = {
    "BERT base": "bert:width=768,layers=12,vocab_size=30522",
    "DistilBERT": "distilbert:width=768,layers=6,vocab_size=30522",
    "ModernBERT base": "modernbert:width=768,layers=22,ffn_size=1152,vocab_size=50368",
    "GPT-2": "gpt2:width=768,layers=12,vocab_size=50257,max_positions=1024",
    "SmolLM2 135M": "llama:width=576,layers=30,heads=9,kv_heads=3,head_size=64,ffn_size=1536,vocab_size=49152,tie_embeddings=true,"
    "max_positions=8192",
    "Qwen3 0.6B": "qwen3:width=1024,layers=28,heads=16,kv_heads=8,head_size=128,ffn_size=3072,vocab_size=151936,tie_embeddings=true,"
    "max_positions=40960",
    "T5 1.1 small": "t5:width=512,layers=8,encoder_layers=8,heads=6,head_size=64,ffn_size=1024,vocab_size=32128",
    "BART base": "bart:width=768,layers=6,encoder_layers=6,heads=12,head_size=64,ffn_size=3072,vocab_size=50265",
    "LSTM 2 × 650": "lstm:embedding_size=650,hidden_size=650,layers=2,vocab_size=33278",
}
"""Published shapes (their config.json files on the hub; the LSTM is that of pytorch/examples)."""


def seen(kind: str) -> Tensor:
    """(outputs, inputs) bool: which inputs an output of a small random model of that kind depends on."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "width": 32, "layers": 1, "heads": 2, "kv_heads": 2, "head_size": 16, "ffn_size": 32}
    if kind == "lstm":
        model = build_model(RecurrentConfig(vocab_size=64, embedding_size=32, hidden_size=32, layers=1))
        model.initialise(0)
    else:
        model = build_model(TransformerConfig(**sizes, causal=kind != "encoder", encoder_layers=1 if kind == "encoder-decoder" else 0))
        model.initialise(0, zero_outputs=False)
    model.double()
    ids = torch.arange(len(WORDS))[None] + 5

    def outputs(source: Tensor) -> Tensor:
        with torch.no_grad():
            return (model(ids, memory=model.encode(source)) if kind == "encoder-decoder" else model(source))[0][0]

    columns = []
    for place in range(len(WORDS)):
        changed = ids.clone()
        changed[0, place] = 50
        columns.append((outputs(changed) - outputs(ids)).abs().amax(-1) > 0)
    return torch.stack(columns, 1)


def grid(title: str, about: str, matrix: Tensor, x: int) -> str:
    """One picture of who sees whom, its left edge at x."""
    parts = [f'<text x="{x}" y="22" class="title">{escape(title)}</text><text x="{x}" y="40" class="about">{escape(about)}</text>']
    for i, word in enumerate(WORDS):
        across, down = x + EDGE + CELL * i + CELL / 2, TOP + CELL * i + CELL / 2 + 4
        parts.append(f'<text x="{x + EDGE - 6}" y="{down}" text-anchor="end">{word}</text>')
        parts.append(f'<text transform="translate({across + 4},{TOP - 6}) rotate(-40)">{word}</text>')
        for j in range(len(WORDS)):
            kind, left, top = "on" if bool(matrix[i, j]) else "off", x + EDGE + CELL * j + 1, TOP + CELL * i + 1
            parts.append(f'<rect class="{kind}" x="{left}" y="{top}" width="{CELL - 2}" height="{CELL - 2}"/>')
    return "".join(parts)


def attention() -> str:
    """All kinds side by side."""
    kinds = [
        ("decoder", "Decoder", "writes: sees what came before"),
        ("encoder", "Encoder", "reads: sees both sides"),
        ("encoder-decoder", "Encoder–decoder", "its decoder sees all of the source"),
        ("lstm", "LSTM, GRU", "one step after the other"),
    ]
    width = EDGE + CELL * len(WORDS) + 40
    body = "".join(grid(title, about, seen(kind), 8 + width * i) for i, (kind, title, about) in enumerate(kinds))
    box = f"0 0 {width * len(kinds) + 16} {TOP + CELL * len(WORDS) + 12}"
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}"><style>{STYLE}</style>{body}</svg>\n'


def table() -> str:
    """Sizes and speed of known shapes, as Markdown."""
    headers = ["shape", "kind", "weights", "bf16 weights", "training, AdamW", "kept a token", "operations a token, 512 tokens"]
    lines = ["| " + " | ".join(headers) + " |", "|---" * len(headers) + "|"]
    for name, shape in SHAPES.items():
        facts = info(shape=shape, context=512)
        kept = facts["state"]["bytes_per_token"]
        lines.append(
            f"| {name} | {facts['kind']} | {human_count(facts['parameters']['total'])} | {human_bytes(facts['weights_bytes']['bf16'])} "
            f"| {human_bytes(facts['training_bytes']['adamw'])} | {'–' if kept is None else human_bytes(kept)} "
            f"| {human_count(facts['flops_per_token']['forward'])} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Write figures/attention.svg, and the table between the marks in families.md."""
    (HERE / "figures").mkdir(exist_ok=True)
    (HERE / "figures" / "attention.svg").write_text(attention(), encoding="utf-8")
    page = HERE / "families.md"
    before, mark, rest = page.read_text(encoding="utf-8").partition("<!-- table -->\n")
    _, end, after = rest.partition("<!-- end -->\n")
    page.write_text(f"{before}{mark}{table()}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
