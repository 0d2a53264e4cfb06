"""LiveRegistry: the models as the configuration files say now. An edit is taken over whole or not at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from watchfiles import watch

from shared.logs import get_logger
from shared.models import ModelConfig, ModelRegistry, Problem
from shared.models.files import SUFFIXES, ConfigFiles, read_files
from shared.models.reading import registry_of
from shared.settings import Settings

logger = get_logger(__name__)

# A look at the files in any case: network file systems tell nobody of a change, and a directory may not be there yet.
LOOK_EVERY_S = 5.0
# Edits within so long are one: editors write several files, and a directory is often copied in.
_DEBOUNCE_MS = 300
_STEP_MS = 100

Subscriber = Callable[[ModelRegistry], None]


class LiveRegistry:
    """Reads like a ModelRegistry (see shared.models.Models). Thread-safe: what is read is swapped in one assignment.

    Not taken over, so that the configuration from before goes on, is an edit after which CONFIG_FILE cannot be read, a file
    that was YAML is none any longer, the entry of a served model is wrong, or no entry is left to serve. `problems` then
    tells what is wrong with it.
    """

    def __init__(self, settings: Settings, registry: ModelRegistry | None = None) -> None:
        """`registry`: instead of the files, which then are not watched. Raises OSError if CONFIG_FILE cannot be read."""
        self._settings = settings
        self._files: ConfigFiles | None = None
        if registry is None:
            self._files = read_files(settings.config_file, settings.models_path, settings.applied_models)
            registry = registry_of(self._files, settings)
        self.current = registry
        self.read_at = time.time()  # unix seconds
        self._refused: tuple[Problem, ...] | None = None
        self._unreadable: str | None = None
        self._subscribers: list[Subscriber] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="configuration", daemon=True)

    # Reading

    @property
    def models(self) -> Mapping[str, ModelConfig]:
        """By name and by alias."""
        return self.current.models

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Of the files as they are now, also if they were not taken over."""
        refused = self._refused
        return self.current.problems if refused is None else refused

    @property
    def directory(self) -> Path:
        """Where relative model paths start."""
        return self.current.directory

    @property
    def lines(self) -> Mapping[str, tuple[Path, int]]:
        """By name: the file and line that say `parameters: model:`."""
        return self.current.lines

    def __iter__(self) -> Iterator[ModelConfig]:
        """Every model once."""
        return iter(self.current)

    def get(self, name: str | None) -> ModelConfig:
        """The model of this name or alias; without one, the default. Raises ModelNotFound."""
        return self.current.get(name)

    # Changing

    def subscribe(self, subscriber: Subscriber) -> None:
        """Have it called with the new registry after each change, by the thread that found it; it must not call `reload`."""
        self._subscribers.append(subscriber)

    def start(self) -> None:
        """Begin to watch the files, unless the registry was given."""
        if self._files is not None:
            self._thread.start()

    def stop(self) -> None:
        """End the thread; what was read last stays."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def reload(self) -> bool:
        """Read the files if they changed; True if new models were taken over."""
        # Held while they are told: of two changes, everybody hears of the later one last.
        with self._lock:
            registry = self._reread()
            if registry is None:
                return False
            self.current, self.read_at, self._refused = registry, time.time(), None
            logger.info("configuration taken over", models=[model.name for model in registry])
            _log(registry.problems)
            for subscriber in self._subscribers:
                try:
                    subscriber(registry)
                except Exception:
                    # The others are to hear of it all the same.
                    logger.exception("configuration change not followed")
            return True

    def _reread(self) -> ModelRegistry | None:
        """What the files say, if they changed and may be taken over; the lock is held."""
        if self._files is None:
            return None
        try:
            files = read_files(self._settings.config_file, self._settings.models_path, self._settings.applied_models)
        except OSError as error:
            reason = f"cannot be read: {error.strerror or type(error).__name__}"
            if self._unreadable != reason:
                self._unreadable = reason
                self._refuse((Problem(self._settings.config_file or Path(), 1, reason),))
            return None
        is_back = self._unreadable is not None
        self._unreadable = None
        if files == self._files and not is_back:
            return None
        self._files = files
        registry = registry_of(files, self._settings)
        why_not = _why_not(self.current, registry, files)
        if why_not is None:
            return registry
        where = self._settings.config_file or self._settings.models_path or Path()
        told = Problem(where, 1, f"{why_not}; the configuration from before is still served", served=True)
        self._refuse((told, *registry.problems))
        return None

    def _refuse(self, problems: tuple[Problem, ...]) -> None:
        self._refused = problems
        logger.error("configuration not taken over", reason=str(problems[0]))
        _log(problems[1:])

    # The thread

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._watch()
            except Exception as error:
                # No notification to be had here (a limit, a file system): looking now and then does.
                logger.debug("configuration looked at, not watched", error=type(error).__name__)
                self._stopping.wait(LOOK_EVERY_S)
            self._look()

    def _watch(self) -> None:
        """Look at every change, until the directories to watch are others: a link was set anew, a directory made."""
        watched, names = self._places()
        if not watched:
            self._stopping.wait(LOOK_EVERY_S)
            return

        def may_matter(_change: object, path: str) -> bool:
            # Not what else is written there, such as our own log. The links of a Kubernetes volume begin with two dots.
            name = Path(path).name
            return name in names or name.startswith("..") or Path(path).suffix in SUFFIXES

        changes = watch(
            *watched,
            watch_filter=may_matter,
            recursive=False,
            debounce=_DEBOUNCE_MS,
            step=_STEP_MS,
            rust_timeout=int(LOOK_EVERY_S * 1000),
            yield_on_timeout=True,
            stop_event=self._stopping,
            raise_interrupt=False,
        )
        self._look()  # what changed before the watch began
        for _ in changes:
            self._look()
            if self._places() != (watched, names):
                return

    def _look(self) -> None:
        try:
            self.reload()
        except Exception:
            logger.exception("configuration not read")

    def _places(self) -> tuple[list[Path], set[str]]:
        """The directories to watch that are there: that of the models, and CONFIG_FILE's and of every link on the way to it; and
        how CONFIG_FILE and those links are called."""
        directories: dict[Path, None] = {}
        names: set[str] = set()
        file = self._settings.config_file
        for _ in range(8):  # links may go in circles
            if file is None:
                break
            directories[file.parent] = directories[file.parent.resolve()] = None
            names.add(file.name)
            try:
                file = file.parent / file.readlink()
            except OSError:
                break
        directories[self._settings.applied_models] = None
        return [directory for directory in directories if directory.is_dir()], names


def _why_not(current: ModelRegistry, new: ModelRegistry, files: ConfigFiles) -> str | None:
    """Why an edit is not to be taken over; None if it is."""
    lost = [file for file in files.contents if file in current.readable and file not in new.readable]
    if lost:
        return f"{lost[0].name} is not YAML any longer"
    wrong = {problem.model for problem in new.problems if problem.model is not None and not problem.served}
    broken = [config.name for config in current if config.name in wrong and config.name not in new.models]
    if broken:
        return f"the entry of the model {broken[0]} is wrong"
    if not new.models:
        return "no entry is left to serve"
    return None


def _log(problems: tuple[Problem, ...]) -> None:
    for problem in problems:
        logger.warning("configuration problem", problem=str(problem), served=problem.served)
