"""Stages, their parameters, and what makes one stale."""

import json

import nbformat
import pytest
from stub_notebooks import write_notebook, write_study

from cpx_utils.profiles import ScreenError
from cpx_utils.provenance import FileHashes, Workspace, read_record, sha256_file, stage_record_path, write_record
from cpx_utils.stages import (
    NEEDS,
    checked_value,
    executed_path,
    find_stage,
    fingerprint,
    imported_modules,
    read_parameters,
    read_stages,
    resolve_parameters,
    upstream,
    why_stale,
)


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path / "notebooks")


@pytest.fixture
def stages(study):
    return read_stages(study)


def parameter(line):
    return next(iter(read_parameters(line, "03_train").values()))


# --- reading notebooks --------------------------------------------------------------------------------------


def test_stages_are_read_in_order_with_question_and_parameters(stages):
    assert [stage.name for stage in stages] == ["01_prepare", "02_baselines", "03_contrastive", "05_cluster"]
    assert stages[0].question == "Does 01_prepare work?" and stages[0].number == "01"
    temperature = stages[1].parameters["temperature"]
    assert (temperature.kind, temperature.default, temperature.comment) == ("float", 0.1, "scale")
    assert stages[1].parameters["problem"].choices == ("none", "crash", "screen", "sleep")
    assert all("temperature: float" not in source for source, _ in stages[1].cells)


def test_settings_before_the_parameters_are_parameters_too(study):
    path = study / "03_contrastive.ipynb"
    notebook = nbformat.read(path, as_version=4)
    rare = nbformat.v4.new_code_cell('device: str = "auto"  # where', metadata={"tags": ["settings"]})
    notebook.cells.insert(1, rare)
    nbformat.write(notebook, path)
    stage = find_stage(read_stages(study), "03")
    assert list(stage.parameters) == ["dataset", "run_dir", "figures_dir", "seed", "problem", "device"]
    assert stage.parameters["device"].default == "auto" and all("device" not in source for source, _ in stage.cells)
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
    assert found["names"].comment == "shown" and found["n"].comment == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x: float = print(1)", "line 1 of its parameters cell"),
        ("import os", "line 1 of its parameters cell"),
        ("x = 1", "line 1 of its parameters cell isn't `name: type = value`"),
        ("x: int =", "line 1 of its parameters cell isn't Python: invalid syntax"),
        ("x: dict = {}", "of type dict; known are int"),
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
    bare = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    nbformat.write(bare, study / "02_twin.ipynb")
    with pytest.raises(ScreenError, match="02_twin: its cell tagged parameters lacks dataset, run_dir, figures"):
        read_stages(study)


# --- values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "text", "value"),
    [
        ("x: float = 0.1", "2", 2.0),
        ("x: float = 0.1", "1e-3", 1e-3),
        ("x: int = 1", "-4", -4),
        ("x: bool = True", "False", False),
        ("x: str = ''", "12", "12"),
        ("x: list[int] = []", "1, 2", [1, 2]),
        ("x: list[float] = []", "[1, 2.5]", [1.0, 2.5]),
        ("x: list[str] = []", "a,b", ["a", "b"]),
        ("x: list[str] = []", '["a, b"]', ["a, b"]),
        ("x: list[str] = []", "", []),
        ("x: str = 'a'  # one of: a, b", "b", "b"),
        ("x: list[str] = ['a']  # any, one of: a, b, c", "c,a", ["c", "a"]),
    ],
)
def test_text_is_converted_to_the_type_declared(line, text, value):
    converted = checked_value(parameter(line), text)
    assert converted == value and type(converted) is type(value)


@pytest.mark.parametrize(
    ("line", "value", "message"),
    [
        ("temperature: float = 0.1", "hot", "temperature wants a float such as 0.1; 'hot' isn't one"),
        ("x: float = 0.1", "nan", "x wants a float"),
        ("x: float = 0.1", True, "x wants a float"),
        ("x: int = 1", "1.5", "x wants an int such as 3; '1.5' isn't one"),
        ("x: int = 1", 1.5, "x wants an int"),
        ("x: int = 1", True, "x wants an int"),
        ("x: bool = True", "yes", "x wants a bool such as true; 'yes' isn't one"),
        ("x: bool = True", 1, "x wants a bool"),
        ("x: str = ''", 3, "x wants a str"),
        ("x: list[int] = []", "1,b", "x wants a list\\[int\\] such as 1,2,3; '1,b' isn't one"),
        ("x: list[int] = []", "[1", "x wants a list"),
        ("x: list[int] = []", 3, "x wants a list"),
        ("x: str = 'a'  # one of: a, b", "c", "x wants one of a, b; 'c' isn't"),
    ],
)
def test_values_of_another_type_are_refused_in_one_line(line, value, message):
    with pytest.raises(ScreenError, match=message) as error:
        checked_value(parameter(line), value)
    assert "\n" not in str(error.value)


# --- layers -------------------------------------------------------------------------------------------------


def test_layers_override_each_other_in_order(stages):
    resolved = resolve_parameters(stages, [{"seed": 1, "size": 2, "unknown": 0}, {"seed": 2}], ["size=3"])
    assert {values["seed"] for values in resolved.values()} == {2}
    assert resolved["01_prepare"]["size"] == 3 and "size" not in resolved["02_baselines"]
    assert resolved["02_baselines"]["temperature"] == 0.1


def test_a_parameter_is_set_everywhere_or_in_one_notebook(stages):
    everywhere = resolve_parameters(stages, [], ["problem=crash"])
    assert everywhere["02_baselines"]["problem"] == everywhere["03_contrastive"]["problem"] == "crash"
    for where in ("03", "3", "03_contrastive"):
        one = resolve_parameters(stages, [], [f"{where}.problem=crash"])
        assert (one["02_baselines"]["problem"], one["03_contrastive"]["problem"]) == ("none", "crash")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "temprature=0.2",
            r"no notebook has a parameter 'temprature'; did you mean 'temperature' \(02_baselines, float\)\?",
        ),
        ("problm=crash", r"did you mean 'problem' \(in 02, 03, str\)\?"),
        ("qqqq=1", "there are factor, fast, methods, problem, seed, size, temperature"),
        ("03.temperature=0.2", "03_contrastive has no parameter 'temperature'"),
        ("09.temperature=0.2", "there is no notebook '09'; there are 01_prepare"),
        ("temperature", "-p wants NAME=VALUE"),
        ("run_dir=x", "run_dir is set by --results, not by -p"),
    ],
)
def test_wrong_assignments_are_refused_with_what_would_be_right(stages, given, message):
    with pytest.raises(ScreenError, match=message):
        resolve_parameters(stages, [], [given])


def test_stages_are_found_by_number_and_name(stages):
    assert find_stage(stages, "5") is find_stage(stages, "05") is find_stage(stages, "05_cluster") is stages[3]
    with pytest.raises(ScreenError, match="there is no notebook '04'"):
        find_stage(stages, "04")


def test_a_stage_needs_those_before_it_near_and_far(study, stages):
    def needs(name):
        return [stage.number for stage in upstream(find_stage(stages, name), stages)]

    assert needs("01") == [] and needs("03") == ["01"] and needs("05") == ["01", "02", "03"]
    write_notebook(study, "09_mine", "", [])
    stages = read_stages(study)
    assert needs("09") == ["01", "02", "03", "05"]
    assert all(needed < number for number, all_needed in NEEDS.items() for needed in all_needed)


# --- fingerprints -------------------------------------------------------------------------------------------


def test_imports_are_followed_inside_the_package(tmp_path):
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

    def closure(code):
        return sorted(imported_modules([code], package))

    assert closure("from cpx_utils import a") == ["__init__", "a", "b", "c"]
    assert closure("import cpx_utils.e") == ["__init__", "d", "e"]
    assert closure("from cpx_utils.c import g") == ["__init__", "c"]
    assert closure("import numpy") == ["__init__"]
    assert closure("%run a.py") == sorted(sources)  # can't be parsed: better too much than too little
    before = imported_modules(["from cpx_utils import a"], package)
    (package / "c.py").write_text("import scipy\n")
    after = imported_modules(["from cpx_utils import a"], package)
    assert [name for name in before if before[name] != after[name]] == ["c"]


def test_a_notebook_does_not_depend_on_the_runner_or_the_loaders():
    modules = imported_modules(["from cpx_utils.provenance import Workspace"])
    assert {"provenance", "profiles"} <= set(modules)
    assert not {"stages", "running", "pipeline", "report", "datasets", "simulation"} & set(modules)


def test_prose_is_not_in_the_fingerprint_but_code_and_parameters_are(study):
    def take(**options):
        stage = find_stage(read_stages(study), "02")
        return fingerprint(stage, {name: known.default for name, known in stage.parameters.items()} | options)

    path = study / "02_baselines.ipynb"
    before = take()
    assert take(run_dir="/elsewhere", figures_dir="/else") == before
    assert take(temperature=0.3) != before
    json.dumps(before)
    notebook = nbformat.read(path, 4)
    notebook.cells[0].source = "# Another question?"
    notebook.cells[1].source += "# a remark in the parameters cell\n"
    nbformat.write(notebook, path)
    assert take() == before
    notebook.cells[2].source += "\nx = 1"
    nbformat.write(notebook, path)
    assert take()["code"] != before["code"]


def test_staleness_names_its_reason(tmp_path, stages):
    run_dir, figures_dir = tmp_path / "run", tmp_path / "figures"
    stage = stages[1]
    current = fingerprint(stage, {"temperature": 0.1})
    outside = tmp_path / "screen.csv"
    outside.write_text("a")

    def reason(now=current, **options):
        hashes = FileHashes(tmp_path / "hashes.json")
        return why_stale(stage, json.loads(json.dumps(now)), run_dir, figures_dir, hashes, **options)

    assert reason() == "not done yet"
    workspace = Workspace(stage.name, str(run_dir), str(figures_dir))
    workspace.record_input(outside)
    workspace.output_file("model.json").write_text("{}")
    workspace.finish()
    assert reason() == "last run by hand"
    path = stage_record_path(run_dir, stage.name)
    executed = executed_path(run_dir, stage.name)
    executed.parent.mkdir()
    executed.write_text("{}")
    write_record(path, read_record(path) | {"run": {"fingerprint": current, "notebook": sha256_file(executed)}})
    assert reason() == ""
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"model.json", b"modem.json"))
    assert reason() == "its record is damaged"
    path.write_bytes(whole)
    executed.write_text("{ }")
    assert reason() == "its executed notebook changed"
    executed.unlink()
    assert reason() == "its executed notebook is missing"
    executed.write_text("{}")
    assert reason() == ""
    assert reason(current | {"parameters": {"temperature": 0.2}}) == "temperature was 0.1, is 0.2"
    assert reason(current | {"code": "x"}) == "its code changed"
    modules = current["modules"] | {"profiles": "x"}
    assert reason(current | {"modules": modules}) == "module profiles changed"
    packages = current["packages"] | {"numpy": "0"}
    assert reason(current | {"packages": packages}) == "package numpy changed"
    outside.write_text("b")
    assert reason() == f"{outside} changed" and reason(check_reads=False) == ""
    (run_dir / "model.json").unlink()
    assert reason() == "model.json is missing"
