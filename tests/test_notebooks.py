"""The eight notebooks: what every one of them keeps to, and the whole study on four screens.

The screens are the tiny simulated one, a user's with nothing optional, a user's with everything, and the real
cmea-u2os (where CPX_MIRROR names a folder with its files). All runs go through the command line.
"""

import ast
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest

from cpx_utils.datasets import DATASETS
from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, METADATA_COLUMNS, PLATE, WELL, feature_columns
from cpx_utils.provenance import read_json, stage_records
from cpx_utils.report import remote_references
from cpx_utils.simulation import simulate_screen
from cpx_utils.stages import PROFILES, read_parameters, read_stages

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
HEADINGS = ["Question", "Parameters", "Load", "Method", "Result", "What we learn", "Saved"]
MIRROR = os.environ.get("CPX_MIRROR", "")
# Everything as small as it can be: these runs show that the parts fit together, not what comes out.
QUICK = ("max_epochs=15", "n_members=1", "n_derangements=1", "n_derangements_linear=2", "n_bootstrap=100")
KEYS = ["split", "repeat", "fold", "seed", "method", "control"]
METHODS = "raw_cp sphered_cp pca_cp lda_identity ridge_tx rcca contrastive autoencoder".split()
WITH_TX = METHODS[4:]
VERDICTS = {"supported", "explained without TX", "not supported", "inconclusive", "not testable"}


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
    too_long = {cell.id: n for cell in cells if (n := len(list(filter(str.strip, cell.source.splitlines())))) > 20}
    assert too_long == {}
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


def test_one_cell_of_parameters_each_with_type_value_and_comment(notebook):
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1 and tagged[0].cell_type == "code"
    source = tagged[0].source
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


# --- runs ---------------------------------------------------------------------------------------------------


class Study:
    """Results and figures of a data set in a folder, and how to run it."""

    def __init__(self, folder: Path, dataset: str | Path, name: str, *parameters: str, options=()):
        self.run_dir = folder / "results" / name / "default"
        self.figures = folder / "figures" / name
        self.arguments = ["--dataset", str(dataset), "--results", str(folder / "results"),
                          "--figures", str(folder / "figures"), "--jobs", "2", *options]  # fmt: skip
        self.parameters = list(parameters)

    def run(self, *extra: str, parameters: tuple[str, ...] = ()):
        """Run it, and return what was printed, with `status`, `ran` (names of stages) and `seconds`."""
        start = time.perf_counter()
        given = [word for value in (*self.parameters, *parameters) for word in ("-p", value)]
        done = subprocess.run([sys.executable, str(ROOT / "run_all.py"), *self.arguments, *given, *extra],
                              capture_output=True, text=True, timeout=900)  # fmt: skip
        done.seconds, done.status = time.perf_counter() - start, done.returncode
        done.ran = sorted(
            line.split()[1] for line in done.stdout.splitlines() if re.match(r"\[.* \.\.\. [\d.]+ s$", line)
        )
        return done

    def table(self, name: str) -> pd.DataFrame:
        path = self.run_dir / name
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, keep_default_na=False)

    def learned(self, number: str) -> str:
        """Return the sentences of a notebook's What we learn."""
        record = next(record for name, record in stage_records(self.run_dir).items() if name.startswith(number))
        return "\n".join(record["learned"])

    def files(self) -> dict[str, bytes]:
        """Return the bytes of every table, embedding, model and picture; not of what tells of times and places."""
        told = {"timings.csv", "manifest.json", ".hashes.json", ".lock"}
        return {
            f"{folder.name}/{path.relative_to(folder)}": path.read_bytes()
            for folder in (self.run_dir, self.figures)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
            and path.name not in told
            and path.relative_to(folder).parts[0] not in ("stages", "notebooks", "report")
        }


def assert_complete(study: Study, done) -> None:
    """Check that a run did all eight notebooks and left what every run leaves."""
    assert done.status == 0, done.stderr
    assert done.stderr == "" and done.ran == list(NOTEBOOKS)
    records = stage_records(study.run_dir)
    assert list(records) == list(NOTEBOOKS)
    assert list(read_json(study.run_dir / "manifest.json")["stages"]) == list(NOTEBOOKS)
    figures = [(name[:2], figure) for name, record in records.items() for figure in record["figures"]]
    assert len(figures) >= 10
    for number, figure in figures:
        assert figure["name"].startswith(number + "_") and len(figure["caption"]) > 20
        png, svg, csv = (study.figures / f"{figure['name']}.{suffix}" for suffix in ("png", "svg", "csv"))
        assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and "<svg" in svg.read_text()[:2000]
        assert csv.is_file()
    assert {path.stem for path in study.figures.iterdir()} == {figure["name"] for _, figure in figures}
    for name in NOTEBOOKS:
        executed = nbformat.read(study.run_dir / "notebooks" / f"{name}.ipynb", 4)
        outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
        assert not [output for output in outputs if output.output_type == "error"]
        warned = [output.text for output in outputs if output.get("name") == "stderr" and "Warning" in output.text]
        assert warned == [], f"{name} warns its reader"
        assert (study.run_dir / "report" / "notebooks" / f"{name}.html").is_file()
    assert remote_references(study.run_dir / "report") == []
    claims = study.table("tables/claims.csv")
    assert claims.loc[claims["verdict"] != "", "claim"].tolist() == [1, 2, 3, 4]
    assert set(claims["verdict"]) - {""} <= VERDICTS


# --- the tiny simulated screen ------------------------------------------------------------------------------

TINY = (*QUICK, "screen_size=tiny", "map_methods=raw_cp,contrastive", "min_active=12", "min_shown=8")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    study = Study(tmp_path_factory.mktemp("tiny"), "simulated", "simulated", *TINY)
    study.done = study.run()
    return study


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """The same once more, in another folder; tests may run it further."""
    study = Study(tmp_path_factory.mktemp("again"), "simulated", "simulated", *TINY)
    study.done = study.run()
    return study


def test_the_simulated_screen_runs_through(tiny):
    assert_complete(tiny, tiny.done)
    assert "says nothing about biology" in tiny.done.stdout.splitlines()[-1]
    for number in ("01", "07"):
        assert "simulated" in tiny.learned(number)


COLUMNS = {
    "activity.parquet": [COMPOUND, "task", "active"],
    "tasks.parquet": ["task", "target", "family"],
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
    fold_of = folds.set_index(["repeat", COMPOUND])["fold"]
    for method in METHODS:
        wells, consensus = (tiny.table(f"embeddings/{method}_{kind}.parquet") for kind in ("wells", "consensus"))
        controls = {"true_pairs", "deranged"} if method in WITH_TX else {""}
        assert set(wells["control"]) == set(consensus["control"]) == controls
        assert set(wells["method"]) == {method} and np.isfinite(wells.filter(regex=r"^z\d{3}$").to_numpy()).all()
        treated = wells[~wells[CONTROL]]
        assert (
            fold_of.loc[list(zip(treated["repeat"], treated[COMPOUND], strict=True))] == treated["fold"].to_numpy()
        ).all()
        is_test = (
            fold_of.loc[list(zip(consensus["repeat"], consensus[COMPOUND], strict=True))]
            == consensus["fold"].to_numpy()
        )
        assert ((consensus["role"] == "test").to_numpy() == is_test.to_numpy()).all()
        assert set(consensus.loc[consensus["role"] == "test", COMPOUND]) == set(folds[COMPOUND])
        assert all(
            (tiny.run_dir / "models" / method / name / "encoder.json").is_file() for name in ("random-0-0", "all")
        )


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


def test_nothing_changed_runs_nothing_in_ten_seconds(tiny):
    before = tiny.files()
    done = tiny.run()
    assert (done.status, done.ran) == (0, []) and done.stdout.count("skipped (unchanged)") == 8
    assert done.seconds < 10
    assert tiny.files() == before


def test_two_runs_with_one_seed_give_the_same_bytes(tiny, again):
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
    assert done.status == 1 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("run_all: 08_embed_new_compounds failed in cell [")
    assert "nowhere.csv" in done.stderr and "Error:" not in done.stderr
    assert "08_embed_new_compounds" not in stage_records(again.run_dir)


# --- users' screens -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A screen without plates, wells, doses, controls, structures, MoA, assays: 40 compounds, one profile each."""
    folder = tmp_path_factory.mktemp("bare")
    rng = np.random.default_rng(7)
    effects = rng.normal(size=(40, 5))
    for name, columns in (("cp", [f"Cells_F{n}" for n in range(24)]), ("tx", [f"GENE{n}" for n in range(30)])):
        values = effects @ rng.normal(size=(5, len(columns))) + rng.normal(size=(40, len(columns)))
        table = pd.DataFrame(values, columns=columns)
        table.insert(0, COMPOUND, [f"drug {number}" for number in range(40)])
        table.to_csv(folder / f"{name}.csv", index=False)
    toml = folder / "screen.toml"
    toml.write_text('name = "bare"\n[cp]\npath = "cp.csv"\n[tx]\npath = "tx.csv"\n', encoding="utf-8")
    study = Study(folder, toml, "bare", *QUICK, "map_methods=[]")
    study.done = study.run()
    return study


def test_a_screen_with_nothing_optional_runs_through_and_says_what_it_cannot_tell(bare):
    assert_complete(bare, bare.done)
    claims = bare.table("tables/claims.csv")
    assert claims["verdict"].tolist() == ["not testable"] * 4 and claims["reason"].str.len().gt(10).all()
    assert bare.done.stdout.count(": not testable (") == 4
    testability = bare.table("tables/testability.csv").set_index("endpoint")["testable"].astype(str)
    assert testability.to_dict() == {
        "replicate_clustering": "False", "activity_calls": "False", "moa_clustering": "False",
        "retrieval": "True", "bioactivity": "False", "target_families": "False",
    }  # fmt: skip
    for number, words in (("01", "replicate clustering"), ("05", "Replicate clustering"), ("06", "Bioactivity")):
        assert words in bare.learned(number) and "ot testable" in bare.learned(number)
    assert bare.learned("07").count("not testable on bare") == 4
    assert "left out" in bare.learned("02"), "LDA on identity needs replicates"
    assert len(bare.table("tables/retrieval.csv")) > 0


OWN_TOML = """\
name = "own"
[cp]
path = "cp.csv.gz"
[tx]
path = "tx.csv.gz"
[columns]
compound = "drug"
plate = "plate id"
well = "position"
dose = "uM"
control = "dmso"
[compounds]
path = "compounds.csv.gz"
[activity]
path = "activity.csv.gz"
[tasks]
path = "tasks.csv.gz"
"""
OWN_COLUMNS = {COMPOUND: "drug", PLATE: "plate id", WELL: "position", DOSE: "uM", CONTROL: "dmso"}


def write_own_screen(folder: Path, cp, tx, compounds, activity, tasks) -> Path:
    """Write a screen as csv.gz with columns of its own names; return its TOML."""
    compounds = compounds.rename(columns={COMPOUND: "compound", "SMILES": "smiles", "MoA": "moa"})
    compounds = compounds.assign(**{name: compounds[name].map("|".join) for name in ("moa", "target")})
    tables = {
        "cp": cp.rename(columns=OWN_COLUMNS),
        "tx": tx.rename(columns=OWN_COLUMNS),
        "compounds": compounds[["compound", "smiles", "moa", "target"]],
        "activity": activity.rename(columns={COMPOUND: "compound"}),
        "tasks": tasks,
    }
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv.gz", index=False)
    (folder / "screen.toml").write_text(OWN_TOML, encoding="utf-8")
    return folder / "screen.toml"


@pytest.fixture(scope="module")
def own_screen():
    return simulate_screen("tiny", seed=3, n_compounds=60, n_cp_features=40, n_genes=50)


OWN = (*QUICK, "map_methods=[]", "min_active=8", "min_shown=8")


@pytest.fixture(scope="module")
def own(tmp_path_factory, own_screen):
    """A screen with replicates, doses, controls, MoA and assays; its notebook 08 embeds a file of new wells."""
    folder = tmp_path_factory.mktemp("own")
    screen = own_screen
    toml = write_own_screen(folder, screen.cp, screen.tx, screen.compounds, screen.activity, screen.tasks)
    new = simulate_screen("tiny", seed=4, n_compounds=12, n_cp_features=40, n_genes=50).cp
    new[COMPOUND] = new[COMPOUND].where(new[CONTROL], "new " + new[COMPOUND])
    new.rename(columns=OWN_COLUMNS).to_csv(folder / "new.csv.gz", index=False)
    study = Study(folder, toml, "own", *OWN, f"new_profiles={folder / 'new.csv.gz'}", "compound_column=drug",
                  "plate_column=plate id", "control_column=dmso")  # fmt: skip
    study.new = sorted(new.loc[~new[CONTROL], COMPOUND].unique())
    study.done = study.run()
    return study


def test_a_screen_with_everything_runs_through_under_its_own_names(own, own_screen):
    assert_complete(own, own.done)
    cp = own.table("cp.parquet")
    assert list(cp.columns[:5]) == METADATA_COLUMNS and set(cp[COMPOUND]) == set(own_screen.cp[COMPOUND])
    testability = own.table("tables/testability.csv").set_index("endpoint")["testable"].astype(str)
    for endpoint in ("replicate_clustering", "activity_calls", "moa_clustering", "retrieval", "bioactivity"):
        assert testability[endpoint] == "True"
    verdicts = own.table("tables/claims.csv").query("verdict != ''").set_index("claim")["verdict"]
    assert "not testable" not in verdicts.loc[[1, 2, 3]].tolist()
    assert "says nothing about biology" not in own.done.stdout


def test_new_wells_of_a_file_are_embedded_and_annotated(own):
    embedded = own.table("tables/new_embeddings.csv")
    assert sorted(embedded[COMPOUND]) == own.new
    mechanisms, activities = own.table("tables/new_mechanisms.csv"), own.table("tables/new_activities.csv")
    assert set(mechanisms["compound"]) == set(activities["compound"]) == set(own.new)
    assert activities["probability"].between(0, 1).all()
    assert "contrastive/all/encoder.safetensors" in "".join(
        stage_records(own.run_dir)["08_embed_new_compounds"]["reads"]
    )


def test_nothing_fitted_knows_of_the_test_compounds(own, own_screen, tmp_path):
    """The strict regime: other CP, TX, MoA and outcomes of a fold's test compounds change nothing that is fitted."""
    folds = own.table("folds.parquet")
    test = folds.loc[folds["fold"] == 0, COMPOUND].to_numpy()
    rng = np.random.default_rng(0)
    kept, spoilt = test[::2], test[1::2]  # CP of the kept ones stays, so that their embeddings can be compared
    turned = dict(zip(test, np.roll(test, 1), strict=True))
    cp, tx, compounds, activity = (
        table.copy() for table in (own_screen.cp, own_screen.tx, own_screen.compounds, own_screen.activity)
    )
    for table, changed in ((cp, spoilt), (tx, test)):
        rows = table[COMPOUND].isin(changed).to_numpy()
        features = feature_columns(table)
        table.loc[rows, features] = rng.normal(3, 9, size=(rows.sum(), len(features))).astype(np.float32)
    moa = compounds.set_index(COMPOUND)["MoA"]
    compounds["MoA"] = [moa[turned.get(name, name)] for name in compounds[COMPOUND]]
    activity[COMPOUND] = [turned.get(name, name) for name in activity[COMPOUND]]
    toml = write_own_screen(tmp_path, cp, tx, compounds, activity, own_screen.tasks)
    other = Study(tmp_path, toml, "own", *OWN)
    done = other.run("--only", "01", "02", "03", "04", "06")
    assert done.status == 0, done.stderr

    pd.testing.assert_frame_equal(other.table("folds.parquet"), folds)
    first, second = own.files(), other.files()
    models = [name for name in first if "/models/" in name]
    assert len(models) >= 2 * 4 * len(METHODS)
    unseen = [name for name in models if "/random-0-0/" in name]
    assert [name for name in unseen if first[name] != second[name]] == []
    for method in METHODS:  # the comparison has teeth: the other folds trained on what was changed
        assert (
            first[f"default/models/{method}/random-0-1/preparation.json"]
            != second[f"default/models/{method}/random-0-1/preparation.json"]
        )
        pair = [table[(table["fold"] == 0) & table[COMPOUND].isin(kept)].reset_index(drop=True)
                for table in (study.table(f"embeddings/{method}_wells.parquet") for study in (own, other))]  # fmt: skip
        assert len(pair[0]) > 0
        pd.testing.assert_frame_equal(*pair, check_exact=True)
    keys = [*KEYS, "model", "compound", "task"]
    predictions = [study.table("tables/predictions.parquet") for study in (own, other)]
    predictions = [
        table[(table["fold"] == 0) & table["compound"].isin(kept) & ~table["method"].isin(["tx", "cp_tx"])]
        for table in predictions
    ]
    both = predictions[0].merge(predictions[1], on=keys, suffixes=("", "_other"))
    assert len(both) > 500 and (both["label"] != both["label_other"]).any()
    assert (both["score"] == both["score_other"]).all()


# --- the real screen ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    if not MIRROR or not Path(MIRROR).is_dir():
        pytest.skip("CPX_MIRROR isn't set to a folder with the real screen's files")
    folder = tmp_path_factory.mktemp("real")
    # 01 to 03 as a user gets them; the autoencoder, which nothing below measures, is trained briefly
    small = ("04.max_epochs=40", "04.n_members=1", "04.n_derangements=1", "05.map_methods=contrastive",
             "05.n_bootstrap=200", "06.n_bootstrap=200", "06.n_draws=1", "07.n_bootstrap=500")  # fmt: skip
    options = ("--mirror", MIRROR, "--data-dir", str(folder / "data"))
    study = Study(folder, "cmea-u2os", "cmea-u2os", *small, options=options)
    study.done = study.run()
    return study


def test_the_real_screen_runs_through_and_says_that_it_has_no_replicates(real):
    assert_complete(real, real.done)
    testability = real.table("tables/testability.csv").set_index("endpoint")
    assert str(testability.loc["replicate_clustering", "testable"]) == "False"
    assert str(testability.loc["retrieval", "testable"]) == "True"
    claims = real.table("tables/claims.csv").query("verdict != ''").set_index("claim")
    assert claims.loc[2, "verdict"] == "not testable" and "wells" in claims.loc[2, "reason"]
    assert "Replicate clustering is not testable" in real.learned("05")
    executed = (real.run_dir / "notebooks" / "05_cluster_replicates_and_moa.ipynb").read_text(encoding="utf-8")
    assert "Replicate clustering is not testable" in executed
    sources = json.loads((real.run_dir / "screen.json").read_text(encoding="utf-8"))["sources"]
    assert sources and all(source["verified"] for source in sources)


def test_unseen_real_compounds_find_their_own_transcriptome(real):
    """5 folds x 3 repeats, default parameters; chance is 0.12, one standard error about 0.03."""
    retrieval = real.table("tables/retrieval.csv")
    counted = retrieval[retrieval["control"] == "true_pairs"].groupby("method").size()
    assert counted["contrastive"] == 162 * 3 and retrieval.groupby("repeat")["fold"].nunique().tolist() == [5, 5, 5]
    near = retrieval["rank"] <= 0.1 * (retrieval["n_candidates"] - 1)
    share = near.groupby([retrieval["method"], retrieval["control"]]).mean()
    assert share["contrastive", "true_pairs"] >= 0.26
    assert 0.08 <= share["contrastive", "deranged"] <= 0.17
    assert share["ridge_tx", "true_pairs"] >= 0.24 and 0.08 <= share["ridge_tx", "deranged"] <= 0.17
