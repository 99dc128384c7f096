"""The forms of laws, each a frozen dataclass: fields are coefficients, ``TERMS`` defines the form.

    power_law          y = A x^-alpha                                  DiT's straight lines in log-log
    power_law_floor    y = E + A x^-alpha
    chinchilla         y = E + A N^-alpha + B D^-beta                  Hoffmann et al. 2203.15556, approach 3
    interaction        y = E + A N^-alpha + K N^-gamma D^-beta         data helps larger models more, or less
    overtraining       y = E + (a M^eta + b M^-eta) C^-eta             Gadre et al. 2403.08540, eq. 4: M = D / N
    broken_power_law   y = E + A x^-c0 (1 + (x/d)^(1/f))^(-c1 f)       Caballero et al. 2210.14891, eq. 1 with one break
    repeated           y = E + A N^-alpha + B D'^-beta                 Muennighoff et al. 2305.16264: D' is what data seen again is worth

N is a size and D an amount of training data, each in any unit. For DiT, forward FLOPs are the size (the patch size
changes them but not the parameters), and images are the data. E is the floor: for FID it includes the bias of few samples, the
autoencoder and the sampler, so it is not an irreducible error of the model.

To add a form, add a dataclass with a table of terms; the solver, the intervals and the cards read the table.
"""

import math
from dataclasses import asdict, dataclass, fields
from typing import ClassVar

import numpy as np
from typing_extensions import Self

from ditscale.errors import UserError, did_you_mean
from ditscale.scaling import inputs
from ditscale.scaling.repeated import RepeatedPowers, worth_of_data
from ditscale.scaling.terms import OneBreak, SumOfPowers, Term


@dataclass(frozen=True)
class Law:
    """Base class of all forms. Subclasses are frozen dataclasses with NAME, FORM, VARIABLES and TERMS."""

    NAME: ClassVar[str]
    FORM: ClassVar[str]
    VARIABLES: ClassVar[tuple[str, ...]] = ("x",)
    TERMS: ClassVar[tuple[Term, ...]]
    LEAST_DISTINCT: ClassVar[dict[str, int]] = {}       # how many values of a variable a fit needs, if not three
    STARTS: ClassVar[dict[str, tuple[float, ...]]] = {}  # of positive coefficients that are no term's amplitude, if TERMS are not all of the form

    def evaluate(self, x) -> np.ndarray:
        """The score at each x > 0, float64. x is an array, or a dict of arrays by name for several variables."""
        columns = as_columns(type(self), x)
        total = 0.0
        for term in self.TERMS:
            value = np.float64(getattr(self, term.amplitude))
            for variable, exponent, sign in term.powers:
                value = value * columns[variable] ** (sign * getattr(self, exponent))
            total = total + value
        return np.broadcast_to(total, np.broadcast_shapes(*(c.shape for c in columns.values()))).astype(np.float64)

    def coefficients(self) -> dict[str, float]:
        return asdict(self)

    def formula(self, x: str = "x", y: str = "y") -> str:
        """The law with numbers to three digits: ``y = 412 * x^-0.287``."""
        parts = []
        for term in self.TERMS:
            factors = [f"{getattr(self, term.amplitude):.3g}"]
            for variable, exponent, sign in term.powers:
                name = x if self.VARIABLES == ("x",) else variable
                factors.append(f"{f'({name})' if ' ' in name else name}^{sign * getattr(self, exponent):.3g}")
            parts.append(" * ".join(factors))
        return f"{y} = " + " + ".join(parts)

    def at_limits(self, columns: dict[str, np.ndarray]) -> list[str]:
        """Coefficients that these points do not determine, in words."""
        return []

    @classmethod
    def undetermined(cls, columns: dict[str, np.ndarray]) -> str:
        """Why no points with these columns determine the form, beyond what holds for all forms; "" if they may."""
        return ""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(field.name for field in fields(cls))

    @classmethod
    def amplitudes(cls) -> tuple[str, ...]:
        """The positive fields, which are fitted as logarithms."""
        return (*(term.amplitude for term in cls.TERMS), *cls.STARTS)

    @classmethod
    def model(cls, columns: dict[str, np.ndarray], center: dict[str, float]):
        """The solver's model for the points' ``columns``; ``center`` is the mean of each ln x."""
        names = tuple(field.name for field in fields(cls))
        return SumOfPowers(cls.TERMS, names, {name: np.log(columns[name]) for name in cls.VARIABLES}, center)

    @classmethod
    def from_theta(cls, theta: np.ndarray) -> Self:
        """theta, uncentered, ``(p,)``: amplitudes are stored as logarithms."""
        in_log = cls.amplitudes()
        values = (math.exp(min(t, 700.0)) if name in in_log else float(t) for name, t in zip(cls.names(), theta))
        return cls(*values)

    def theta(self) -> np.ndarray:
        """``(p,)``, the inverse of ``from_theta``."""
        in_log = self.amplitudes()
        return np.array([math.log(max(v, 1e-300)) if n in in_log else v for n, v in self.coefficients().items()])


@dataclass(frozen=True)
class PowerLaw(Law):
    """``y = A * x^-alpha``: a straight line in log-log axes, without a floor.

    ``A`` is the score at x = 1 in x's unit, usually far outside the data; ``alpha`` has no unit and is positive if
    the score falls.
    """

    NAME: ClassVar[str] = "power_law"
    FORM: ClassVar[str] = "y = A * x^-alpha"
    TERMS: ClassVar = (Term("A", (("x", "alpha", -1),)),)

    A: float
    alpha: float

    def change_at_double(self) -> float:
        """Relative change of the score when x doubles: -0.2 is a decrease of 20 %."""
        return float(2.0 ** -self.alpha - 1.0)


@dataclass(frozen=True)
class PowerLawFloor(Law):
    """``y = E + A * x^-alpha``. Unless the floor matters at one x or more, E and alpha cannot be separated."""

    NAME: ClassVar[str] = "power_law_floor"
    FORM: ClassVar[str] = "y = E + A * x^-alpha"
    TERMS: ClassVar = (Term("E"), Term("A", (("x", "alpha", -1),)))

    E: float
    A: float
    alpha: float


@dataclass(frozen=True)
class Chinchilla(Law):
    """``y = E + A * N^-alpha + B * D^-beta`` (2203.15556 eq. 2), and its optima under C = k N D.

    k is 6 for a language model's parameters and tokens. Where N is forward FLOPs per image and D images, k is 3.
    """

    NAME: ClassVar[str] = "chinchilla"
    FORM: ClassVar[str] = "y = E + A * N^-alpha + B * D^-beta"
    VARIABLES: ClassVar[tuple[str, ...]] = ("N", "D")
    TERMS: ClassVar = (Term("E"), Term("A", (("N", "alpha", -1),)), Term("B", (("D", "beta", -1),)))

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    @property
    def a(self) -> float:
        """Exponent of the optimal size: N* = G (C/k)^a (2203.15556 eq. 4)."""
        return self.beta / (self.alpha + self.beta)

    @property
    def b(self) -> float:
        """Exponent of the optimal amount of data: D* = (C/k)^b / G."""
        return self.alpha / (self.alpha + self.beta)

    @property
    def G(self) -> float:
        return (self.alpha * self.A / (self.beta * self.B)) ** (1.0 / (self.alpha + self.beta))

    def optimal_size(self, compute, k: float) -> np.ndarray:
        """N*, the size with the lowest score at ``compute = k N D``."""
        return self.G * (np.asarray(compute, dtype=np.float64) / k) ** self.a

    def optimal_data(self, compute, k: float) -> np.ndarray:
        """D*."""
        return (np.asarray(compute, dtype=np.float64) / k) ** self.b / self.G

    def optimal_score(self, compute, k: float) -> np.ndarray:
        return self.evaluate({"N": self.optimal_size(compute, k), "D": self.optimal_data(compute, k)})

    def compute_for(self, score, k: float) -> np.ndarray:
        """The least compute that reaches ``score``; NaN at or below the floor. Bisection in ln C."""
        score = np.asarray(score, dtype=np.float64)
        low, high = np.full(score.shape, -50.0), np.full(score.shape, 300.0)
        for _ in range(100):
            middle = 0.5 * (low + high)
            reached = self.optimal_score(np.exp(middle), k) <= score
            low, high = np.where(reached, low, middle), np.where(reached, middle, high)
        return np.where(score > self.E, np.exp(high), np.nan)


@dataclass(frozen=True)
class ChinchillaInteraction(Law):
    """``y = E + A * N^-alpha + K * N^-gamma * D^-beta``: the data term decreases, or increases, with the size.

    Chinchilla's form is ``gamma = 0``. No joint form is known to predict a held-out largest DiT well: check ``hold_out``.
    """

    NAME: ClassVar[str] = "interaction"
    FORM: ClassVar[str] = "y = E + A * N^-alpha + K * N^-gamma * D^-beta"
    VARIABLES: ClassVar[tuple[str, ...]] = ("N", "D")
    TERMS: ClassVar = (Term("E"), Term("A", (("N", "alpha", -1),)), Term("K", (("N", "gamma", -1), ("D", "beta", -1))))

    E: float
    A: float
    K: float
    alpha: float
    gamma: float
    beta: float


@dataclass(frozen=True)
class Overtraining(Law):
    """``y = E + (a * M^eta + b * M^-eta) * C^-eta`` with M = D / N and C = k N D (Gadre et al. 2403.08540, eq. 4)."""

    NAME: ClassVar[str] = "overtraining"
    FORM: ClassVar[str] = "y = E + (a * M^eta + b * M^-eta) * C^-eta"
    VARIABLES: ClassVar[tuple[str, ...]] = ("C", "M")
    LEAST_DISTINCT: ClassVar = {"M": 2}                 # its exponent is that of C
    TERMS: ClassVar = (Term("E"), Term("a", (("C", "eta", -1), ("M", "eta", 1))), Term("b", (("C", "eta", -1), ("M", "eta", -1))))

    E: float
    a: float
    b: float
    eta: float


@dataclass(frozen=True)
class BrokenPowerLaw(Law):
    """``y = E + A * x^-c0 * (1 + (x/d)^(1/f))^(-c1 f)``: the slope goes from c0 to c0 + c1 around x = d, over a width f."""

    NAME: ClassVar[str] = "broken_power_law"
    FORM: ClassVar[str] = "y = E + A * x^-c0 * (1 + (x/d)^(1/f))^(-c1 f)"
    TERMS: ClassVar = ()

    E: float
    A: float
    c0: float
    c1: float
    d: float
    f: float

    def evaluate(self, x) -> np.ndarray:
        log_x = np.log(as_columns(type(self), x)["x"])
        bend = np.logaddexp(0.0, (log_x - math.log(self.d)) / self.f)
        return self.E + self.A * np.exp(-self.c0 * log_x - self.c1 * self.f * bend)

    def formula(self, x: str = "x", y: str = "y") -> str:
        x = f"({x})" if " " in x else x
        return (f"{y} = {self.E:.3g} + {self.A:.3g} * {x}^{-self.c0:.3g} * (1 + ({x}/{self.d:.3g})^{1 / self.f:.3g})"
                f"^{-self.c1 * self.f:.3g}")

    @classmethod
    def amplitudes(cls) -> tuple[str, ...]:
        return ("E", "A", "d", "f")

    def at_limits(self, columns: dict[str, np.ndarray]) -> list[str]:
        return [] if columns["x"].min() < self.d < columns["x"].max() else ["the break lies outside the data"]

    @classmethod
    def model(cls, columns: dict[str, np.ndarray], center: dict[str, float]) -> OneBreak:
        return OneBreak(np.log(columns["x"]), center["x"])


@dataclass(frozen=True)
class RepeatedData(Law):
    """``y = E + A * N^-alpha + B * D'^-beta`` with ``D' = U + U R_star (1 - exp(-R / R_star))``: data seen again is worth less (2305.16264).

    D is what was seen, U what of it is unique, R = D / U - 1 the repetitions, epochs minus 1. Data seen for the first time is worth itself, and all
    repetitions together at most R_star times U. Chinchilla's form is R_star = infinity. The paper's like correction of N is left out.
    """

    NAME: ClassVar[str] = "repeated"
    FORM: ClassVar[str] = "y = E + A * N^-alpha + B * D'^-beta, D' = U + U * R_star * (1 - exp((1 - D/U) / R_star))"
    VARIABLES: ClassVar[tuple[str, ...]] = ("N", "D", "U")
    LEAST_DISTINCT: ClassVar = {"U": 1}
    TERMS: ClassVar = Chinchilla.TERMS                  # of data that is seen once
    STARTS: ClassVar = {"R_star": (1.0, 6.0, 40.0)}     # epochs

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    R_star: float

    def evaluate(self, x) -> np.ndarray:
        columns = as_columns(type(self), x)
        worth = worth_of_data(columns["D"], columns["U"], self.R_star)
        return self.E + self.A * columns["N"] ** -self.alpha + self.B * worth ** -self.beta

    def formula(self, x: str = "x", y: str = "y") -> str:
        r = f"{self.R_star:.3g}"
        return (f"{y} = {self.E:.3g} + {self.A:.3g} * N^{-self.alpha:.3g} + {self.B:.3g} * D'^{-self.beta:.3g}, "
                f"D' = U + U * {r} * (1 - exp((1 - D/U) / {r}))")

    def at_limits(self, columns: dict[str, np.ndarray]) -> list[str]:
        most = float((columns["D"] / columns["U"]).max())
        if most / 1e3 < self.R_star < most * 1e3:
            return []
        return [f"R_star has no {'upper' if self.R_star > most else 'lower'} bound from points of at most {most:.3g} epochs"]

    @classmethod
    def undetermined(cls, columns: dict[str, np.ndarray]) -> str:
        epochs = columns["D"] / columns["U"]
        repeated = len(np.unique(epochs[epochs > 1 + 1e-9].round(9)))
        return "" if "R_star" not in cls.names() or repeated >= 3 else f"{repeated} distinct numbers of epochs above 1; R_star needs 3"

    @classmethod
    def model(cls, columns: dict[str, np.ndarray], center: dict[str, float]) -> RepeatedPowers:
        names = tuple(field.name for field in fields(cls))
        return RepeatedPowers(cls.TERMS, names, {name: np.log(columns[name]) for name in cls.VARIABLES}, center)


FORMS: dict[str, type[Law]] = {
    form.NAME: form for form in (PowerLaw, PowerLawFloor, Chinchilla, ChinchillaInteraction, Overtraining, BrokenPowerLaw, RepeatedData)
}


def form_of(form: str | type[Law]) -> type[Law]:
    """The class with a form's name, or the class itself.

    Raises:
        UserError: the name is unknown.
    """
    if isinstance(form, str):
        if form not in FORMS:
            raise UserError(f"form '{form}' is not one of {', '.join(FORMS)}{did_you_mean(form, FORMS)}")
        return FORMS[form]
    return form


def as_columns(form: type[Law], x) -> dict[str, np.ndarray]:
    """x in float64 by the form's variables (FLOPs overflow int64): from a dict or a data frame by name, ``(n, v)``, or ``(n,)`` (a list,
    an array, a pandas series) for one variable.

    Raises:
        UserError: a variable is missing, there are too many, or a value is not a number.
    """
    if hasattr(x, "keys") and getattr(x, "ndim", 2) == 2:                        # a pandas series also has keys: its labels
        missing = [name for name in form.VARIABLES if name not in x.keys()]
        if missing or len(x.keys()) != len(form.VARIABLES):
            raise UserError(f"the form {form.NAME} takes {' and '.join(form.VARIABLES)}; got {', '.join(map(str, x.keys()))}")
        return {name: inputs.numbers(name, x[name]) for name in form.VARIABLES}
    x = inputs.numbers("x", x)
    if len(form.VARIABLES) == 1:
        return {form.VARIABLES[0]: x}
    if x.ndim != 2 or x.shape[1] != len(form.VARIABLES):
        raise UserError(f"the form {form.NAME} takes a dict with {' and '.join(form.VARIABLES)}, "
                        f"or an array with {len(form.VARIABLES)} columns; got shape {x.shape}")
    return dict(zip(form.VARIABLES, x.T))
