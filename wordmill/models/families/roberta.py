"""RoBERTa (arXiv 1907.11692): BERT without sentence pairs, byte-level vocabulary."""

from wordmill.models.families._bert import roberta

FAMILY = roberta("roberta", "Roberta")
