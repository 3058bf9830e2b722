"""Numbers and lists as text.

Percent and percentage points have two digits, p values two significant ones.
"""

from collections.abc import Iterable


def margin_text(margin: float) -> str:
    """A margin in pp, with two digits or as many as it needs: 0.125 must not become 0.12.

    >>> margin_text(0.1), margin_text(0.125)
    ('0.10', '0.125')
    """
    return f"{margin:.2f}" if margin == round(margin, 2) else f"{margin:g}"


def percent(fraction: float) -> str:
    """A fraction in percent.

    >>> percent(0.78195)
    '78.19'
    """
    # Rounded as summaries are: 100 * 0.78195 is slightly more than 78.195 and would become 78.20.
    return f"{round(100 * fraction, 9):.2f}"


def signed(value: float | None) -> str:
    """Two digits, always with a sign; a dash for None."""
    # 0.0 is added because a rounded -0.001 is a negative zero.
    return "–" if value is None else f"{round(value, 2) + 0.0:+.2f}".replace("-", "−")


def unsigned(value: float | None) -> str:
    """The absolute value with two digits; a dash for None."""
    return "–" if value is None else f"{abs(value):.2f}"


def interval(low: float | None, high: float | None) -> str:
    """`0.01 to 0.20`."""
    return "–" if low is None or high is None else f"{low:.2f} to {high:.2f}"


def signed_interval(low: float | None, high: float | None) -> str:
    """`−0.01 to +0.20`."""
    return "–" if low is None or high is None else f"{signed(low)} to {signed(high)}"


def p_value(p: float | None) -> str:
    """A p value with two significant digits.

    >>> p_value(0.0421), p_value(0.0001)
    ('0.042', '< 0.001')
    """
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:#.2g}"


def p_of_many(p: float | None, adjusted: float | None, pairs: int) -> str:
    """A p value and, if several pairs are tested, the adjusted one in brackets."""
    return f"{p_value(p)} ({p_value(adjusted)})" if pairs > 1 and p is not None else p_value(p)


def p_equals(p: float) -> str:
    """`= 0.042` or `< 0.001`."""
    return p_value(p) if p < 0.001 else f"= {p_value(p)}"


def enumeration(items: Iterable[object]) -> str:
    """A list in words.

    >>> enumeration([5, 8, 12]), enumeration([5])
    ('5, 8 and 12', '5')
    """
    *others, last = map(str, items)
    return f"{', '.join(others)} and {last}" if others else last


def count(runs: int | None) -> str:
    """A number of runs, with a comma at thousands."""
    return "–" if runs is None else f"{runs:,}"
