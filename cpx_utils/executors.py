"""Where fits are computed: one after the other in this process, or on a Dask cluster.

Work is handed over as calls: `submit` names a function and its arguments, and the call's `result()` is what it
returns. Arguments may be calls themselves, so that what is computed once serves many. Whoever submits asks for results
in an order of its own; that order, not the one in which workers end, decides how tables are put together.

A call must depend on its arguments alone. Then it may be computed anywhere, and again where a worker died.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from cpx_utils.profiles import ScreenError

# The runner sets both for a stage that it sends to a cluster (`cpx_utils.cluster`).
SCHEDULER_VARIABLE = "CPX_SCHEDULER"
FOLDER_VARIABLE = "CPX_SHARED_FOLDER"
# In the shared folder, once a stage has sent work away: it then waits more than it computes.
SENDS_WORK = "sends-work"
# Calls come before stages that wait for a worker: what was begun is finished first.
CALL_PRIORITY = 10


class Call(Protocol):
    """Something that was submitted."""

    def result(self) -> Any:
        """What the function returned, computed by then at the latest; its exception is raised here."""


class Executor(Protocol):
    """Where calls are computed."""

    def share(self, value: Any, write: Callable[[Any, Path], None], read: Callable[[Path], Any]) -> Any:
        """Hand over something large that many calls take; the answer stands for it among their arguments.

        Parameters
        ----------
        value
            What the calls need; it isn't changed afterwards.
        write, read
            Put it into a new folder, and get an equal one out of it.
        """

    def submit(self, function: Callable, *arguments: Any) -> Call:
        """Hand over a call; its arguments may be calls, and what `share` gave."""


class Deferred:
    """A call that is computed here, when its result is asked for, and once."""

    def __init__(self, function: Callable, arguments: tuple):
        self._work: tuple[Callable, tuple] | None = (function, arguments)
        self._result: Any = None

    def result(self) -> Any:
        """What the function returned."""
        if self._work is not None:
            function, arguments = self._work
            taken = [one.result() if isinstance(one, Deferred) else one for one in arguments]
            self._result, self._work = function(*taken), None
        return self._result


class Serial:
    """Calls are computed in this process, in the order in which their results are asked for."""

    def share(self, value: Any, write: Callable[[Any, Path], None], read: Callable[[Path], Any]) -> Any:
        """Return the value itself."""
        return value

    def submit(self, function: Callable, *arguments: Any) -> Deferred:
        """Note a call."""
        return Deferred(function, arguments)


class Dask:
    """Calls are computed by the workers of a Dask cluster.

    What is shared goes through files, not through the scheduler: a worker that needs it reads it, and so does the one
    that takes over from a worker that died.

    Parameters
    ----------
    address
        Of the scheduler.
    folder
        A folder that this process and all workers see under the same path.

    Raises
    ------
    ScreenError
        Dask isn't installed, or there is no scheduler at the address.
    """

    def __init__(self, address: str, folder: str | Path):
        self._client = connect(address)
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)

    def share(self, value: Any, write: Callable[[Any, Path], None], read: Callable[[Path], Any]) -> Any:
        """Write the value into a folder of its own; return the call that reads it."""
        folder = self._folder / uuid.uuid4().hex
        folder.mkdir()
        write(value, folder)
        return self.submit(read, folder)

    def submit(self, function: Callable, *arguments: Any) -> Call:
        """Send a call to the cluster."""
        (self._folder / SENDS_WORK).touch()
        return self._client.submit(call_on_one_thread, function, *arguments, pure=False, priority=CALL_PRIORITY)

    def close(self) -> None:
        """Leave the cluster and remove what was shared; calls whose results nobody took are dropped."""
        self._client.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def call_on_one_thread(function: Callable, *arguments: Any) -> Any:
    """Call a function on one thread, as the runner's own stages are run: sums over threads round differently."""
    from threadpoolctl import threadpool_limits

    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
    with threadpool_limits(1):
        return function(*arguments)


def connect(address: str, seconds: float = 5) -> Any:
    """Return a `distributed.Client` of a scheduler.

    Parameters
    ----------
    address
        Such as ``tcp://192.168.0.1:8786``.
    seconds
        How long to wait for an answer.

    Raises
    ------
    ScreenError
        Dask isn't installed, or no scheduler answers at the address.
    """
    try:
        from distributed import Client
    except ImportError:
        raise ScreenError("a cluster needs Dask: pip install -e '.[dask]' here and on every worker") from None
    try:
        return Client(address, timeout=seconds, set_as_default=False)
    except Exception as error:  # whatever answers at the address may be no scheduler at all
        raise ScreenError(
            f"no Dask scheduler answers at {address} ({' '.join(str(error).split())}); start one with "
            "`dask scheduler`, and give the address that it prints"
        ) from None


@functools.cache
def current() -> Serial | Dask:
    """Return the executor of this process: the cluster that the runner named in its environment, else `Serial`."""
    address = os.environ.get(SCHEDULER_VARIABLE)
    return Dask(address, os.environ[FOLDER_VARIABLE]) if address else Serial()
