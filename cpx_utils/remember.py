"""Results remembered by the content of the arrays they were made from.

Every draw of a control and every candidate of a grid starts from the same Cell Painting wells, and much of what is
fitted depends on those alone. Such parts are computed once.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from threading import Lock
from typing import Any

import numpy as np


def remembered(most: int) -> Callable[[Callable], Callable]:
    """Decorate a function of arrays and numbers, so that its last `most` results are kept.

    Two calls are the same when their arguments are equal in type, shape and bytes. What is returned is shared by all
    who ask: nobody may change it, and arrays refuse it.

    Parameters
    ----------
    most
        Results kept; of more, the one not asked for longest is forgotten.

    Returns
    -------
    callable
        The decorator. The decorated function has a `forget()`, which empties its memory.
    """

    def decorate(function: Callable) -> Callable:
        known: OrderedDict[bytes, Any] = OrderedDict()
        lock = Lock()

        @wraps(function)
        def call(*arguments):
            key = _digest(arguments)
            with lock:
                if key in known:
                    known.move_to_end(key)
                    return known[key]
            result = function(*arguments)
            for part in result if isinstance(result, tuple) else (result,):
                if isinstance(part, np.ndarray):
                    part.flags.writeable = False
            with lock:
                known[key] = result
                while len(known) > most:
                    known.popitem(last=False)
            return result

        call.forget = known.clear
        return call

    return decorate


def _digest(arguments: tuple) -> bytes:
    digest = hashlib.sha256()
    for one in arguments:
        if isinstance(one, np.ndarray):
            digest.update(f"{one.dtype.str}{one.shape}".encode())
            digest.update(np.ascontiguousarray(one))
        else:
            digest.update(repr(one).encode())
    return digest.digest()
