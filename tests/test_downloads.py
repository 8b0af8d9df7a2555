"""Downloads: checksums, going on after a break, damage told from another release, mirrors, one line for what fails."""

import gzip
import hashlib
import shutil
import subprocess
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from http_server import Reply, multipart_etag, serving

from cpx_utils import datasets
from cpx_utils.datasets import RemoteFile, checksum, obtain
from cpx_utils.profiles import ScreenError

CHUNK = 1 << 16
CONTENT, OTHER = (np.random.default_rng(seed).bytes(8 * CHUNK + 100) for seed in (0, 1))
PATH = "/example.org/data/profiles.csv"
MIB = 1 << 20


def etag_of(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


@pytest.fixture
def server(monkeypatch):
    """The server; downloads read from it as from a mirror, without pauses."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("cpx_utils.datasets.time", types.SimpleNamespace(sleep=lambda seconds: None))
    with serving() as local:
        yield local


def remote(content: bytes = CONTENT, name: str = "profiles.csv") -> RemoteFile:
    found = hashlib.sha256(content).hexdigest()
    address = f"https://example.org/data/{name}"
    return RemoteFile("cp", address, found, "SHA-256", len(content), "CC0", "Someone 2020")


def files_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


def refusal(file: RemoteFile, **options) -> str:
    """The line that `obtain` refuses with."""
    with pytest.raises(ScreenError) as caught:
        obtain(file, **options)
    line = str(caught.value)
    assert "\n" not in line and line.startswith(f"{file.name}: ")
    return line


# --- checksums ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 8 * MIB, 8 * MIB + 1])
def test_s3_etags_equal_an_independent_computation(tmp_path, size):
    content = np.random.default_rng(size).bytes(size)
    path = tmp_path / "file"
    path.write_bytes(content)
    for etag in (etag_of(content), multipart_etag(content, 8 * MIB)):
        assert checksum(path, "S3 ETag", etag.strip('"')) == etag.strip('"')
    assert multipart_etag(content, 8 * MIB).endswith(f'-{max(1, -(-size // (8 * MIB)))}"')


@pytest.mark.skipif(shutil.which("git") is None, reason="git isn't installed, which gives the expected ids")
@pytest.mark.parametrize("content", [b"", b"a", CONTENT, b"line\r\n"])
def test_git_blob_ids_are_gits_own(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    command = ["git", "hash-object", "--no-filters", str(path)]
    expected = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert checksum(path, "git blob id") == expected


# --- a download, and its breaks -----------------------------------------------------------------------------


def test_a_good_file_is_downloaded_once_and_a_damaged_kept_one_again(server, tmp_path, capfd):
    server.replies[PATH] = Reply(CONTENT)
    path = obtain(remote(), mirror=server.url, data_dir=tmp_path)[0]
    assert path.read_bytes() == CONTENT and path == tmp_path / remote().mirror_path
    assert obtain(remote(), mirror=server.url, data_dir=tmp_path)[0] == path
    assert len(server.exchanges) == 1 and server.exchanges[0]["headers"]["Accept-Encoding"] == "identity"
    captured = capfd.readouterr()
    assert captured.out == "" and "profiles.csv" in captured.err  # the progress bar
    path.write_bytes(CONTENT[:100])
    assert obtain(remote(), mirror=server.url, data_dir=tmp_path)[0].read_bytes() == CONTENT
    assert len(server.exchanges) == 2 and files_below(tmp_path) == ["profiles.csv"]


def test_a_broken_download_goes_on_where_it_broke(server, tmp_path):
    server.replies[PATH] = [Reply(CONTENT, cut_after=cut * CHUNK, etag='"v1"') for cut in (3, 2, 9)]
    assert obtain(remote(), mirror=server.url, data_dir=tmp_path)[0].read_bytes() == CONTENT
    assert server.ranges_asked() == ["", f"bytes={3 * CHUNK}-", f"bytes={5 * CHUNK}-"]
    assert sum(exchange["sent"] for exchange in server.exchanges) == len(CONTENT)  # nothing was sent twice
    assert server.exchanges[1]["headers"]["If-Range"] == '"v1"' and files_below(tmp_path) == ["profiles.csv"]


def half_done(server, tmp_path, monkeypatch) -> Path:
    """The .part that a broken call leaves: four chunks of version 1."""
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "RETRIES", 0)
        server.replies[PATH] = Reply(CONTENT, etag='"v1"', cut_after=4 * CHUNK)
        line = refusal(remote(), mirror=server.url, data_dir=tmp_path)
    assert "(the connection broke off); 262.1 kB of it are kept to go on from" in line
    server.exchanges.clear()
    return tmp_path / (remote().mirror_path + ".part")


@pytest.mark.parametrize(
    ("reply", "statuses"),
    [
        (Reply(CONTENT, etag='"v1"'), [206]),  # a later call goes on
        (Reply(OTHER, etag='"v2"'), [200]),  # changed: If-Range makes the server send it whole
        (Reply(CONTENT, etag='W/"v1"'), [200]),  # a weak one says nothing about the bytes
        (Reply(CONTENT, etag='"v1"', ranges=False), [200]),
        (Reply(CONTENT[: 2 * CHUNK], etag='"v1"'), [416, 200]),
    ],
    ids=["the same", "changed", "weak", "no ranges", "shorter now"],
)
def test_a_later_call_goes_on_where_it_can_and_else_starts_anew(server, tmp_path, monkeypatch, reply, statuses):
    half_done(server, tmp_path, monkeypatch)
    server.replies[PATH] = reply
    assert obtain(remote(reply.body), mirror=server.url, data_dir=tmp_path)[0].read_bytes() == reply.body
    assert [exchange["status"] for exchange in server.exchanges] == statuses


def test_a_part_that_rotted_is_not_blamed_on_the_release(server, tmp_path, monkeypatch):
    part = half_done(server, tmp_path, monkeypatch)
    part.write_bytes(b"x" + part.read_bytes()[1:])
    server.replies[PATH] = Reply(CONTENT, etag='"v1"')
    assert obtain(remote(), mirror=server.url, data_dir=tmp_path, unverified=True)[1]
    assert server.ranges_asked() == [f"bytes={4 * CHUNK}-", ""]


@pytest.mark.parametrize(
    ("reply", "reason", "attempts"),
    [
        (Reply(CONTENT, cut_after=0), "the connection broke off", 3),
        (Reply(CONTENT, pause=0.3), "no answer in time", 3),
        (Reply(status=503), "the server answers 503 Service Unavailable", 3),
        (Reply(status=404), "the server answers 404 Not Found", 1),
        (Reply(status=204), "the server answers 204 No Content", 1),
    ],
)
def test_what_does_not_pass_is_given_up_in_one_line(server, tmp_path, monkeypatch, reply, reason, attempts):
    monkeypatch.setattr(datasets, "TIMEOUT", (1, 0.1))
    monkeypatch.setattr(datasets, "RETRIES", 2)
    server.replies[PATH] = reply
    line = refusal(remote(), mirror=server.url, data_dir=tmp_path)
    assert f"can't be downloaded from {server.url}{PATH} ({reason})" in line and "check the network" in line
    assert f"--mirror DIR_OR_URL (laid out as {remote().mirror_path})" in line
    assert len(server.exchanges) == attempts and "profiles.csv" not in files_below(tmp_path)


@pytest.mark.parametrize("mirror", ["http://127.0.0.1:9", "https://no-such-host.invalid"])
def test_no_network_is_told_at_once(server, tmp_path, monkeypatch, mirror):
    monkeypatch.setattr(datasets.time, "sleep", lambda seconds: pytest.fail("no use trying again"))
    line = refusal(remote(), mirror=mirror, data_dir=tmp_path)
    assert f"can't be downloaded from {mirror}{PATH} (" in line and "--mirror DIR_OR_URL" in line


# --- damage, or another release -----------------------------------------------------------------------------


PACKED = gzip.compress(CONTENT)
BROKEN_GZIP = {
    "truncated": PACKED[:-20],
    "wrong sum": PACKED[:-8] + b"\0" * 4 + PACKED[-4:],
    "page": b"<html>Sign in to this network</html>",
    "empty": b"",
}


@pytest.mark.parametrize("kind", BROKEN_GZIP)
def test_a_broken_gzip_file_is_never_accepted(server, tmp_path, kind):
    file = remote(PACKED, "profiles.csv.gz")
    whole = Reply(PACKED, headers={"Content-Encoding": "gzip"})  # as some servers call a file that is one
    server.replies[PATH + ".gz"] = [Reply(BROKEN_GZIP[kind]), whole]
    assert obtain(file, mirror=server.url, data_dir=tmp_path / "again", unverified=True)[1]
    server.replies[PATH + ".gz"] = Reply(BROKEN_GZIP[kind])
    line = refusal(file, mirror=server.url, data_dir=tmp_path / "data", unverified=True)
    assert "can't be downloaded" in line and "--unverified" not in line and files_below(tmp_path / "data") == []
    copy = tmp_path / "mirror" / file.mirror_path
    copy.parent.mkdir(parents=True)
    copy.write_bytes(BROKEN_GZIP[kind])
    assert "is damaged (" in refusal(file, mirror=tmp_path / "mirror", unverified=True) and copy.exists()


def test_another_release_is_refused_and_accepted_on_demand(server, tmp_path):
    server.replies[PATH] = Reply(OTHER[:5000], etag='"v1"')
    line = refusal(remote(), mirror=server.url, data_dir=tmp_path)
    assert f"its SHA-256 isn't {remote().checksum[:12]}... (from {server.url}{PATH})" in line
    assert "accept it with --unverified" in line and files_below(tmp_path) == []
    accepted = obtain(remote(), mirror=server.url, data_dir=tmp_path, unverified=True)
    assert not accepted[1] and accepted[0].read_bytes() == OTHER[:5000]
    refusal(remote(), mirror=server.url, data_dir=tmp_path)  # what --unverified kept isn't trusted without it
    server.replies[PATH] = Reply(CONTENT)
    assert obtain(remote(), mirror=server.url, data_dir=tmp_path)[1]


# --- where from and where to --------------------------------------------------------------------------------


def test_only_a_mirror_may_be_http_and_no_redirect_leads_there(server, tmp_path, monkeypatch):
    import requests

    def answer(adapter, request, **options):
        response = requests.Response()
        response.status_code, response.request, response.url = 302, request, request.url
        response.headers["Location"], response.raw = f"{server.url}/data/profiles.csv", types.SimpleNamespace()
        response._content, response.raw._original_response = b"", None
        return response

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", answer)
    for file in (remote(), replace(remote(), address=f"{server.url}/data/profiles.csv")):
        assert "an address that isn't https; only a mirror may be http" in refusal(file, data_dir=tmp_path)
    assert server.exchanges == []


def test_a_mirror_folder_is_used_in_place(tmp_path):
    source = tmp_path / "mirror" / remote().mirror_path
    assert "not in the mirror" in refusal(remote(), mirror=tmp_path / "mirror")
    source.parent.mkdir(parents=True)
    source.write_bytes(CONTENT)
    assert obtain(remote(), mirror=str(tmp_path / "mirror"), data_dir=tmp_path / "cache")[0] == source
    assert not (tmp_path / "cache").exists()
    source.write_bytes(OTHER)
    assert "accept it with --unverified" in refusal(remote(), mirror=tmp_path / "mirror")
    assert not obtain(remote(), mirror=tmp_path / "mirror", unverified=True)[1]
    assert source.read_bytes() == OTHER
    assert "(an address that isn't https" in refusal(remote(), mirror="ftp://x", data_dir=tmp_path / "cache")


def test_a_data_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    line = refusal(remote(), mirror=server.url, data_dir=tmp_path / "file")
    assert "can't be written below" in line and "choose another folder with --data-dir" in line


def test_callers_side_by_side_download_a_file_once_together(server, tmp_path):
    """Threads here; the lock is one of the file system, which processes share, too."""
    server.replies[PATH] = Reply(CONTENT, pause=0.3)
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(obtain, remote(), mirror=server.url, data_dir=tmp_path) for _ in range(3)]
    assert all(call.result()[1] for call in calls)
    assert len(server.exchanges) == 1 and files_below(tmp_path) == ["profiles.csv"]


def test_a_plan_tells_what_is_there_without_a_network(server, tmp_path, monkeypatch):
    files = tuple(remote(CONTENT, name) for name in ("whole.csv", "absent.csv"))
    monkeypatch.setitem(datasets.DATASETS, "test", replace(datasets.DATASETS["cmea-u2os"], files=files))
    whole = tmp_path / files[0].mirror_path
    whole.parent.mkdir(parents=True)
    whole.write_bytes(CONTENT)
    assert datasets.download_lines("test", server.url, tmp_path) == [
        f"  whole.csv: at hand ({whole})",
        f"  absent.csv: to download, 524.4 kB ({server.url}/example.org/data/absent.csv)",
        f"downloads: 1 of 2 files, 524.4 kB, into {tmp_path}",
    ]
    assert server.exchanges == [] and datasets.download_lines("simulated") == []
    assert datasets.download_lines("test", tmp_path / "mirror")[-1] == "downloads: none"
