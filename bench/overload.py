"""More questions than a small lane holds: does every one end in 200 or 429, and is the server idle a second later?

    python bench/overload.py                     100 clients of 100 requests each, a lane of 16
    python bench/overload.py --clients 100 --requests 20 --patient

Starts Valkey, one worker with the fake backend and gunicorn in a temporary directory. With --patient a client that is told to
come back waits as long as retry-after-ms says and sends the same request again, until it is answered.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.ending import end_on_signals
from tests.support.overload import MODELS, idle_within, storm
from tests.support.service import running_service


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--max-waiting", type=int, default=16, help="UMEKOMI_INTERACTIVE_MAX_WAITING")
    parser.add_argument("--web-threads", type=int, default=64)
    parser.add_argument("--patient", action="store_true", help="clients honour retry-after-ms")
    given = parser.parse_args()
    end_on_signals()
    with tempfile.TemporaryDirectory() as directory:
        options = {"interactive_max_waiting": given.max_waiting, "web_threads": given.web_threads}
        with running_service(Path(directory), models=MODELS, **options) as service:
            began = time.monotonic()
            outcome = storm(service.url, clients=given.clients, requests=given.requests, is_patient=given.patient)
            seconds = time.monotonic() - began
            idle_s = idle_within(service, 30.0)
    answered = {str(status): count for status, count in sorted(outcome.statuses.items(), key=str)}
    print(
        json.dumps(
            {
                "clients": given.clients,
                "requests": given.clients * given.requests,
                "seconds": round(seconds, 2),
                "ends": answered,
                "failures": outcome.failures,
                "p50_ms": round(1000 * outcome.quantile(0.5), 1),
                "p99_ms": round(1000 * outcome.quantile(0.99), 1),
                "longest_ms": round(1000 * outcome.quantile(1.0), 1),
                "idle_after_s": round(idle_s, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
