"""Users' mistakes through the command line: one line that says what, where and what would be right; nothing is left.

A mistake in the call is status 2; one in a user's tables is status 1 of a run, which meets it in notebook 01. What
`--check` says of such tables stands in test_own_screens.py.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from cpx_utils.datasets import DATASETS
from cpx_utils.encoders import METHODS, load_encoder
from cpx_utils.pipeline import main
from cpx_utils.preprocessing import FeaturePreparation
from cpx_utils.profiles import ScreenError


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


# --- screens and models to spoil ----------------------------------------------------------------------------


def mirrored(content):
    """A case that checks a registered screen on a mirror in which the first file is what `content(path)` makes."""

    def make(folder):
        content(folder / "mirror" / DATASETS["cmea-u2os"].files[0].mirror_path)
        arguments = ["--mirror", folder / "mirror", "--data-dir", folder / "data"]
        return ["--dataset", "cmea-u2os", "--check", *arguments]

    return make


def written(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def modelled(method: str, spoil, read=load_encoder):
    """A case that reads a saved model after `spoil(folder)`."""

    def make(folder):
        save_model(method, folder / "model")
        spoil(folder / "model")
        return lambda: read(folder / "model")

    return make


def save_model(method: str, folder: Path) -> None:
    """Save a fitted encoder and the preparation before it."""
    rng = np.random.default_rng(0)
    cp, tx = rng.normal(size=(24, 5)), rng.normal(size=(24, 6))
    quick = {"max_epochs": 0, "n_dimensions": 3} if method == "contrastive" else {}
    METHODS[method](**quick).fit(cp, tx, groups=np.repeat(np.arange(8), 3)).save(folder)
    wells = pd.DataFrame(cp, columns=[f"Cells_{name}" for name in "ABCDE"])
    FeaturePreparation(max_correlation=1).fit(wells).save(folder / "preparation.json")


def saying(name: str, **changes):
    """Spoil a JSON file of a model: other values of its keys, those of `parameters` with an underscore behind."""

    def spoil(folder):
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        for key, value in changes.items():
            (content["parameters"] if key.endswith("_is") else content)[key.removesuffix("_is")] = value
        (folder / name).write_text(json.dumps(content), encoding="utf-8")

    return spoil


def with_arrays(**changes):
    """Spoil the arrays of a model: each is what a function makes of it."""

    def spoil(folder):
        arrays = load_file(folder / "encoder.safetensors")
        save_file({name: changes.get(name, lambda one: one)(one) for name, one in arrays.items()},
                  folder / "encoder.safetensors")  # fmt: skip

    return spoil


def read_preparation(folder: Path):
    return FeaturePreparation.load(folder / "preparation.json")


# --- what is wrong ------------------------------------------------------------------------------------------

# What is made in a folder: arguments of the command line, or a function to call; and what the one line must hold.
CASES = {
    # the call
    "a parameter's name misspelt": (
        ["-p", "temprature=0.2"],
        ["'temprature'", "did you mean 'temperature'"],
    ),
    "a word for a number": (["-p", "temperature=hot"], ["temperature wants a float such as 0.1", "'hot'"]),
    "a fraction for a whole number": (["-p", "seed=1.5"], ["seed wants an int such as 3", "'1.5'"]),
    "a number that is none": (["-p", "max_missing=nan"], ["max_missing wants a float such as 0.1", "'nan'"]),
    "a number without end": (["-p", "tx_min=inf"], ["tx_min wants a float such as 0.1", "'inf'"]),
    "a number of 5000 digits": (["-p", "n_folds=" + "9" * 5000], ["n_folds wants an int such as 3", "999"]),
    "a word for a switch": (["-p", "tame_tails=perhaps"], ["tame_tails wants a bool such as true", "'perhaps'"]),
    "a value that isn't a choice": (
        ["-p", "split_kinds=random,sideways"],
        ["split_kinds wants one of random, scaffold, moa", "sideways"],
    ),
    "a parameter without a value": (["-p", "temperature"], ["NAME=VALUE", "'temperature'"]),
    "a parameter unlike any": (["-p", "qqqq=1"], ["no notebook has a parameter 'qqqq'; there are all_splits,"]),
    "a parameter of no notebook": (["-p", "09.temperature=0.2"], ["there is no notebook '09'; there are 01_prepare"]),
    "another notebook's parameter": (["-p", "01.temperature=0.2"], ["01_prepare_profiles", "'temperature'"]),
    "a path by -p": (["-p", "run_dir=here"], ["run_dir is set by --results"]),
    "new profiles that aren't there": (["-p", "new_profiles=nowhere.csv"], ["new_profiles wants a file", "nowhere"]),
    "a folder of new profiles": (lambda folder: ["-p", f"new_profiles={folder}"], ["wants a file"]),
    "an unknown data set": (["--dataset", "cmea"], ["'cmea'", "simulated, cmea-u2os", "Did you mean 'cmea-u2os'?"]),
    "a data set that leads outside": (["--dataset", "../simulated"], ["no data set is called '../simulated'"]),
    "a missing TOML": (["--dataset", "nowhere.toml"], ["nowhere.toml: No such file", "TOML"]),
    "an unknown profile": (["--profile", "quick"], ["--profile", "'quick'", "smoke", "default", "full"]),
    "an unknown notebook": (["--only", "99"], ["no notebook '99'", "01_prepare_profiles", "08_embed_new_compounds"]),
    "an unknown notebook to start from": (["--from", "99"], ["no notebook '99'"]),
    "two ways to choose notebooks": (["--only", "01", "--from", "02"], ["--from", "--only"]),
    "no jobs": (["--jobs", "0"], ["--jobs wants a whole number from 1", "0"]),
    "a word for jobs": (["--jobs", "many"], ["--jobs", "'many'"]),
    "a negative seed": (["--seed", "-1"], ["--seed one from 0"]),
    "an unknown option": (["--forse"], ["--forse", "--help"]),
    "an option cut short": (["--profil", "smoke"], ["unrecognized arguments: --profil smoke; --help lists"]),
    "a stray word": (["smoke"], ["unrecognized arguments: smoke"]),
    # folders
    "a file for the results": (lambda folder: ["--results", written(folder / "r")], ["--results wants a folder"]),
    "a folder below a file for the figures": (
        lambda folder: ["--figures", written(folder / "f") / "below" / "it"],
        ["--figures wants a folder", "/f is none"],
    ),
    "a file for the downloads": (lambda folder: ["--data-dir", written(folder / "d")], ["--data-dir wants a folder"]),
    "a folder's name that is too long": (["--results", "r" * 300], ["nothing can be written in /", "too long"]),
    # mirrors
    "a mirror that isn't there": (["--mirror", "nowhere"], ["--mirror wants a folder or a URL", "nowhere"]),
    "a mirror that is a file": (lambda folder: ["--mirror", written(folder / "m")], ["wants a folder or a URL"]),
    "a mirror of another kind": (
        ["--dataset", "cmea-u2os", "--mirror", "ftp://example.org", "--check"],
        ["from ftp://example.org/", "No connection adapters"],
    ),
    "a mirror's address that can't be": (
        ["--dataset", "cmea-u2os", "--mirror", "https://[::1", "--check"],
        ["from https://[::1/", "can't be downloaded"],
    ),
    "a mirror without the file": (
        mirrored(lambda path: written(path.parent / "other")),
        ["Cell_Morphology_Profile.rda: not in the mirror", "expected at raw.githubusercontent.com/"],
    ),
    "a mirror with a folder for the file": (mirrored(lambda path: path.mkdir(parents=True)), ["not in the mirror"]),
    "a mirror with another file": (
        mirrored(lambda path: written(path, b"another")),
        ["its checksum isn't sha256:3c9345120210", "damaged, or another release", "--unverified"],
    ),
    # model folders
    "no model": (lambda folder: lambda: load_encoder(folder / "none"), ["none holds no encoder", "No such file"]),
    "a folder for a model's file": (
        modelled(
            "lda_identity", lambda folder: (folder / "encoder.json").unlink() or (folder / "encoder.json").mkdir()
        ),
        ["holds no encoder", "Is a directory"],
    ),
    "weights that break off": (
        modelled("lda_identity", lambda folder: written(folder / "encoder.safetensors", b"\x00" * 20)),
        ["holds no encoder of this version"],
    ),
    "a method nobody knows": (
        modelled("lda_identity", saying("encoder.json", method="os")),
        ["holds no encoder", "'os'"],
    ),
    "a parameter nobody knows": (
        modelled("lda_identity", saying("encoder.json", exec_is="x")),
        ["holds no encoder", "'exec'"],
    ),
    "a parameter of another type": (
        modelled("contrastive", saying("encoder.json", n_dimensions_is="3")),
        ["holds no encoder"],
    ),
    "a network of a size that no memory holds": (
        modelled("contrastive", saying("encoder.json", hidden_is=[10**9, 10**9])),
        ["holds no encoder", "size mismatch"],
    ),
    "weights that aren't finite": (
        modelled("lda_identity", with_arrays(projection_=lambda one: one * np.nan)),
        ["values that aren't finite"],
    ),
    "weights that don't fit": (
        modelled("lda_identity", with_arrays(projection_=lambda one: one[:3])),
        ["holds no encoder", "3"],
    ),
    "a preparation that isn't JSON": (
        modelled("raw_cp", lambda folder: written(folder / "preparation.json", b"[" * 99999), read_preparation),
        ["holds no feature preparation"],
    ),
    "a preparation with too few numbers": (
        modelled("raw_cp", saying("preparation.json", mean_=[0.0]), read_preparation),
        ["holds no feature preparation"],
    ),
    "a preparation that divides by zero": (
        modelled("raw_cp", saying("preparation.json", scale_=[1, 1, 0, 1, 1]), read_preparation),
        ["scale_ isn't above 0"],
    ),
    "a preparation with a feature twice": (
        modelled("raw_cp", saying("preparation.json", features=["Cells_A"] * 5), read_preparation),
        ["it needs three finite numbers of each of its features"],
    ),
}


def state_of(folder: Path) -> dict:
    """Every file's bytes, and what is a folder or a link."""
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else (path.is_dir(), path.is_symlink())
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("mistake", CASES)
def test_every_mistake_is_told_in_one_line_and_nothing_is_lost(mistake, call, tmp_path):
    make, fragments = CASES[mistake]
    folder = tmp_path / "given"
    folder.mkdir()
    asked = make(folder) if callable(make) else make
    before = state_of(folder)
    if callable(asked):
        with pytest.raises(ScreenError) as refused:
            asked()
        line = str(refused.value)
        assert "\n" not in line
    else:
        status, line = call(*asked)
        assert status == 2
    assert [fragment for fragment in fragments if fragment not in line] == [], line
    assert len(line) < 1200 and state_of(folder) == before
    assert not call.results.exists() and not call.figures.exists()
