"""Downloads: checksums, going on after a break, other releases, mirrors, one line for what fails."""

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
    found = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return RemoteFile("cp", f"https://example.org/data/{name}", found, len(content), "CC0", "Someone 2020")


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
        assert checksum(path, like := "s3:" + etag.strip('"')) == like
    assert multipart_etag(content, 8 * MIB).endswith(f'-{max(1, -(-size // (8 * MIB)))}"')


@pytest.mark.skipif(shutil.which("git") is None, reason="git isn't installed, which gives the expected ids")
@pytest.mark.parametrize("content", [b"", b"a", CONTENT, b"line\r\n"])
def test_git_blob_ids_are_gits_own(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    command = ["git", "hash-object", "--no-filters", str(path)]
    expected = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert checksum(path, "git:") == f"git:{expected}"


# --- a download, and its breaks -----------------------------------------------------------------------------


def test_a_good_file_is_downloaded_once_and_a_damaged_kept_one_again(server, tmp_path):
    server.replies[PATH] = Reply(
        CONTENT, headers={"Content-Encoding": "gzip"}
    )  # as some servers call a file that is one
    path = obtain(remote(), mirror=server.url, data_dir=tmp_path)[0]
    assert path.read_bytes() == CONTENT and path == tmp_path / remote().mirror_path
    assert obtain(remote(), mirror=server.url, data_dir=tmp_path)[0] == path
    assert len(server.exchanges) == 1 and server.exchanges[0]["headers"]["Accept-Encoding"] == "identity"
    path.write_bytes(CONTENT[:100])
    assert obtain(remote(), mirror=server.url, data_dir=tmp_path)[0].read_bytes() == CONTENT
    assert len(server.exchanges) == 2 and files_below(tmp_path) == ["profiles.csv"]


def test_a_broken_download_goes_on_where_it_broke(server, tmp_path):
    server.replies[PATH] = [Reply(CONTENT, cut_after=cut * CHUNK) for cut in (3, 2, 9)]
    assert obtain(remote(), mirror=server.url, data_dir=tmp_path)[0].read_bytes() == CONTENT
    assert server.ranges_asked() == ["", f"bytes={3 * CHUNK}-", f"bytes={5 * CHUNK}-"]
    assert sum(exchange["sent"] for exchange in server.exchanges) == len(CONTENT)  # nothing was sent twice
    assert files_below(tmp_path) == ["profiles.csv"]


@pytest.mark.parametrize(
    ("reply", "statuses"),
    [
        (Reply(CONTENT), [206]),  # a later call goes on
        (Reply(OTHER), [206, 200]),  # changed: the pieces don't fit together
        (Reply(CONTENT, ranges=False), [200]),
        (Reply(CONTENT[: 2 * CHUNK]), [416, 200]),
    ],
    ids=["the same", "changed", "no ranges", "shorter now"],
)
def test_a_later_call_goes_on_where_it_can_and_else_starts_anew(server, tmp_path, monkeypatch, reply, statuses):
    server.replies[PATH] = Reply(CONTENT, cut_after=4 * CHUNK)
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "RETRIES", 0)
        refusal(remote(), mirror=server.url, data_dir=tmp_path)
    assert files_below(tmp_path) == ["profiles.csv.part"]
    server.exchanges.clear()
    server.replies[PATH] = reply
    path, verified = obtain(remote(reply.body), mirror=server.url, data_dir=tmp_path, unverified=True)
    assert path.read_bytes() == reply.body and verified
    assert [exchange["status"] for exchange in server.exchanges] == statuses


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(CONTENT, cut_after=0), "IncompleteRead"),
        (Reply(CONTENT, pause=0.3), "timed out"),
        (Reply(status=503), "503 Server Error: Service Unavailable"),
        (Reply(status=404), "404 Client Error: Not Found"),
    ],
)
def test_what_does_not_pass_is_given_up_in_one_line(server, tmp_path, monkeypatch, reply, reason):
    monkeypatch.setattr(datasets, "TIMEOUT", (1, 0.1))
    server.replies[PATH] = reply
    line = refusal(remote(), mirror=server.url, data_dir=tmp_path)
    assert f"can't be downloaded from {server.url}{PATH} (" in line and "check the network" in line and reason in line
    assert f"--mirror DIR_OR_URL (laid out as {remote().mirror_path})" in line
    assert len(server.exchanges) == 1 + datasets.RETRIES and "profiles.csv" not in files_below(tmp_path)


# --- another release ----------------------------------------------------------------------------------------


def test_another_release_is_refused_and_accepted_on_demand(server, tmp_path):
    server.replies[PATH] = Reply(OTHER[:5000])
    line = refusal(remote(), mirror=server.url, data_dir=tmp_path)
    assert f"its checksum isn't {remote().checksum[:20]}... (from {server.url}{PATH})" in line
    assert "which --unverified accepts" in line and files_below(tmp_path) == []
    accepted = obtain(remote(), mirror=server.url, data_dir=tmp_path, unverified=True)
    assert not accepted[1] and accepted[0].read_bytes() == OTHER[:5000]
    refusal(remote(), mirror=server.url, data_dir=tmp_path)  # what --unverified kept isn't trusted without it
    server.replies[PATH] = Reply(CONTENT)
    assert obtain(remote(), mirror=server.url, data_dir=tmp_path)[1]


# --- where from and where to --------------------------------------------------------------------------------


def test_no_redirect_leads_from_https_to_http(server, tmp_path, monkeypatch):
    import requests

    def answer(adapter, request, **options):
        response = requests.Response()
        response.status_code, response.request, response.url = 302, request, request.url
        response.headers["Location"] = f"{server.url}/data/profiles.csv"
        response.raw = types.SimpleNamespace(headers={})
        return requests.hooks.dispatch_hook("response", request.hooks, response)

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", answer)
    assert "it leads to an address that isn't https" in refusal(remote(), data_dir=tmp_path)
    assert server.exchanges == []


def test_a_mirror_folder_is_used_in_place(tmp_path):
    source = tmp_path / "mirror" / remote().mirror_path
    assert "not in the mirror" in refusal(remote(), mirror=str(tmp_path / "mirror"))
    source.parent.mkdir(parents=True)
    source.write_bytes(CONTENT)
    assert obtain(remote(), mirror=str(tmp_path / "mirror"), data_dir=tmp_path / "cache")[0] == source
    assert not (tmp_path / "cache").exists()
    source.write_bytes(OTHER)
    assert "which --unverified accepts" in refusal(remote(), mirror=str(tmp_path / "mirror"))
    assert not obtain(remote(), mirror=str(tmp_path / "mirror"), unverified=True)[1]
    assert source.read_bytes() == OTHER


def test_a_data_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    line = refusal(remote(), mirror=server.url, data_dir=tmp_path / "file")
    assert "can't be written to" in line and "choose another folder with --data-dir" in line


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
        f"  absent.csv: to download, 0.5 MB ({server.url}/example.org/data/absent.csv)",
    ]
    assert server.exchanges == [] and datasets.download_lines("simulated") == []
