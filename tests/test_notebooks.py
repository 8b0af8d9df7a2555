"""The eight notebooks: what every one of them keeps to, and the whole study on the tiny simulated screen."""

import ast
import re
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
from study_runs import KEYS, METHODS, NETWORKS, NOTEBOOKS, QUICK, ROOT, VERDICTS, WITH_TX, Study, assert_complete

from cpx_utils.datasets import DATASETS
from cpx_utils.pipeline import make_plan, parse_call
from cpx_utils.profiles import COMPOUND, CONTROL, METADATA_COLUMNS, embedding_values, feature_columns
from cpx_utils.provenance import stage_records
from cpx_utils.report import notebook_html
from cpx_utils.stages import PROFILES, read_parameters, read_stages

HEADINGS = ["Question", "Parameters", "Load", "Method", "Result", "What we learn", "Saved", "Exercises"]


# --- what every notebook keeps to ---------------------------------------------------------------------------


@pytest.fixture(params=NOTEBOOKS, scope="module")
def notebook(request):
    loaded = nbformat.read(NOTEBOOKS[request.param], as_version=4)
    return SimpleNamespace(file=loaded, cells=loaded.cells, stem=request.param, number=request.param[:2])


def code_of(notebook) -> list[tuple[str, ast.Module]]:
    """Return source and syntax tree of each code cell."""
    return [(cell.source, ast.parse(cell.source)) for cell in notebook.cells if cell.cell_type == "code"]


def calls(notebook, name: str) -> list[ast.Call]:
    """Return the calls of `name`, such as Workspace or workspace.figure."""
    nodes = [node for _, tree in code_of(notebook) for node in ast.walk(tree)]
    return [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == name]


def test_there_are_eight_numbered_notebooks():
    assert [name[:2] for name in NOTEBOOKS] == [f"{number:02d}" for number in range(1, 9)]


def test_a_title_with_its_number_then_the_headings_in_order(notebook):
    nbformat.validate(notebook.file)
    lines = [line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    titles = [line for line in lines if line.startswith("# ")]
    assert len(titles) == 1 and notebook.cells[0].source.startswith(titles[0])
    assert titles[0].startswith(f"# {notebook.number} ") and titles[0].endswith("?")
    assert [line.removeprefix("## ") for line in lines if line.startswith("## ")] == HEADINGS


def test_code_is_short_and_every_cell_has_its_why(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert 0 < len(cells) <= 20
    lines = {cell.id: len(list(filter(str.strip, cell.source.splitlines()))) for cell in cells}
    assert {name: n for name, n in lines.items() if n > 15} == {}
    before = {here.id: above.cell_type for above, here in zip(notebook.cells, notebook.cells[1:], strict=False)}
    assert {cell.id for cell in cells if before[cell.id] != "markdown"} == set()
    assert all(cell.source.strip() for cell in notebook.cells)


def test_no_definitions_no_wildcards_no_magics(notebook):
    for source, tree in code_of(notebook):  # a magic would be no Python
        for node in ast.walk(tree):
            assert not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef), source
            assert not (isinstance(node, ast.ImportFrom) and node.names[0].name == "*"), source


def test_committed_without_outputs_with_stable_ids(notebook):
    for cell in notebook.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None
        assert re.fullmatch(notebook.number + r"-[a-z0-9]+(-[a-z0-9]+)*", cell.id)
    ids = [cell.id for cell in notebook.cells]
    assert len(ids) == len(set(ids))


def test_parameters_each_with_type_value_and_comment_the_rarely_changed_apart(notebook):
    names = [name for cell in notebook.cells for name in cell.metadata.get("tags", [])]
    assert names in (["parameters"], ["settings", "parameters"]), "papermill injects values behind `parameters`"
    tagged = [cell for cell in notebook.cells if cell.metadata.get("tags")]
    assert {cell.cell_type for cell in tagged} == {"code"}
    source = "\n".join(cell.source for cell in tagged)
    assert all(isinstance(node, ast.AnnAssign) for node in ast.parse(source).body)
    parameters = read_parameters(source, notebook.stem)  # refuses what is no literal of its type
    assert {"dataset", "run_dir", "figures_dir"} <= parameters.keys()
    assert (parameters["dataset"].default, parameters["run_dir"].default) == ("simulated", "")
    assert [name for name, parameter in parameters.items() if len(parameter.comment) < 5] == []
    used = {node.id for _, tree in code_of(notebook) for node in ast.walk(tree) if isinstance(node, ast.Name)
            and isinstance(node.ctx, ast.Load)}  # fmt: skip
    assert parameters.keys() - used == set(), "declared and never used"


def test_the_workspace_bears_the_notebooks_name_and_is_finished_last(notebook):
    made = calls(notebook, "Workspace")
    assert [ast.unparse(call) for call in made] == [f"Workspace('{notebook.stem}', run_dir, figures_dir, dataset)"]
    assert len(calls(notebook, "workspace.finish")) == 1
    assert code_of(notebook)[-1][0].strip().splitlines()[-1] == "workspace.finish()"
    assert calls(notebook, "workspace.say"), "it says what it learned"


def test_figures_bear_the_notebooks_number(notebook):
    drawn = calls(notebook, "workspace.figure")
    names = [ast.literal_eval(call.args[1]) for call in drawn]
    assert names and len(names) == len(set(names))
    assert [name for name in names if not re.fullmatch(notebook.number + r"_[a-z0-9_]+", name)] == []
    assert all(len(call.args) == 4 for call in drawn), "figure, name, table, caption"


def test_it_opens_with_its_question_and_a_diagram(notebook):
    _, question, diagram = notebook.cells[:3]
    assert question.source.startswith("## Question") and len(question.source) > 200
    shown = re.fullmatch(r"!\[([^\]]{100,})\]\((diagrams/.+\.svg)\)", diagram.source)
    assert diagram.cell_type == "markdown" and shown[2] == f"diagrams/{notebook.stem}.svg"
    picture = ROOT / "notebooks" / shown[2]
    assert picture.stat().st_size < 6_000 and "<text" in picture.read_text(encoding="utf-8")


EXERCISE = re.compile(
    r"\*\*(\d)\.\*\* (.+?)\n\n```\npython run_all\.py (.+?)\n```\n\n"
    r"<details><summary>Solution</summary>\n\n(.+?)\n\n</details>",
    flags=re.DOTALL,
)


def test_it_ends_with_three_exercises_whose_calls_are_right_and_whose_solutions_are_folded_away(notebook):
    last = notebook.cells[-1]
    assert last.cell_type == "markdown" and last.source.startswith("## Exercises\n\n")
    found = EXERCISE.findall(last.source)
    assert [number for number, *_ in found] == ["1", "2", "3"] and last.source.count("<details>") == 3
    for _, question, call, solution in found:
        assert "?" in question and len(solution) > 100
        options = parse_call(call.split())
        plan = make_plan(options, ROOT / "notebooks")  # refuses names and values that the notebooks don't know
        assert (plan.profile, [stage.name for stage in plan.selected]) == ("smoke", [notebook.stem])
        assert options.parameter and all(given.startswith(f"{notebook.number}.") for given in options.parameter)


def test_files_and_cells_that_exercises_point_at_are_there(notebook):
    text = notebook.cells[-1].source
    drawn = {ast.literal_eval(call.args[1]) for call in calls(notebook, "workspace.figure")}
    assert set(re.findall(r"`(\d\d_[a-z_]+)`", text)) <= drawn
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert [name for name in re.findall(r"`((?:tables/)?\w+\.(?:csv|json|parquet))`", text) if name not in code] == []


# Cells that define methods and endpoints, and how many.
EXPLAINED = {
    "01-method": 1, "01-replicates-text": 1, "01-result-text": 1, "02-method": 8, "02-result-text": 1, "03-method": 6,
    "04-method": 1, "05-method": 1, "05-moa-method": 1, "05-concat-text": 1, "05-found-text": 1, "06-method": 2,
    "06-metrics-text": 1, "06-halves-text": 1, "07-method": 2, "08-features-text": 1, "08-activity-method": 1,
    "08-library-method": 1, "08-neighbours-method": 1, "08-mechanisms-method": 1, "08-outcomes-method": 1,
}  # fmt: skip


def test_every_method_has_its_formula_its_reference_and_its_failure_mode(notebook):
    text = {cell.id: cell.source for cell in notebook.cells}
    for name, n_methods in EXPLAINED.items():
        if name.startswith(notebook.number):
            assert text[name].count("*Fails*") == n_methods, name
            assert re.search(r"\$[^$]*[=/\\][^$]*\$", text[name]), name
            assert re.search(r"\]\(https://(doi\.org/10\.|arxiv\.org/abs/)|no doi|a book", text[name]), name
    assert any(name.startswith(notebook.number) for name in EXPLAINED)


def test_its_page_keeps_what_is_folded_and_shows_every_formula(notebook):
    page = notebook_html(notebook.file)
    folded = sum(cell.source.count("<details>") for cell in notebook.cells)
    assert page.count("<details><summary>") == page.count("</details>") == folded >= 3
    assert "$" not in re.sub(r"<(pre|code)\b.*?</\1>", "", page, flags=re.DOTALL)
    assert re.findall(r"<code>[^<]*\\[^<]*</code>", page) == [], "a formula that cannot be converted is shown as code"
    assert page.count("<math") >= 4


def test_profiles_and_data_sets_set_only_what_notebooks_declare():
    declared = {name for stage in read_stages(ROOT / "notebooks") for name in stage.parameters}
    layers = [*PROFILES.values(), *(dataset.parameters for dataset in DATASETS.values())]
    assert {name for layer in layers for name in layer} <= declared


def test_shared_parameters_mean_the_same_everywhere():
    stages = read_stages(ROOT / "notebooks")
    kinds: dict[str, set] = {}
    for stage in stages:
        for name, parameter in stage.parameters.items():
            kinds.setdefault(name, set()).add(parameter.kind)
    assert {name for name, known in kinds.items() if len(known) > 1} == set()
    defaults = {stage.name: stage.parameters["seed"].default for stage in stages if "seed" in stage.parameters}
    assert set(defaults.values()) == {0}


# --- the tiny simulated screen ------------------------------------------------------------------------------

TINY = (*QUICK, "screen_size=tiny", "map_methods=raw_cp,contrastive", "min_active=8", "min_shown=6",
        "tx_min=0.4", "margin=-1", "split_kinds=random,scaffold")  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    study = Study(tmp_path_factory.mktemp("tiny"), "simulated", "simulated", *TINY)
    study.done = study.run()
    return study


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """The same once more, in another folder, one notebook at a time; tests may run it further."""
    study = Study(tmp_path_factory.mktemp("again"), "simulated", "simulated", *TINY, options=("--jobs", "1"))
    study.done = study.run()
    return study


def test_the_simulated_screen_runs_through(tiny):
    assert_complete(tiny, tiny.done)
    assert "says nothing about biology" in tiny.done.stdout.splitlines()[-1]
    for number in ("01", "07"):
        assert "simulated" in tiny.learned(number)


COLUMNS = {
    "activity.parquet": [COMPOUND, "task", "active"],
    "tasks.parquet": ["task", "target", "family", "source"],
    "compounds.parquet": [COMPOUND, "InChIKey14", "SMILES", "MoA", "target"],
    "folds.parquet": [COMPOUND, "split", "repeat", "fold"],
    "tables/clustering.csv": ["screen", *KEYS, "endpoint", "label", "n", "value"],
    "tables/retrieval.csv": ["screen", *KEYS, "compound", "rank", "n_candidates"],
    "tables/bioactivity.csv": ["screen", *KEYS, "model", "task", "family", "n_active", "n_inactive", "metric", "value"],
    "tables/timings.csv": ["stage", "step", "seconds", "peak_mb"],
    "tables/claims.csv": "screen claim endpoint method reference effect ci_low ci_high p_adjusted verdict".split(),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_stages_hand_over_the_columns_of_the_contract(name, tiny):
    table = tiny.table(name)
    assert len(table) > 0
    assert list(table.columns[: len(COLUMNS[name])]) == COLUMNS[name]
    if name != "tables/claims.csv":  # which says more, after what the contract asks
        assert len(table.columns) == len(COLUMNS[name])
    if "screen" in table:
        assert set(table["screen"]) == {"simulated-tiny"}


def test_profiles_hold_metadata_first_and_float32_features(tiny):
    for name in ("cp.parquet", "tx.parquet"):
        table = tiny.table(name)
        assert list(table.columns[:5]) == METADATA_COLUMNS
        assert all(table[feature].dtype == np.float32 for feature in feature_columns(table))


def test_every_method_and_its_deranged_control_embed_the_test_compounds_only(tiny):
    folds = tiny.table("folds.parquet")
    fold_of = folds.set_index(["split", "repeat", COMPOUND])["fold"]
    for method in METHODS:
        wells, consensus = (tiny.table(f"embeddings/{method}_{kind}.parquet") for kind in ("wells", "consensus"))
        controls = {"true_pairs", "deranged", "rows_shuffled", "random_codes"} if method in WITH_TX else {""}
        controls |= {"untrained"} if method in NETWORKS else set()
        assert set(wells["control"]) == set(consensus["control"]) == controls
        assert set(wells["split"]) == ({"random"} if method in NETWORKS else {"random", "scaffold"})
        assert set(wells["method"]) == {method}
        # Folds that chose fewer discriminants leave the last columns empty, as a whole.
        assert all(np.isfinite(embedding_values(part)).all() for _, part in wells.groupby(KEYS))
        treated = wells[~wells[CONTROL]]
        assert (
            fold_of.loc[list(zip(treated["split"], treated["repeat"], treated[COMPOUND], strict=True))]
            == treated["fold"].to_numpy()
        ).all()
        is_test = (
            fold_of.loc[list(zip(consensus["split"], consensus["repeat"], consensus[COMPOUND], strict=True))]
            == consensus["fold"].to_numpy()
        )
        assert ((consensus["role"] == "test").to_numpy() == is_test.to_numpy()).all()
        assert set(consensus.loc[consensus["role"] == "test", COMPOUND]) == set(folds[COMPOUND])
        assert all(
            (tiny.run_dir / "models" / method / name / "encoder.json").is_file() for name in ("random-0-0", "all")
        )


def test_the_new_compounds_of_the_rehearsal_are_a_quarter_of_the_first_fold_and_no_others(tiny):
    folds = tiny.table("folds.parquet")
    first = folds[(folds["split"] == "random") & (folds["repeat"] == 0) & (folds["fold"] == 0)]
    new = set(tiny.table("tables/new_embeddings.csv")[COMPOUND])
    assert new < set(first[COMPOUND]) and len(new) == len(first) // 4
    assert set(tiny.table("tables/new_compounds.csv")["compound"]) == new
    assert (tiny.table("tables/new_features.csv")["status"] == "missing").any(), "the rehearsal hides some"


def test_claims_stand_beside_their_references_and_controls(tiny):
    claims = tiny.table("tables/claims.csv")
    for claim in (1, 2, 3):
        rows = claims[(claims["claim"] == claim) & (claims["method"] == "contrastive")]
        assert {"raw_cp", "lda_identity", "deranged"} <= set(rows["reference"])
        assert rows["ci_low"].astype(float).le(rows["effect"].astype(float)).all()
        assert rows["effect"].astype(float).le(rows["ci_high"].astype(float)).all()
    primary = claims[claims["verdict"] != ""]
    assert set(primary.loc[primary["claim"].isin([2, 3]), "verdict"]) <= VERDICTS - {"not testable"}
    assert primary["reason"].str.len().gt(10).all()
    retrieval = tiny.table("tables/retrieval.csv")
    assert retrieval["rank"].between(0, retrieval["n_candidates"] - 1).all()


def test_true_and_deranged_errors_are_compared_on_the_same_folds(tiny):
    history = tiny.table("tables/history_04.csv")
    assert set(history.loc[history["fold"] < 0, "control"]) == {"true_pairs"}
    lowest = history[history["fold"] >= 0].groupby(["control", "fold", "seed", "member"])["validation"].min()
    lowest = lowest.groupby("control").mean()
    assert f" {1 - lowest['true_pairs'] / lowest['deranged']:.1%} relative to deranged pairs" in tiny.learned("04")
    for number in ("03", "04"):
        drawn = pd.read_csv(tiny.figures / f"{number}_training_curves.csv")
        assert drawn["fold"].min() == 0


def test_nothing_changed_runs_nothing(tiny):
    before = tiny.files()
    done = tiny.run()
    assert (done.status, done.ran) == (0, []) and done.stdout.count("skipped (unchanged)") == 8
    assert tiny.files() == before


def test_two_runs_with_one_seed_give_the_same_bytes_side_by_side_or_not(tiny, again):
    first, second = tiny.files(), again.files()
    assert first.keys() == second.keys() and sum(name.endswith(".csv") for name in first) > 30
    assert [name for name in first if first[name] != second[name]] == []


def test_a_parameter_runs_its_notebook_and_what_depends_on_it_only(again):
    before = again.files()
    done = again.run(parameters=("temperature=0.2", "map_methods=[]"))  # 05 runs anyway; without UMAP it is quick
    assert done.status == 0, done.stderr
    assert [name[:2] for name in done.ran] == ["03", "05", "06", "07", "08"]
    after = again.files()
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name] != after[name]}
    assert "default/tables/retrieval_03.csv" in changed and "default/tables/retrieval.csv" in changed
    assert not {
        name for name in changed if re.search(r"retrieval_0[24]|/0[124]_|cp\.parquet|models/(?!contrastive)", name)
    }


def test_new_profiles_that_are_not_there_are_one_line(again):
    done = again.run("--only", "08", parameters=("temperature=0.2", "map_methods=[]", "new_profiles=nowhere.csv"))
    assert done.status == 2 and done.stdout == ""
    assert done.stderr == "run_all: new_profiles wants a file; nowhere.csv is not there\n"
    assert "08_embed_new_compounds" in stage_records(again.run_dir), "nothing ran, so nothing is lost"
