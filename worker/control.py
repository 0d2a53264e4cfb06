"""The worker's end of control: commands to load and unload models, each waited for in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from redis.exceptions import RedisError

from shared.control import Command, ControlServer
from shared.errors import UmekomiError
from shared.logs import get_logger
from worker.engine import Engine
from worker.threads import essential_thread

logger = get_logger(__name__)

# A load may take minutes, and another model is to be unloaded meanwhile; of more commands than these some wait.
COMMANDS_AT_ONCE = 4


class ControlLoop:
    """One thread takes commands, a few carry them out. `announce` tells everybody how the models stand, before the answer."""

    def __init__(self, server: ControlServer, engine: Engine, announce: Callable[[], None]) -> None:
        self._server = server
        self._engine = engine
        self._announce = announce
        self._draining = threading.Event()
        self._hands = ThreadPoolExecutor(COMMANDS_AT_ONCE, thread_name_prefix="control")
        self._thread = essential_thread(self._run, "control")

    def start(self) -> None:
        """Begin taking commands."""
        self._thread.start()

    def drain(self) -> None:
        """Take no more."""
        self._draining.set()

    def stop(self) -> None:
        """End the threads; the engine is stopped, so none of them waits for a model."""
        self._draining.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._hands.shutdown(cancel_futures=True)

    def _run(self) -> None:
        while not self._draining.is_set():
            try:
                command = self._server.take()
            except RedisError as error:
                logger.warning("commands not readable", error=type(error).__name__)
                self._draining.wait(0.5)
            except ValueError:
                logger.exception("unreadable command passed over")
            else:
                if command is not None:
                    self._hands.submit(self._obey, command, time.monotonic())

    def _obey(self, command: Command, taken_at: float) -> None:
        logger.info("command taken", verb=command.verb, model=command.model)
        try:
            state, reason = self._do(command, command.within_s - (time.monotonic() - taken_at))
            self._announce()
            self._server.tell(command, state, reason)
        except RedisError as error:
            logger.warning("outcome not told", verb=command.verb, model=command.model, error=type(error).__name__)
        except Exception:
            logger.exception("command failed", verb=command.verb, model=command.model)

    def _do(self, command: Command, within_s: float) -> tuple[str, str | None]:
        try:
            if command.verb == "unload":
                return self._engine.unload(command.model, within_s), None
            presence = self._engine.load(command.model, within_s)
            return presence.state, presence.reason
        except UmekomiError as error:
            return "failed", error.message
