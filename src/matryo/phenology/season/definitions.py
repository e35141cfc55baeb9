"""Season metrics by name. Imports no numba, so that help stays quick."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A metric's column name, which ends in its unit, and what it is."""

    name: str
    meaning: str


DEFINITIONS = {
    "der": "steepest slope: the extreme of f'",
    "trs20": "20 % of the way from the baseline to the peak",
    "trs50": "50 % of the way",
    "trs60": "60 % of the way",
    "gu": "where the tangent at the steepest slope meets the baseline",
    "kl": "outermost extreme of the rate of change of curvature: greenup and dormancy",
}
"""How start and end of season can be defined."""

THRESHOLDS = (0.2, 0.5, 0.6)

METRICS = (
    Metric("pos_doy", "time of the peak: f' = 0"),
    Metric("peak_ndvi", "height of the peak"),
    Metric("amplitude_ndvi", "peak above the left baseline"),
    Metric("integral_ndvi_days", "area above the left baseline between the 20 % dates"),
    *(Metric(f"sos_{name}_doy", f"start of season, {line}") for name, line in DEFINITIONS.items()),
    *(Metric(f"eos_{name}_doy", f"end of season, {line}") for name, line in DEFINITIONS.items()),
    *(Metric(f"los_{name}_days", f"length of season, {line}") for name, line in DEFINITIONS.items()),
    Metric("stabilisation_gu_doy", "where the tangent at the steepest rise meets the peak's height"),
    Metric("downturn_gu_doy", "where the tangent at the steepest fall meets the peak's height"),
    Metric("maturity_kl_doy", "extreme of the rate of change of curvature between start and peak"),
    Metric("senescence_kl_doy", "extreme of the rate of change of curvature between peak and end"),
)
"""All metrics, in the order of the columns of `Measured.values`."""

POS, PEAK, AMPLITUDE, INTEGRAL = range(4)
SOS, EOS, LOS = 4, 4 + len(DEFINITIONS), 4 + 2 * len(DEFINITIONS)
STABILISATION, DOWNTURN, MATURITY, SENESCENCE = range(4 + 3 * len(DEFINITIONS), 8 + 3 * len(DEFINITIONS))
DER, TRS, GU, KL = 0, 1, 4, 5
"""Places of the definitions after SOS, EOS and LOS; the thresholds begin at TRS."""
