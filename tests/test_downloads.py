"""Downloads: checksums, resuming, damage told from another release, mirrors, and one clear line for what goes wrong."""

import email.utils
import errno
import gzip
import hashlib
import io
import multiprocessing
import shutil
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from http_server import Reply, multipart_etag, serving

from cpx_utils import downloads
from cpx_utils.downloads import CHECKSUMS, RemoteFile, fetch, obtain, planned_downloads, s3_etag
from cpx_utils.profiles import ScreenError

CHUNK = 1024
CONTENT = np.random.default_rng(0).bytes(8 * CHUNK + 100)
OTHER = np.random.default_rng(1).bytes(8 * CHUNK + 100)
PATH = "/example.org/data/profiles.csv"
MIB = 1 << 20


def etag_of(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


@pytest.fixture
def server(monkeypatch):
    """The server; downloads read from it as from a mirror, in small chunks and with hardly any pause."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(downloads, "BASE_DELAY_SECONDS", 0.001)
    monkeypatch.setattr(downloads, "CHUNK_BYTES", CHUNK)
    with serving() as local:
        yield local


def remote(content: bytes = CONTENT, name: str = "profiles.csv") -> RemoteFile:
    checksum = hashlib.sha256(content).hexdigest()
    return RemoteFile("cp", f"https://example.org/data/{name}", checksum, len(content), "CC0", "Someone 2020")


def files_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def refusal(file: RemoteFile, **options) -> str:
    """The line that `obtain` refuses with."""
    with pytest.raises(ScreenError) as caught:
        obtain(file, **options)
    line = str(caught.value)
    assert "\n" not in line and line.startswith(f"{file.name}: ")
    return line


# --- checksums ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 20 * MIB])
def test_s3_etags_equal_an_independent_computation(tmp_path, size):
    content = np.random.default_rng(size).bytes(size)
    path = tmp_path / "file"
    path.write_bytes(content)
    plain, multipart = etag_of(content).strip('"'), multipart_etag(content, 8 * MIB).strip('"')
    assert multipart.endswith(f"-{max(1, -(-size // (8 * MIB)))}")
    assert s3_etag(path, multipart=False) == CHECKSUMS["MD5"](path, plain) == plain
    assert s3_etag(path, multipart=True) == multipart
    # as Amazon's tools upload: in parts from exactly one part on
    assert s3_etag(path) == (plain if size < 8 * MIB else multipart)
    # the registry's value tells which form it is; the right content in either form agrees, other content in neither
    assert CHECKSUMS["S3 ETag"](path, plain) == plain and CHECKSUMS["S3 ETag"](path, multipart) == multipart
    with open(path, "r+b") as handle:
        handle.seek(size - 1)
        handle.write(bytes([content[-1] ^ 1]))
    assert CHECKSUMS["S3 ETag"](path, plain) != plain and CHECKSUMS["S3 ETag"](path, multipart) != multipart


def test_an_empty_file_has_etags_too(tmp_path):
    path = tmp_path / "file"
    path.touch()
    assert s3_etag(path) == "d41d8cd98f00b204e9800998ecf8427e"
    assert s3_etag(path, multipart=True) == hashlib.md5(hashlib.md5().digest()).hexdigest() + "-1"


@pytest.mark.skipif(shutil.which("git") is None, reason="git isn't installed, which gives the expected ids")
@pytest.mark.parametrize("content", [b"", b"a", CONTENT, b"line\r\n" * 300_000])
def test_git_blob_ids_are_gits_own(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    command = ["git", "hash-object", "--no-filters", str(path)]
    expected = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert downloads.git_blob_id(path) == CHECKSUMS["git blob id"](path, expected) == expected


@pytest.mark.parametrize(
    ("kind", "checksum"),
    [
        ("git blob id", hashlib.sha1(f"blob {len(CONTENT)}\0".encode() + CONTENT).hexdigest()),
        ("MD5", hashlib.md5(CONTENT).hexdigest()),
        ("S3 ETag", hashlib.md5(CONTENT).hexdigest()),
        ("S3 ETag", multipart_etag(CONTENT, 8 * MIB).strip('"')),
    ],
)
def test_other_kinds_of_checksum_decide_as_well(server, tmp_path, kind, checksum):
    file = replace(remote(), checksum=checksum, checksum_kind=kind)
    server.replies[PATH] = Reply(CONTENT)
    found = obtain(file, mirror=server.url, data_dir=tmp_path / "data")
    assert found.verified and found.sha256 == hashlib.sha256(CONTENT).hexdigest() and found.bytes == len(CONTENT)
    server.replies[PATH] = Reply(OTHER)
    line = refusal(file, mirror=server.url, data_dir=tmp_path / "elsewhere")
    assert f"{kind} is " in line and f"expected {checksum[:12]}" in line


# --- a download ---------------------------------------------------------------------------------------------


def test_a_good_file_is_downloaded_once_and_kept(server, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(downloads, "BAR_DELAY_SECONDS", 0)
    server.replies[PATH] = Reply(CONTENT)
    path = fetch(remote(), mirror=server.url, data_dir=tmp_path)
    assert path.read_bytes() == CONTENT and path == tmp_path / remote().mirror_path
    assert fetch(remote(), mirror=server.url, data_dir=tmp_path) == path
    assert len(server.exchanges) == 1 and server.exchanges[0].headers["accept-encoding"] == "identity"
    assert files_below(tmp_path) == ["profiles.csv"]
    captured = capfd.readouterr()
    assert captured.out == "" and "profiles.csv" in captured.err  # the progress bar


def test_content_marked_as_gzipped_is_kept_as_it_is_sent(server, tmp_path):
    packed = gzip.compress(CONTENT)
    server.replies[PATH + ".gz"] = Reply(packed, headers={"Content-Encoding": "gzip"})
    path = fetch(remote(packed, "profiles.csv.gz"), mirror=server.url, data_dir=tmp_path)
    assert path.read_bytes() == packed


def test_an_unknown_size_is_not_named(server, tmp_path):
    server.replies[PATH] = Reply(OTHER, with_length=False)
    line = refusal(replace(remote(), bytes=0), mirror=server.url, data_dir=tmp_path)
    assert "SHA-256 is" in line and "bytes" not in line


def test_a_damaged_kept_file_is_downloaded_afresh(server, tmp_path):
    server.replies[PATH] = Reply(CONTENT)
    path = fetch(remote(), mirror=server.url, data_dir=tmp_path)
    path.write_bytes(CONTENT[:100])
    assert fetch(remote(), mirror=server.url, data_dir=tmp_path).read_bytes() == CONTENT
    assert len(server.exchanges) == 2 and files_below(tmp_path) == ["profiles.csv"]


# --- breaks -------------------------------------------------------------------------------------------------

VALIDATORS = {
    "strong ETag": {"etag": '"v1"'},
    "date": {"last_modified": "Wed, 01 Jan 2020 00:00:00 GMT"},
    "weak ETag": {"etag": 'W/"v1"'},
    "weak ETag and date": {"etag": 'W/"v1"', "last_modified": "Wed, 01 Jan 2020 00:00:00 GMT"},
}


@pytest.mark.parametrize("kind", VALIDATORS)
def test_a_truncated_download_goes_on_where_it_broke(server, tmp_path, kind):
    known = VALIDATORS[kind]
    server.replies[PATH] = [
        Reply(CONTENT, cut_after=3 * CHUNK, **known),
        Reply(CONTENT, cut_after=2 * CHUNK, **known),
        Reply(CONTENT, **known),
    ]
    assert fetch(remote(), mirror=server.url, data_dir=tmp_path).read_bytes() == CONTENT
    assert server.ranges_asked() == ["", f"bytes={3 * CHUNK}-", f"bytes={5 * CHUNK}-"]
    assert [exchange.status for exchange in server.exchanges] == [200, 206, 206]
    assert sum(exchange.sent for exchange in server.exchanges) == len(CONTENT)  # nothing was sent twice
    asked = server.exchanges[1].headers.get("if-range")
    expected = known["etag"] if kind == "strong ETag" else known.get("last_modified")
    assert asked == expected  # a weak ETag mustn't stand there
    assert files_below(tmp_path) == ["profiles.csv"]


def test_an_odd_break_loses_at_most_a_chunk(server, tmp_path):
    server.replies[PATH] = [Reply(CONTENT, etag='"v1"', cut_after=3 * CHUNK + 17), Reply(CONTENT, etag='"v1"')]
    assert fetch(remote(), mirror=server.url, data_dir=tmp_path).read_bytes() == CONTENT
    assert 0 <= sum(exchange.sent for exchange in server.exchanges) - len(CONTENT) < CHUNK


def test_a_later_call_goes_on_from_what_is_kept(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    server.replies[PATH] = Reply(CONTENT, etag='"v1"', cut_after=4 * CHUNK)
    line = refusal(remote(), mirror=server.url, data_dir=tmp_path)
    assert "the connection broke off" in line and "4.1 kB of it are kept, and the next call goes on" in line
    assert files_below(tmp_path) == ["profiles.csv.part", "profiles.csv.part.json"]
    server.replies[PATH] = Reply(CONTENT, etag='"v1"')
    found = obtain(remote(), mirror=server.url, data_dir=tmp_path)
    assert found.verified and found.path.read_bytes() == CONTENT
    assert server.ranges_asked() == ["", f"bytes={4 * CHUNK}-"]
    assert files_below(tmp_path) == ["profiles.csv"]


def test_the_bar_goes_on_at_the_byte_that_was_reached(server, tmp_path, monkeypatch):
    bars = []
    real = downloads._bar

    def noted(file, length, offset):
        bars.append((length, offset))
        return real(file, length, offset)

    monkeypatch.setattr(downloads, "_bar", noted)
    server.replies[PATH] = [Reply(CONTENT, etag='"v1"', cut_after=3 * CHUNK), Reply(CONTENT, etag='"v1"')]
    fetch(remote(), mirror=server.url, data_dir=tmp_path)
    assert bars == [(len(CONTENT), 0), (len(CONTENT), 3 * CHUNK)]


def half_done(server, tmp_path, monkeypatch) -> Path:
    """The .part that a broken call leaves: four chunks of version 1."""
    with monkeypatch.context() as patch:
        patch.setattr(downloads, "ATTEMPTS", 1)
        server.replies[PATH] = Reply(CONTENT, etag='"v1"', cut_after=4 * CHUNK)
        refusal(remote(), mirror=server.url, data_dir=tmp_path)
    server.exchanges.clear()
    server.replies[PATH] = Reply(CONTENT, etag='"v1"')
    return tmp_path / (remote().mirror_path + ".part")


@pytest.mark.parametrize("spoil", ["no note", "damaged note", "note of another kind", "another address", "too long"])
def test_a_part_that_nobody_vouches_for_is_not_continued(server, tmp_path, monkeypatch, spoil):
    part = half_done(server, tmp_path, monkeypatch)
    note = part.with_name(part.name + ".json")
    if spoil == "no note":
        note.unlink()
    elif spoil == "damaged note":
        note.write_text("{")
    elif spoil == "note of another kind":
        note.write_text('{"etag": 3}')
    elif spoil == "another address":
        note.write_text(note.read_text().replace(PATH, "/elsewhere"))
    else:
        part.write_bytes(CONTENT + b"more")
    assert fetch(remote(), mirror=server.url, data_dir=tmp_path).read_bytes() == CONTENT
    assert server.ranges_asked() == [""] and files_below(tmp_path) == ["profiles.csv"]


def test_a_whole_part_is_used_without_asking_again(server, tmp_path, monkeypatch):
    part = half_done(server, tmp_path, monkeypatch)
    part.write_bytes(CONTENT)
    assert fetch(remote(), mirror=server.url, data_dir=tmp_path).read_bytes() == CONTENT
    assert server.exchanges == []


def test_a_part_that_rotted_is_not_blamed_on_the_release(server, tmp_path, monkeypatch):
    part = half_done(server, tmp_path, monkeypatch)
    part.write_bytes(b"x" + part.read_bytes()[1:])
    assert obtain(remote(), mirror=server.url, data_dir=tmp_path, unverified=True).verified
    assert server.ranges_asked() == [f"bytes={4 * CHUNK}-", ""]


@pytest.mark.parametrize(
    ("reply", "statuses"),
    [
        (Reply(OTHER, etag='"v2"'), [200]),  # changed: If-Range makes the server send it whole
        (Reply(CONTENT, etag='"v1"', ranges=False), [200]),
        (Reply(CONTENT, etag='"v1"', content_range="bytes 0-8291/8292"), [206, 200]),
        (Reply(CONTENT, etag='"v1"', content_range="bytes 4096-9999/10000"), [206, 200]),
        (Reply(CONTENT, etag='"v1"', content_range="nonsense"), [206, 200]),
        (Reply(CONTENT[: 2 * CHUNK], etag='"v1"'), [416, 200]),
    ],
    ids=["changed", "no ranges", "wrong start", "wrong size", "no sense", "shorter now"],
)
def test_what_cannot_be_continued_starts_anew(server, tmp_path, monkeypatch, reply, statuses):
    half_done(server, tmp_path, monkeypatch)
    server.replies[PATH] = reply
    file = remote(reply.body)
    assert fetch(file, mirror=server.url, data_dir=tmp_path).read_bytes() == reply.body
    assert [exchange.status for exchange in server.exchanges] == statuses
    assert server.ranges_asked() == [f"bytes={4 * CHUNK}-", ""][: len(statuses)]


def test_a_weakly_marked_file_that_changed_starts_anew(server, tmp_path):
    """A server that heeds Range without If-Range would splice two versions."""
    server.replies[PATH] = [
        Reply(OTHER, etag='W/"v1"', cut_after=2 * CHUNK),
        Reply(CONTENT, etag='W/"v2"'),
    ]
    assert fetch(remote(), mirror=server.url, data_dir=tmp_path).read_bytes() == CONTENT
    assert [exchange.status for exchange in server.exchanges] == [200, 206, 200]


def test_without_a_validator_nothing_is_continued(server, tmp_path):
    server.replies[PATH] = [Reply(CONTENT, cut_after=2 * CHUNK), Reply(CONTENT)]
    assert fetch(remote(), mirror=server.url, data_dir=tmp_path).read_bytes() == CONTENT
    assert server.ranges_asked() == ["", ""]


def test_a_server_may_send_less_than_the_whole_rest(server, tmp_path):
    small = Reply(CONTENT, etag='"v1"', at_most=3 * CHUNK)
    server.replies[PATH] = [Reply(CONTENT, etag='"v1"', cut_after=CHUNK), small]
    assert fetch(remote(), mirror=server.url, data_dir=tmp_path).read_bytes() == CONTENT
    assert server.ranges_asked() == ["", *(f"bytes={done * CHUNK}-" for done in (1, 4, 7))]


def test_a_stalled_connection_is_a_break(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "READ_SECONDS", 0.2)
    server.replies[PATH] = [
        Reply(CONTENT, etag='"v1"', stall_after=3 * CHUNK),
        Reply(CONTENT, etag='"v1"', stall_after=0),
        Reply(CONTENT, etag='"v1"'),
    ]
    start = time.perf_counter()
    assert fetch(remote(), mirror=server.url, data_dir=tmp_path).read_bytes() == CONTENT
    assert time.perf_counter() - start < 30
    assert server.ranges_asked() == ["", f"bytes={3 * CHUNK}-", f"bytes={3 * CHUNK}-"]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(CONTENT, cut_after=50), "the connection broke off"),
        (Reply(CONTENT, etag='"v1"', cut_after=0), "the connection broke off"),
        (Reply(CONTENT, stall_after=50), "no answer in time"),
        (Reply(status=503), "the server answers 503 Service Unavailable"),
        (Reply(status=429), "the server answers 429 Too Many Requests"),
    ],
)
def test_what_does_not_pass_is_given_up_in_one_line(server, tmp_path, monkeypatch, reply, reason):
    monkeypatch.setattr(downloads, "READ_SECONDS", 0.1)
    server.replies[PATH] = reply
    line = refusal(remote(), mirror=server.url, data_dir=tmp_path)
    assert f"can't be downloaded from {server.url}{PATH} ({reason}); check the network" in line
    assert f"--mirror DIR_OR_URL (laid out as {remote().mirror_path})" in line
    assert len(server.exchanges) == downloads.ATTEMPTS and files_below(tmp_path) == []


@pytest.mark.parametrize(("status", "reason"), [(404, "Not Found"), (403, "Forbidden"), (204, "No Content")])
def test_a_refusal_is_asked_for_once(server, tmp_path, capfd, status, reason):
    server.replies[PATH] = Reply(status=status)
    line = refusal(remote(), mirror=server.url, data_dir=tmp_path)
    assert f"(the server answers {status} {reason})" in line and "--mirror" in line
    assert len(server.exchanges) == 1 and files_below(tmp_path) == []
    assert capfd.readouterr() == ("", "")


def test_attempts_that_get_on_are_not_counted(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "PROGRESS_BYTES", CHUNK)
    monkeypatch.setattr(downloads, "ATTEMPTS", 2)
    server.replies[PATH] = Reply(CONTENT, etag='"v1"', cut_after=CHUNK)
    assert fetch(remote(), mirror=server.url, data_dir=tmp_path).read_bytes() == CONTENT
    assert len(server.exchanges) == 9
    server.replies[PATH] = Reply(CONTENT, etag='"v1"', ranges=False, cut_after=CHUNK)
    server.exchanges.clear()
    refusal(remote(), mirror=server.url, data_dir=tmp_path / "elsewhere")
    assert len(server.exchanges) == 3  # sent anew each time, so only the first one got on
    sizes = [3, 1, 3, 1, 3, 1]
    server.replies[PATH] = [Reply(CONTENT, etag='"v1"', ranges=False, cut_after=size * CHUNK) for size in sizes]
    server.exchanges.clear()
    refusal(remote(), mirror=server.url, data_dir=tmp_path / "elsewhere")
    assert len(server.exchanges) == 3  # getting as far as before isn't getting on


def test_pauses_grow_and_heed_the_server_within_bounds(server, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(downloads, "BASE_DELAY_SECONDS", 1.0)
    monkeypatch.setattr(downloads, "_pause", pauses.append)
    soon = email.utils.formatdate(time.time() + 30, usegmt=True)
    server.replies[PATH] = [
        Reply(status=503, headers={"Retry-After": "7"}),
        Reply(status=503, headers={"Retry-After": "100000"}),
        Reply(status=503, headers={"Retry-After": soon}),
        Reply(status=503, headers={"Retry-After": "tomorrow"}),
        Reply(CONTENT),
    ]
    fetch(remote(), mirror=server.url, data_dir=tmp_path)
    assert pauses[:2] == [7, downloads.LONGEST_RETRY_AFTER_SECONDS]
    assert 25 < pauses[2] <= 30 and 8 * 0.7 <= pauses[3] <= 8 * 1.3
    pauses.clear()
    server.replies[PATH] = Reply(status=500)
    refusal(remote(), mirror=server.url, data_dir=tmp_path / "elsewhere")
    assert len(pauses) == downloads.ATTEMPTS - 1
    assert all(0.7 * 2**turn <= pause <= 1.3 * 2**turn for turn, pause in enumerate(pauses))
    assert len({pause / 2**turn for turn, pause in enumerate(pauses)}) > 1  # jitter


def test_no_server_at_all(server, tmp_path, monkeypatch):
    line = refusal(remote(), mirror="http://127.0.0.1:9", data_dir=tmp_path)
    assert f"http://127.0.0.1:9{PATH} (connection refused)" in line and "--mirror DIR_OR_URL" in line
    monkeypatch.setattr(downloads, "_pause", lambda seconds: pytest.fail("no use trying again"))
    line = refusal(remote(), mirror="https://", data_dir=tmp_path)
    assert "--mirror DIR_OR_URL" in line


# --- damage, or another release -----------------------------------------------------------------------------


def spoilt(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("etag", [etag_of(OTHER), multipart_etag(OTHER, 8 * MIB), multipart_etag(OTHER, 16 * MIB)])
@pytest.mark.parametrize("unverified", [False, True])
def test_bytes_that_disagree_with_the_servers_etag_are_fetched_again(server, tmp_path, etag, unverified):
    """OTHER isn't the registry's, so only the server's ETag tells the damaged copy from the whole one."""
    server.replies[PATH] = [Reply(spoilt(OTHER), etag=etag), Reply(OTHER, etag=etag)]
    if unverified:
        found = obtain(remote(), mirror=server.url, data_dir=tmp_path, unverified=True)
        assert found.path.read_bytes() == OTHER and not found.verified
    else:
        assert "--unverified" in refusal(remote(), mirror=server.url, data_dir=tmp_path)
    assert len(server.exchanges) == 2


@pytest.mark.parametrize("etag", ['"v1"', f'W/"{"0" * 32}"', f'"{"0" * 64}"', f'"{"0" * 32}-77"', ""])
def test_other_etags_say_nothing_about_the_bytes(server, tmp_path, etag):
    server.replies[PATH] = Reply(OTHER, etag=etag)
    assert obtain(remote(), mirror=server.url, data_dir=tmp_path, unverified=True).path.read_bytes() == OTHER
    assert len(server.exchanges) == 1


def test_the_registrys_checksum_outranks_the_servers(server, tmp_path):
    server.replies[PATH] = Reply(CONTENT, etag=etag_of(b"encrypted"))
    assert obtain(remote(), mirror=server.url, data_dir=tmp_path).verified


PACKED = gzip.compress(CONTENT)
BROKEN_GZIP = {
    "truncated": (PACKED[:-20], "its gzip stream ends early"),
    "no trailer": (PACKED[:-8], "its gzip stream ends early"),
    "wrong sum": (PACKED[:-8] + b"\0" * 4 + PACKED[-4:], "its gzip checksum is wrong"),
    "page": (b"<html>Sign in to this network</html>", "it is no gzip file"),
    "empty": (b"", "it is empty"),
}


@pytest.mark.parametrize("kind", BROKEN_GZIP)
@pytest.mark.parametrize("unverified", [False, True])
def test_a_broken_gzip_file_is_never_accepted(server, tmp_path, kind, unverified):
    body, reason = BROKEN_GZIP[kind]
    file = remote(PACKED, "profiles.csv.gz")
    server.replies[PATH + ".gz"] = [Reply(body), Reply(PACKED)]
    assert obtain(file, mirror=server.url, data_dir=tmp_path / "again", unverified=unverified).verified
    assert len(server.exchanges) == 2
    server.replies[PATH + ".gz"] = Reply(body)
    line = refusal(file, mirror=server.url, data_dir=tmp_path / "data", unverified=unverified)
    assert f"({reason}, at the source too)" in line and "--unverified" not in line
    assert len(server.exchanges) == 4, "the same bytes twice need no third look"
    assert files_below(tmp_path / "data") == []

    copy = tmp_path / "mirror" / file.mirror_path
    copy.parent.mkdir(parents=True)
    copy.write_bytes(body)
    line = refusal(file, mirror=tmp_path / "mirror", unverified=unverified)
    sizes = "" if len(body) == len(PACKED) else f"; {len(body)} bytes, expected {len(PACKED)}"
    assert f"is damaged ({reason}{sizes}); replace it" in line
    assert "--unverified" not in line and copy.read_bytes() == body


def test_a_broken_kept_file_is_not_accepted_unverified(server, tmp_path):
    file = remote(PACKED, "profiles.csv.gz")
    server.replies[PATH + ".gz"] = Reply(PACKED)
    kept = tmp_path / file.mirror_path
    kept.parent.mkdir(parents=True)
    kept.write_bytes(PACKED[:-20])
    assert obtain(file, mirror=server.url, data_dir=tmp_path, unverified=True).verified


def test_another_release_is_refused_kept_aside_and_accepted_on_demand(server, tmp_path):
    server.replies[PATH] = Reply(OTHER[:5000], etag='"v1"')
    line = refusal(remote(), mirror=server.url, data_dir=tmp_path)
    found, expected = hashlib.sha256(OTHER[:5000]).hexdigest(), remote().checksum
    assert f"SHA-256 is {found[:12]}, expected {expected[:12]}; 5000 bytes, expected {len(CONTENT)}" in line
    assert server.url in line and "--unverified" in line
    assert files_below(tmp_path) == ["profiles.csv.part", "profiles.csv.part.json"]
    assert planned_downloads([remote()], server.url, tmp_path)["state"].tolist() == ["to download"]
    accepted = obtain(remote(), mirror=server.url, data_dir=tmp_path, unverified=True)
    assert not accepted.verified and accepted.path.read_bytes() == OTHER[:5000] and accepted.sha256 == found
    assert len(server.exchanges) == 1 and files_below(tmp_path) == ["profiles.csv"]
    refusal(remote(), mirror=server.url, data_dir=tmp_path)  # what --unverified kept isn't trusted without it
    server.replies[PATH] = Reply(CONTENT)
    assert obtain(remote(), mirror=server.url, data_dir=tmp_path).verified
    assert files_below(tmp_path) == ["profiles.csv"]


def test_what_was_kept_aside_and_then_changed_is_not_accepted(server, tmp_path):
    server.replies[PATH] = Reply(OTHER)
    refusal(remote(), mirror=server.url, data_dir=tmp_path)
    (tmp_path / (remote().mirror_path + ".part")).write_bytes(spoilt(OTHER))
    assert obtain(remote(), mirror=server.url, data_dir=tmp_path, unverified=True).path.read_bytes() == OTHER
    assert len(server.exchanges) == 2


# --- where from and where to --------------------------------------------------------------------------------


def test_only_a_mirror_may_be_http(server, tmp_path):
    server.replies["/data/profiles.csv"] = Reply(CONTENT)
    plain = replace(remote(), address=server.url + "/data/profiles.csv")
    line = refusal(plain, data_dir=tmp_path)
    assert f"{plain.address} isn't https; only a mirror may be http" in line and server.exchanges == []


@pytest.mark.parametrize(
    ("address", "plain_http", "refused"),
    [
        ("https://example.org/x", False, False),
        ("HTTPS://example.org/x", False, False),
        ("https://example.org/x", True, False),
        ("http://example.org/x", True, False),
        ("http://example.org/x", False, True),
        ("ftp://example.org/x", True, True),
        ("file:///etc/passwd", True, True),
    ],
)
def test_encryption_is_required_of_every_address(address, plain_http, refused):
    if refused:
        with pytest.raises(downloads._RefusalError, match="isn't https"):
            downloads._require_encrypted(address, plain_http)
    else:
        downloads._require_encrypted(address, plain_http)


class Redirecting:
    """A session that answers every request by a redirect."""

    def __init__(self, location: str):
        self.location, self.asked = location, []

    def get(self, address, **options):
        import requests

        assert options["allow_redirects"] is False
        self.asked.append(address)
        response = requests.Response()
        response.status_code, response.raw = 302, io.BytesIO()
        response.headers["Location"] = self.location
        return response


def test_a_redirect_from_https_to_http_is_not_followed():
    source = downloads._Source(remote(), remote().address, plain_http=False)
    session = Redirecting("http://example.org/insecure")
    with pytest.raises(downloads._RefusalError, match=r"http://example\.org/insecure isn't https"):
        downloads._answer(session, source, {})
    assert session.asked == [remote().address]
    session = Redirecting("/round/and/round")
    with pytest.raises(downloads._RefusalError, match="more than 5 redirects"):
        downloads._answer(session, source, {})
    assert session.asked[1] == "https://example.org/round/and/round" and len(session.asked) == 6


def test_a_mirrors_redirect_is_followed_with_its_range(server, tmp_path):
    server.replies[PATH] = Reply(status=302, headers={"Location": "/moved"})
    server.replies["/moved"] = [Reply(CONTENT, etag='"v1"', cut_after=CHUNK), Reply(CONTENT, etag='"v1"')]
    assert fetch(remote(), mirror=server.url + "/", data_dir=tmp_path).read_bytes() == CONTENT
    assert server.exchanges[-1].path == "/moved" and server.ranges_asked()[-1] == f"bytes={CHUNK}-"


def test_a_mirror_folder_is_used_in_place(tmp_path):
    source = tmp_path / "mirror" / remote().mirror_path
    source.parent.mkdir(parents=True)
    source.write_bytes(CONTENT)
    assert fetch(remote(), mirror=str(tmp_path / "mirror"), data_dir=tmp_path / "cache") == source
    assert not (tmp_path / "cache").exists()
    source.write_bytes(OTHER)
    line = refusal(remote(), mirror=tmp_path / "mirror", data_dir=tmp_path / "cache")
    assert "SHA-256 is" in line and "replace that copy" in line and "--unverified" in line
    assert not obtain(remote(), mirror=tmp_path / "mirror", unverified=True).verified
    assert source.read_bytes() == OTHER


def test_wrong_mirrors_are_named(tmp_path):
    with pytest.raises(ScreenError, match=r"no such folder; it should hold example.org/data/profiles.csv"):
        fetch(remote(), mirror=tmp_path / "nowhere")
    with pytest.raises(ScreenError, match=r"profiles.csv: not in the mirror .*expected at example.org/data"):
        fetch(remote(), mirror=tmp_path)
    with pytest.raises(ScreenError, match=r"mirror 'ftp://x': a mirror is a folder or starts with https://"):
        fetch(remote(), mirror="ftp://x")


@pytest.mark.parametrize(
    "address",
    ["https://example.org/../x", "https://example.org/a/%2e%2e/%2e%2e/x", "https://example.org/a/..%5cx",
     "https:///etc/passwd", "https://../x", "https://example.org//etc/x", "https://example.org/a/./x",
     "https://example.org/", "https://example.org/a%00b"],
)  # fmt: skip
def test_no_address_leads_out_of_the_folder(tmp_path, address):
    with pytest.raises(ScreenError, match="is no address of a file"):
        fetch(replace(remote(), address=address), mirror=tmp_path)


def test_the_name_is_the_path_below_the_commit():
    commit = "0123456789abcdef0123456789abcdef01234567"
    file = replace(remote(), address=f"https://raw.example.org:8443/a/b/{commit}/raw%20data/x.csv")
    assert file.name == "raw data/x.csv"
    assert file.mirror_path == f"raw.example.org_8443/a/b/{commit}/raw data/x.csv"


def test_a_data_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    line = refusal(remote(), mirror=server.url, data_dir=tmp_path / "file")
    assert "can't be written below" in line and "choose another folder with --data-dir" in line


class FullDisk(io.BytesIO):
    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    def write(self, data):
        if self.path.stat().st_size + len(data) > 3 * CHUNK:
            raise OSError(errno.ENOSPC, "No space left on device")
        with open(self.path, "r+b") as handle:
            handle.seek(0, io.SEEK_END)
            return handle.write(data)


def test_a_full_disk_is_told_and_the_part_kept(server, tmp_path, monkeypatch):
    server.replies[PATH] = Reply(CONTENT, etag='"v1"')
    with monkeypatch.context() as patch:
        patch.setattr(
            downloads, "open", lambda path, mode: FullDisk(path) if mode == "ab" else open(path, mode), raising=False
        )
        line = refusal(remote(), mirror=server.url, data_dir=tmp_path)
    assert f"no space left below {tmp_path}; 3.1 kB of it are kept: make room and run again" in line
    assert len(server.exchanges) == 1 and "profiles.csv.part" in files_below(tmp_path)
    assert fetch(remote(), mirror=server.url, data_dir=tmp_path).read_bytes() == CONTENT
    assert server.ranges_asked()[-1] == f"bytes={3 * CHUNK}-"


def test_the_default_folder_is_the_users_cache():
    import pooch

    assert downloads.data_folder() == Path(pooch.os_cache("cpx"))
    assert downloads.data_folder("~/x") == Path("~/x").expanduser()


# --- side by side -------------------------------------------------------------------------------------------


def _fetch_elsewhere(mirror: str, data_dir: str, said) -> None:
    said.put("ready")
    said.put(obtain(remote(), mirror=mirror, data_dir=data_dir).sha256)


def test_threads_and_processes_download_a_file_once_together(server, tmp_path):
    server.replies[PATH] = Reply(CONTENT)
    context = multiprocessing.get_context("spawn")
    said = context.Queue()
    arguments = (server.url, str(tmp_path), said)
    workers = [context.Process(target=_fetch_elsewhere, args=arguments) for _ in range(2)]
    workers += [threading.Thread(target=_fetch_elsewhere, args=arguments) for _ in range(3)]
    with downloads._sole_download(remote(), tmp_path / remote().mirror_path):  # until all of them wait
        for worker in workers:
            worker.start()
        assert [said.get(timeout=60) for _ in workers] == ["ready"] * 5
        time.sleep(0.2)
        assert server.exchanges == []
    assert [said.get(timeout=60) for _ in workers] == [remote().checksum] * 5
    for worker in workers:
        worker.join(timeout=60)
    assert len(server.exchanges) == 1 and files_below(tmp_path) == ["profiles.csv"]


def test_waiting_for_another_process_is_shown(server, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(downloads, "BAR_DELAY_SECONDS", 0)
    server.replies[PATH] = Reply(CONTENT)
    final = tmp_path / remote().mirror_path
    with downloads._sole_download(remote(), final):
        worker = threading.Thread(target=fetch, args=(remote(),), kwargs={"mirror": server.url, "data_dir": tmp_path})
        worker.start()
        time.sleep(0.3)
        assert server.exchanges == [] and not final.exists()
    worker.join(timeout=10)
    assert final.read_bytes() == CONTENT
    assert "profiles.csv: another process downloads it" in capfd.readouterr().err


# --- plans --------------------------------------------------------------------------------------------------


def test_a_plan_tells_what_is_there_without_a_network(server, tmp_path, monkeypatch):
    part = half_done(server, tmp_path, monkeypatch)
    whole, absent, unknown = (remote(CONTENT, name) for name in ("whole.csv", "absent.csv", "unknown.csv"))
    (part.parent / "whole.csv").write_bytes(OTHER)  # sizes decide here, not checksums
    (part.parent / "absent.csv").write_bytes(CONTENT[:-1])
    files = [remote(), whole, absent, replace(unknown, bytes=0)]
    monkeypatch.setattr(downloads, "sha256_file", lambda path: pytest.fail("a plan hashes nothing"))
    plan = planned_downloads(files, server.url, tmp_path)
    assert list(plan.columns) == ["role", "file", "bytes", "source", "state", "to_come"]
    assert plan["state"].tolist() == [
        f"partly at hand ({4 * CHUNK} bytes)", "at hand", "to download", "to download",
    ]  # fmt: skip
    assert plan["to_come"].tolist() == [len(CONTENT) - 4 * CHUNK, 0, len(CONTENT), 0]
    assert plan["source"][0] == server.url + PATH and plan["source"][1] == str(part.parent / "whole.csv")
    assert server.exchanges == []
    lines = downloads.describe_plan(plan, server.url, tmp_path)
    assert lines[1] == "  whole.csv: at hand, 8.3 kB"
    assert lines[2].startswith("  absent.csv: to download, 8.3 kB (http://127.0.0.1")
    assert lines[3].startswith("  unknown.csv: to download, size not known (http")
    assert lines[4:] == [
        f"downloads: 3 files, 12.5 kB of 24.9 kB and 1 file of unknown size still to come, into {tmp_path}"
    ]
    # a part of the original is no part of the mirror's
    assert planned_downloads([remote()], data_dir=tmp_path)["state"].tolist() == ["to download"]
    done = downloads.describe_plan(plan.iloc[1:2], server.url, tmp_path)
    assert done[-1] == f"downloads: none; 1 file at hand in {tmp_path}"


def test_a_plan_with_a_mirror_folder(tmp_path):
    files = [remote(CONTENT, name) for name in ("whole.csv", "absent.csv", "cut.csv")]
    (tmp_path / files[0].mirror_path).parent.mkdir(parents=True)
    (tmp_path / files[0].mirror_path).write_bytes(CONTENT)
    (tmp_path / files[2].mirror_path).write_bytes(CONTENT[:99])
    plan = planned_downloads(files, tmp_path)
    assert plan["state"].tolist() == [
        "in the mirror", "missing from the mirror", "in the mirror, but of another size (99 bytes)",
    ]  # fmt: skip
    assert plan["to_come"].tolist() == [0, 0, 0]
    lines = downloads.describe_plan(plan, tmp_path)
    assert lines[-1] == f"downloads: none; 3 files read from the mirror {tmp_path}; 1 of them missing there"
    assert downloads.describe_plan(planned_downloads([])) == []


@pytest.mark.parametrize(("count", "words"), [(0, "0.0 kB"), (20_217, "20.2 kB"), (412_300_000, "412.3 MB")])
def test_sizes_for_people(count, words):
    assert downloads.size_words(count) == words
