"""Numbers, for people."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation


def thousands(number: int | None) -> str:
    """Return a number with separators, nothing for None.

    Example:
        >>> thousands(1234567), thousands(None)
        ('1,234,567', '')
    """
    return "" if number is None else f"{number:,}"


def dollars(amount: str | None) -> str:
    """Return a cost with at most three digits that say something.

    Example:
        >>> dollars("0"), dollars("0.000123456"), dollars("12.3456"), dollars("1234.5"), dollars(None)
        ('$0', '$0.000123', '$12.35', '$1,234.50', '')
    """
    if amount is None:
        return ""
    try:
        cost = Decimal(amount)
    except InvalidOperation:
        return amount
    if not cost:
        return "$0"
    if cost >= 1:
        return f"${cost:,.2f}"
    # The first digit that is not zero, and two more.
    return f"${cost:.{2 - cost.adjusted()}f}"
