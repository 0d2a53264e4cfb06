"""From `umekomi serve` to its word that the service is ready, on a data directory that was used before.

python -m bench.start [--times 3]
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.ending import end_on_signals
from tests.support.valkey import free_port

EXPORT_S = 600


def start(directory: str) -> float:
    """Seconds until it says that it is ready; it is stopped when the export of the model, which the first one makes, is there."""
    environment = os.environ | {"UMEKOMI_DATA_DIR": directory, "UMEKOMI_ADDRESS": f"127.0.0.1:{free_port()}"}
    command = [sys.executable, "-m", "cli.main", "serve"]
    began_at = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as serve:
        assert serve.stdout is not None
        try:
            for line in serve.stdout:
                if re.search(r"is ready at", line):
                    break
            seconds = time.perf_counter() - began_at
            while not list(Path(directory).glob("engines/*/engine.json")) and time.perf_counter() < began_at + EXPORT_S:
                time.sleep(0.5)
        finally:
            serve.send_signal(signal.SIGINT)
            serve.stdout.read()
    return seconds


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3)
    times = parser.parse_args().times
    end_on_signals()
    with tempfile.TemporaryDirectory() as directory:
        first = start(directory)
        later = [start(directory) for _ in range(times)]
    print(f"first {first:.1f} s, later {statistics.median(later):.1f} s (median of {times})")


if __name__ == "__main__":
    main()
