"""How far a download is, and what can go wrong with one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Of one model; bytes that were there before count as done."""

    file: str = ""  # the one that comes now
    file_done_bytes: int = 0
    file_bytes: int = 0
    done_bytes: int = 0
    total_bytes: int = 0  # 0 until the repository was looked at
    done_files: int = 0
    total_files: int = 0


class DownloadFailed(Exception):
    """A model could not be fetched; the message is a sentence for the person who asked for it."""

    def __init__(self, message: str, *, may_retry: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.may_retry = may_retry


class DownloadCancelled(Exception):
    """Somebody ended it; what is there is kept, and the next try goes on from it."""
