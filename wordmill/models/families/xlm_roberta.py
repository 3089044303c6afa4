"""XLM-RoBERTa (arXiv 1911.02116): RoBERTa for 100 languages."""

from wordmill.models.families._bert import roberta

FAMILY = roberta("xlm-roberta", "XLMRoberta")
