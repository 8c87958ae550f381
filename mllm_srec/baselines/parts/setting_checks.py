"""Checks of a model's settings: an error names the argument, the value, and what is accepted."""

from __future__ import annotations

from mllm_srec.types import ConfigError


def check_at_least(minimum: float, **settings: float) -> None:
    """Refuse a setting below `minimum`.

    Raises:
        ConfigError: Naming the first one.
    """
    for name, value in settings.items():
        if value < minimum:
            raise ConfigError(f"{name}={value}; give at least {minimum}")


def check_share(*, below_one: bool = False, **settings: float) -> None:
    """Refuse a setting outside [0, 1], or outside [0, 1) with `below_one`.

    Raises:
        ConfigError: Naming the first one.
    """
    for name, value in settings.items():
        if not 0 <= value <= 1 or (below_one and value == 1):
            raise ConfigError(f"{name}={value}; give a number from 0 to 1" + (", 1 excluded" if below_one else ""))


def check_choice(choices: tuple[str, ...], **settings: str) -> None:
    """Refuse a word that is not among the choices.

    Raises:
        ConfigError: Naming the first one.
    """
    for name, value in settings.items():
        if value not in choices:
            raise ConfigError(f"{name}={value!r}; give one of {', '.join(choices)}")


def check_heads(hidden: int, n_heads: int) -> None:
    """Refuse attention heads that cannot share the hidden size equally.

    Raises:
        ConfigError: Naming both.
    """
    if n_heads < 1 or hidden % n_heads:
        raise ConfigError(f"n_heads={n_heads}; give a divisor of hidden={hidden}")
