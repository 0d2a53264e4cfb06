"""Faults for as long as one likes: workers, Valkey and web killed, frozen and wiped, the disk filled; then the account.

python -m bench.chaos [--minutes 10] [--seed 1] [--workers 3]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.support.chaos import Chaos, expected_vectors, installation


def main() -> None:
    """Print the account; end with 1 if anything was lost, doubled or wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=3)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        installation(Path(directory), workers=arguments.workers, megabytes=512) as (service, disk),
    ):
        chaos = Chaos(service, expected_vectors, seed=arguments.seed, disk=disk)
        account = chaos.run(arguments.minutes * 60, rows=(100, 5000))
    print(f"seed {arguments.seed}, {arguments.minutes:g} minutes, {arguments.workers} workers\n\n{account.table()}")
    for wrong in (*account.wrong_answers, *account.orphans):
        print(wrong)
    sys.exit(bool(account.lost or account.doubled or account.wrong or account.wrong_answers or account.orphans))


if __name__ == "__main__":
    main()
