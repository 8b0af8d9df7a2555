"""Notebooks as stages, their parameters, what makes one stale, and the command line; no kernels (test_run_all.py)."""

import argparse
import json
import re
import subprocess
import sys

import pytest
from stub_notebooks import write_notebook, write_study

from cpx_utils import pipeline
from cpx_utils.pipeline import (
    NEEDS,
    Plan,
    find_stage,
    fingerprint,
    main,
    read_parameters,
    read_stages,
    run_lock,
    typed_value,
    upstream,
    why_stale,
)
from cpx_utils.profiles import ScreenError
from cpx_utils.provenance import Workspace, project_root, read_json, record_path, sha256_file, write_json


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
    assert stages[1].parameters["problem"].choices == ["none", "crash", "screen", "sleep"]
    for where in ("5", "05", "05_cluster"):
        assert find_stage(stages, where) is stages[3]


def test_parameters_of_every_type_are_parsed_without_being_run():
    found = read_parameters(
        "# a remark\nn: int = -3\nx: float = 1  # whole\nb: bool = False\n"
        'names: list[str] = [\n    "a",\n]  # shown\nlong: str = (\n    "a"  # broken; one of: a, b\n)\n',
        "03_train",
    )
    assert {name: known.default for name, known in found.items()} == {
        "n": -3, "x": 1, "b": False, "names": ["a"], "long": "a",
    }  # fmt: skip
    assert found["long"].comment == "broken; one of: a, b" and found["long"].choices == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x: float = print(1)", "03_train: each line of its parameters cell is `name: type = value"),
        ("x: dict = {}", "of the types int, float"),
        ("x = 3", "each line of its parameters cell"),
    ],
)
def test_a_parameters_cell_that_cannot_be_understood_is_refused(line, message):
    with pytest.raises(ScreenError, match=message):
        read_parameters(line, "03_train")


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
        ("x: list[float] = []", "1, 2.5", [1.0, 2.5]),
        ("x: list[str] = []", "", []),
        ("x: list[str] = ['a']  # any, one of: a, b, c", "c,a", ["c", "a"]),
    ],
)
def test_text_is_converted_to_the_type_declared(line, text, value):
    converted = typed_value(read_parameters(line, "03")["x"], text)
    assert converted == value and type(converted) is type(value)


def test_defaults_of_the_notebooks_are_of_the_types_that_they_declare():
    for stage in read_stages(project_root() / "notebooks"):
        for name, known in stage.parameters.items():
            typed = ",".join(map(str, known.default)) if isinstance(known.default, list) else str(known.default)
            assert typed_value(known, typed) == known.default, f"{stage.name}: {name}"


@pytest.mark.parametrize(
    ("line", "value", "message"),
    [
        ("x: float = 0.1", "hot", "x wants a float such as 0.1; 'hot' isn't one"),
        ("x: float = 0.1", "nan", "x wants a float"),
        ("x: float = 0.1", "1e999", "x wants a float"),
        ("x: int = 1", "1.5", "x wants an int such as 3; '1.5' isn't one"),
        ("x: bool = True", "perhaps", "x wants a bool"),
        ("x: list[int] = []", "1,b", "x wants a list\\[int\\] such as 1,2,3; '1,b' isn't one"),
        ("x: list[int] = []", "[1", "x wants a list"),
        ("x: str = 'a'  # one of: a, b", "c", "x wants one of a, b; 'c' isn't"),
    ],
)
def test_values_of_another_type_are_refused_in_one_line(line, value, message):
    with pytest.raises(ScreenError, match=message) as error:
        typed_value(read_parameters(line, "03")["x"], value)
    assert "\n" not in str(error.value)


# --- what is stale ------------------------------------------------------------------------------------------


def test_staleness_names_its_reason(tmp_path, stages, monkeypatch):
    stage, run_dir, figures_dir = stages[1], tmp_path / "run", tmp_path / "figures"
    options = argparse.Namespace(force=False)
    plan = Plan(stages, stages, {stage.name: {"temperature": 0.1}}, "s", run_dir, figures_dir, options)
    current = fingerprint(stage, {"temperature": 0.1})
    outside = tmp_path / "screen.csv"
    outside.write_text("a")

    def reason(now=current):
        monkeypatch.setattr(pipeline, "fingerprint", lambda *_: json.loads(json.dumps(now)))
        return why_stale(plan, stage)

    assert reason() == "not done yet"
    workspace = Workspace(stage.name, str(run_dir), str(figures_dir))
    workspace.record_input(outside)
    workspace.output_file("model.json").write_text("{}")
    workspace.finish()
    assert reason() == "last run by hand"
    path, executed = record_path(run_dir, stage.name), run_dir / "notebooks" / "02_baselines.ipynb"
    executed.parent.mkdir()
    executed.write_text("{}")
    write_json(path, read_json(path) | {"run": {"fingerprint": current, "notebook": sha256_file(executed)}})
    assert reason() == ""
    executed.write_text("{ }")
    assert reason() == "notebooks/02_baselines.ipynb changed"
    executed.unlink()
    assert reason() == "notebooks/02_baselines.ipynb is missing"
    executed.write_text("{}")
    assert reason(current | {"parameters": {"temperature": 0.2}}) == "temperature was 0.1, is 0.2"
    for name in ("its code", "cpx_utils/profiles.py", "cpx_utils/screens.toml", "package papermill", "Python"):
        assert reason(current | {"versions": current["versions"] | {name: "x"}}) == f"{name} changed"
    outside.write_text("b")
    assert reason() == f"{outside} changed"
    options.force = True
    assert reason() == "--force"


# --- the command line ---------------------------------------------------------------------------------------


def test_dry_run_and_list_run_nothing(study, tmp_path, capsys):
    assert call(study, tmp_path, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "01_prepare: stale: not done yet" and len(lines) == 4
    assert lines[3].startswith("05_cluster: stale")
    assert call(study, tmp_path, "--list", "-p", "temperature=0.5") == 0
    printed = capsys.readouterr().out
    assert "02_baselines\n  Does 02_baselines work?" in printed and "02_baselines: stale: not done yet" in printed
    assert re.search(r"^  temperature=0\.5 +float +scale$", printed, flags=re.M)
    assert "run_dir" not in printed and not (tmp_path / "results").exists()


def test_check_examines_the_screen_and_runs_nothing(study, tmp_path, capsys):
    write_notebook(study, "01_prepare", 'screen_size: str = "tiny"\n', [])
    assert call(study, tmp_path, "--check") == 0
    printed = capsys.readouterr().out
    assert "nothing is wrong" in printed and "moa_clustering" in printed
    (tmp_path / "bad.toml").write_text('name = "bad"\n[cp]\npath = "none.csv"\n[tx]\npath = "none.csv"\n')
    assert call(study, tmp_path, "--check", "--dataset", str(tmp_path / "bad.toml")) == 2
    assert "none.csv" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_a_folder_that_another_process_holds_is_refused_and_leftovers_go(study, tmp_path, capsys):
    held = tmp_path / "results" / "simulated" / "default"
    code = "import sys, time; from cpx_utils.pipeline import run_lock; from pathlib import Path\n"
    code += "with run_lock(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, str(held)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    assert call(study, tmp_path) == 2
    printed = capsys.readouterr().err
    assert "is in use by another run; wait for its end" in printed and printed.count("\n") == 1
    process.kill()
    process.communicate()
    (held / ".writing-a.csv").touch()
    with run_lock(held):  # free again, and what that process left is gone
        assert not (held / ".writing-a.csv").exists()
