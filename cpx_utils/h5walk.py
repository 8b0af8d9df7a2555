"""Read everything in an HDF5 file once, in a process that may hang or crash without harm.

On some damaged files the HDF5 library never ends, or takes the process with it. So `cpx_utils.tables` has a file walked
through here, `python h5walk.py FILE BYTES`, before it reads the file itself. What merely can't be read is left for the
reader, which says so better.
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

BLOCK_BYTES = 1 << 24


def walk(path: str | Path, most: int) -> int:
    """Read all names, attributes and values that lie in the file itself.

    Parameters
    ----------
    path
        The file.
    most
        Datasets that claim more bytes are left out.

    Returns
    -------
    int
        How many groups and datasets were found.
    """
    import h5py

    found = 0
    with _readable(), h5py.File(path, "r") as file:
        names = ["/", "obs", "var", "X", "layers"]
        with _readable():
            file.visit(names.append)
        for name in names:
            with _readable():
                link = file.get(name, getlink=True) if name != "/" else None
                if isinstance(link, h5py.ExternalLink):
                    continue
                stored = file[name]
                found += 1
                with _readable():
                    dict(stored.attrs)
                if isinstance(stored, h5py.Dataset) and not (stored.external or stored.is_virtual):
                    _read_values(stored, most)
    return found


def _read_values(stored, most: int) -> None:
    """Read a dataset block by block, along its first axis."""
    width = max(stored.dtype.itemsize, 1) * stored.size // max(stored.shape[0], 1) if stored.shape else 0
    if not stored.shape or not width or width * stored.shape[0] > most:
        return
    rows = max(BLOCK_BYTES // width, 1)
    for start in range(0, stored.shape[0], rows):
        with _readable():
            stored[start : start + rows]


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Leave what can't be read to the reader."""
    with contextlib.suppress(Exception):
        yield


if __name__ == "__main__":
    walk(sys.argv[1], int(sys.argv[2]))
