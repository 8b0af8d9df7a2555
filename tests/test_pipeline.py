"""The command line and a stage's environment; no kernels (test_run_all.py)."""

import ast
import errno
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from unittest.mock import Mock

import pytest
from stub_notebooks import write_notebook, write_study

from cpx_utils import running
from cpx_utils.kernels import jupyter_environment
from cpx_utils.pipeline import main, make_plan, parse_call
from cpx_utils.profiles import ScreenError
from cpx_utils.provenance import project_root, read_json, write_json
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


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.csv"), "'a.csv'; make room and run the same again; fin"),
        (OSError(errno.EIO, "Input/output error", "a.csv"), "run_all: [Errno 5] Input/output error: 'a.csv'; finished"),
        (MemoryError(), "run_all: no memory left; free memory, or run fewer notebooks side by side"),
    ],
)
def test_what_the_machine_lacks_is_told_in_one_line(study, tmp_path, capsys, monkeypatch, error, words):
    monkeypatch.setattr("cpx_utils.pipeline.run_plan", Mock(side_effect=error))
    assert call(study, tmp_path) == 1
    printed = capsys.readouterr()
    assert words in printed.err and printed.err.count("\n") == 1
    assert printed.err.endswith("finished notebooks are kept, and the same command goes on from there\n")


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


# --- who holds a folder -------------------------------------------------------------------------------------


@pytest.fixture
def held(tmp_path):
    return tmp_path / "results" / "simulated" / "default"


def said(held, **values):
    """Leave what a run that holds the folder says of itself."""
    mine = {"pid": 4_000_000, "host": platform.node(), "since": "2026-01-02 03:04:05"}
    write_json(held / ".lock.json", mine | values)
    return held / ".lock.json"


def test_the_second_run_of_a_folder_says_who_holds_it_and_what_to_do(study, tmp_path, capsys, held):
    with run_lock(held):
        assert call(study, tmp_path) == 2
    printed = capsys.readouterr().err
    assert f"default is in use by process {os.getpid()} on {platform.node()} since 20" in printed
    assert "run this again when that has ended, or give another folder with --results" in printed
    assert printed.count("\n") == 1
    with run_lock(held):
        assert list(read_json(held / ".lock.json")) == ["pid", "host", "since"]
    assert not list(held.iterdir()), "released, and nothing left"


def test_two_profiles_do_not_draw_into_one_folder_at_once(study, tmp_path, capsys):
    with run_lock(tmp_path / "figures" / "simulated", "--figures"):
        assert call(study, tmp_path, "--profile", "full") == 2
    printed = capsys.readouterr().err
    assert "figures/simulated is in use by process" in printed and "another folder with --figures" in printed
    assert not (tmp_path / "results" / "simulated" / "full" / ".lock").exists(), "the first folder is free again"


def test_a_lock_of_a_process_that_was_killed_is_taken_over(held):
    code = "import sys, time; from cpx_utils.running import run_lock; from pathlib import Path\n"
    code += "with run_lock(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, str(held)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(ScreenError, match=f"in use by process {process.pid} on "), run_lock(held):
        pass
    process.kill()
    process.communicate()
    assert read_json(held / ".lock.json")["pid"] == process.pid, "it could not tidy up"
    with run_lock(held):
        assert read_json(held / ".lock.json")["pid"] == os.getpid()


def test_a_holder_on_another_machine_is_believed_while_it_gives_signs_of_life(held):
    known = said(held, host="elsewhere")
    with pytest.raises(ScreenError) as error, run_lock(held):
        pass
    assert "in use by process 4000000 on elsewhere since 2026-01-02 03:04:05; run this again" in str(error.value)
    assert re.search(r"if it was killed, this folder is free in 4\d s$", str(error.value))
    long_ago = time.time() - running.SILENCE_SECONDS - 1
    os.utime(known, (long_ago, long_ago))
    with run_lock(held):
        assert read_json(known)["host"] == platform.node()


def test_a_holder_gives_signs_of_life(held, monkeypatch):
    monkeypatch.setattr(running, "BEAT_SECONDS", 0.01)
    with run_lock(held):
        os.utime(held / ".lock.json", (0, 0))
        deadline = time.time() + 30
        while (held / ".lock.json").stat().st_mtime < 1 and time.time() < deadline:
            time.sleep(0.01)
        assert (held / ".lock.json").stat().st_mtime > 1
    assert not (held / ".lock.json").exists()


@pytest.mark.parametrize("left", ["", "{", "[1]", '{"pid": 1}'])
def test_what_a_lock_says_may_be_damaged(held, left):
    held.mkdir(parents=True)
    (held / ".lock.json").write_text(left)
    with run_lock(held):
        (held / ".lock.json").write_text(left)
        with pytest.raises(ScreenError, match=r"is in use by process \S+ on \? since just now"), run_lock(held):
            pass


def test_folders_that_cannot_be_written_are_told_in_one_line_before_anything_runs(study, tmp_path, capsys):
    (tmp_path / "file").touch()
    for option in ("--results", "--figures"):
        assert call(study, tmp_path, option, str(tmp_path / "file" / "deep")) == 2
        printed = capsys.readouterr()
        assert printed.err.count("\n") == 1 and printed.out == ""
        assert f"run_all: {option} wants a folder; {tmp_path / 'file'} is none" in printed.err


def test_a_stage_runs_on_one_thread_and_does_not_see_the_users_settings(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setenv("MPLBACKEND", "TkAgg")
    with jupyter_environment() as environment:
        assert environment["OMP_NUM_THREADS"] == "1" and "inline" in environment["MPLBACKEND"]
        kernel = read_json(f"{environment['JUPYTER_PATH']}/kernels/python3/kernel.json")
        assert kernel["argv"][0] == sys.executable


def test_temporary_folders_of_runs_that_were_killed_are_removed_and_no_others(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    with jupyter_environment() as environment:
        mine = Path(environment["JUPYTER_PATH"])
        start, owner, _ = mine.name.rsplit("-", 2)
        assert int(owner) == os.getpid()
        abandoned = tmp_path / f"{start}-{int(gone.stdout)}-x"
        names = (f"{start}-{os.getpid()}-x", f"cpx-other-{int(gone.stdout)}-x", f"{start}-x")
        others = [tmp_path / name for name in names]
        for folder in (abandoned, *others):
            (folder / "runtime").mkdir(parents=True)
    assert sorted(tmp_path.iterdir()) == sorted(others), "at the end of a stage"
    abandoned.mkdir()
    with jupyter_environment():
        assert not abandoned.exists(), "at the start of a stage"


def test_run_all_is_a_thin_face():
    tree = ast.parse((project_root() / "run_all.py").read_text(encoding="utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
