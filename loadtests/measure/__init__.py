"""From records to figures."""

from loadtests.measure.fairness import Fairness, fairness
from loadtests.measure.measures import Measures, Objective, measure
from loadtests.measure.percentiles import Spread

__all__ = ["Fairness", "Measures", "Objective", "Spread", "fairness", "measure"]
