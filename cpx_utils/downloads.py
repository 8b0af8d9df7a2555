"""Downloads: files at pinned addresses, checked, kept once, and taken from a mirror where there is one."""

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cpx_utils.profiles import ScreenError
from cpx_utils.provenance import atomic_path, sha256_file

ATTEMPTS = 3
TIMEOUT_SECONDS = 30
CHUNK_BYTES = 65536
BAR_DELAY_SECONDS = 0.5


def git_blob_id(path: str | Path) -> str:
    """Git's id of a file's content: SHA-1 of ``blob <bytes>\\0`` followed by the bytes."""
    digest = hashlib.sha1(f"blob {Path(path).stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


# Each kind of checksum a registry entry may carry, as a function of the file; another kind is another entry.
CHECKSUMS: dict[str, Callable[[Path], str]] = {"SHA-256": sha256_file, "git blob id": git_blob_id}


@dataclass(frozen=True)
class RemoteFile:
    """One file of a screen.

    Attributes
    ----------
    role : str
        What the loader calls it (``cp``, ``tx``, ``hub``, ...).
    address : str
        https address, pinned to a commit or version.
    checksum : str
        Expected value, of the kind `checksum_kind` (a key of `CHECKSUMS`).
    bytes : int
        Expected size; told in messages only, since the checksum decides.
    licence, citation : str
        As the source states them.
    """

    role: str
    address: str
    checksum: str
    bytes: int
    licence: str
    citation: str
    checksum_kind: str = "SHA-256"

    @property
    def name(self) -> str:
        """The path below the repository's commit where there is one, else the file's name."""
        path = unquote(urlsplit(self.address).path)
        below_commit = re.search(r"/[0-9a-f]{40}/(.+)$", path)
        return below_commit.group(1) if below_commit else path.rsplit("/", 1)[-1]

    @property
    def mirror_path(self) -> str:
        """HOST/PATH: where the file lies below a mirror or a data folder."""
        parts = urlsplit(self.address)
        return f"{parts.netloc.replace(':', '_')}{unquote(parts.path)}"


@dataclass(frozen=True)
class LocalFile:
    """A file at hand: where it lies, the SHA-256 of its bytes, and whether it is the registry's release."""

    path: Path
    sha256: str
    bytes: int
    verified: bool


def data_folder(data_dir: str | Path = "") -> Path:
    """Where downloads are kept: `data_dir`, or else the per-user cache folder of this machine."""
    if data_dir:
        return Path(data_dir).expanduser()
    import pooch

    return Path(pooch.os_cache("cpx"))


def fetch(file: RemoteFile, *, mirror: str | Path = "", data_dir: str | Path = "", unverified: bool = False) -> Path:
    """Path of a file that is at hand and checked: from the data folder, the mirror or its address.

    Parameters
    ----------
    file : RemoteFile
    mirror : str or path
        Folder or http(s) address laid out as HOST/PATH. A folder's file is checked and used where it lies; a
        mirror's file at an address is downloaded as the original would be. Nothing is written to a mirror.
    data_dir : str or path
        Where downloads are kept; the per-user cache folder if empty. A damaged file there is downloaded anew.
    unverified : bool
        Accept a file whose checksum is not the registry's (a newer release upstream).

    Raises
    ------
    ScreenError
        If the file can't be had, or is not the registry's: nothing is then left under its final name.
    """
    return obtain(file, mirror=mirror, data_dir=data_dir, unverified=unverified).path


def obtain(
    file: RemoteFile, *, mirror: str | Path = "", data_dir: str | Path = "", unverified: bool = False
) -> LocalFile:
    """As `fetch`, returning the `LocalFile`: path, SHA-256, size and whether it is the registry's release."""
    mirror = str(mirror)
    if mirror and not re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", mirror):
        return _from_mirror_folder(file, Path(mirror).expanduser(), unverified)
    if mirror and not mirror.startswith(("http://", "https://")):
        raise ScreenError(f"mirror {mirror!r}: a mirror is a folder or starts with https:// or http://")
    final = data_folder(data_dir) / file.mirror_path
    if final.is_file():
        kept = _examined(file, final)
        if kept.verified or unverified:
            return kept
    address = f"{mirror.rstrip('/')}/{file.mirror_path}" if mirror else file.address
    try:
        with atomic_path(final) as temporary:
            _download(address, temporary, file)
            fresh = _examined(file, temporary)
            if not (fresh.verified or unverified):
                remedy = "nothing was kept; download it again, or accept a newer release with --unverified"
                raise ScreenError(_mismatch(file, temporary, address, remedy))
    except OSError as error:
        raise ScreenError(
            f"{file.name}: can't be written below {data_folder(data_dir)} ({error.strerror or error}); "
            "choose another folder with --data-dir"
        ) from None
    return LocalFile(final, fresh.sha256, fresh.bytes, fresh.verified)


def _from_mirror_folder(file: RemoteFile, folder: Path, unverified: bool) -> LocalFile:
    if not folder.is_dir():
        raise ScreenError(f"mirror {str(folder)!r}: no such folder; it should hold {file.mirror_path}")
    path = folder / file.mirror_path
    if not path.is_file():
        raise ScreenError(f"{file.name}: not in the mirror {str(folder)!r}; expected at {file.mirror_path}")
    found = _examined(file, path)
    if not (found.verified or unverified):
        remedy = "replace that copy, or accept a newer release with --unverified"
        raise ScreenError(_mismatch(file, path, str(path), remedy))
    return found


def _examined(file: RemoteFile, path: Path) -> LocalFile:
    sha256 = sha256_file(path)
    found = sha256 if file.checksum_kind == "SHA-256" else CHECKSUMS[file.checksum_kind](path)
    return LocalFile(path, sha256, path.stat().st_size, found == file.checksum)


def _mismatch(file: RemoteFile, path: Path, place: str, remedy: str) -> str:
    found = CHECKSUMS[file.checksum_kind](path)
    size = path.stat().st_size
    sizes = f"; {size} bytes, expected {file.bytes}" if size != file.bytes else ""
    return (
        f"{file.name}: {file.checksum_kind} is {found[:12]}, expected {file.checksum[:12]}{sizes} "
        f"(from {place}); {remedy}"
    )


def _download(address: str, path: Path, file: RemoteFile) -> None:
    """Download `address` to `path`; a broken connection is tried again, a refusal is not."""
    import pooch
    import requests
    from tqdm import tqdm

    for attempt in range(1, ATTEMPTS + 1):
        # the bar goes to standard error and vanishes at the end: standard output stays one line a stage
        bar = tqdm(total=file.bytes, desc=file.name, unit="B", unit_scale=True, leave=False, delay=BAR_DELAY_SECONDS)
        downloader = pooch.HTTPDownloader(progressbar=bar, chunk_size=CHUNK_BYTES, timeout=TIMEOUT_SECONDS)
        try:
            downloader(address, str(path), None)
            return
        except requests.HTTPError as error:
            status = error.response.status_code
            reason = f"the server answers {status} {error.response.reason}".rstrip()
            final = status < 500
        except requests.RequestException as error:
            reason, final = _connection_problem(error), False
        finally:
            bar.close()
        if final or attempt == ATTEMPTS:
            raise ScreenError(
                f"{file.name}: can't be downloaded from {address} ({reason}); check the network, or give "
                f"a copy with --mirror DIR_OR_URL (laid out as {file.mirror_path})"
            )
        time.sleep(0.3 * attempt)


def _connection_problem(error: Exception) -> str:
    """The few words that matter of requests' nested errors."""
    text = str(error)
    for sign, words in (
        ("NameResolution", "the host's name can't be resolved"),
        ("timed out", "no answer in time"),
        ("refused", "connection refused"),
        ("IncompleteRead", "the connection broke off"),
        ("CERTIFICATE", "the server's certificate isn't trusted"),
        ("Invalid URL", "not a valid address"),
        ("unreachable", "network unreachable"),
        ("Proxy", "the proxy refuses"),
    ):
        if sign in text:
            return words
    return type(error).__name__
