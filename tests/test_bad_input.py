"""Users' mistakes through the command line: one line that says what, where and what would be right; nothing is left.

A mistake in the call is status 2. A mistake in a user's tables is status 2 of `--check` and status 1 of a run, which
meets it in notebook 01.
"""

import gzip
import json
import os
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from cpx_utils.user_screens import read_user_screen
from safetensors.numpy import load_file, save_file

from cpx_utils.datasets import DATASETS
from cpx_utils.encoders import METHODS, load_encoder
from cpx_utils.pipeline import main
from cpx_utils.preprocessing import FeaturePreparation
from cpx_utils.profiles import ScreenError

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


# --- screens and models to spoil ----------------------------------------------------------------------------


def tables():
    """A sound screen of 30 compounds: cp, tx."""
    rng = np.random.default_rng(0)
    names = [f"drug {number}" for number in range(30)]
    return tuple(
        pd.DataFrame(rng.normal(size=(30, 4)), columns=columns).assign(Metadata_Compound=names)
        for columns in (["Cells_A", "Cells_B", "Nuclei_A", "Nuclei_B"], ["TP53", "EGFR", "MYC", "JUN"])
    )


def write_screen(folder: Path, spoil=lambda cp, tx: (cp, tx), more: str = "") -> Path:
    """Write the screen as csv, after `spoil(cp, tx)` gave other tables, and `more` of a TOML; return that."""
    folder.mkdir(parents=True, exist_ok=True)
    cp, tx = spoil(*tables())
    cp.to_csv(folder / "cp.csv", index=False)
    tx.to_csv(folder / "tx.csv", index=False)
    path = folder / "screen.toml"
    path.write_text(f'name = "mine"\n[cp]\npath = "cp.csv"\n[tx]\npath = "tx.csv"\n{more}', encoding="utf-8")
    return path


def checked(spoil=lambda cp, tx: (cp, tx), more=""):
    """A case that checks a screen with other tables."""
    return lambda folder: ["--dataset", write_screen(folder, spoil, more), "--check"]


def described(old: str, new: str):
    """A case that checks a screen whose TOML says something else."""

    def make(folder):
        path = write_screen(folder)
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        return ["--dataset", path, "--check"]

    return make


def holding(content, name: str = "cp.csv"):
    """A case that checks a screen whose CP table is bytes, or what `content(path)` makes."""

    def make(folder):
        path = write_screen(folder)
        path.write_text(path.read_text(encoding="utf-8").replace("cp.csv", name), encoding="utf-8")
        (folder / "cp.csv").unlink()
        content(folder / name) if callable(content) else (folder / name).write_bytes(content)
        return ["--dataset", path, "--check"]

    return make


def listing(kind: str, table: str):
    """A case that checks a screen with a table of compounds or activity besides."""

    def make(folder):
        path = write_screen(folder, more=f'[{kind}]\npath = "{kind}.csv"\n')
        (folder / f"{kind}.csv").write_text(table, encoding="utf-8")
        return ["--dataset", path, "--check"]

    return make


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


def swept(text: str):
    return lambda folder: ["--sweep", written(folder / "sweep.toml", text.encode()), "--dry-run"]


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
    quick = {"n_members": 1, "max_epochs": 0, "n_dimensions": 3} if method == "contrastive" else {}
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


def wide_csv(path: Path) -> None:
    names = ",".join(f"Cells_{number}" for number in range(1_000_000))
    path.write_text(f"Metadata_Compound,{names}\nd{',1' * 1_000_000}\n", encoding="utf-8")


def h5ad(path: Path, cut: int = 0) -> None:
    """An h5ad whose sparse values claim a variable that isn't there, or else one whose X lies in another file."""
    with h5py.File(path, "w") as file:
        for group, names in (("obs", ["0", "1"]), ("var", ["Cells_A", "Cells_B"])):
            file.create_group(group).attrs.update({"_index": "_index", "column-order": []})
            file[group]["_index"] = names
        file["obs"].attrs["column-order"] = ["Metadata_Compound"]
        file["obs/Metadata_Compound"] = ["drug 1", "drug 2"]
        if cut:
            file.create_dataset("X", (2, 2), "f4", external=[(str(path.parent / "tx.csv"), 0, 16)])
        else:
            file.create_group("X").attrs.update({"encoding-type": "csr_matrix", "shape": [2, 2]})
            for name, values in (("data", [1.0, 2.0]), ("indices", [0, 10**6]), ("indptr", [0, 1, 2])):
                file[f"X/{name}"] = values


# --- what is wrong ------------------------------------------------------------------------------------------

# What is made in a folder: arguments of the command line, or a function to call; and what the one line must hold.
CASES = {
    # the call
    "a parameter's name misspelt": (
        ["-p", "temprature=0.2"],
        ["'temprature'", "did you mean 'temperature' (03_train_contrastive, list[float])?"],
    ),
    "a word for a number": (["-p", "temperature=hot"], ["temperature wants a list[float] such as 0.1,1", "'hot'"]),
    "a fraction for a whole number": (["-p", "seed=1.5"], ["seed wants an int such as 3", "'1.5'"]),
    "a number that is none": (["-p", "max_missing=nan"], ["max_missing wants a float such as 0.1", "'nan'"]),
    "a number without end": (["-p", "tx_min=inf"], ["tx_min wants a float such as 0.1", "'inf'"]),
    "a number of 5000 digits": (["-p", "n_folds=" + "9" * 5000], ["n_folds wants an int such as 3", "999..."]),
    "a word for a switch": (["-p", "tame_tails=perhaps"], ["tame_tails wants a bool such as true", "'perhaps'"]),
    "a table for a list": (["-p", 'split_kinds=[{"a": 1}]'], ["split_kinds wants a list[str] such as a,b"]),
    "brackets without end": (["-p", "temperature=" + "[" * 99999], ["temperature wants a list[float]", "[[[..."]),
    "a value that isn't a choice": (
        ["-p", "split_kinds=random,sideways"],
        ["split_kinds wants one of random, scaffold, moa", "sideways"],
    ),
    "a parameter without a value": (["-p", "temperature"], ["NAME=VALUE", "'temperature'"]),
    "another notebook's parameter": (["-p", "01.temperature=0.2"], ["01_prepare_profiles", "'temperature'"]),
    "a path by -p": (["-p", "run_dir=here"], ["run_dir is set by --results"]),
    "new profiles that aren't there": (["-p", "new_profiles=nowhere.csv"], ["new_profiles wants a file", "nowhere"]),
    "a folder of new profiles": (lambda folder: ["-p", f"new_profiles={folder}"], ["wants a file", "is a folder"]),
    "new profiles with a zero byte": (["-p", "new_profiles=a\0b"], ["'a\\x00b'", "zero byte"]),
    "an unknown data set": (["--dataset", "cmea"], ["'cmea'", "simulated, cmea-u2os", "Did you mean 'cmea-u2os'?"]),
    "a data set that leads outside": (["--dataset", "../simulated"], ["no data set is called '../simulated'"]),
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
    "a later notebook before the first": (["--only", "07"], ["07_weigh_claims", "01_prepare_profiles", "--from 01"]),
    # folders
    "a file for the results": (lambda folder: ["--results", written(folder / "r")], ["--results wants a folder"]),
    "a folder below a file for the figures": (
        lambda folder: ["--figures", written(folder / "f") / "below" / "it"],
        ["--figures wants a folder", "/f is none"],
    ),
    "a file for the downloads": (lambda folder: ["--data-dir", written(folder / "d")], ["--data-dir wants a folder"]),
    "a folder's name that is too long": (["--results", "r" * 300], ["--results wants a folder", "too long"]),
    "a template over a file": (
        lambda folder: ["--template", written(folder / "mine.toml")],
        ["mine.toml would be overwritten", "choose a new folder"],
    ),
    "a template below a file": (lambda folder: ["--template", written(folder / "t") / "a.toml"], ["can't be written"]),
    "a template of another kind": (["--template", "screen.json"], ["screen.json", "give a name such as"]),
    # mirrors
    "a mirror that isn't there": (["--mirror", "nowhere"], ["--mirror wants a folder or a URL", "nowhere"]),
    "a mirror that is a file": (lambda folder: ["--mirror", written(folder / "m")], ["wants a folder or a URL"]),
    "a mirror of another kind": (
        ["--dataset", "cmea-u2os", "--mirror", "ftp://example.org", "--check"],
        ["'ftp://example.org'", "a folder or starts with https://"],
    ),
    "a mirror's address that can't be": (
        ["--dataset", "cmea-u2os", "--mirror", "https://[::1", "--check"],
        ["'https://[::1'", "no address of a server"],
    ),
    "a mirror without the file": (
        mirrored(lambda path: written(path.parent / "other")),
        ["Cell_Morphology_Profile.rda: not in the mirror", "expected at raw.githubusercontent.com/"],
    ),
    "a mirror with a folder for the file": (mirrored(lambda path: path.mkdir(parents=True)), ["not in the mirror"]),
    "a mirror with another file": (
        mirrored(lambda path: written(path, b"another")),
        ["SHA-256 is", "expected 3c9345120210", "7 bytes, expected 1022847", "--unverified"],
    ),
    "a mirror with an empty file": (mirrored(lambda path: written(path, b"")), ["is damaged (it is empty", "replace"]),
    # sweeps
    "a folder for a sweep": (lambda folder: ["--sweep", folder, "--dry-run"], ["can't be read (Is a directory)"]),
    "a sweep of nothing": (swept("seeds = []"), ["seeds wants a list such as [0, 1, 2]"]),
    "a sweep whose name leads outside": (swept('name = "../up"\nseeds = [1]'), ["'../up'", "that of a folder"]),
    "a sweep that isn't TOML": (swept("seeds = " + "[" * 9999), ["isn't TOML"]),
    # the description of a screen
    "a folder for a TOML": (
        lambda folder: (folder / "a.toml").mkdir() or ["--dataset", folder / "a.toml"],
        ["a.toml: can't be read (Is a directory)", "name a TOML file"],
    ),
    "a TOML of an unknown user": (["--dataset", "~nobody-here/a.toml"], ["no user of that name", "in full"]),
    "a TOML with a zero byte": (["--dataset", "a\0.toml"], ["'a\\x00.toml'", "zero byte"]),
    "a TOML of brackets": (described("name =", f"deep = {'[' * 9999}\nname ="), ["not valid TOML"]),
    "a TOML with an endless number": (described("name =", f"n = {'9' * 5000}\nname ="), ["not valid TOML", "digits"]),
    "a TOML that gives a number for a section": (described('[cp]\npath = "cp.csv"', "cp = 3"), ["a section [cp]"]),
    "a TOML that gives a list for text": (
        described('path = "cp.csv"', 'path = ["cp.csv"]'),
        ["path in [cp] must be text in quotes, not ['cp.csv']"],
    ),
    "a TOML without a path": (described('path = "cp.csv"', 'path = ""'), ["path in [cp] must be text", "not ''"]),
    "a name that leads outside": (described('"mine"', '"../mine"'), ["'../mine' is unfit for a folder"]),
    "a table of an unknown user": (described("cp.csv", "~nobody-here/cp.csv"), ["no user of that name"]),
    "a table with a zero byte in its name": (described("cp.csv", "c\\u0000.csv"), ["'c\\x00.csv'", "zero byte"]),
    "a table whose name is too long": (described("cp.csv", f"{'c' * 300}.csv"), ["can't be read", "too long"]),
    # files
    "a folder for a table": (holding(lambda path: path.mkdir()), ["cp.csv: is a folder, not a table"]),
    "a link to nowhere": (holding(lambda path: path.symlink_to("gone.csv")), ["cp.csv: no such file"]),
    "a link to itself": (holding(lambda path: path.symlink_to("cp.csv")), ["cp.csv: no such file"]),
    "a pipe for a table": (holding(os.mkfifo), ["cp.csv: is no regular file"]),
    "an empty file": (holding(b""), ["cp.csv: the file is empty", "header and rows"]),
    "an empty gzip file": (holding(gzip.compress(b""), "cp.csv.gz"), ["cp.csv.gz: the file is empty"]),
    "an empty parquet file": (holding(b"", "cp.parquet"), ["cp.parquet: not a readable parquet file", "again"]),
    "a parquet file that breaks off": (
        holding(lambda path: tables()[0].to_parquet(path) or path.write_bytes(path.read_bytes()[:-9]), "cp.parquet"),
        ["cp.parquet: not a readable parquet file"],
    ),
    "a header alone": (holding(b"Metadata_Compound,Cells_A\n"), ["a header but no rows"]),
    "a header of a million columns": (holding(wide_csv), ["1000001 columns, of 100000 at most", "on its side?"]),
    "a line without end": (holding(b"x" * 200_000), ["field larger than field limit"]),
    "zero bytes among text": (holding(b"Metadata_Compound,Cells_A\ndrug\x00 1,1\n"), ["zero bytes", "again"]),
    "Latin-1": (holding("Metadata_Compound,Cells_A\nµ,1\n".encode("latin-1")), ["not UTF-8 text (byte 0xb5)"]),
    "UTF-16": (holding("Metadata_Compound,Cells_A\nd,1\n".encode("utf-16")), ["not UTF-8 text (byte 0xff)"]),
    "an open quote": (holding(b'Metadata_Compound,Cells_A\n"drug 1,1\ndrug 2,2\n'), ["1 values", "has 2 columns"]),
    "wrong places in sparse values": (holding(h5ad, "cp.h5ad"), ["cp.h5ad: not a readable h5ad file", "again"]),
    "values that lie in another file": (
        holding(lambda path: h5ad(path, 1), "cp.h5ad"),
        ["cp.h5ad lies in another file", "as one file"],
    ),
    # tables
    "a missing column": (
        checked(lambda cp, tx: (cp.rename(columns={"Metadata_Compound": "compund"}), tx)),
        ["cp.csv", "column 'Metadata_Compound'", "is missing", "'compund'"],
    ),
    "a column twice": (
        checked(lambda cp, tx: (cp.rename(columns={"Cells_B": "Cells_A"}), tx)),
        ["column 'Cells_A' occurs more than once", "must be unique"],
    ),
    "an all-NaN feature": (
        checked(lambda cp, tx: (cp.assign(Cells_B=np.nan), tx)),
        ["cp.csv: feature 'Cells_B' is missing (NaN) in all 30 rows", "drop the column"],
    ),
    "an infinite value": (
        checked(lambda cp, tx: (cp, tx.assign(EGFR=[np.inf, *tx["EGFR"][1:]]))),
        ["tx.csv: feature 'EGFR' is infinite", "data row 1", "leave such cells empty"],
    ),
    "words in a feature": (
        checked(lambda cp, tx: (cp.assign(Cells_A=["bright", *cp["Cells_A"].astype(str)[1:]]), tx)),
        ["cp.csv", "Cells_A", "bright", "data row 1"],
    ),
    "words for all features": (
        checked(lambda cp, tx: (cp, tx[["Metadata_Compound"]].assign(gene="up"))),
        ["tx.csv: no numeric column besides the metadata", "'gene'", "columns of numbers"],
    ),
    "a compound without a name": (
        checked(lambda cp, tx: (cp.assign(Metadata_Compound=["", *cp["Metadata_Compound"][1:]]), tx)),
        ["cp.csv: column 'Metadata_Compound' is empty in data row 1", "every well needs a compound id"],
    ),
    "no compound in both tables": (
        checked(lambda cp, tx: (cp, tx.assign(Metadata_Compound="other " + tx["Metadata_Compound"]))),
        ["CP and TX have no compound in common", "'drug 0'", "'other drug 0'", "the same ids"],
    ),
    "a well twice": (
        checked(lambda cp, tx: (cp.assign(Metadata_Plate="p", Metadata_Well="A01"), tx)),
        ["plate 'p' well 'A01' is given more than once", "a row is a well"],
    ),
    "a negative dose": (
        checked(lambda cp, tx: (cp.assign(Metadata_Dose=-1.0), tx)),
        ["has the dose -1 in data rows 1, 2, 3", "micromolar, finite and not negative"],
    ),
    "an endless dose": (checked(lambda cp, tx: (cp.assign(Metadata_Dose="inf"), tx)), ["the dose inf", "finite"]),
    "nothing but controls": (
        checked(lambda cp, tx: (cp, tx.assign(Metadata_Control=True))),
        ["tx.csv: column 'Metadata_Control' marks every well as a negative control"],
    ),
    "a control that is none elsewhere": (
        checked(lambda cp, tx: (cp.assign(Metadata_Control=False), tx.assign(Metadata_Control=[True] + [False] * 29))),
        ["'drug 0' is a negative control in other wells and a treatment here"],
    ),
    "a compound listed twice": (
        listing("compounds", "compound,moa\ndrug 1,a\ndrug 1,b\n"),
        ["compound 'drug 1' is listed again in data row 2", "joined by '|'"],
    ),
    "a structure's key that is none": (
        listing("compounds", "compound,inchikey\ndrug 1,../../etc\n"),
        ["'../../etc' in data row 1 is no InChIKey", "14 capital letters"],
    ),
    "compounds nobody measured": (
        listing("activity", "compound,task,active\nelse,t,1\n"),
        ["none of its 1 compounds has a profile", "'else'", "the same ids"],
    ),
    "an outcome of 2": (listing("activity", "compound,task,active\ndrug 1,t,2\n"), ["label '2' in data row 1"]),
    "both outcomes": (
        listing("activity", "compound,task,active\ndrug 1,t,1\ndrug 1,t,0\n"),
        ["'drug 1' is both 0 and 1 in task 't'", "one label a compound and task"],
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
        ["parameter 'exec' is unknown"],
    ),
    "a parameter of another type": (
        modelled("contrastive", saying("encoder.json", n_members_is="3")),
        ["parameter n_members is '3', of another type than 3"],
    ),
    "networks of a size that no memory holds": (
        modelled("contrastive", saying("encoder.json", hidden_is=[10**9, 10**9])),
        ["its networks are of other sizes than its parameters say"],
    ),
    "a billion networks": (
        modelled("contrastive", saying("encoder.json", n_members_is=10**9)),
        ["its networks are of other sizes than its parameters say"],
    ),
    "weights that aren't finite": (
        modelled("lda_identity", with_arrays(projection_=lambda one: one * np.nan)),
        ["values that aren't finite"],
    ),
    "weights that don't fit": (
        modelled("lda_identity", with_arrays(projection_=lambda one: one[:3])),
        ["holds no encoder", "3"],
    ),
    "a model of no features": (
        modelled("raw_cp", with_arrays(n_features_in_=lambda one: one * 0)),
        ["it was trained on 0 features"],
    ),
    "a preparation that isn't JSON": (
        modelled("raw_cp", lambda folder: written(folder / "preparation.json", b"[" * 99999), read_preparation),
        ["holds no feature preparation"],
    ),
    "a preparation with too few numbers": (
        modelled("raw_cp", saying("preparation.json", mean_=[0.0]), read_preparation),
        ["mean_ aren't 5 finite numbers, one a feature"],
    ),
    "a preparation that divides by zero": (
        modelled("raw_cp", saying("preparation.json", scale_=[1, 1, 0, 1, 1]), read_preparation),
        ["scale_ isn't above 0"],
    ),
    "a preparation with a feature twice": (
        modelled("raw_cp", saying("preparation.json", features=["Cells_A"] * 5), read_preparation),
        ["aren't a list of different names"],
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


def test_there_are_more_than_sixty_kinds_of_mistakes():
    assert len(CASES) >= 60


# --- what is unusual and right ------------------------------------------------------------------------------

ODD_NAMES = ["β-estradiol", "阿司匹林", "🧪", "שלום", "e\u0301", "../../etc/passwd", "C:\\x", "a/b", "{x}", "%s", "007",
             "<script>alert(1)</script>", 'said "so", twice', "O'Hara", "=1+1", "$x_$", "-1",
             "x" * 300]  # fmt: skip


def renamed(cp, tx):
    names = [*ODD_NAMES, *cp["Metadata_Compound"][len(ODD_NAMES) :]]
    return cp.assign(Metadata_Compound=names), tx.assign(Metadata_Compound=names)


def few(n):
    return lambda cp, tx: (cp[:n], tx[:n])


def linked(folder):
    toml = write_screen(folder / "real")
    for name in ("cp.csv", "tx.csv", "screen.toml"):
        (folder / name).symlink_to(folder / "real" / name)
    assert toml.is_file()
    return ["--dataset", folder / "screen.toml", "--check"]


def in_folder(name):
    return lambda folder: checked()(folder / name)


RETRIEVAL = "retrieval: testable (30 compounds"
# As above; and what must be said on standard output.
UNUSUAL = {
    "a sound screen": (
        checked(),
        ["nothing is wrong", RETRIEVAL, "bioactivity: not testable (the screen has no assay"],
    ),
    "odd names": (checked(renamed), ["30 compounds", RETRIEVAL]),
    "braces in the path": (in_folder("{run} {0} {{"), [RETRIEVAL]),
    "other letters in the path": (in_folder("größe 数据 %20"), [RETRIEVAL]),
    "links to the files": (linked, [RETRIEVAL]),
    "an absolute path": (
        lambda folder: described('"cp.csv"', f'"{(folder / "cp.csv").as_posix()}"')(folder),
        [RETRIEVAL],
    ),
    "a byte order mark": (
        lambda folder: (
            write_screen(folder)
            and written(folder / "cp.csv", b"\xef\xbb\xbf" + (folder / "cp.csv").read_bytes())
            and ["--dataset", folder / "screen.toml", "--check"]
        ),
        [RETRIEVAL],
    ),
    "one compound": (checked(few(1)), ["1 compounds", "retrieval: not testable (1 compounds with both CP and TX"]),
    "one replicate": (
        checked(),
        ["replicate_clustering: not testable (0 of 30", "30 of 30 treatments have one well only"],
    ),
    "constant features": (
        checked(lambda cp, tx: (cp.assign(Cells_A=1, Cells_B=2), tx)),
        ["CP: 2 of 4 features are constant and get dropped: 'Cells_A', 'Cells_B'"],
    ),
    "one MoA": (
        listing("compounds", "compound,moa\n" + "".join(f"drug {number},kinase\n" for number in range(30))),
        ["moa_clustering: not testable (1 MoAs are shared", "at least 2 such MoAs are needed"],
    ),
    "all active": (
        listing("activity", "compound,task,active\n" + "".join(f"drug {number},t,1\n" for number in range(30))),
        ["bioactivity: not testable (0 of 1 tasks", "the best task, t, has 30 and 0"],
    ),
    "gaps in a feature": (
        checked(lambda cp, tx: (cp.assign(Cells_A=cp["Cells_A"].where(cp.index > 20)), tx)),
        ["CP: 1 of 4 features miss more than 5% of their values and get dropped: 'Cells_A'"],
    ),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_what_is_unusual_and_right_works_and_says_what_is_not_testable(kind, tmp_path, capsys):
    make, fragments = UNUSUAL[kind]
    arguments = make(tmp_path / "given")
    status = main(["--results", str(tmp_path / "results"), *map(str, arguments)])
    printed = capsys.readouterr()
    assert status == 0 and printed.err == ""
    assert [fragment for fragment in fragments if fragment not in printed.out] == [], printed.out
    assert not (tmp_path / "results").exists()


def test_odd_names_come_through_as_they_are(tmp_path):
    screen = read_user_screen(write_screen(tmp_path, renamed))
    assert set(ODD_NAMES) <= set(screen.cp["Metadata_Compound"]) & set(screen.compounds["Metadata_Compound"])


# --- a run --------------------------------------------------------------------------------------------------

RUNS = {
    "a missing column": (
        lambda cp, tx: (cp.rename(columns={"Metadata_Compound": "compund"}), tx),
        ["cp.csv", "column 'Metadata_Compound'", "is missing", "'compund'"],
    ),
    "an all-NaN feature": (lambda cp, tx: (cp.assign(Cells_B=np.nan), tx), ["cp.csv", "Cells_B"]),
    "no compound in both tables": (
        lambda cp, tx: (cp, tx.assign(Metadata_Compound="other " + tx["Metadata_Compound"])),
        ["CP", "TX", "compound"],
    ),
}


@pytest.mark.parametrize("mistake", RUNS)
def test_a_run_stops_at_a_mistake_in_the_tables(mistake, call, tmp_path):
    spoil, fragments = RUNS[mistake]
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
