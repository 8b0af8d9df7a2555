"""Notebooks as stages, their parameters, what makes one stale, and the command line; no kernels (test_run_all.py)."""

import argparse
import errno
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tomllib
from unittest.mock import Mock

import nbformat
import pytest
from stub_notebooks import write_notebook, write_study

from cpx_utils import pipeline
from cpx_utils.pipeline import (
    NEEDS,
    PLUMBING,
    Plan,
    checked_value,
    find_stage,
    fingerprint,
    kernel_environment,
    main,
    make_plan,
    parse_call,
    read_parameters,
    read_stages,
    resolve_parameters,
    run_lock,
    upstream,
    watched_files,
    why_stale,
)
from cpx_utils.profiles import ScreenError
from cpx_utils.provenance import Workspace, package_versions, project_root, read_json, sha256_file, write_json


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path / "notebooks")


@pytest.fixture
def stages(study):
    return read_stages(study)


def call(study, tmp_path, *arguments):
    return main(["--results", str(tmp_path / "results"), "--figures", str(tmp_path / "figures"), *arguments], study)


# --- reading notebooks --------------------------------------------------------------------------------------


def test_stages_are_read_in_order_with_question_and_parameters(study, stages):
    assert [stage.name for stage in stages] == ["01_prepare", "02_baselines", "03_contrastive", "05_cluster"]
    assert stages[0].question == "Does 01_prepare work?"
    temperature = stages[1].parameters["temperature"]
    assert (temperature.kind, temperature.default, temperature.comment) == ("float", 0.1, "scale")
    assert stages[1].parameters["problem"].choices == ("none", "crash", "screen", "sleep")
    assert all("temperature: float" not in source for source, _ in stages[1].cells)
    for where in ("5", "05", "05_cluster"):
        assert find_stage(stages, where) is stages[3]


def test_settings_before_the_parameters_are_parameters_too(study):
    path = study / "03_contrastive.ipynb"
    notebook = nbformat.read(path, as_version=4)
    rare = nbformat.v4.new_code_cell('device: str = "auto"  # where', metadata={"tags": ["settings"]})
    notebook.cells.insert(1, rare)
    nbformat.write(notebook, path)
    stage = find_stage(read_stages(study), "03")
    assert list(stage.parameters) == ["dataset", "run_dir", "figures_dir", "seed", "problem", "device"]
    notebook.cells.insert(3, notebook.cells.pop(1))
    nbformat.write(notebook, path)
    with pytest.raises(ScreenError, match="03_contrastive: its cell tagged settings must come before the one tagged"):
        read_stages(study)


def test_parameters_of_every_type_are_parsed_without_being_run():
    found = read_parameters(
        "# a remark\nn: int = -3\nx: float = 1  # whole\nb: bool = False\n"
        'names: list[str] = [\n    "a",\n]  # shown\nlong: str = (\n    "a"  # broken; one of: a, b\n)\n',
        "03_train",
    )
    assert {name: known.default for name, known in found.items()} == {
        "n": -3, "x": 1.0, "b": False, "names": ["a"], "long": "a",
    }  # fmt: skip
    assert isinstance(found["x"].default, float)
    assert found["long"].comment == "broken; one of: a, b" and found["long"].choices == ("a", "b")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x: float = print(1)", "03_train: its parameters cell isn't `name: type = value` in line 1"),
        ("import os", "isn't `name: type = value` in line 1"),
        ("x: int =", "its parameters cell isn't Python in line 1: invalid syntax"),
        ("x: dict = {}", "gives x the type dict; known are int"),
        ('x: int = "a"', "x wants an int"),
        ("x: str = 'c'  # one of: a, b", "x wants one of a, b; 'c' isn't"),
    ],
)
def test_a_parameters_cell_that_cannot_be_understood_is_refused(line, message):
    with pytest.raises(ScreenError, match=message):
        read_parameters(line, "03_train")


def test_folders_without_usable_notebooks_are_refused(tmp_path, study):
    with pytest.raises(ScreenError, match="holds no notebook"):
        read_stages(tmp_path / "empty")
    write_notebook(study, "02_twin", "", [])
    with pytest.raises(ScreenError, match="02_baselines and 02_twin share a number"):
        read_stages(study)
    (study / "02_twin.ipynb").write_text("no json")
    with pytest.raises(ScreenError, match=r"02_twin\.ipynb isn't a notebook"):
        read_stages(study)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), study / "02_twin.ipynb")
    with pytest.raises(ScreenError, match="02_twin: its cell tagged parameters lacks dataset, figures_dir, run_dir"):
        read_stages(study)


def test_a_stage_needs_those_before_it_near_and_far(study, stages):
    def needs(name):
        return [stage.name[:2] for stage in upstream(find_stage(stages, name), stages)]

    assert needs("01") == [] and needs("03") == ["01"] and needs("05") == ["01", "02", "03"]
    write_notebook(study, "09_mine", "", [])
    stages = read_stages(study)
    assert needs("09") == ["01", "02", "03", "05"]
    for number, needed in NEEDS.items():
        further = {one for other in needed.split() for one in NEEDS[other].split()}
        assert further <= set(needed.split()) and number not in needed


# --- values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "text", "value"),
    [
        ("x: float = 0.1", "2", 2.0),
        ("x: float = 0.1", "1e-3", 1e-3),
        ("x: float = 0.1", ".5", 0.5),
        ("x: int = 1", "-4", -4),
        ("x: bool = True", "false", False),
        ("x: str = ''", "12", "12"),
        ("x: list[int] = []", "1, 2", [1, 2]),
        ("x: list[float] = []", "[1, 2.5]", [1.0, 2.5]),
        ("x: list[str] = []", '["a, b"]', ["a, b"]),
        ("x: list[str] = []", "", []),
        ("x: list[str] = ['a']  # any, one of: a, b, c", "c,a", ["c", "a"]),
    ],
)
def test_text_is_converted_to_the_type_declared(line, text, value):
    converted = checked_value(read_parameters(line, "03")["x"], text)
    assert converted == value and type(converted) is type(value)


@pytest.mark.parametrize(
    ("line", "value", "message"),
    [
        ("x: float = 0.1", "hot", "x wants a float such as 0.1; 'hot' isn't one"),
        ("x: float = 0.1", "nan", "x wants a float"),
        ("x: float = 0.1", "1e999", "x wants a float"),
        ("x: float = 0.1", True, "x wants a float"),
        ("x: int = 1", "1.5", "x wants an int such as 3; '1.5' isn't one"),
        ("x: int = 1", True, "x wants an int"),
        ("x: int = 1", "[1]", "x wants an int"),
        ("x: bool = True", "yes", "x wants a bool such as true; 'yes' isn't one"),
        ("x: bool = True", 1, "x wants a bool"),
        ("x: str = ''", 3, "x wants a str"),
        ("x: list[int] = []", "1,b", "x wants a list\\[int\\] such as 1,2,3; '1,b' isn't one"),
        ("x: list[int] = []", "[1", "x wants a list"),
        ("x: list[int] = []", 3, "x wants a list"),
        ("x: list[str] = []", "[" * 5000, r"x wants a list\[str\] such as a,b; '\[+\.\.\. isn't one"),
        ("x: str = 'a'  # one of: a, b", "c", "x wants one of a, b; 'c' isn't"),
    ],
)
def test_values_of_another_type_are_refused_in_one_line(line, value, message):
    with pytest.raises(ScreenError, match=message) as error:
        checked_value(read_parameters(line, "03")["x"], value)
    assert "\n" not in str(error.value)


def test_layers_override_each_other_and_a_parameter_is_set_everywhere_or_in_one_notebook(stages):
    resolved = resolve_parameters(stages, [{"seed": 1, "size": 2, "unknown": 0}, {"seed": 2}], ["size=3"])
    assert {values["seed"] for values in resolved.values()} == {2}
    assert resolved["01_prepare"]["size"] == 3 and "size" not in resolved["02_baselines"]
    everywhere = resolve_parameters(stages, [], ["problem=crash"])
    assert everywhere["02_baselines"]["problem"] == everywhere["03_contrastive"]["problem"] == "crash"
    for where in ("03", "3", "03_contrastive"):
        one = resolve_parameters(stages, [], [f"{where}.problem=crash"])
        assert (one["02_baselines"]["problem"], one["03_contrastive"]["problem"]) == ("none", "crash")


# --- what is stale ------------------------------------------------------------------------------------------


def test_imports_are_followed_inside_the_package_and_data_is_watched(tmp_path):
    package = tmp_path / "cpx_utils"
    package.mkdir()
    sources = {
        "__init__": "",
        "a": "from cpx_utils import b\n",
        "b": "def f():\n    from cpx_utils.c import g\n",
        "c": "import numpy\n",
        "d": "",
        "e": "import cpx_utils.d as d\nfrom numpy import linalg\n",
    }
    for name, source in sources.items():
        (package / f"{name}.py").write_text(source)

    def used(code):
        return sorted(watched_files([code], package))

    assert used("from cpx_utils import a") == ["__init__", "a", "b", "c"]
    assert used("import cpx_utils.e") == ["__init__", "d", "e"]
    assert used("import numpy") == ["__init__"]
    assert used("%run a.py") == sorted(sources)  # can't be parsed: better too much than too little
    (package / "screens.toml").write_text("x = 1")
    before = watched_files(["from cpx_utils import a"], package)
    (package / "c.py").write_text("import scipy\n")
    (package / "screens.toml").write_text("x = 2")
    after = watched_files(["from cpx_utils import a"], package)
    assert [name for name in before if before[name] != after[name]] == ["c", "screens.toml"]


def test_a_notebook_does_not_depend_on_the_runner_or_the_loaders():
    modules = watched_files(["from cpx_utils.provenance import Workspace"])
    assert {"provenance", "profiles"} <= set(modules)
    assert not {"pipeline", "report", "datasets", "simulation"} & set(modules)


def test_every_pinned_package_is_watched(stages):
    project = tomllib.loads((project_root() / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = [re.match(r"[\w.-]+", line)[0] for line in project["dependencies"]]
    packages = fingerprint(stages[0], {})["packages"]
    assert len(pinned) > 20 and set(pinned) < set(packages) and "pytest" not in packages
    assert packages["papermill"] == package_versions()["papermill"] != ""


def test_prose_is_not_in_the_fingerprint_but_code_and_parameters_are(study):
    def take(**options):
        stage = find_stage(read_stages(study), "02")
        return fingerprint(stage, {name: known.default for name, known in stage.parameters.items()} | options)

    path = study / "02_baselines.ipynb"
    before = take()
    assert take(run_dir="/elsewhere", figures_dir="/else") == before
    assert take(temperature=0.3) != before
    notebook = nbformat.read(path, 4)
    notebook.cells[0].source = "# Another question?"
    notebook.cells[1].source += "# a remark in the parameters cell\n"
    nbformat.write(notebook, path)
    assert take() == before
    notebook.cells[2].source += "\nx = 1"
    nbformat.write(notebook, path)
    assert take()["code"] != before["code"]


def test_staleness_names_its_reason(tmp_path, stages, monkeypatch):
    stage, run_dir, figures_dir = stages[1], tmp_path / "run", tmp_path / "figures"
    options = argparse.Namespace(force=False)
    plan = Plan(stages, stages, {stage.name: {"temperature": 0.1}}, "s", run_dir, figures_dir, options)
    current = fingerprint(stage, {"temperature": 0.1})
    outside = tmp_path / "screen.csv"
    outside.write_text("a")

    def reason(now=current, check_reads=True):
        monkeypatch.setattr(pipeline, "fingerprint", lambda *_: json.loads(json.dumps(now)))
        return why_stale(plan, stage, check_reads)

    assert reason() == "not done yet"
    workspace = Workspace(stage.name, str(run_dir), str(figures_dir))
    workspace.record_input(outside)
    workspace.output_file("model.json").write_text("{}")
    workspace.finish()
    assert reason() == "last run by hand"
    path, executed = plan.record(stage), run_dir / "notebooks" / "02_baselines.ipynb"
    executed.parent.mkdir()
    executed.write_text("{}")
    write_json(path, read_json(path) | {"run": {"fingerprint": current, "notebook": sha256_file(executed)}})
    assert reason() == ""
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert reason() == "its record is damaged"
    path.write_bytes(whole.replace(b"model.json", b"modem.json"))
    assert reason() == "modem.json is missing"
    path.write_bytes(whole)
    executed.write_text("{ }")
    assert reason() == "its executed notebook changed"
    executed.unlink()
    assert reason() == "its executed notebook is missing"
    executed.write_text("{}")
    assert reason(current | {"parameters": {"temperature": 0.2}}) == "temperature was 0.1, is 0.2"
    assert reason(current | {"code": "x"}) == "its code changed"
    assert reason(current | {"modules": current["modules"] | {"profiles": "x"}}) == "module profiles changed"
    assert reason(current | {"packages": current["packages"] | {"tqdm": "0"}}) == "package tqdm changed"
    outside.write_text("b")
    assert reason() == f"{outside} changed" and reason(check_reads=False) == ""
    options.force = True
    assert reason() == "--force"


# --- the command line ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "temprature=0.2"], "no notebook has a parameter 'temprature'; did you mean 'temperature'?"),
        (["-p", "qqqq=1"], "there are factor, fast, methods, problem, seed, size, temperature"),
        (["-p", "03.temperature=0.2"], "03_contrastive has no parameter 'temperature'"),
        (["-p", "09.temperature=0.2"], "there is no notebook '09'; there are 01_prepare"),
        (["-p", "temperature"], "-p wants NAME=VALUE"),
        (["-p", "run_dir=x"], "run_dir is set by --results, not by -p"),
        (["-p", "temperature=hot"], "temperature wants a float such as 0.1; 'hot' isn't one"),
        (["--dataset", "cmea"], "cmea-u2os"),
        (["--dataset", "nowhere.toml"], "nowhere.toml"),
        (["--profile", "smok"], "invalid choice: 'smok'"),
        (["--profil", "smoke"], "unrecognized arguments: --profil smoke; --help lists the options"),
        (["--sweep", "x.toml"], "unrecognized arguments: --sweep"),
        (["--jobs", "0"], "--jobs wants a whole number from 1"),
        (["--seed", "-1"], "--seed wants a whole number from 0"),
        (["--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["--only", "07"], "there is no notebook '07'"),
        (["--only", "01", "--from", "02"], "not allowed with argument"),
        (["--mirror", "nowhere"], "--mirror wants a folder or a URL; nowhere is neither"),
        (["--results", f"{__file__}/deep"], f"--results wants a folder; {__file__} is none"),
        (["--data-dir", __file__], f"--data-dir wants a folder; {__file__} is none"),
        (["--scheduler", "tcp://127.0.0.1:9"], "no Dask scheduler answers at tcp://127.0.0.1:9"),
        (["--only", "05"], "05_cluster reads what 01_prepare, 02_baselines, 03_contrastive make, not done in"),
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
    monkeypatch.setattr(pipeline, "run_plan", Mock(side_effect=error))
    assert call(study, tmp_path) == 1
    printed = capsys.readouterr()
    assert words in printed.err and printed.err.count("\n") == 1
    assert printed.err.endswith("finished notebooks are kept, and the same command goes on from there\n")


def test_dry_run_and_list_run_nothing(study, tmp_path, capsys):
    assert call(study, tmp_path, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "01_prepare: stale: not done yet" and len(lines) == 4
    assert lines[3].startswith("05_cluster: stale")
    assert call(study, tmp_path, "--list", "-p", "temperature=0.5") == 0
    printed = capsys.readouterr().out
    assert "02_baselines  (stale: not done yet)\n  Does 02_baselines work?" in printed
    assert re.search(r"^  temperature=0\.5 +float +scale \(default: 0\.1\)$", printed, flags=re.M)
    assert "run_dir" not in printed and not (tmp_path / "results").exists()


def test_list_shows_every_parameter_of_the_study_as_it_may_be_typed(tmp_path, capsys):
    assert main(["--list", "--results", str(tmp_path)]) == 0
    stages = read_stages(project_root() / "notebooks")
    defaults = resolve_parameters(stages, [])
    number, seen = "", []
    for line in capsys.readouterr().out.splitlines():
        number = line[:2] if re.match(r"\d\d_", line) else number
        found = re.match(r"  ('.*?'|[^ =]+=\S*) +(str|int|float|bool|list\[\w+\]) +(.{5,})", line)
        if found and number:
            [assignment] = shlex.split(found[1])
            assert resolve_parameters(stages, [], [f"{number}.{assignment}"]) == defaults
            seen.append((number, assignment.partition("=")[0]))
    assert seen == [(stage.name[:2], name) for stage in stages for name in stage.parameters if name not in PLUMBING]


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


def test_a_dry_run_says_what_would_be_downloaded(study, tmp_path, capsys):
    places = 'mirror: str = ""  # where from\ndata_dir: str = ""  # where to\n'
    write_notebook(study, "01_prepare", places + 'cp_table: str = "selected"  # which features\n', ["1"])
    assert call(study, tmp_path, "--dry-run", "--dataset", "ta-orf", "--data-dir", str(tmp_path / "data")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("01_prepare: ") and ": to download, 1.1 MB (https://" in lines[4]
    assert lines[-1].startswith("downloads: ") and not (tmp_path / "data").exists()


# --- who holds a folder, and what a kernel sees -------------------------------------------------------------


def test_the_second_run_of_a_folder_says_who_holds_it_and_what_to_do(study, tmp_path, capsys):
    held = tmp_path / "results" / "simulated" / "default"
    code = "import sys, time; from cpx_utils.pipeline import run_lock; from pathlib import Path\n"
    code += "with run_lock(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, str(held)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    assert call(study, tmp_path) == 2
    printed = capsys.readouterr().err
    assert f"default is in use by process {process.pid} on {platform.node()}; run this again when" in printed
    assert "give another with --results" in printed and printed.count("\n") == 1
    process.kill()
    process.communicate()
    (held / ".writing-a.csv").touch()
    (held / "models" / ".writing-b").mkdir(parents=True)
    with run_lock(held):  # free again, and what that process left is gone
        assert read_json(held / ".lock.json")["pid"] == os.getpid()
    assert [path.name for path in held.rglob("*")] == ["models"]


def test_two_profiles_do_not_draw_into_one_folder_at_once(study, tmp_path, capsys):
    with run_lock(tmp_path / "figures" / "simulated", "--figures"):
        assert call(study, tmp_path, "--profile", "full") == 2
    assert "another with --figures" in capsys.readouterr().err
    assert not (tmp_path / "results" / "simulated" / "full" / ".lock").exists(), "the first folder is free again"


def test_a_kernel_runs_on_one_thread_and_does_not_see_the_users_settings(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setenv("MPLBACKEND", "TkAgg")
    monkeypatch.setenv("CPX_SCHEDULER", "tcp://elsewhere:1")
    before = dict(os.environ)
    with kernel_environment("") as folder:
        assert os.environ["OMP_NUM_THREADS"] == "1" and "inline" in os.environ["MPLBACKEND"]
        assert os.environ["CPX_SCHEDULER"] == ""
        assert read_json(folder / "kernels" / "python3" / "kernel.json")["argv"][0] == sys.executable
    assert dict(os.environ) == before and not folder.exists()
