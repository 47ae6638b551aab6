"""The score that a sampling search maximises: its name, and which values are better."""

from search.sampling.config import SamplingConfig
from training.metrics import Score
from training.tasks.task import asked_score

TABLE_SCORE = Score.share("valid_accuracy_12", "validation accuracy after 12 epochs")
"""The score that a benchmark table gives."""


def chosen_score(config: SamplingConfig) -> Score:
    """Returns the score of a search: that of the task which was asked for, the table's, or a
    proxy's.

    Raises InputError for a task or a score that is not known.
    """
    if config.evaluate == "supernet":
        return asked_score(config)
    return TABLE_SCORE if config.evaluate == "table" else Score(config.evaluate, title=f"proxy {config.evaluate}")
