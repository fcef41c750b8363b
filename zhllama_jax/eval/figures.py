"""Figures as a person writes them: three digits that count, thousands set off, hours and minutes instead of many seconds."""

import math

DASH = "–"
NBSP = "\N{NO-BREAK SPACE}"
RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def number(value: float | int | None) -> str:
    """Three significant digits and thousands set off: 0.293, 1.10, 53.1, 12,345; counts are shown whole, nothing is a dash."""
    if value is None:
        return DASH
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if not math.isfinite(value):
        return "not finite"
    size = abs(value)
    if size == 0:
        return "0"
    if size < 0.000_999_5:
        return power(value)
    decimals = 3 if size < 0.9995 else 2 if size < 9.995 else 1 if size < 99.95 else 0
    return f"{value:,.{decimals}f}".replace("-", "−")


def power(value: float) -> str:
    """Three significant digits and a power of ten: 1.31 × 10⁻⁵."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}{NBSP}×{NBSP}10".replace("-", "−") + str(int(exponent)).translate(RAISED)


def large(value: float) -> str:
    """A count that may have many digits: 12,345, but 5.97 × 10²⁰."""
    whole = number(round(value))
    return whole if len(whole) <= len("999,999,999") else power(value)


def percent(share: float | None) -> str:
    """A share of one as per cent with one decimal: 88.2 %; none and all without it."""
    if share is None:
        return DASH
    if not math.isfinite(share):
        return "not finite"
    shown = f"{100 * share:,.1f}"
    return f"{shown.removesuffix('.0') if share in (0, 1) else shown}{NBSP}%".replace("-", "−")


def duration(seconds: float | None) -> str:
    """47.7 s, 1 min 27 s, 1 h 16 min."""
    if seconds is None:
        return DASH
    if seconds < 59.95:
        return f"{seconds:.1f}{NBSP}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NBSP}min{NBSP}{rest}{NBSP}s" if rest else f"{minutes}{NBSP}min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,}{NBSP}h{NBSP}{minutes}{NBSP}min" if minutes else f"{hours:,}{NBSP}h"


def size(bytes_: int | None) -> str:
    """1,152 B, 9.22 kB, 8.52 MB; a thousand bytes are a kilobyte."""
    if bytes_ is None:
        return DASH
    value, units = float(bytes_), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{bytes_ if units[0] == 'B' else number(value)}{NBSP}{units[0]}"
