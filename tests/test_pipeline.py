"""The command line and a stage's environment; no kernels (test_run_all.py)."""

import ast
import re
import shlex
import sys
from itertools import pairwise

import pytest
from stub_notebooks import write_notebook, write_study

from cpx_utils.kernels import jupyter_environment
from cpx_utils.pipeline import main, make_plan, parse_call
from cpx_utils.provenance import project_root, read_json
from cpx_utils.running import run_lock
from cpx_utils.stages import PLUMBING, read_stages, resolve_parameters


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path / "notebooks")


def call(study, tmp_path, *arguments):
    return main(["--results", str(tmp_path / "results"), "--figures", str(tmp_path / "figures"), *arguments], study)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "temprature=0.2"], "no notebook has a parameter 'temprature'; did you mean 'temperature'"),
        (["-p", "temperature=hot"], "temperature wants a float such as 0.1; 'hot' isn't one"),
        (["--dataset", "cmea"], "cmea-u2os"),
        (["--dataset", "nowhere.toml"], "nowhere.toml"),
        (["--profile", "smok"], "invalid choice: 'smok'"),
        (["--profil", "smoke"], "there is no option '--profil'; did you mean --profile?"),
        (["--jobs", "0"], "--jobs wants a whole number from 1"),
        (["--seed", "-1"], "--seed wants a whole number from 0"),
        (["--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["--only", "07"], "there is no notebook '07'"),
        (["--only", "01", "--from", "02"], "not allowed with argument"),
        (["--mirror", "nowhere"], "--mirror wants a folder or a URL; nowhere is neither"),
        (
            ["--only", "05"],
            "05_cluster reads what 01_prepare, 02_baselines, 03_contrastive make, not done in",
        ),
        (["--from", "02"], "02_baselines reads what 01_prepare makes, not done in"),
    ],
)
def test_a_wrong_call_is_one_line_and_status_2_and_runs_nothing(study, tmp_path, capsys, arguments, message):
    assert call(study, tmp_path, *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith("run_all: ") and message in printed.err
    assert not (tmp_path / "results").exists() and not (tmp_path / "figures").exists()


def test_dry_run_and_list_run_nothing(study, tmp_path, capsys):
    assert call(study, tmp_path, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "01_prepare: stale: not done yet" and len(lines) == 4
    assert call(study, tmp_path, "--list", "-p", "temperature=0.5") == 0
    printed = capsys.readouterr().out
    assert "02_baselines  (stale: not done yet)\n  Does 02_baselines work?" in printed
    assert re.search(r"^  temperature=0\.5 +float +scale \(default: 0\.1\)$", printed, flags=re.M)
    assert "run_dir" not in printed
    assert not (tmp_path / "results").exists()


def test_list_explains_every_parameter_of_the_study_as_it_may_be_typed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["--list", "--results", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 120
    stages = read_stages(project_root() / "notebooks")
    defaults = resolve_parameters(stages, [])
    number, seen = "", []
    for line, below in pairwise([*lines, ""]):
        number = line[:2] if re.match(r"\d\d_", line) else number
        found = re.match(r"  ('.*?'|[^ =]+=\S*) +(str|int|float|bool|list\[\w+\])(.*)", line)
        if not found or not number:
            continue
        [assignment] = shlex.split(found[1])
        name = assignment.partition("=")[0]
        assert len((found[3] or below).strip()) >= 5, f"{number}.{name} is not explained"
        assert resolve_parameters(stages, [], [f"{number}.{assignment}"]) == defaults
        seen.append((number, name))
    assert seen == [(stage.number, name) for stage in stages for name in stage.parameters if name not in PLUMBING]


def test_check_examines_the_screen_and_runs_nothing(study, tmp_path, capsys):
    write_notebook(study, "01_prepare", 'screen_size: str = "tiny"\n', [])
    assert call(study, tmp_path, "--check") == 0
    printed = capsys.readouterr().out
    assert "nothing is wrong" in printed and "moa_clustering" in printed
    (tmp_path / "bad.toml").write_text('name = "bad"\n[cp]\npath = "none.csv"\n[tx]\npath = "none.csv"\n')
    assert call(study, tmp_path, "--check", "--dataset", str(tmp_path / "bad.toml")) == 2
    assert "none.csv" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_paths_and_profile_reach_the_notebooks_absolute(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_plan(parse_call(["--results", "r", "--seed", "7", "--profile", "smoke"]), study)
    values = plan.parameters["02_baselines"]
    assert plan.run_dir == tmp_path / "r" / "simulated" / "smoke" and values["run_dir"] == str(plan.run_dir)
    assert values["figures_dir"].endswith("figures/simulated-smoke") and values["seed"] == 7
    assert plan.selected == plan.stages


def test_the_second_run_of_a_folder_says_who_holds_it(study, tmp_path, capsys):
    with run_lock(tmp_path / "results" / "simulated" / "default"):
        assert call(study, tmp_path) == 2
    printed = capsys.readouterr().err
    assert "is in use by process" in printed and "--results" in printed and printed.count("\n") == 1
    with run_lock(tmp_path / "results" / "simulated" / "default"):
        pass  # released


def test_a_stage_runs_on_one_thread_and_does_not_see_the_users_settings(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setenv("MPLBACKEND", "TkAgg")
    with jupyter_environment() as environment:
        assert environment["OMP_NUM_THREADS"] == "1" and "inline" in environment["MPLBACKEND"]
        kernel = read_json(f"{environment['JUPYTER_PATH']}/kernels/python3/kernel.json")
        assert kernel["argv"][0] == sys.executable


def test_run_all_is_a_thin_face():
    tree = ast.parse((project_root() / "run_all.py").read_text(encoding="utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
