"""Sweeps: what a description may say, which points it makes, what they share, and what is left of them."""

import nbformat
import pandas as pd
import pytest
from stub_notebooks import write_study

from cpx_utils.pipeline import main
from cpx_utils.profiles import ScreenError
from cpx_utils.provenance import read_json, stage_records
from cpx_utils.sweep import read_sweep

GRID = "[grid]\ntemperature = [0.1, 0.5]\n"


def described(folder, text):
    path = folder / "heat.toml"
    path.write_text(text)
    return path


# ---------------------------------------------------------------------------------------------- description


def test_every_combination_is_a_point_seeds_changing_fastest(tmp_path):
    text = (
        'datasets = ["simulated", "cmea-u2os"]\nseeds = [0, 1]\n[grid]\n"03.hidden" = [[], [64, 32]]\nfast = [true]\n'
    )
    sweep = read_sweep(described(tmp_path, text + '[fixed]\nn_bootstrap = 200\nloss = "vicreg"\n'))
    assert (sweep.name, sweep.profile, len(sweep.points)) == ("heat", None, 8)
    assert sweep.swept == ("dataset", "03.hidden", "fast", "seed") and sweep.fixed == ("n_bootstrap", "loss")
    first, second = sweep.points[:2]
    assert (first.dataset, first.seed, second.seed) == ("simulated", 0, 1)
    assert first.given == ("n_bootstrap=200", "loss=vicreg", "03.hidden=[]", "fast=true")
    assert sweep.points[-1].name == "dataset=cmea-u2os, 03.hidden=[64, 32], fast=true, seed=1"
    assert len({point.folder for point in sweep.points}) == 8


def test_a_points_folder_stays_when_the_grid_grows_and_is_told_apart_from_others(tmp_path):
    before = {point.folder for point in read_sweep(described(tmp_path, GRID)).points}
    after = [point.folder for point in read_sweep(described(tmp_path, GRID.replace("0.5", "0.5, 2"))).points]
    assert before < set(after) and after[0] == "temperature=0.1"
    odd = read_sweep(described(tmp_path, '[grid]\nnew_profiles = ["a/b", "a b", "a-b"]\n')).points
    assert len({point.folder for point in odd}) == 3 and not any(set("/ ") & set(point.folder) for point in odd)


def test_dotted_names_need_no_quotes_and_screens_lie_relative_to_the_file(tmp_path):
    sweep = read_sweep(described(tmp_path, 'datasets = ["mine/screen.toml"]\n[grid]\n03.n_dimensions = [8, 16]\n'))
    assert sweep.points[1].given == ("03.n_dimensions=16",)
    assert sweep.points[0].dataset == str(tmp_path / "mine" / "screen.toml")
    assert sweep.points[0].settings["dataset"] == "screen"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[grid\n", "isn't TOML"),
        ("", "nothing varies; give a table"),
        ("[grid]\n", "nothing varies"),
        ("[gird]\nx = [1]\n", "there is no key 'gird' in a sweep; did you mean 'grid'"),
        ("zzz = [1]\n", "parameters belong into [grid] or [fixed]"),
        ("grid = 3\n", "grid wants a table"),
        ("[grid]\ntemperature = 0.1\n", "temperature wants a list of values to try, such as [0.1, 0.3]; got 0.1"),
        ("[grid]\ntemperature = []\n", "temperature wants a list"),
        ("[grid]\ntemperature = [0.1, 0.1]\n", "temperature lists 0.1 twice"),
        ("seeds = [0, true]\n", "seeds wants a list such as [0, 1, 2]"),
        ("seeds = [-1]\n", "seeds wants a list"),
        ("datasets = []\n", "datasets wants a list"),
        ('profile = "tiny"\n' + GRID, "profile is one of smoke, default, full; 'tiny' isn't"),
        ('name = "a/b"\n' + GRID, "name is that of a folder"),
        ("seeds = [1]\n[grid]\nseed = [1, 2]\n", "seed is set twice"),
        (GRID + "[fixed]\ntemperature = 1\n", "temperature is set twice"),
    ],
)
def test_a_wrong_description_is_told_in_one_line(tmp_path, text, message):
    with pytest.raises(ScreenError) as error:
        read_sweep(described(tmp_path, text))
    assert message in str(error.value) and "heat.toml" in str(error.value) and "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------- running it


class Study:
    """A sweep of the study in small."""

    def __init__(self, folder):
        self.notebooks = write_study(folder / "notebooks")
        self.folder = folder
        self.sweep = folder / "results" / "sweeps" / "heat"

    def run(self, capsys, text, *extra):
        capsys.readouterr()
        call = ["--sweep", str(described(self.folder, text)), "--results", str(self.folder / "results"), *extra]
        status = main([*call, "--jobs", "2"], self.notebooks)
        return status, capsys.readouterr()

    def ran(self, printed):
        """Number of notebooks that ran, as the last but two lines say."""
        return int(printed.out.splitlines()[-3].split("; ")[1].split()[0])


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return Study(tmp_path_factory.mktemp("sweep"))


@pytest.mark.parametrize(
    ("text", "extra", "message"),
    [
        ("[grid]\ntemprature = [1]\n", (), "heat.toml: no notebook has a parameter 'temprature'; did you mean"),
        ('[grid]\ntemperature = [0.1, "hot"]\n', (), "temperature wants a float such as 0.1; 'hot' isn't one"),
        ('datasets = ["simulated", "cmea"]\n', (), "cmea-u2os"),
        (GRID, ("-p", "temperature=1"), "-p temperature and"),
        ("seeds = [1, 2]\n", ("--seed", "3"), "--seed and"),
        ('datasets = ["simulated"]\n', ("--dataset", "cmea-u2os"), "--dataset and"),
        ('profile = "smoke"\n' + GRID, ("--profile", "full"), "--profile and"),
        (GRID, ("--list",), "--sweep doesn't go with --list"),
        (GRID, ("--check",), "--sweep doesn't go with --check"),
        (GRID, ("--only", "05"), "05_cluster reads what 01_prepare"),
        (GRID, ("--only", "07"), "there is no notebook '07'"),
    ],
)
def test_everything_is_checked_before_anything_runs(tmp_path, capsys, text, extra, message):
    study = Study(tmp_path)
    status, printed = study.run(capsys, text, *extra)
    assert status == 2 and message in printed.err
    assert printed.err.count("\n") == 1 and printed.err.startswith("run_all: ") and printed.out == ""
    assert not (tmp_path / "results").exists()


def test_a_missing_file_is_told_in_one_line(study, capsys):
    assert main(["--sweep", "nowhere.toml"], study.notebooks) == 2
    assert capsys.readouterr().err.startswith("run_all: --sweep nowhere.toml: can't be read (No such file")


def test_points_share_what_is_the_same_and_are_done_once(study, capsys):
    status, printed = study.run(capsys, GRID, "--dry-run")
    assert status == 0 and printed.out.splitlines()[0] == "temperature=0.1: to be done or checked: 01, 02, 03, 05"
    assert not study.sweep.exists()
    status, printed = study.run(capsys, GRID)
    assert status == 0 and printed.err == ""
    lines = printed.out.splitlines()
    assert sorted(line[6:] for line in lines[:2]) == [
        "temperature=0.1 ... 4 ran", "temperature=0.5 ... 2 ran, 2 taken over",
    ]  # fmt: skip
    assert study.ran(printed) == 6
    table = pd.read_csv(study.sweep / "summary.csv")
    assert table["temperature"].tolist() == [0.1, 0.5] and set(table["state"]) == {"done"}
    assert table["verdict"].tolist() == ["supported"] * 2 and table["ci_low"].tolist() == [0.05] * 2
    assert [(study.sweep / f"effects.{suffix}").is_file() for suffix in ("png", "svg", "csv")] == [True] * 3
    taken = stage_records(study.sweep / "temperature=0.5" / "simulated" / "default")["03_contrastive"]["run"]
    assert taken["taken_from"] == "../../../temperature=0.1/simulated/default"
    kernels = {path.read_text() for path in study.sweep.rglob("kernel.txt")}
    assert len(kernels) == 1
    # Nothing is left to do, for the sweep and for a point run alone.
    status, printed = study.run(capsys, GRID)
    assert status == 0 and study.ran(printed) == 0 and printed.out.count("4 unchanged") == 2
    point = ["--results", str(study.sweep / "temperature=0.5"), "-p", "temperature=0.5", "--figures",
             str(study.sweep / "temperature=0.5" / "figures")]  # fmt: skip
    assert main(point, study.notebooks) == 0
    assert capsys.readouterr().out.count("skipped (unchanged)") == 4


def test_a_sweep_goes_on_where_it_is_incomplete_and_from_what_is_there(study, capsys):
    study.run(capsys, GRID)
    damaged = study.sweep / "temperature=0.5" / "simulated" / "default" / "embeddings" / "baseline.parquet"
    before = damaged.read_bytes()
    damaged.write_bytes(b"damaged")
    status, printed = study.run(capsys, GRID.replace("0.1, 0.5", "0.1, 0.5, 0.7"))
    assert status == 0 and study.ran(printed) == 3
    assert "temperature=0.5 ... 1 ran, 3 unchanged" in printed.out
    assert "temperature=0.7 ... 2 ran, 2 taken over" in printed.out
    assert damaged.read_bytes() == before


def test_a_point_equals_the_run_of_its_parameters(study, capsys, tmp_path):
    study.run(capsys, GRID)
    alone = ["--results", str(tmp_path), "--figures", str(tmp_path / "figures"), "-p", "temperature=0.5"]
    assert main(alone, study.notebooks) == 0
    own, swept = tmp_path / "simulated" / "default", study.sweep / "temperature=0.5" / "simulated" / "default"
    names = [path.relative_to(own) for path in own.rglob("*") if path.suffix in (".parquet", ".csv", ".txt")]
    names = [name for name in names if name.name != "timings.csv" and name.parts[0] != "report"]
    assert len(names) == 4
    assert all((own / name).read_bytes() == (swept / name).read_bytes() for name in names)
    records = [stage_records(folder)["05_cluster"] for folder in (own, swept)]
    assert records[0]["writes"] == records[1]["writes"] and records[0]["reads"] == records[1]["reads"]
    manifest = read_json(swept / "manifest.json")
    assert manifest["stages"]["02_baselines"]["parameters"]["temperature"] == 0.5


def test_a_failed_point_is_told_and_the_others_go_on(study, capsys):
    text = '[grid]\n02.problem = ["none", "crash"]\n[fixed]\ntemperature = 0.1\n'
    status, printed = study.run(capsys, text)
    assert status == 1
    complaints = printed.err.splitlines()
    assert len(complaints) == 1 and "02.problem=crash: 02_baselines failed in cell [4]: KeyError" in complaints[0]
    assert "02.problem=crash ... " in printed.out and "1 failed, 1 not run" in printed.out
    assert "points: 1 done, 1 failed" in printed.out
    table = pd.read_csv(study.sweep / "summary.csv")
    assert table["state"].tolist() == ["done", "failed"] and table["verdict"].isna().tolist() == [False, True]


def test_force_runs_shared_stages_once(study, capsys):
    study.run(capsys, GRID)
    status, printed = study.run(capsys, GRID, "--force", "--only", "01", "03")
    assert status == 0 and study.ran(printed) == 2 and printed.out.count("2 taken over") == 1


def test_two_sweeps_of_a_name_do_not_meet(study, capsys):
    from cpx_utils.running import run_lock

    with run_lock(study.sweep):
        status, printed = study.run(capsys, GRID)
    assert status == 2 and "is in use by process" in printed.err


def test_executed_notebooks_of_a_point_are_there(study, capsys):
    study.run(capsys, GRID)
    for name in ("02_baselines", "03_contrastive"):
        path = study.sweep / "temperature=0.5" / "simulated" / "default" / "notebooks" / f"{name}.ipynb"
        assert any(cell.get("execution_count") for cell in nbformat.read(path, 4).cells)
