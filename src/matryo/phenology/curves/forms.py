"""The curves by name: their equation, parameters and bounds. Imports no numba, so that help stays quick."""

from dataclasses import dataclass

from matryo.spine.errors import unknown

BECK, ELMORE, GU, KLOSTERMAN, GAUSSIAN = range(5)

CENTRE, SCALE = 183.0, 100.0
"""Klosterman's polynomials are in x = (t − CENTRE) / SCALE: in plain days their normal equations lose ten digits."""

RATE = (0.005, 0.5)
"""Bounds of a limb's rate in 1/day: 10 to 90 % of the way takes 4.4/rate, so from 9 days to two and a half years."""

_BASE, _AMPLITUDE, _DATE = (-0.2, 1.0), (0.01, 1.2), ("window", "window")
_SHAPE = (0.1, 10.0)  # exponent of a limb, 1 for the plain logistic


@dataclass(frozen=True)
class Curve:
    """A curve's name, code in the compiled kernels, equation, parameter names and bounds.

    A bound is a pair of numbers, or `("window", "window")` for a date anywhere in the season's window.
    `held` parameters keep their start value: the data cannot tell them apart from others.
    """

    name: str
    code: int
    equation: str
    bounds: dict[str, tuple[float, float] | tuple[str, str]]
    source: str
    held: tuple[str, ...] = ()

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names, in the order of the parameter vector."""
        return tuple(self.bounds)

    @property
    def free(self) -> int:
        """Number of parameters that are fitted."""
        return len(self.bounds) - len(self.held)


CURVES = {
    c.name: c
    for c in (
        Curve(
            "beck",
            BECK,
            "base + amplitude·(A + D − 1), A = 1/(1 + exp(−rsp·(t − sos))), D = 1/(1 + exp(rau·(t − eos)))",
            {"base": _BASE, "amplitude": _AMPLITUDE, "sos": _DATE, "rsp": RATE, "eos": _DATE, "rau": RATE},
            "Beck et al. 2006, with amplitude = mx − mn",
        ),
        Curve(
            "elmore",
            ELMORE,
            "base + (amplitude − greendown·t)·(A + D − 1), A and D as in Beck",
            {
                "base": _BASE,
                "amplitude": _AMPLITUDE,
                "sos": _DATE,
                "rsp": RATE,
                "eos": _DATE,
                "rau": RATE,
                "greendown": (-0.01, 0.01),
            },
            "Elmore et al. 2012",
        ),
        Curve(
            "gu",
            GU,
            "base + a1/(1 + exp(−rsp·(t − sos)))^c1 − a2/(1 + exp(−rau·(t − eos)))^c2",
            {
                "base": _BASE,
                "a1": _AMPLITUDE,
                "a2": _AMPLITUDE,
                "sos": _DATE,
                "rsp": RATE,
                "eos": _DATE,
                "rau": RATE,
                "c1": _SHAPE,
                "c2": _SHAPE,
            },
            "Gu et al. 2009",
        ),
        Curve(
            "klosterman",
            KLOSTERMAN,
            "(a1·x + b1) + (a2·x² + b2·x + c)·(1/(1 + q1·exp(−rsp·(t − sos)))^v1 − 1/(1 + q2·exp(−rau·(t − eos)))^v2), "
            "x = (t − 183)/100, q1 = q2 = 1",
            {
                "a1": (-0.5, 0.5),
                "b1": _BASE,
                "a2": (-1.0, 1.0),
                "b2": (-1.0, 1.0),
                "c": _AMPLITUDE,
                "sos": _DATE,
                "rsp": RATE,
                "eos": _DATE,
                "rau": RATE,
                "q1": (0.1, 10.0),
                "q2": (0.1, 10.0),
                "v1": _SHAPE,
                "v2": _SHAPE,
            },
            "Klosterman et al. 2014",
            ("q1", "q2"),  # q·exp(−r·(t − s)) = exp(−r·(t − s − ln(q)/r)): q and the date are one parameter
        ),
        Curve(
            "gaussian",
            GAUSSIAN,
            "base + amplitude·exp(−(|t − peak|·rsp)^shape1) before the peak, ·rau and ^shape2 after it",
            {
                "base": _BASE,
                "amplitude": _AMPLITUDE,
                "peak": _DATE,
                "rsp": (0.002, 0.5),  # widths of 2 to 500 days
                "shape1": (2.0, 12.0),  # below 2 the top is a corner
                "rau": (0.002, 0.5),
                "shape2": (2.0, 12.0),
            },
            "asymmetric Gaussian of Jönsson and Eklundh 2002, one baseline",
        ),
    )
}


def curve(name: str) -> Curve:
    """A curve by its name.

    Raises:
        ValueError: There is none of that name; the nearest is offered.
    """
    if name not in CURVES:
        raise unknown("curve", name, CURVES)
    return CURVES[name]
