"""Access: API keys, what each of them may do, and the files that hold them."""

from shared.access.files import KeyFile, UnreadableKeys
from shared.access.keys import LIMITS, PUBLIC, ApiKey, Limits, Role, digest_of, new_key
from shared.access.known import KnownKeys

__all__ = [
    "LIMITS",
    "PUBLIC",
    "ApiKey",
    "KeyFile",
    "KnownKeys",
    "Limits",
    "Role",
    "UnreadableKeys",
    "digest_of",
    "new_key",
]
