"""Users' mistakes through the command line: one line that says what, where and what would be right; nothing is left.

A mistake in the call is status 2. A mistake in a user's tables is status 2 of `--check` and status 1 of a run, which
meets it in notebook 01.
"""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cpx_utils.datasets import DATASETS
from cpx_utils.pipeline import main

MIRROR = os.environ.get("CPX_MIRROR", "")
needs_mirror = pytest.mark.skipif(
    not Path(MIRROR).is_dir() or not MIRROR, reason="CPX_MIRROR isn't set to a folder with the real screen's files"
)


@pytest.fixture
def call(tmp_path, capsys):
    """Run the command line with its folders below tmp_path; return exit status and the one line on stderr."""

    def run(*arguments):
        folders = ["--results", str(tmp_path / "results"), "--figures", str(tmp_path / "figures"), "--jobs", "1"]
        capsys.readouterr()
        status = main([*folders, *map(str, arguments)])
        printed = capsys.readouterr()
        assert printed.err.startswith("run_all: ") and printed.err.endswith("\n") and printed.err.count("\n") == 1
        assert "Traceback" not in printed.err + printed.out
        return status, printed.err

    run.results, run.figures = tmp_path / "results", tmp_path / "figures"
    return run


def left_behind(call) -> list[str]:
    """Return what a failed run left that a reader could take for a result."""
    files = [path for folder in (call.results, call.figures) for path in folder.rglob("*") if path.is_file()]
    allowed = re.compile(r"\.lock|\.hashes\.json|manifest\.json|timings\.csv|\d\d_\w+\.ipynb")
    return [path.name for path in files if not allowed.fullmatch(path.name)]


# --- the call -----------------------------------------------------------------------------------------------

CALLS = {
    "a parameter's name misspelt": (
        ["-p", "temprature=0.2"],
        ["'temprature'", "did you mean 'temperature' (03_train_contrastive, list[float])?"],
    ),
    "a word for a number": (["-p", "temperature=hot"], ["temperature wants a list[float] such as 0.1,1", "'hot'"]),
    "a fraction for a whole number": (["-p", "seed=1.5"], ["seed wants an int such as 3", "'1.5'"]),
    "a value that isn't a choice": (
        ["-p", "split_kinds=random,sideways"],
        ["split_kinds wants one of random, scaffold, moa", "sideways"],
    ),
    "a parameter without a value": (["-p", "temperature"], ["NAME=VALUE", "'temperature'"]),
    "another notebook's parameter": (["-p", "01.temperature=0.2"], ["01_prepare_profiles", "'temperature'"]),
    "a path by -p": (["-p", "run_dir=here"], ["run_dir is set by --results"]),
    "an unknown data set": (["--dataset", "cmea"], ["'cmea'", "simulated, cmea-u2os", "Did you mean 'cmea-u2os'?"]),
    "a missing TOML": (["--dataset", "nowhere.toml"], ["nowhere.toml: no such file", "TOML"]),
    "an unknown profile": (["--profile", "quick"], ["--profile", "'quick'", "smoke", "default", "full"]),
    "an unknown notebook": (["--only", "99"], ["no notebook '99'", "01_prepare_profiles", "08_embed_new_compounds"]),
    "an unknown notebook to start from": (["--from", "99"], ["no notebook '99'"]),
    "two ways to choose notebooks": (["--only", "01", "--from", "02"], ["--from", "--only"]),
    "no jobs": (["--jobs", "0"], ["--jobs wants a whole number from 1", "0"]),
    "a word for jobs": (["--jobs", "many"], ["--jobs", "'many'"]),
    "a negative seed": (["--seed", "-1"], ["--seed wants a whole number from 0"]),
    "an unknown option": (["--forse"], ["'--forse'", "did you mean --force?"]),
    "a stray word": (["smoke"], ["'smoke'"]),
    "a mirror that isn't there": (["--mirror", "nowhere"], ["--mirror wants a folder or a URL", "nowhere"]),
    "a later notebook before the first": (["--only", "07"], ["07_weigh_claims", "01_prepare_profiles", "--from 01"]),
}


@pytest.mark.parametrize("mistake", CALLS)
def test_a_mistake_in_the_call(mistake, call):
    arguments, fragments = CALLS[mistake]
    status, line = call(*arguments)
    assert status == 2
    assert [fragment for fragment in fragments if fragment not in line] == [], line
    assert not call.results.exists() and not call.figures.exists()


# --- a user's tables ----------------------------------------------------------------------------------------


def write_screen(folder: Path, spoil) -> Path:
    """Write a sound screen of 30 compounds as csv, after `spoil(cp, tx)` gave other tables; return its TOML."""
    rng = np.random.default_rng(0)
    names = [f"drug {number}" for number in range(30)]
    cp, tx = (
        pd.DataFrame(rng.normal(size=(30, 4)), columns=columns).assign(Metadata_Compound=names)
        for columns in (["Cells_A", "Cells_B", "Nuclei_A", "Nuclei_B"], ["TP53", "EGFR", "MYC", "JUN"])
    )
    cp, tx = spoil(cp, tx)
    cp.to_csv(folder / "cp.csv", index=False)
    tx.to_csv(folder / "tx.csv", index=False)
    path = folder / "screen.toml"
    path.write_text('name = "mine"\n[cp]\npath = "cp.csv"\n[tx]\npath = "tx.csv"\n', encoding="utf-8")
    return path


SCREENS = {
    "a missing column": (
        lambda cp, tx: (cp.rename(columns={"Metadata_Compound": "compund"}), tx),
        ["cp.csv", "column 'Metadata_Compound'", "is missing", "'compund'"],
    ),
    "an all-NaN feature": (lambda cp, tx: (cp.assign(Cells_B=np.nan), tx), ["cp.csv", "Cells_B"]),
    "no compound in both tables": (
        lambda cp, tx: (cp, tx.assign(Metadata_Compound="other " + tx["Metadata_Compound"])),
        ["CP", "TX", "compound"],
    ),
    "words in a feature": (
        lambda cp, tx: (cp.assign(Cells_A=["bright", *cp["Cells_A"].astype(str)[1:]]), tx),
        ["cp.csv", "Cells_A", "bright"],
    ),
}


@pytest.mark.parametrize("mistake", SCREENS)
def test_check_names_a_mistake_in_the_tables(mistake, call, tmp_path):
    spoil, fragments = SCREENS[mistake]
    status, line = call("--dataset", write_screen(tmp_path, spoil), "--check")
    assert status == 2
    assert [fragment for fragment in fragments if fragment not in line] == [], line
    assert not call.results.exists() and not call.figures.exists()


@pytest.mark.parametrize("mistake", list(SCREENS)[:3])
def test_a_run_stops_at_a_mistake_in_the_tables(mistake, call, tmp_path):
    spoil, fragments = SCREENS[mistake]
    status, line = call("--dataset", write_screen(tmp_path, spoil), "--only", "01")
    assert status == 1
    assert line.startswith("run_all: 01_prepare_profiles failed in cell [") and "as far as it got" in line
    assert [fragment for fragment in fragments if fragment not in line] == [], line
    assert "Error:" not in line, "the mistake is told in its own words, without Python's"
    assert left_behind(call) == []


def test_a_screen_too_small_for_the_folds_says_how_many_there_are(call, tmp_path):
    status, line = call("--dataset", write_screen(tmp_path, lambda cp, tx: (cp[:2], tx[:2])), "--only", "01")
    assert status == 1 and "folds" in line and "2" in line and "Error:" not in line
    assert not [name for name in left_behind(call) if not name.startswith("01_")], "pictures aside, nothing is left"


# --- downloads ----------------------------------------------------------------------------------------------


@needs_mirror
def test_a_corrupt_download_is_refused_and_not_kept(call, tmp_path):
    mirror = tmp_path / "mirror"
    for file in DATASETS["cmea-u2os"].files:
        copy = mirror / file.address.removeprefix("https://")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(MIRROR) / file.address.removeprefix("https://"), copy)
        copy.chmod(0o644)
    spoilt = mirror / DATASETS["cmea-u2os"].files[0].address.removeprefix("https://")
    data = bytearray(spoilt.read_bytes())
    data[len(data) // 2] ^= 1
    spoilt.write_bytes(data)
    cache = tmp_path / "data"
    arguments = ["--dataset", "cmea-u2os", "--mirror", mirror, "--data-dir", cache]
    status, line = call(*arguments, "--check")
    assert status == 2 and spoilt.name in line and "SHA-256" in line and "--unverified" in line
    status, line = call(*arguments, "--only", "01")
    assert status == 1 and spoilt.name in line and "SHA-256" in line
    assert left_behind(call) == []
    assert not cache.exists() or not [path for path in cache.rglob("*") if path.is_file()]
