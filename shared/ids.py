"""Ids of what lives for a request: nobody else has the same, but anybody may guess them."""

from __future__ import annotations

import random


def new_id() -> str:
    """32 hexadecimal digits. Without a call into the kernel, as uuid4 makes: each lets another thread take the interpreter."""
    # Python seeds it from the system's randomness, and anew in a forked process.
    return f"{random.getrandbits(128):032x}"
