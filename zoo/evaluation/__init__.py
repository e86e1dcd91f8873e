"""(model, data) -> `Result`: likelihood where there is one, distances of samples where an extractor fits the data.

Samples and the noise of bounds are drawn in chunks, each with a seed of its own. So a result depends on (seed, batch
size) and not on what was drawn before, on how many processes drew, or on how often the work was interrupted.
"""

from zoo.evaluation.comparison import DIGITS
from zoo.evaluation.measuring import measure
from zoo.evaluation.representation import measure_features

__all__ = ["DIGITS", "measure", "measure_features"]
