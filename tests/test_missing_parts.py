"""Every part that a screen may lack: all eight notebooks end, and say what can't be told.

The cells run in this process, one notebook after the other, on screens that are small and trained for one epoch.
"""

import ast
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from cpx_utils import datasets, simulation
from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, PLATE, WELL, no_outcomes
from cpx_utils.provenance import Workspace, stage_records

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
QUICK = {
    "max_epochs": 1, "n_folds": 2, "n_fits": 1, "n_derangements": 1, "n_derangements_linear": 1, "n_other_controls": 1,
    "n_bootstrap": 20, "n_null": 20, "n_draws": 1, "data_methods": ["lda_identity", "rcca"],
    "data_shares": [0.5], "map_methods": [], "min_active": 8, "min_shown": 6, "split_kinds": ["random"],
}  # fmt: skip


def run(folder, dataset="simulated", **parameters):
    """Run the code of all notebooks; return by notebook what each learned."""
    for path in NOTEBOOKS:
        names: dict = {}
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type != "code":
                continue
            exec(compile(cell.source, f"{path.name}, cell {cell.id}", "exec"), names)
            if cell.metadata.get("tags"):
                declared = {node.target.id for node in ast.parse(cell.source).body}
                given = {"run_dir": str(folder / "run"), "figures_dir": str(folder / "figures"), "dataset": dataset}
                names |= {name: value for name, value in (QUICK | given | parameters).items() if name in declared}
    return {name[:2]: " ".join(record["learned"]) for name, record in stage_records(folder / "run").items()}


def no_replicates(screen):
    tables = (screen.cp, screen.tx)
    cp, tx = (table[table[CONTROL] | ~table.duplicated([COMPOUND, DOSE])].reset_index(drop=True) for table in tables)
    return replace(screen, cp=cp, tx=tx)


def no_doses(screen):
    cp, tx = (table[table[DOSE].isin([0, 1])].assign(**{DOSE: np.nan}) for table in (screen.cp, screen.tx))
    return replace(screen, cp=cp.reset_index(drop=True), tx=tx.reset_index(drop=True))


def without(screen, **values):
    return replace(screen, cp=screen.cp.assign(**values), tx=screen.tx.assign(**values))


def no_controls(screen):
    cp, tx = (table[~table[CONTROL]].reset_index(drop=True) for table in (screen.cp, screen.tx))
    return replace(screen, cp=cp, tx=tx)


def no_assays(screen):
    activity, tasks = no_outcomes()
    return replace(screen, activity=activity, tasks=tasks)


def bare(screen):
    """One consensus-like profile a compound, nothing else known, as many public screens are."""
    screen = no_assays(no_controls(no_doses(no_replicates(screen))))
    return no_plates(no_structures(no_mechanisms(screen)))


def wide(screen):
    """More features than compounds, and more of these than a batch holds, with nothing known of any."""
    rng = np.random.default_rng(0)
    tables = []
    for table in (screen.cp, screen.tx):
        more = pd.DataFrame(rng.normal(size=(len(table), 320)), columns=[f"Cells_More_{n}" for n in range(320)])
        tables.append(pd.concat([table, more.astype(np.float32)], axis=1))
    return bare(replace(screen, cp=tables[0], tx=tables[1]))


def no_mechanisms(screen):
    return replace(screen, compounds=screen.compounds.assign(MoA=[[] for _ in screen.compounds.index]))


def no_structures(screen):
    return replace(screen, compounds=screen.compounds.assign(SMILES="", InChIKey14=""))


def no_plates(screen):
    return without(screen, **{PLATE: "", WELL: ""})


CASES = {  # parts that have nothing to do with each other share a run; "everything" is wide, too
    "replicates, MoA, doses, structures": (
        [no_replicates, no_mechanisms, no_doses, no_structures],
        {},
        {"01": "replicate clustering", "05": "not testable"},
    ),
    "assays, controls, plates": ([no_assays, no_controls, no_plates], {}, {"06": "not testable", "08": "not testable"}),
    "everything": (
        [wide],
        {"n_compounds": 330, "n_moas": 20},
        {"05": "eplicate clustering is not testable", "06": "not testable"},
    ),
}


@pytest.mark.parametrize("part", CASES)
def test_a_screen_that_lacks_a_part_ends_with_all_eight_notebooks(part, tmp_path, monkeypatch):
    changes, knobs, said = CASES[part]
    screen = simulation.simulate_screen("tiny", **knobs)
    for change in changes:
        screen = change(screen)
    monkeypatch.setattr(Workspace, "figure", lambda *_: None)  # test_plots draws what there is nothing of
    monkeypatch.setattr(datasets, "read_screen", lambda *_, **__: screen)
    learned = run(tmp_path)
    for number, words in said.items():
        assert words in learned[number]
    claims = pd.read_csv(tmp_path / "run" / "tables" / "claims.csv")
    assert (
        claims[claims["verdict"].notna()].groupby("method")["claim"].agg(list).map(sorted).tolist()
        == [[1, 2, 3, 4]] * 2
    )
