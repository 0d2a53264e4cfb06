"""Every metric that umekomi tells at /metrics: name, meaning, labels, buckets. Observed once, at the place that knows.

Labels are few and ours: models are those that are served, codes and states are words of this code. docs/metrics.md is the table.
"""

from __future__ import annotations

from shared.counting import Counter, Gauge, Histogram, Metric, Reading

# From a question on a GPU to one that had to wait its turn.
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
# From a look at a job to an upload that takes all night.
LONG_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0, 3600.0)
TOKENS = tuple(float(4**power) for power in range(2, 11))  # 16 .. 1,048,576

# Web: requests
REQUESTS = Counter("requests_total", "HTTP requests answered, by route, method and status.", "web", ("route", "method", "status"))
REQUEST_SECONDS = Histogram(
    "request_duration_seconds", "From a request's head to the last byte of its answer.", "web", ("route",), LONG_SECONDS
)
IN_PROGRESS = Gauge("requests_in_progress", "Requests with a place: asks, uploads, downloads, pages, others.", "web", ("kind",))
ERRORS = Counter("errors_total", "Error answers, by their code.", "web", ("code",))
RATE_LIMITED = Counter("rate_limited_total", "Requests refused by a key's rate, of requests or tokens.", "web", ("what",))
ASK_SECONDS = Histogram(
    "ask_duration_seconds", "From an ask's way into the lane to its answer, as web sees it.", "web", ("model",), SECONDS
)
ASK_QUEUE_SECONDS = Histogram(
    "ask_queue_seconds", "How long answered asks waited at the worker for their first batch.", "web", ("model",), SECONDS
)
ASK_TEXTS = Counter("ask_texts_total", "Texts of answered asks.", "web", ("model",))
ASK_TOKENS = Counter("ask_tokens_total", "Tokens of answered asks.", "web", ("model",))
ASKS_SENT_AGAIN = Counter("asks_sent_again_total", "Asks that Redis had lost.", "web")
JOBS_SUBMITTED = Counter("jobs_submitted_total", "Jobs and batches taken.", "web", ("model",))
ROWS_SUBMITTED = Counter("job_rows_submitted_total", "Rows of jobs taken, where they came with the job.", "web", ("model",))

# Worker: the engine
TEXTS = Counter("texts_total", "Texts that went through the model.", "worker", ("model", "lane"))
TOKENS_RUN = Counter("tokens_total", "Tokens that went through the model, without padding.", "worker", ("model", "lane"))
PADDED_TOKENS = Counter(
    "padded_tokens_total", "Tokens that went through the model, padding included.", "worker", ("model", "lane")
)
TRUNCATED = Counter("truncated_texts_total", "Texts that were cut to what the model reads.", "worker", ("model", "lane"))
FAILED_TEXTS = Counter("failed_texts_total", "Texts that the model or its tokenizer failed on.", "worker", ("model", "lane"))
BATCH_SECONDS = Histogram("batch_duration_seconds", "How long a batch ran.", "worker", ("model", "lane"), SECONDS)
BATCH_TOKENS = Histogram("batch_tokens", "Padded tokens of a batch.", "worker", ("model", "lane"), TOKENS)
QUEUE_SECONDS = Histogram(
    "queue_seconds", "From a request's arrival at the engine to its first batch.", "worker", ("model", "lane"), LONG_SECONDS
)
EMBED_SECONDS = Histogram(
    "embed_seconds", "From a request's first batch to its last vector.", "worker", ("model", "lane"), LONG_SECONDS
)
OUT_OF_MEMORY = Counter("out_of_memory_total", "Batches halved, since the device had no memory for them.", "worker", ("model",))
QUERY_CACHE_HITS = Counter("query_cache_hits_total", "Questions answered from `query_cache`.", "worker", ("model",))
COALESCED = Counter("coalesced_questions_total", "Questions that shared the forward of an equal one.", "worker", ("model",))
ASKS_TAKEN_OVER = Counter("asks_taken_over_total", "Asks of a dead worker run here.", "worker")

# Worker: models
LOADS = Counter("model_loads_total", "Models loaded.", "worker", ("model",))
LOAD_FAILURES = Counter("model_load_failures_total", "Loads that failed.", "worker", ("model",))
LOAD_SECONDS = Counter("model_load_seconds_total", "Time spent in loads that went well.", "worker", ("model",))
UNLOADS = Counter("model_unloads_total", "Models whose memory was given back.", "worker", ("model",))
EVICTIONS = Counter("model_evictions_total", "Models that had to go for another one.", "worker", ("model",))
ONNX_FALLBACKS = Counter("onnx_fallbacks_total", "Loads in torch where ONNX was to serve.", "worker", ("model",))
DOWNLOADS = Counter("downloads_total", "Models fetched from a hub: fetched, failed or cancelled.", "worker", ("outcome",))

# Worker: jobs
SHARDS_RUN = Counter("shards_run_total", "Runs of shards: embedded, stopped, put_off or failed.", "worker", ("model", "outcome"))
SHARD_SECONDS = Histogram("shard_duration_seconds", "How long an embedded shard took.", "worker", ("model",), LONG_SECONDS)
SHARD_RETRIES = Counter("shard_retries_total", "Shards run again after a worker died with them.", "worker", ("model",))
SHARDS_LOST = Counter("shards_lost_total", "Shards that the leader missed, and sends again.", "worker", ("model",))
POISON_ROWS = Counter("poison_rows_total", "Rows left out since workers died of them.", "worker", ("model",))
DEDUPLICATED = Counter("deduplicated_rows_total", "Rows whose vectors were there already.", "worker", ("model",))
WEBHOOKS = Counter("webhooks_total", "Tries to tell a webhook: delivered, failed or given_up.", "worker", ("outcome",))

# Both
JOBS_FINISHED = Counter("jobs_finished_total", "Jobs ended here, by status.", "both", ("status",))
STORAGE_ERRORS = Counter("storage_errors_total", "Storage could not be used.", "both", ("doing",))
REDIS_ERRORS = Counter("redis_errors_total", "Commands that Redis did not answer.", "both")
BUILD_INFO = Reading("build_info", "1, and the version.", "both", ("version",))

# Web: what workers, Redis and storage say of the installation. Every web process tells the same: take the max over them.
REDIS_UP = Reading("redis_up", "1 if Redis answers.", "web")
STORAGE_UP = Reading("storage_up", "1 if storage can be written to.", "web")
WORKERS = Reading("workers", "Live workers.", "web")
MODEL_WORKERS = Reading("model_workers", "Live workers, by how the model stands there.", "web", ("model", "state"))
MODEL_TOKENS_PER_S = Reading(
    "model_tokens_per_second", "What all workers together can do, as measured in batches.", "web", ("model",)
)
MODEL_MEMORY_BYTES = Reading("model_memory_bytes", "What the loaded model takes on all workers.", "web", ("model",))
WAITING_ASKS = Reading("waiting_asks", "Asks without an answer, in Redis or at a worker.", "web", ("model",))
LANE_WAITING_TOKENS = Reading(
    "lane_waiting_tokens", "Tokens yet to be run, estimated: of asks, and of all that jobs have left.", "web", ("lane",)
)
JOBS = Reading("jobs", "Unfinished jobs and batches, by status.", "web", ("status",))
SHARDS = Reading("shards", "Shards of unfinished jobs: pending, in_flight, committed.", "web", ("state",))
OLDEST_JOB_SECONDS = Reading("oldest_job_seconds", "Age of the oldest job that is neither finished nor paused.", "web")

# Worker: how it stands
ENGINE_WAITING_TOKENS = Reading("engine_waiting_tokens", "Tokens that wait in this engine.", "worker", ("lane",))
DEVICE_MEMORY_USED = Reading("device_memory_used_bytes", "In use on the device by anybody; on a CPU, of the host.", "worker")
DEVICE_MEMORY_TOTAL = Reading("device_memory_total_bytes", "What the device has; on a CPU, the host.", "worker")


def all_metrics() -> list[Metric]:
    """Everything above, in that order."""
    return [metric for metric in globals().values() if isinstance(metric, Metric)]


def metrics_of(process: str) -> list[Metric]:
    """What `web` or `worker` tells."""
    return [metric for metric in all_metrics() if metric.where in (process, "both")]
