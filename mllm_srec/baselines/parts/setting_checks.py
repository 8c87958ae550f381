"""Checks of a model's settings; an error names the argument, its value and what is accepted."""

from __future__ import annotations

from mllm_srec.types import ConfigError


def check_at_least(minimum: float, **settings: float) -> None:
    """Refuse settings below a minimum.

    Args:
        minimum: Smallest accepted value.
        **settings: Name -> value.

    Raises:
        ConfigError: If a setting is too small; the message names the first one.
    """
    for name, value in settings.items():
        if value < minimum:
            raise ConfigError(f"{name}={value}: too small; give at least {minimum}")


def check_positive(**settings: float) -> None:
    """Refuse settings that are not above 0.

    Args:
        **settings: Name -> value.

    Raises:
        ConfigError: If a setting is 0 or less, or no number; the message names the first one.
    """
    for name, value in settings.items():
        if not value > 0:
            raise ConfigError(f"{name}={value}: not positive; give a number above 0")


def check_share(*, below_one: bool = False, **settings: float) -> None:
    """Refuse settings outside [0, 1], or outside [0, 1) with `below_one`.

    Args:
        below_one: True to refuse 1 too.
        **settings: Name -> value.

    Raises:
        ConfigError: If a setting is out of range; the message names the first one.
    """
    for name, value in settings.items():
        if not 0 <= value <= 1 or (below_one and value == 1):
            accepted = "a number from 0 to 1" + (", 1 excluded" if below_one else "")
            raise ConfigError(f"{name}={value}: out of range; give {accepted}")


def check_choice(choices: tuple[str, ...], **settings: str) -> None:
    """Refuse settings that are not among the choices.

    Args:
        choices: Accepted values.
        **settings: Name -> value.

    Raises:
        ConfigError: If a setting is unknown; the message names the first one.
    """
    for name, value in settings.items():
        if value not in choices:
            raise ConfigError(f"{name}={value!r}: unknown; give one of {', '.join(choices)}")


def check_heads(hidden: int, n_heads: int) -> None:
    """Refuse a number of attention heads that does not divide the hidden size.

    Args:
        hidden: Width that the heads share.
        n_heads: Number of heads.

    Raises:
        ConfigError: If `n_heads` is not a positive divisor of `hidden`.
    """
    if n_heads < 1 or hidden % n_heads:
        raise ConfigError(f"n_heads={n_heads}: not a divisor of hidden={hidden}; give one of its divisors")
