"""Downloads: hashes, atomicity, mirrors, and one clear line for everything that can go wrong."""

import hashlib
import http.server
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from cpx_utils import downloads
from cpx_utils.downloads import RemoteFile, fetch
from cpx_utils.profiles import ScreenError

CONTENT = b"a few bytes of a profile table\n" * 100


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers from a dictionary of paths; a value may be bytes, a status, or 'cut' for a broken connection."""

    answers: ClassVar[dict] = {}
    requests: ClassVar[list] = []

    def do_GET(self):
        Handler.requests.append(self.path)
        answer = Handler.answers.get(self.path, 404)
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if isinstance(answer, int):
            self.send_error(answer)
            return
        self.send_response(200)
        cut = answer == "cut"
        body = CONTENT[:50] if cut else answer
        self.send_header("Content-Length", str(len(CONTENT) if cut else len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    Handler.answers, Handler.requests = {}, []
    monkeypatch.setattr(downloads.time, "sleep", lambda seconds: None)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    instance = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=instance.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{instance.server_address[1]}"
    instance.shutdown()
    instance.server_close()


def remote(server: str, path: str = "/data/profiles.csv") -> RemoteFile:
    return RemoteFile("cp", server + path, hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), "CC0", "Someone 2020")


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_good_file_is_downloaded_once_and_kept(server, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(downloads, "BAR_DELAY_SECONDS", 0)
    file = remote(server)
    Handler.answers["/data/profiles.csv"] = CONTENT
    path = fetch(file, data_dir=tmp_path)
    assert path.read_bytes() == CONTENT
    assert path == tmp_path / file.mirror_path
    assert fetch(file, data_dir=tmp_path) == path
    assert Handler.requests == ["/data/profiles.csv"]
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "profiles.csv" in captured.err  # the progress bar


def test_wrong_bytes_are_refused_and_nothing_is_kept(server, tmp_path):
    file = remote(server)
    Handler.answers["/data/profiles.csv"] = b"other bytes"
    with pytest.raises(ScreenError) as caught:
        fetch(file, data_dir=tmp_path)
    line = str(caught.value)
    found, expected = hashlib.sha256(b"other bytes").hexdigest(), file.checksum
    assert line.startswith(f"profiles.csv: SHA-256 is {found[:12]}, expected {expected[:12]}; 11 bytes, expected 3100")
    assert file.address in line and "--unverified" in line and "download it again" in line and "\n" not in line
    assert files_below(tmp_path) == []


def test_unverified_accepts_other_bytes_and_says_so(server, tmp_path):
    Handler.answers["/data/profiles.csv"] = b"a newer release"
    found = downloads.obtain(remote(server), data_dir=tmp_path, unverified=True)
    assert not found.verified and found.path.read_bytes() == b"a newer release"
    assert found.sha256 == hashlib.sha256(b"a newer release").hexdigest()
    with pytest.raises(ScreenError, match=r"SHA-256"):  # what --unverified kept is not trusted without it
        fetch(remote(server), data_dir=tmp_path)
    Handler.answers["/data/profiles.csv"] = CONTENT
    assert downloads.obtain(remote(server), data_dir=tmp_path).verified


def test_a_damaged_kept_file_is_downloaded_afresh(server, tmp_path):
    Handler.answers["/data/profiles.csv"] = CONTENT
    path = fetch(remote(server), data_dir=tmp_path)
    path.write_bytes(CONTENT[:100])
    assert fetch(remote(server), data_dir=tmp_path).read_bytes() == CONTENT
    assert len(Handler.requests) == 2
    assert len(files_below(tmp_path)) == 1


def test_a_broken_connection_is_tried_again(server, tmp_path):
    Handler.answers["/data/profiles.csv"] = ["cut", 503, CONTENT]
    assert fetch(remote(server), data_dir=tmp_path).read_bytes() == CONTENT
    assert len(Handler.requests) == 3


def test_a_connection_that_stays_broken_leaves_nothing(server, tmp_path):
    Handler.answers["/data/profiles.csv"] = "cut"
    with pytest.raises(ScreenError, match=r"profiles.csv: can't be downloaded .*\(the connection broke off\)"):
        fetch(remote(server), data_dir=tmp_path)
    assert len(Handler.requests) == downloads.ATTEMPTS
    assert files_below(tmp_path) == []


def test_a_missing_file_is_asked_for_once_and_the_mirror_named(server, tmp_path, capfd):
    file = remote(server)
    with pytest.raises(ScreenError) as caught:
        fetch(file, data_dir=tmp_path)
    line = str(caught.value)
    assert file.address in line and "404" in line and "--mirror DIR_OR_URL" in line and file.mirror_path in line
    assert len(Handler.requests) == 1
    assert capfd.readouterr() == ("", "")


def test_no_server_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads.time, "sleep", lambda seconds: None)
    file = remote("http://127.0.0.1:9")
    with pytest.raises(ScreenError, match=r"http://127.0.0.1:9/data/profiles.csv \(connection refused\).*--mirror"):
        fetch(file, data_dir=tmp_path)


def test_a_mirror_address_replaces_https(server, tmp_path):
    file = replace(remote(server), address="https://example.org/v1/profiles.csv")
    Handler.answers["/copy/example.org/v1/profiles.csv"] = CONTENT
    path = fetch(file, mirror=server + "/copy/", data_dir=tmp_path)
    assert path == tmp_path / "example.org/v1/profiles.csv"
    assert Handler.requests == ["/copy/example.org/v1/profiles.csv"]


def test_a_mirror_folder_is_used_in_place(tmp_path):
    file = replace(remote(""), address="https://example.org/v1/profiles.csv")
    source = tmp_path / "mirror/example.org/v1/profiles.csv"
    source.parent.mkdir(parents=True)
    source.write_bytes(CONTENT)
    assert fetch(file, mirror=str(tmp_path / "mirror"), data_dir=tmp_path / "cache") == source
    assert not (tmp_path / "cache").exists()
    source.write_bytes(b"damaged")
    with pytest.raises(ScreenError, match=r"profiles.csv: SHA-256 is .*replace that copy"):
        fetch(file, mirror=tmp_path / "mirror", data_dir=tmp_path / "cache")
    assert not downloads.obtain(file, mirror=tmp_path / "mirror", unverified=True).verified
    assert source.read_bytes() == b"damaged"


def test_wrong_mirrors_are_named(tmp_path):
    file = replace(remote(""), address="https://example.org/v1/profiles.csv")
    with pytest.raises(ScreenError, match=r"no such folder; it should hold example.org/v1/profiles.csv"):
        fetch(file, mirror=tmp_path / "nowhere")
    with pytest.raises(ScreenError, match=r"profiles.csv: not in the mirror .*expected at example.org/v1"):
        fetch(file, mirror=tmp_path)
    with pytest.raises(ScreenError, match=r"mirror 'ftp://x': a mirror is a folder or starts with https://"):
        fetch(file, mirror="ftp://x")


def test_a_data_folder_that_cannot_be_written(server, tmp_path):
    Handler.answers["/data/profiles.csv"] = CONTENT
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ScreenError, match=r"can't be written below .*choose another folder with --data-dir"):
        fetch(remote(server), data_dir=tmp_path / "file")


def test_the_name_is_the_path_below_the_commit():
    commit = "0123456789abcdef0123456789abcdef01234567"
    file = replace(remote(""), address=f"https://raw.example.org/a/b/{commit}/raw%20data/x.csv")
    assert file.name == "raw data/x.csv"
    assert file.mirror_path == f"raw.example.org/a/b/{commit}/raw data/x.csv"


def test_git_blob_id_is_gits_own(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    expected = subprocess.run(
        ["git", "hash-object", "--no-filters", str(path)], capture_output=True, text=True, check=True
    )
    assert downloads.git_blob_id(path) == expected.stdout.strip()


def test_another_kind_of_checksum(server, tmp_path):
    Handler.answers["/data/profiles.csv"] = CONTENT
    (tmp_path / "copy").write_bytes(CONTENT)
    blob = downloads.git_blob_id(tmp_path / "copy")
    file = replace(remote(server), checksum=blob, checksum_kind="git blob id")
    found = downloads.obtain(file, data_dir=tmp_path / "data")
    assert found.verified and found.sha256 == hashlib.sha256(CONTENT).hexdigest()
    Handler.answers["/data/profiles.csv"] = b"other"
    with pytest.raises(ScreenError, match=f"git blob id is [0-9a-f]{{12}}, expected {blob[:12]}"):
        fetch(file, data_dir=tmp_path / "elsewhere")


def test_the_default_folder_is_the_users_cache():
    import pooch

    assert downloads.data_folder() == Path(pooch.os_cache("cpx"))
    assert downloads.data_folder("~/x") == Path("~/x").expanduser()
