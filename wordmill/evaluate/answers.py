"""How good answers in conversations are: their cost under the model, and whether the final result is right."""

from __future__ import annotations

import re
from collections.abc import Sequence

from wordmill.batches.conversations import ConversationRows, Example
from wordmill.core.progress import SILENT, Reporter
from wordmill.generate.score import Score, evaluating, target_losses
from wordmill.models.folder import LanguageModel
from wordmill.train.objectives import counted

_NUMBER = re.compile(r"[-+]?[0-9][0-9,]*(?:\.[0-9]+)?")
BATCH_TOKENS = 8192


def score_answers(
    model: LanguageModel, examples: Sequence[Example], *, batch_tokens: int = BATCH_TOKENS, reporter: Reporter = SILENT
) -> Score:
    """What the assistant's words cost the model, given all that stands before them: nats of these words and of the end tokens, and the
    words' UTF-8 bytes. Nothing else counts. The result does not depend on how examples share rows."""
    width = max(len(one.ids) for one in examples)
    rows = ConversationRows(examples, width, max(1, batch_tokens // width), 0, shuffle=False)
    device = next(model.parameters()).device
    nats, tokens, steps = 0.0, 0, -(-rows.rows_per_epoch // rows.rows)
    with reporter.task("scoring answers", total=steps) as bar:
        for step in range(steps):
            last = min(rows.rows, rows.rows_per_epoch - step * rows.rows)
            batch = rows.batch(step, 0, last).to(device)
            with evaluating(model):
                nats += float(target_losses(model, *counted(model, batch)).sum())
            tokens += batch.n_targets
            bar.advance()
    return Score(nats, sum(one.bytes for one in examples), tokens)


def final_answer(text: str) -> str:
    """The result that a worked answer comes to: what stands behind its last `####` (as in GSM8K), else its last number, else the text.
    Numbers are written in one way: 1,000.0 and $1000 are 1000."""
    marked = text.rpartition("####")[2] if "####" in text else text
    numbers = _NUMBER.findall(marked)
    if not numbers:
        return " ".join(marked.split())
    number = (numbers[0] if "####" in text else numbers[-1]).replace(",", "").removeprefix("+")
    return number.rstrip("0").rstrip(".") if "." in number else number


def exact_match(answers: Sequence[str], expected: Sequence[str]) -> float:
    """The share of answers that come to the expected result."""
    assert len(answers) == len(expected) and expected
    return sum(final_answer(a) == final_answer(b) for a, b in zip(answers, expected, strict=True)) / len(expected)
