"""The lock by which the threads of a process take turns at loading and running models."""

from __future__ import annotations

from threading import RLock

MODEL_TURN = RLock()
"""Held by a thread that loads or runs a model where others may do so. While transformers loads one, it changes torch's
default dtype for all of them; and passes side by side would need the memory of all and share the same cores.

A lock file is waited for before this one: another process may keep it for hours.
"""
