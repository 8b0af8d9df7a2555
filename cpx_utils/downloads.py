"""Downloads: files at pinned addresses, checked, kept once, and taken from a mirror where there is one.

A download streams into ``<final>.part`` beside its final name, with a small ``<final>.part.json`` that says which
address and which version of the file the bytes belong to. After a break it goes on from there, in the same call or
in a later one; a whole file is checked before it gets its final name.
"""

import contextlib
import email.utils
import errno
import gzip
import hashlib
import random
import re
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin, urlsplit

import pandas as pd

from cpx_utils.profiles import ScreenError, user_path
from cpx_utils.provenance import read_json, sha256_file, write_json

if TYPE_CHECKING:
    import requests
    from tqdm import tqdm

# Attempts in a row that bring next to nothing; one that brings PROGRESS_BYTES isn't counted, so that a long download
# over a poor line ends.
ATTEMPTS = 5
PROGRESS_BYTES = 1 << 20
BASE_DELAY_SECONDS = 0.5
LONGEST_RETRY_AFTER_SECONDS = 60
CONNECT_SECONDS = 15
READ_SECONDS = 45
REDIRECTS = 5
CHUNK_BYTES = 1 << 16
BAR_DELAY_SECONDS = 0.5
S3_PART_BYTES = 8 << 20
# Part sizes that common tools upload with; a multipart ETag of a server doesn't tell which was used.
_USUAL_PART_BYTES = tuple(size << 20 for size in (5, 8, 10, 15, 16, 25, 32, 50, 64, 100, 128))
# Too busy or too slow now, better later; other answers from 400 on are refusals.
_PASSING_STATUS = {408, 425, 429, *range(500, 600)}


# --- checksums ----------------------------------------------------------------------------------------------


def git_blob_id(path: str | Path) -> str:
    """Git's id of a file's content: SHA-1 of ``blob <bytes>\\0`` followed by the bytes."""
    digest = hashlib.sha1(f"blob {Path(path).stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def md5_file(path: str | Path) -> str:
    """MD5 of a file's bytes as 32 hexadecimal digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, _md5).hexdigest()


def _md5(data: bytes = b"") -> "hashlib._Hash":
    return hashlib.md5(data, usedforsecurity=False)


def s3_etag(path: str | Path, part_bytes: int = S3_PART_BYTES, multipart: bool | None = None) -> str:
    """ETag that Amazon S3 gives to a file's content (unless it encrypts with a customer's key).

    Uploaded in one request, it is the MD5. Uploaded in N parts, it is the MD5 of the N parts' binary MD5s one after
    the other, with ``-N`` behind it (Amazon S3 User Guide, "Checking object integrity").

    Parameters
    ----------
    path : str or path
    part_bytes : int
        Size of every part but the last. It can't be read off an ETag; 8 MiB is the default of Amazon's own tools.
    multipart : bool, optional
        How the file was uploaded. None takes what Amazon's own tools do: in parts from `part_bytes` on, so that a
        file of exactly one part ends in ``-1``.
    """
    path = Path(path)
    if multipart is None:
        multipart = path.stat().st_size >= part_bytes
    if not multipart:
        return md5_file(path)
    together, parts = _md5(), 0
    with open(path, "rb") as handle:
        while part := handle.read(part_bytes):
            together.update(_md5(part).digest())
            parts += 1
    if not parts:  # an empty upload still has one part
        together, parts = _md5(_md5().digest()), 1
    return f"{together.hexdigest()}-{parts}"


# Each kind of checksum a registry entry may carry, as a function of the file and the value expected, which tells
# how an S3 object was uploaded; another kind is another entry.
CHECKSUMS: dict[str, Callable[[Path, str], str]] = {
    "SHA-256": lambda path, expected="": sha256_file(path),
    "git blob id": lambda path, expected="": git_blob_id(path),
    "MD5": lambda path, expected="": md5_file(path),
    "S3 ETag": lambda path, expected="": s3_etag(path, multipart="-" in expected if expected else None),
}


# --- files --------------------------------------------------------------------------------------------------


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
        Expected size, 0 if it isn't known; told in messages and plans only, since the checksum decides.
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
        """HOST/PATH: where the file lies below a mirror or a data folder.

        Raises
        ------
        ScreenError
            If that would lead out of the folder.
        """
        parts = urlsplit(self.address)
        path = f"{parts.netloc.replace(':', '_')}{unquote(parts.path)}"
        if not all(part not in ("", ".", "..") for part in path.split("/")) or re.search(r"[\\\0]", path):
            raise ScreenError(f"{self.address!r} is no address of a file: it must be https://HOST/PATH without '..'")
        return path


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
        return user_path(data_dir)
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
        Accept a file whose checksum is not the registry's (a newer release upstream), as long as it is intact.

    Raises
    ------
    ScreenError
        If the file can't be had, is damaged or is not the registry's: nothing is then left under its final name.
        What arrived of it is kept beside that name, and a later call goes on from there.
    """
    return obtain(file, mirror=mirror, data_dir=data_dir, unverified=unverified).path


def obtain(
    file: RemoteFile, *, mirror: str | Path = "", data_dir: str | Path = "", unverified: bool = False
) -> LocalFile:
    """As `fetch`, returning the `LocalFile`: path, SHA-256, size and whether it is the registry's release."""
    folder = _mirror_folder(mirror)
    if folder is not None:
        return _from_mirror_folder(file, folder, unverified)
    final = data_folder(data_dir) / file.mirror_path
    source = _Source(file, _address(file, mirror), str(mirror).startswith("http://"))
    try:
        kept = _kept(file, final, unverified)
        if kept is None:
            with _sole_download(file, final):
                kept = _kept(file, final, unverified) or _downloaded(source, final, unverified)
        return kept
    except OSError as error:
        raise ScreenError(_disk_problem(file, data_folder(data_dir), _part_path(final), error)) from None


def _mirror_folder(mirror: str | Path) -> Path | None:
    """The mirror as a folder; None if there is no mirror or it is an address."""
    mirror = str(mirror)
    if not mirror:
        return None
    if mirror.startswith(("http://", "https://")):
        try:
            urlsplit(mirror).port  # noqa: B018 - a port or an IPv6 address that can't be one is noticed here
        except ValueError:
            line = f"mirror {mirror!r}: no address of a server; write https://HOST/PATH or http://HOST/PATH"
            raise ScreenError(line) from None
        return None
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", mirror):
        raise ScreenError(f"mirror {mirror!r}: a mirror is a folder or starts with https:// or http://")
    return user_path(mirror)


def _address(file: RemoteFile, mirror: str | Path) -> str:
    return f"{str(mirror).rstrip('/')}/{file.mirror_path}" if mirror else file.address


def _from_mirror_folder(file: RemoteFile, folder: Path, unverified: bool) -> LocalFile:
    if not folder.is_dir():
        raise ScreenError(f"mirror {str(folder)!r}: no such folder; it should hold {file.mirror_path}")
    path = folder / file.mirror_path
    if not path.is_file():
        raise ScreenError(f"{file.name}: not in the mirror {str(folder)!r}; expected at {file.mirror_path}")
    found = _examined(file, path)
    if found.verified:
        return found
    damage = _content_damage(path)
    if damage:
        sizes = _sizes(file, found.bytes)
        raise ScreenError(f"{file.name}: the copy {str(path)!r} is damaged ({damage}{sizes}); replace it")
    if not unverified:
        remedy = "replace that copy, or accept a newer release with --unverified"
        raise ScreenError(_mismatch(file, found, str(path), remedy))
    return found


def _kept(file: RemoteFile, final: Path, unverified: bool) -> LocalFile | None:
    """The file under its final name if it can be used."""
    if not final.is_file():
        return None
    found = _examined(file, final)
    usable = found.verified or (unverified and not _content_damage(final))
    return found if usable else None


def _examined(file: RemoteFile, path: Path) -> LocalFile:
    sha256 = sha256_file(path)
    found = sha256 if file.checksum_kind == "SHA-256" else CHECKSUMS[file.checksum_kind](path, file.checksum)
    return LocalFile(path, sha256, path.stat().st_size, found == file.checksum)


def _mismatch(file: RemoteFile, found: LocalFile, place: str, remedy: str) -> str:
    value = CHECKSUMS[file.checksum_kind](found.path, file.checksum)
    return (
        f"{file.name}: {file.checksum_kind} is {value[:12]}, expected {file.checksum[:12]}"
        f"{_sizes(file, found.bytes)} (from {place}); {remedy}"
    )


def _sizes(file: RemoteFile, found: int) -> str:
    return f"; {found} bytes, expected {file.bytes}" if file.bytes and found != file.bytes else ""


def _content_damage(path: Path) -> str:
    """What shows by itself that a file isn't what its maker wrote; "" if nothing does."""
    if not path.stat().st_size:
        return "it is empty"
    if not path.name.removesuffix(".part").endswith(".gz"):
        return ""
    try:
        with gzip.open(path, "rb") as handle:
            while handle.read(1 << 20):
                pass
    except EOFError:
        return "its gzip stream ends early"
    except gzip.BadGzipFile as error:
        return "it is no gzip file" if "Not a gzipped" in str(error) else "its gzip checksum is wrong"
    except zlib.error:
        return "its gzip stream is broken"
    return ""


def _disk_problem(file: RemoteFile, folder: Path, part: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{file.name}: no space left below {folder}; {size_words(_size(part))} of it are kept: make room and run "
            "again, or choose another folder with --data-dir"
        )
    return (
        f"{file.name}: can't be written below {folder} ({error.strerror or error}); "
        "choose another folder with --data-dir"
    )


# --- what is there already ----------------------------------------------------------------------------------


def planned_downloads(files: Sequence[RemoteFile], mirror: str | Path = "", data_dir: str | Path = "") -> pd.DataFrame:
    """What `obtain` would do for each file, told from names and sizes alone.

    Nothing is downloaded or hashed: a file "at hand" has the expected size, and its checksum is looked at when it
    is used.

    Parameters
    ----------
    files : sequence of RemoteFile
    mirror, data_dir : str or path
        As for `fetch`.

    Returns
    -------
    pandas.DataFrame
        role, file, bytes (expected or found; 0: not known), source (address or path it will come from), state ("at
        hand", "partly at hand (N bytes)", "to download", "in the mirror", "in the mirror, but of another size (N
        bytes)" or "missing from the mirror") and to_come (bytes still to download; 0 where the size isn't known).

    Raises
    ------
    ScreenError
        If the mirror is neither a folder's name nor an http(s) address.
    """
    folder = _mirror_folder(mirror)
    rows = []
    for file in files:
        if folder is not None:
            path = folder / file.mirror_path
            size, source, state, to_come = file.bytes or _size(path), str(path), _state_in_mirror(file, path), 0
        else:
            size, source, state, to_come = _state_of_download(file, _address(file, mirror), data_folder(data_dir))
        rows.append((file.role, file.name, size, source, state, to_come))
    return pd.DataFrame(rows, columns=["role", "file", "bytes", "source", "state", "to_come"])


def _state_in_mirror(file: RemoteFile, path: Path) -> str:
    if not path.is_file():
        return "missing from the mirror"
    size = _size(path)
    return "in the mirror" if file.bytes in (0, size) else f"in the mirror, but of another size ({size} bytes)"


def _state_of_download(file: RemoteFile, address: str, folder: Path) -> tuple[int, str, str, int]:
    """Bytes, source, state and bytes to come of a file that is kept in the data folder."""
    final = folder / file.mirror_path
    if final.is_file() and file.bytes in (0, _size(final)):
        return _size(final), str(final), "at hand", 0
    part = _part_path(final)
    known = _Known.read(part, address)
    if known is None or known.refused or not known.can_go_on or not _size(part):
        return file.bytes, address, "to download", file.bytes
    size, whole = _size(part), known.length or file.bytes
    return whole, address, f"partly at hand ({size} bytes)", max(whole - size, 0)


def describe_plan(plan: pd.DataFrame, mirror: str | Path = "", data_dir: str | Path = "") -> list[str]:
    """Lines for people: one a file of `planned_downloads`, and the total.

    Returns
    -------
    list of str
        Empty if there are no files. The last line names files, bytes still to come, and the folder.
    """
    if plan.empty:
        return []
    lines = []
    for row in plan.itertuples():
        size = size_words(row.bytes) if row.bytes else "size not known"
        where = "" if row.state.startswith(("at hand", "in the mirror")) else f" ({row.source})"
        lines.append(f"  {row.file}: {row.state}, {size}{where}")
    folder = _mirror_folder(mirror)
    if folder is not None:
        missing = int(plan["state"].eq("missing from the mirror").sum())
        lacks = f"; {missing} of them missing there" if missing else ""
        return [*lines, f"downloads: none; {_files(len(plan))} read from the mirror {folder}{lacks}"]
    coming = plan[~plan["state"].eq("at hand")]
    if coming.empty:
        return [*lines, f"downloads: none; {_files(len(plan))} at hand in {data_folder(data_dir)}"]
    unknown = int(coming["bytes"].eq(0).sum())
    beside = f" and {_files(unknown)} of unknown size" if unknown else ""
    amount = f"{size_words(coming['to_come'].sum())} of {size_words(plan['bytes'].sum())}{beside} still to come"
    return [*lines, f"downloads: {_files(len(coming))}, {amount}, into {data_folder(data_dir)}"]


def _files(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"


def size_words(count: int) -> str:
    """A number of bytes for people: ``20.2 kB``, ``412.3 MB``."""
    return f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"


# --- partial downloads --------------------------------------------------------------------------------------


def _part_path(final: Path) -> Path:
    return final.with_name(final.name + ".part")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


@dataclass(frozen=True)
class _Known:
    """What is known of the bytes in a .part file; kept beside it as JSON.

    `refused` is the SHA-256 of a whole, intact file that wasn't the registry's; `--unverified` may still want it.
    """

    address: str
    etag: str
    last_modified: str
    length: int | None
    refused: str = ""

    @classmethod
    def of(cls, address: str, response: "requests.Response") -> "_Known":
        length = response.headers.get("Content-Length", "")
        return cls(
            address,
            response.headers.get("ETag", "").strip(),
            response.headers.get("Last-Modified", "").strip(),
            int(length) if length.isdecimal() else None,
        )

    @classmethod
    def read(cls, part: Path, address: str) -> "_Known | None":
        """What was noted beside `part`; None if there is no such file, or it holds another address's bytes."""
        if not part.is_file():
            return None
        try:
            known = cls(**read_json(_note_path(part)))
        except (OSError, ScreenError, TypeError):
            return None
        return known if known.address == address else None

    def write(self, part: Path) -> None:
        write_json(_note_path(part), self.__dict__)

    @property
    def can_go_on(self) -> bool:
        """Whether the server will be able to tell that its file is still the same."""
        return bool(self.etag or self.last_modified)

    def range_headers(self, offset: int) -> dict[str, str]:
        # A weak ETag mustn't stand in If-Range (RFC 9110, 13.1.5); `continued_by` then compares it.
        validator = self.last_modified if self.etag.startswith("W/") else self.etag or self.last_modified
        return {"Range": f"bytes={offset}-"} | ({"If-Range": validator} if validator else {})

    def continued_by(self, response: "requests.Response", offset: int) -> bool:
        """Whether an answer 206 holds what comes after `offset` bytes of the same version of the file."""
        span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if not span or int(span[1]) != offset:
            return False
        if self.length is not None and span[3] not in ("*", str(self.length)):
            return False
        etag = response.headers.get("ETag", "").strip()
        if self.etag.startswith("W/") and not self.last_modified:
            return etag == self.etag
        return not etag or not self.etag or etag == self.etag


def _note_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note_path(part).unlink(missing_ok=True)


@contextlib.contextmanager
def _sole_download(file: RemoteFile, final: Path) -> Iterator[None]:
    """Keep other threads and processes from downloading the same file; wait for one that does."""
    import filelock
    from tqdm import tqdm

    final.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(final.with_name(final.name + ".lock"), thread_local=False)
    waiting = f"{file.name}: another process downloads it"
    with tqdm(desc=waiting, bar_format="{desc} {elapsed}", leave=False, delay=BAR_DELAY_SECONDS) as bar:
        while True:
            try:
                lock.acquire(timeout=1)
                break
            except filelock.Timeout:
                bar.update()
    try:
        yield
    finally:
        # Removed while it is held: whoever waits for it notices and makes a new one. Windows removes it itself.
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()


# --- downloading --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """A file, the address it is downloaded from, and whether that may be unencrypted (a mirror the user chose)."""

    file: RemoteFile
    address: str
    plain_http: bool


@dataclass
class _Attempts:
    """What the attempts of one call have come to.

    `earlier`: the .part holds bytes from before this call. `damaged`: SHA-256 of what arrived damaged.
    """

    earlier: bool
    furthest: int
    failures: int = 0
    damaged: set[str] = field(default_factory=set)

    def broke_off(self, size: int) -> None:
        gained = size - self.furthest
        self.failures = 0 if gained >= PROGRESS_BYTES else self.failures + 1
        self.furthest += max(gained, 0)


class _BreakError(Exception):
    """A download stopped for a reason that may pass; `wait` is how many seconds the server asks for."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


class _RefusalError(Exception):
    """A download that can't work however often it is tried."""


def _downloaded(source: _Source, final: Path, unverified: bool) -> LocalFile:
    """Download, check and give the final name; whoever calls holds the file's lock."""
    file, part = source.file, _part_path(final)
    known = _Known.read(part, source.address)
    fresh = None
    if known and known.refused:
        if unverified:
            found = _examined(file, part)
            fresh = found if found.sha256 == known.refused else None
        if fresh is None:
            _discard(part)
    if fresh is None:
        fresh = _whole_file(source, part)
    if not (fresh.verified or unverified):
        replace(_Known.read(part, source.address), refused=fresh.sha256).write(part)
        remedy = (
            "it arrived intact, so there is another release than the registry's: accept it with --unverified, "
            "which needn't download it again"
        )
        raise ScreenError(_mismatch(file, fresh, source.address, remedy))
    part.replace(final)
    _note_path(part).unlink(missing_ok=True)
    return replace(fresh, path=final)


def _whole_file(source: _Source, part: Path) -> LocalFile:
    """Download into `part` until it is whole and intact; try again after a break, with growing pauses.

    Raises
    ------
    ScreenError
        If the server refuses, or several attempts in a row bring nothing.
    """
    import requests

    attempts = _Attempts(earlier=_size(part) > 0, furthest=_size(part))
    with requests.Session() as session:
        while True:
            try:
                _transfer(session, source, part, attempts)
                return _intact(source, part, attempts)
            except _RefusalError as refusal:
                raise ScreenError(_failure(source, part, str(refusal))) from None
            except _BreakError as broken:
                reason, wait = str(broken), broken.wait
                attempts.broke_off(_size(part))
            if attempts.failures >= ATTEMPTS:
                raise ScreenError(_failure(source, part, reason))
            growing = BASE_DELAY_SECONDS * 2 ** max(attempts.failures - 1, 0)
            # jitter keeps many machines from asking a busy server in step; it has no part in any result
            growing *= random.SystemRandom().uniform(0.7, 1.3)
            _pause(max(growing, min(wait, LONGEST_RETRY_AFTER_SECONDS)))


def _pause(seconds: float) -> None:
    time.sleep(seconds)


def _failure(source: _Source, part: Path, reason: str) -> str:
    known = _Known.read(part, source.address)
    if known is None or not known.can_go_on or not _size(part):
        _discard(part)
    kept = f"; {size_words(_size(part))} of it are kept, and the next call goes on from there" if _size(part) else ""
    return (
        f"{source.file.name}: can't be downloaded from {source.address} ({reason}){kept}; check the network, or give "
        f"a copy with --mirror DIR_OR_URL (laid out as {source.file.mirror_path})"
    )


def _transfer(session: "requests.Session", source: _Source, part: Path, attempts: _Attempts) -> None:
    """Bring what is still missing of a file into `part`."""
    known = _Known.read(part, source.address)
    offset = _size(part) if known else 0
    if known and known.length == offset:
        return
    going_on = bool(known and offset and known.can_go_on and (known.length is None or offset < known.length))
    asked = {"Accept-Encoding": "identity"} | (known.range_headers(offset) if going_on else {})
    with _answer(session, source, asked) as response:
        if going_on and response.status_code == 416:
            _discard(part)
            raise _BreakError("the server has no such part of it any more")
        if going_on and response.status_code == 206:
            if not known.continued_by(response, offset):
                _discard(part)
                raise _BreakError("the server sends another part than it was asked for")
        elif response.status_code == 200:
            # the server knows no ranges, or its file has changed: what was there is of no use
            _discard(part)
            known, offset, attempts.earlier = _Known.of(source.address, response), 0, False
            part.touch()
            known.write(part)
        else:
            raise _RefusalError(f"the server answers {response.status_code} {response.reason}".rstrip())
        _stream(response, source.file, part, known.length, offset)
    size = _size(part)
    if known.length is not None and size > known.length:
        _discard(part)
        raise _BreakError("the server sends more than it announced")
    if known.length is not None and size < known.length:
        raise _BreakError("the connection broke off")


def _answer(session: "requests.Session", source: _Source, headers: dict[str, str]) -> "requests.Response":
    """The answer to a request, redirects followed by hand so that none leads from https to http."""
    import requests

    address = source.address
    for _ in range(REDIRECTS + 1):
        _require_encrypted(address, source.plain_http)
        try:
            response = session.get(
                address, headers=headers, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS), allow_redirects=False
            )
        except requests.RequestException as error:
            reason = _connection_problem(error)
            hopeless = isinstance(error, ValueError) or "CERTIFICATE" in str(error)
            raise (_RefusalError if hopeless else _BreakError)(reason) from None
        if response.is_redirect:
            response.close()
            address = urljoin(address, response.headers["Location"])
            continue
        if response.status_code in _PASSING_STATUS:
            response.close()
            reason = f"the server answers {response.status_code} {response.reason}".rstrip()
            raise _BreakError(reason, _seconds_to_wait(response.headers.get("Retry-After", "")))
        return response
    raise _RefusalError(f"more than {REDIRECTS} redirects")


def _require_encrypted(address: str, plain_http: bool) -> None:
    scheme = urlsplit(address).scheme.lower()
    if scheme != "https" and not (scheme == "http" and plain_http):
        raise _RefusalError(f"{address} isn't https; only a mirror may be http")


def _seconds_to_wait(retry_after: str) -> float:
    """Seconds that a Retry-After header asks for, given as a number or as a date; 0 if it asks for nothing."""
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return max(email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time(), 0.0)
    except ValueError:
        return 0.0


def _stream(response: "requests.Response", file: RemoteFile, part: Path, length: int | None, offset: int) -> None:
    """Append an answer's body to `part`, its bytes as they are sent."""
    import requests

    # Some servers mark a .gz file as gzip'd content whatever is asked; requests would unpack it.
    response.raw.headers.pop("Content-Encoding", None)
    with open(part, "ab") as handle, _bar(file, length, offset) as bar:
        try:
            for chunk in response.iter_content(CHUNK_BYTES):
                handle.write(chunk)
                bar.update(len(chunk))
        except requests.RequestException as error:
            raise _BreakError(_connection_problem(error)) from None


def _bar(file: RemoteFile, length: int | None, offset: int) -> "tqdm":
    from tqdm import tqdm

    # the bar goes to standard error and vanishes at the end: standard output stays one line a stage
    return tqdm(
        total=length or file.bytes or None, initial=offset, desc=file.name, unit="B", unit_scale=True, leave=False,
        delay=BAR_DELAY_SECONDS,
    )  # fmt: skip


def _intact(source: _Source, part: Path, attempts: _Attempts) -> LocalFile:
    """A whole download, unless it was damaged on its way; whether it is the registry's is another question."""
    found = _examined(source.file, part)
    if found.verified:
        return found
    known = _Known.read(part, source.address)
    as_sent = _agrees_with_etag(part, known.etag)
    damage = "its bytes disagree with the server's own ETag" if as_sent is False else _content_damage(part)
    if not damage and attempts.earlier and not as_sent:
        damage = "its pieces, taken at different times, don't make the registry's file"
    if not damage:
        return found
    _discard(part)
    if as_sent or found.sha256 in attempts.damaged:  # the same bytes twice weren't damaged on their way
        raise _RefusalError(f"{damage}, at the source too")
    attempts.damaged.add(found.sha256)
    raise _BreakError(damage)


def _agrees_with_etag(path: Path, etag: str) -> bool | None:
    """Whether a file's bytes have the MD5 or S3 multipart value of a server's ETag; None if it isn't one of them."""
    form = re.fullmatch(r'"([0-9a-f]{32})(?:-(\d+))?"', etag)
    if not form:
        return None
    if form[2] is None:
        return md5_file(path) == form[1]
    size, parts = path.stat().st_size, int(form[2])
    fitting = [part_bytes for part_bytes in _USUAL_PART_BYTES if max(-(-size // part_bytes), 1) == parts]
    if not fitting:
        return None
    return any(s3_etag(path, part_bytes, multipart=True) == etag.strip('"') for part_bytes in fitting)


def _connection_problem(error: Exception) -> str:
    """The few words that matter of requests' nested errors."""
    text = str(error)
    for sign, words in (
        ("NameResolution", "the host's name can't be resolved"),
        ("timed out", "no answer in time"),
        ("refused", "connection refused"),
        ("IncompleteRead", "the connection broke off"),
        ("RemoteDisconnected", "the connection broke off"),
        ("Connection reset", "the connection broke off"),
        ("prematurely", "the connection broke off"),
        ("CERTIFICATE", "the server's certificate isn't trusted"),
        ("Invalid URL", "not a valid address"),
        ("unreachable", "network unreachable"),
        ("Proxy", "the proxy refuses"),
    ):
        if sign in text:
            return words
    return type(error).__name__
