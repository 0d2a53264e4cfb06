"""A model hub and its cache on this machine: what a model needs of a repository, fetched once, checked, resumable.

`fetch` is the way in. The files lie in the Hugging Face hub's own cache and layout, where its other clients find them too.
"""

from __future__ import annotations

from shared.hub.fetching import Fetching, cached, fetch
from shared.hub.hub import Hub
from shared.hub.progress import DownloadCancelled, DownloadFailed, Progress

__all__ = ["DownloadCancelled", "DownloadFailed", "Fetching", "Hub", "Progress", "cached", "fetch"]
