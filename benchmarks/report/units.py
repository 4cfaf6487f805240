"""Numbers as readers expect them; report, table and comparison write all of theirs with these."""

DASH = "–"


def seconds_text(seconds: float | None) -> str:
    """A time with three significant digits in the unit that suits it."""
    if seconds is None:
        return DASH
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if abs(seconds) * factor >= 1 or unit == "µs":
            return f"{_three_digits(seconds * factor)} {unit}"
    raise AssertionError


def bytes_text(size: int | None) -> str:
    """A size, in MB or GB of the powers of ten."""
    if size is None:
        return DASH
    return f"{_three_digits(size / 1e9)} GB" if size >= 1e9 else f"{_three_digits(size / 1e6)} MB"


def share_text(share: float | None) -> str:
    """A share, in percent."""
    return DASH if share is None else f"{100 * share:.0f} %"


def psnr_text(psnr: float | None) -> str:
    """Decibels; None stands for pictures that are equal."""
    return "equal" if psnr is None else f"{psnr:.1f} dB"


def flip_text(flip: float | None) -> str:
    """FLIP, with three decimals."""
    return DASH if flip is None else f"{flip:.3f}"


def flops_text(flops: float) -> str:
    """Work, in the unit that suits it."""
    factor, unit = (1e12, "T") if flops >= 1e12 else (1e9, "G")
    return f"{_three_digits(flops / factor)} {unit}FLOP"


def _three_digits(value: float) -> str:
    whole = abs(value)
    if whole >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if whole >= 10 else f"{value:.2f}"
