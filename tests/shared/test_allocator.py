"""Memory that a request or a shard needed is the kernel's again afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A process of its own: what it says of its memory is for good.
CODE = """
import threading
from pathlib import Path
import pyarrow as pa
from shared.allocator import bound_memory

bound_memory()
assert pa.default_memory_pool().backend_name == "system"

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def work():
    for _ in range(3):
        bodies = [bytes(700_000 + 100_000 * n) for n in range(16)]
        table = pa.table({"text": ["a text of some length"] * 300_000})

before = resident()
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print((resident() - before) // 2**20)
"""


def test_what_threads_used_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < 100  # MB; 217 without
