"""The model card: README.md of a model folder, in the layout that the Hugging Face hub reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from wordmill.core.progress import human_bytes, human_count
from wordmill.corpus import Corpus
from wordmill.models.config import ModelConfig, RecurrentConfig
from wordmill.tokenizer import Tokenizer

if TYPE_CHECKING:
    from wordmill.tasks.pretrain import PretrainConfig


def model_card(name: str, model: ModelConfig, metrics: dict[str, Any], corpus: Corpus, tokenizer: Tokenizer, config: PretrainConfig) -> str:
    """Markdown with a YAML head: what the model is, what it was trained on, how good it is, how to use it."""
    recurrent = isinstance(model, RecurrentConfig)
    head = {
        "library_name": "wordmill" if recurrent else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["wordmill", model.cell if isinstance(model, RecurrentConfig) else model.family],
    }
    lines = ["---", yaml.safe_dump(head, sort_keys=False).strip(), "---", "", f"# {name}", ""]
    kind = f"{model.cell.upper()} language model" if isinstance(model, RecurrentConfig) else f"{model.family} decoder"
    lines += [f"A {kind} with {human_count(metrics['parameters'])} weights, trained from scratch by wordmill "
              f"on {human_bytes(corpus.bytes('train'))} of text ({metrics['epochs']:.3g} epochs, {human_count(metrics['tokens'])} tokens).",
              "", "## Results", ""]  # fmt: skip
    if "validation_bits_per_byte" in metrics:
        lines += ["| on the validation text | |", "|---|---|", f"| bits per byte | {metrics['validation_bits_per_byte']:.4f} |",
                  f"| perplexity per token (this tokenizer only) | {metrics['validation_perplexity']:.2f} |",
                  f"| tokens scored (none cut) | {metrics['validation_tokens']:,} |", ""]  # fmt: skip
    else:
        lines += ["No validation text was set aside, so nothing is known of how good it is.", ""]
    lines += ["## Training data", "", *(f"- `{source}`" for source in config.sources), "",
              f"{corpus.count('train'):,} training and {corpus.count('validation'):,} validation documents after deduplication; "
              f"tokenizer: {tokenizer.kind}, {tokenizer.vocab_size:,} tokens. All settings and hashes are in `wordmill.json`.",
              "", "## Use", "", "```python"]  # fmt: skip
    if recurrent:
        lines += ["import wordmill", "", 'print(wordmill.load("path/to/this/folder").generate("Once", max_tokens=50))']
    else:
        lines += ["from transformers import AutoModelForCausalLM, AutoTokenizer", "",
                  'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")',
                  'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")',
                  'print(tokenizer.decode(model.generate(**tokenizer("Once", return_tensors="pt"), max_new_tokens=50)[0]))']  # fmt: skip
    lines += [
        "```",
        "",
        "## Limits",
        "",
        "A small model trained on little text: it repeats what its text says, true or not, biases included. "
        "It was not tuned to follow instructions or to be safe.",
        "",
    ]
    return "\n".join(lines)
