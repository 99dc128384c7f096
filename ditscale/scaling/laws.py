"""The forms a score may follow, one small frozen dataclass each.

A further form is one more dataclass here with the members of ``PowerLaw`` (its fields are its coefficients) and one
more solver in ``fitting.py``. Intervals and cards read the fields, so they take it as it is.
"""

from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class PowerLaw:
    """``y = A * x^-alpha``: a straight line in log-log axes, without a floor.

    ``A`` is the score at x = 1 in x's unit, far outside the data as a rule; ``alpha`` has no unit and is positive where
    the score falls.
    """

    NAME: ClassVar[str] = "power_law"
    FORM: ClassVar[str] = "y = A * x^-alpha"

    A: float
    alpha: float

    def evaluate(self, x) -> np.ndarray:
        """The score at each x > 0. Shape of ``x``, float64."""
        return self.A * np.asarray(x, dtype=np.float64) ** -self.alpha

    def coefficients(self) -> dict[str, float]:
        return asdict(self)

    def formula(self, x: str = "x", y: str = "y") -> str:
        """The law with its numbers, to three digits: ``y = 412 * x^-0.287``."""
        x = f"({x})" if " " in x else x
        return f"{y} = {self.A:.3g} * {x}^{-self.alpha:.3g}"

    def change_at_double(self) -> float:
        """Relative change of the score when x doubles: -0.2 is a fall of 20 %."""
        return float(2.0 ** -self.alpha - 1.0)
