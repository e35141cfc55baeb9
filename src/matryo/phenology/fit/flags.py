"""What can be wrong with a fit, as bits of one integer; a flagged fit is reported, never dropped."""

TOO_FEW, AT_BOUND, RANK_DEFICIENT, NOT_CONVERGED, PEAK_OUTSIDE, SEVERAL_SEASONS = (1 << i for i in range(6))

FLAGS = {
    "too_few_points": (TOO_FEW, "No more visits than parameters: no fit."),
    "at_bound": (AT_BOUND, "A parameter lies on its bound; standard errors hold the others' only."),
    "rank_deficient": (RANK_DEFICIENT, "The visits cannot tell the parameters apart: no standard errors."),
    "not_converged": (NOT_CONVERGED, "The descent was still going down when its steps were used up."),
    "peak_outside_data": (PEAK_OUTSIDE, "The curve is highest before the first visit or after the last."),
    "several_seasons": (SEVERAL_SEASONS, "The visits go down and up again in between: mown, grazed, or two seasons."),
}


def flag_names(bits: int) -> str:
    """Write the flags of a fit, with commas; empty for none.

    Example:
        >>> flag_names(2 | 16)
        'at_bound,peak_outside_data'
    """
    return ",".join(name for name, (bit, _) in FLAGS.items() if bits & bit)
