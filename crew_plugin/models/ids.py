"""Ids made by us: a kind, a time, and chance; short enough to type the end of."""

import secrets
import time

__all__ = ["new_id"]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_EPOCH_MICROSECONDS = 1_735_689_600_000_000
_TIME_DIGITS = 10
_RANDOM_DIGITS = 4


def new_id(kind: str) -> str:
    """`kind_` and 14 characters: sorts by the time it was made, and ends in four random ones.

    The alphabet has no letters that are taken for digits. Ten digits of microseconds since 2025
    last until 2060; ids of the same microsecond differ by 20 random bits.
    """
    number = (time.time_ns() // 1000 - _EPOCH_MICROSECONDS) << (5 * _RANDOM_DIGITS)
    number |= secrets.randbits(5 * _RANDOM_DIGITS)
    digits: list[str] = []
    for _ in range(_TIME_DIGITS + _RANDOM_DIGITS):
        digits.append(_ALPHABET[number & 31])
        number >>= 5
    return f"{kind}_{''.join(reversed(digits))}"
