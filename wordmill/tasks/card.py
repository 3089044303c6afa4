"""The model card: README.md of a model folder, in the layout that the Hugging Face hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from wordmill.core.progress import human_bytes, human_count
from wordmill.corpus import Corpus
from wordmill.models.config import ModelConfig, RecurrentConfig
from wordmill.models.families import family
from wordmill.models.heads import Headed
from wordmill.tokenizer import Tokenizer

if TYPE_CHECKING:
    from wordmill.tasks.finetune import FinetuneConfig
    from wordmill.tasks.judge import Judged
    from wordmill.tasks.pretrain import PretrainConfig


CLASSES = {"decoder": ("AutoModelForCausalLM", "text-generation"), "encoder": ("AutoModelForMaskedLM", "fill-mask"),
           "encoder-decoder": ("AutoModelForSeq2SeqLM", "text2text-generation")}  # fmt: skip
"""For each kind of Transformer the class that `transformers` opens it with, and the hub's word for what it does."""


def model_card(name: str, model: ModelConfig, metrics: dict[str, Any], corpus: Corpus, tokenizer: Tokenizer, config: PretrainConfig) -> str:
    """Markdown with a YAML head: what the model is, what it was trained on, how good it is, how to use it."""
    ours = isinstance(model, RecurrentConfig) or family(model.family).weights is None  # what `transformers` has no class for
    kind = "decoder" if isinstance(model, RecurrentConfig) else model.kind
    head = {
        "library_name": "wordmill" if ours else "transformers",
        "pipeline_tag": CLASSES[kind][1],
        "tags": ["wordmill", model.cell if isinstance(model, RecurrentConfig) else model.family],
    }
    lines = ["---", yaml.safe_dump(head, sort_keys=False).strip(), "---", "", f"# {name}", ""]
    what = f"{model.cell.upper()} language model" if isinstance(model, RecurrentConfig) else f"{model.family} {kind}"
    origin = "trained from scratch" if config.parent is None else f"trained on from `{config.parent}`"
    if config.lora is not None:
        origin = f"`{config.parent}` with a LoRA adapter of rank {config.lora.rank} merged into it, trained"
    lines += [f"A {what} with {human_count(metrics['parameters'])} weights, {origin} by wordmill on "
              f"{human_bytes(corpus.bytes('train'))} of text (objective {config.objective}, {metrics['epochs']:.3g} epochs, "
              f"{human_count(metrics['tokens'])} tokens).", "", "## Results", "", *_results(metrics), "",
              "## Training data", "", *(f"- `{source}`" for source in config.sources), "",
              f"{corpus.count('train'):,} training and {corpus.count('validation'):,} validation documents after deduplication; "
              f"tokenizer: {tokenizer.kind}, {tokenizer.vocab_size:,} tokens. All settings and hashes are in `wordmill.json`.",
              "", "## Use", "", "```python", *_use(kind, tokenizer, ours), "```", "", "## Limits", "",
              "A small model trained on little text: it repeats what its text says, true or not, biases included. "
              "It was not tuned to follow instructions or to be safe.", ""]  # fmt: skip
    return "\n".join(lines)


def _results(metrics: dict[str, Any]) -> list[str]:
    table = ["| on the validation text | |", "|---|---|"]
    if "validation_bits_per_byte" in metrics:
        return [*table, f"| bits per byte | {metrics['validation_bits_per_byte']:.4f} |",
                f"| perplexity per token (this tokenizer only) | {metrics['validation_perplexity']:.2f} |",
                f"| tokens scored (none cut) | {metrics['validation_tokens']:,} |"]  # fmt: skip
    if "validation_accuracy" in metrics:
        return [*table, f"| targets right | {100 * metrics['validation_accuracy']:.2f} % |",
                f"| loss, nats a target (this tokenizer and corruption only) | {metrics['validation_loss']:.4f} |",
                f"| targets | {metrics['validation_targets']:,} |"]  # fmt: skip
    return ["No validation text was set aside, so nothing is known of how good it is."]


def _use(kind: str, tokenizer: Tokenizer, ours: bool) -> list[str]:
    gap = "time" if tokenizer.mask_id is None else tokenizer.token_text(tokenizer.mask_id)
    text = "Once" if kind == "decoder" else f"Once upon a {gap}"
    if ours:
        return ["import wordmill", "", f'print(wordmill.load("path/to/this/folder").generate("{text}", max_tokens=50))']
    lines = [f"from transformers import {CLASSES[kind][0]}, AutoTokenizer", "",
             'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")',
             f'model = {CLASSES[kind][0]}.from_pretrained("path/to/this/folder")',
             f'inputs = tokenizer("{text}", return_tensors="pt")']  # fmt: skip
    if kind == "encoder":
        return [*lines, "print(tokenizer.batch_decode(model(**inputs).logits.argmax(-1)))"]
    return [*lines, "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=50)[0]))"]


TUNED = {"sequence": ("AutoModelForSequenceClassification", "text-classification"),
         "token": ("AutoModelForTokenClassification", "token-classification"),
         "span": ("AutoModelForQuestionAnswering", "question-answering")}  # fmt: skip
"""For each kind of head the class that `transformers` opens the folder with, and the hub's word for what it does."""


def tuned_card(name: str, config: FinetuneConfig, model: Any, judged: Mapping[str, Judged], described: Sequence[str] = ()) -> str:
    """The card of a model that was fine-tuned for a task: what it does, how good it is beside what is had without it, how to use it.
    `described` are the task's own lines."""
    headed = isinstance(model, Headed)
    shape: ModelConfig = model.config
    kind = "decoder" if isinstance(shape, RecurrentConfig) else shape.kind
    opener, pipeline = TUNED[model.head.kind] if headed else CLASSES[kind]
    ours = (headed and model.layout.architecture.startswith("Wordmill")) or isinstance(shape, RecurrentConfig)
    family_name = shape.cell if isinstance(shape, RecurrentConfig) else shape.family
    head = {
        "library_name": "wordmill" if ours else "transformers",
        "pipeline_tag": pipeline,
        "tags": ["wordmill", config.task, family_name],
    }
    origin = "from scratch" if config.scratch else f"from `{config.parent}`"
    if config.lora is not None:
        origin += f" (a LoRA adapter of rank {config.lora.rank}, merged into it)"
    lines = ["---", yaml.safe_dump(head, sort_keys=False).strip(), "---", "", f"# {name}", "",
             f"A {family_name} fine-tuned {origin} for the task {config.task} by wordmill, on "
             f"{', '.join(f'`{path}`' for path in config.data)}."]  # fmt: skip
    for line in described:
        lines += ["", line]
    if headed and model.head.kind != "span":
        lines += ["", f"Labels: {', '.join(model.head.labels[:50])}{' …' if len(model.head.labels) > 50 else ''}."]
    if headed and model.crf is not None:
        opened = "" if ours else ", which transformers has no part for: it opens the folder and gives each word's own scores"
        lines += ["", f"Its labels are told together by a CRF (tensors `crf.*`){opened}."]
    for split, found in judged.items():
        others = list(found.baselines)
        lines += ["", f"## On the {split} examples ({found.examples:,}, {found.lost()})", "",
                  "| | score | 95 % interval |" + "".join(f" {other} |" for other in others),
                  "|---|---|---|" + "---|" * len(others)]  # fmt: skip
        for metric, value in found.metrics.items():
            low, high = found.intervals[metric]
            beside = "".join(f" {found.baselines[o][metric]:.4f} |" if metric in found.baselines[o] else " |" for o in others)
            lines.append(f"| {metric.replace('_', ' ')} | {value:.4f} | {low:.4f} … {high:.4f} |{beside}")
        for line in found.remarks:
            lines += ["", line]
    if not judged:
        lines += ["", "No examples were set aside, so nothing is known of how good it is."]
    use = ["import wordmill", "", 'model = wordmill.load("path/to/this/folder")', 'print(model.predict(["…"]))']
    if not ours and (not headed or model.crf is None):
        use += ["", f'# or, by transformers:  {opener}.from_pretrained("path/to/this/folder")']
    lines += ["", "## Use", "", "```python", *use, "```", "", "## Limits", "",
              "It answers as its examples were labelled, mistakes and biases included, and knows nothing of texts of other kinds.",
              ""]  # fmt: skip
    return "\n".join(lines)
