"""The readers stand spoilt files: a short run of benchmarks/fuzz.py, and that it would notice if they did not."""

import gzip
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from cpx_utils.profiles import LONGEST_LINE, ScreenError

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "fuzz.py"
INPUTS = 12


@pytest.fixture(scope="module")
def fuzz(load_benchmark):
    return load_benchmark("fuzz")


def test_spoilt_files_are_read_or_refused_in_one_line(fuzz):
    done = subprocess.run(
        [sys.executable, SCRIPT, "--inputs", str(INPUTS)], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [dict(part.split(": ") for part in line.split(", ")) for line in done.stdout.splitlines()]
    assert [row["reader"] for row in rows] == list(fuzz.READERS)
    for row in rows:
        assert int(row["inputs"]) == INPUTS == int(row["refused in one line"]) + int(row["read"])
        assert float(row["more memory MB"]) < 500
    assert sum(int(row["refused in one line"]) for row in rows) > 2 * len(rows), "the files were not spoilt"


def test_the_same_seed_spoils_alike_and_always_differently(fuzz):
    sound = b"Metadata_Compound,Cells_A\n" + b"drug,1.5\n" * 20
    spoilt = [fuzz.spoil(sound, np.random.default_rng(seed)) for seed in range(200)]
    assert spoilt == [fuzz.spoil(sound, np.random.default_rng(seed)) for seed in range(200)]
    assert len(set(spoilt)) > 150 and sum(one == sound for one in spoilt) < 20
    inside = [fuzz.spoil_within(gzip.compress(sound), np.random.default_rng(seed)) for seed in range(50)]
    whole = [one for one in inside if one[:2] == b"\x1f\x8b"]
    assert len(whole) > 20


def reader_that(fuzz, read):
    return fuzz.Reader(lambda folder: folder / "x", read)


def test_what_is_not_told_in_one_line_is_noticed(fuzz, tmp_path):
    def refuse(path):
        raise ScreenError("one line\nand another")

    def stumble(path):
        raise KeyError("x")

    def warn(path):
        warnings.warn("noise", RuntimeWarning, stacklevel=1)
        return []

    def outcome(read):
        return fuzz.outcome_of(reader_that(fuzz, read), tmp_path)

    assert outcome(lambda path: []) == ("read", "")
    assert outcome(refuse) == ("refused", "one line and another")
    assert outcome(stumble) == ("traceback", "KeyError: 'x'")
    assert outcome(warn) == ("warned", "RuntimeWarning: noise")
    assert outcome(lambda path: ["one\ntwo"])[0] == outcome(lambda path: ["x" * (LONGEST_LINE + 1)])[0] == "traceback"
    events = [{"number": n, "outcome": one, "seconds": 1.0, "peak_mb": 2.0}
              for n, one in enumerate(["read", "refused", "traceback", "warned", "crash"])]  # fmt: skip
    row = fuzz.summary("csv", [*events, events[1] | {"seconds": 99.0}])
    assert (row["inputs"], row["read"], row["refused in one line"], row["slowest s"]) == (6, 1, 2, 99.0)
    assert (row["tracebacks"], row["warnings"], row["crashes"], row["over 20 s"]) == (1, 1, 1, 1)


def test_a_process_that_dies_is_counted_and_another_goes_on(fuzz, monkeypatch, tmp_path):
    """The fourth input kills the process that reads it."""
    script = tmp_path / "dying.py"
    script.write_text(
        f"import importlib.util, os, sys\n"
        f"made = importlib.util.spec_from_file_location('fuzz', {str(SCRIPT)!r})\n"
        "fuzz = importlib.util.module_from_spec(made); sys.modules['fuzz'] = fuzz\n"
        "made.loader.exec_module(fuzz)\n"
        "count = {'n': -1}\n"
        "def read(path):\n"
        "    count['n'] += 1\n"
        "    first = int(sys.argv[3])\n"
        "    if count['n'] and first + count['n'] - 1 == 3:\n"
        "        os._exit(9)\n"
        "    return []\n"
        "fuzz.READERS['csv'] = fuzz.Reader(fuzz.READERS['csv'].write, read)\n"
        "fuzz._child(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(fuzz, "__file__", str(script))
    outcomes = fuzz.fuzz("csv", 60, most=6)
    assert [one["number"] for one in outcomes] == list(range(6))
    assert [one["outcome"] for one in outcomes] == ["read", "read", "read", "crash", "read", "read"]
