"""Forms with some coefficients fixed to known values: ``fit(pin("power_law_floor", E=1.6), flops, loss)``.

A few runs do not determine all of a law: a floor and an exponent trade off against each other. Coefficients known from
elsewhere are pinned; the others are fitted as usual, and intervals, hold-outs and resampling use only the free ones. The card's
form says what was pinned. An interval does not include the error of the pinned value: fit with other values to see its effect.
"""

from typing import ClassVar

import numpy as np

from ditscale.errors import UserError, did_you_mean
from ditscale.scaling.laws import Law, form_of
from ditscale.scaling.terms import SumOfPowers


class _Pinned(Law):
    """The overrides of a pinned form. ``theta`` has only the free coefficients."""

    PINNED: ClassVar[dict[str, float]] = {}

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(name for name in super().names() if name not in cls.PINNED)

    @classmethod
    def model(cls, columns: dict[str, np.ndarray], center: dict[str, float]) -> "PinnedModel":
        in_log = cls.amplitudes()
        values = {name: np.log(value) if name in in_log else value for name, value in cls.PINNED.items()}
        return PinnedModel(super().model(columns, center), tuple(super().names()), values)

    @classmethod
    def from_theta(cls, theta: np.ndarray):
        in_log = cls.amplitudes()
        free = {name: np.exp(min(t, 700.0)) if name in in_log else float(t) for name, t in zip(cls.names(), theta)}
        return cls(**{name: float(value) for name, value in {**free, **cls.PINNED}.items()})

    def theta(self) -> np.ndarray:
        whole = super().theta()
        return np.array([value for name, value in zip(super().names(), whole) if name not in self.PINNED])


class PinnedModel:
    """A ``SumOfPowers`` that shows the solver only the free coefficients: arrays ``(s, f)`` instead of ``(s, p)``.

    Only the floor, exponents and R_star are pinned; centering ln x changes neither.
    """

    def __init__(self, whole: SumOfPowers, names: tuple[str, ...], pinned: dict[str, float]) -> None:
        self.whole = whole
        self.fixed = np.array([pinned.get(name, np.nan) for name in names])
        self.free = np.flatnonzero(np.isnan(self.fixed))
        self.shift = whole.shift[np.ix_(self.free, self.free)]

    def _filled(self, theta: np.ndarray) -> np.ndarray:
        filled = np.repeat(self.fixed[None], len(theta), axis=0)
        filled[:, self.free] = theta
        return filled

    def to_centered(self, theta: np.ndarray) -> np.ndarray:
        return self.whole.to_centered(self._filled(theta))[:, self.free]

    def from_centered(self, theta: np.ndarray) -> np.ndarray:
        return self.whole.from_centered(self._filled(theta))[:, self.free]

    def evaluate(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.whole.evaluate(self._filled(theta))

    def jacobian(self, theta: np.ndarray, shares: np.ndarray) -> np.ndarray:
        return self.whole.jacobian(self._filled(theta), shares)[:, self.free]

    def revive(self, theta: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        again, revived = self.whole.revive(self._filled(theta), y)
        return again, revived[:, self.free]


def pin(form: str | type[Law], **values: float) -> type[Law]:
    """A form with these coefficients pinned, to pass to ``fitting.fit`` as the form.

    Args:
        values: the floor ``E``, exponents and ``R_star``, for example ``E=1.6, alpha=0.315``. Other amplitudes cannot be pinned: their value depends on
            the unit of x and therefore on the exponent.

    Raises:
        UserError: an unknown coefficient, one that cannot be pinned, a value that is not a number above zero, or nothing left to fit.
    """
    form = form_of(form)
    if not values:
        return form
    if not form.TERMS:
        raise UserError(f"coefficients of the form {form.NAME} cannot be pinned: it is not a sum of powers")
    able = [name for name in form.names() if name == "E" or name in form.STARTS or name not in form.amplitudes()]
    for name, value in values.items():
        if name not in able:
            why = "" if name not in form.names() else " (its value depends on the unit of x)"
            raise UserError(f"'{name}' of the form {form.NAME} cannot be pinned{why}{did_you_mean(name, able) or '.'} "
                            f"Pin any of {', '.join(able)}")
        if not (isinstance(value, (int, float)) and 0 < value < np.inf):
            raise UserError(f"pinned {name} is {value!r}; give a number above 0")
    pinned = {name: float(value) for name, value in values.items()}
    fixed = ", ".join(f"{name} = {value:g}" for name, value in pinned.items())
    return type(f"Pinned{form.__name__}", (_Pinned, form), {"PINNED": pinned, "FORM": f"{form.FORM} with {fixed} pinned"})
