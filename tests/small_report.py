"""A run in small whose every name from data is an attack, for the tests of the report."""

from pathlib import Path

import nbformat
import numpy as np
import pandas as pd

from cpx_utils import clustering
from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, KEYS, PLATE, WELL
from cpx_utils.provenance import Workspace, run_manifest, write_json

EVIL = "<script>alert('x')</script>"
STAGES = {"01_prepare": "What is there?", "05_cluster": "What lies together?", "07_weigh": "What follows?"}
METHODS = ("raw_cp", "contrastive")
N_COMPOUNDS = 40
PROSE = "A line inside is $s_{ij} / \\tau$ and one apart is\n\n$$\\mathcal{L} = -\\frac{1}{n} \\sum_i \\log p_{ii}.$$"
CODE = """import pandas as pd

shown = [f"{name!r:>3}\\n" for name in {"a": 1, "b": 2.5} if name is not None and not isinstance(name, int)]
raise ValueError(len(shown) @ -3 + 0x1F) if shown and True else print(sorted(map(str, shown), key=lambda one: one[0]))
"""
CODE += "table = workspace.read('cp.parquet')  # a line that is far too long for the screen of any telephone" + " " * 40


def write_run(folder: Path) -> tuple[Path, Path]:
    """Write three finished stages with figures, claims, a map and notebooks; return run and figures folder."""
    run_dir, figures_dir = folder / "run", folder / "figures"
    for stage in STAGES:
        workspace = Workspace(stage, str(run_dir), str(figures_dir))
        _draw(workspace)
        {"01_prepare": _prepare, "05_cluster": _cluster, "07_weigh": _weigh}[stage](workspace)
        workspace.say(f"**Learned** {EVIL}")
        workspace.finish()
        _notebook(run_dir / "notebooks" / f"{stage}.ipynb", stage)
    manifest = run_manifest(run_dir, dataset="simulated", profile="smoke", seed=0, threads=1, unverified=False)
    write_json(run_dir / "manifest.json", manifest)
    return run_dir, figures_dir


def compound_names() -> list[str]:
    """The compounds of the map; the last one is the attack."""
    return [*(f"SIM-{number:03d}" for number in range(N_COMPOUNDS - 1)), EVIL]


def embeddings() -> dict[str, pd.DataFrame]:
    """Consensus embeddings of the compounds by method, all of them in the first test fold."""
    rng = np.random.default_rng(0)
    tables = {}
    for method in METHODS:
        keys = pd.DataFrame([("random", 0, 0, 0, method, "")] * N_COMPOUNDS, columns=KEYS)
        values = pd.DataFrame(rng.normal(size=(N_COMPOUNDS, 4)), columns=[f"z{i:03d}" for i in range(4)])
        tables[method] = pd.concat([pd.DataFrame({COMPOUND: compound_names(), "role": "test"}), keys, values], axis=1)
    return tables


def map_points() -> pd.DataFrame:
    """Positions as notebook 05 writes them: far enough from each other to be pointed at."""
    places = np.random.default_rng(1).permutation(N_COMPOUNDS)
    labels = ["kinase inhibitor" if n % 4 == 0 else "other" for n in range(N_COMPOUNDS - 1)] + ["<b>bold</b> agonist"]
    tables = [
        pd.DataFrame({"method": method, "compound": compound_names(), "x": 3.0 * (order % 8), "y": 2.0 * (order // 8),
                      "label": labels})
        for method, order in zip(METHODS, (places, places[::-1]), strict=True)
    ]  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def _draw(workspace: Workspace) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    fig = pyplot.figure(figsize=(7, 2))
    fig.suptitle(f"Found:\n{EVIL}")
    name = f"{workspace.stage[:2]}_{'claims' if workspace.stage == '07_weigh' else 'map'}"
    workspace.figure(fig, name, pd.DataFrame({"x": [1]}), f"Caption {EVIL}")
    pyplot.close(fig)


def _prepare(workspace: Workspace) -> None:
    endpoints = pd.DataFrame({"endpoint": ["replicates", "moa"], "testable": [False, True]})
    workspace.write(endpoints.assign(reason=["no replicates " + EVIL, ""]), "tables/testability.csv")
    source = {"file": EVIL, "address": "https://example.org/a", "verified": False, "bytes": 3}
    write_json(workspace.output_file("screen.json"), {"notes": [EVIL], "sources": [source]})
    labels = map_points().drop_duplicates("compound")["label"]
    known = pd.DataFrame({COMPOUND: compound_names(), "MoA": [[] if name == "other" else [name] for name in labels]})
    workspace.write(known, "compounds.parquet")
    wells = pd.DataFrame({COMPOUND: [*compound_names(), *compound_names(), "DMSO"]})
    wells = wells.assign(**{PLATE: "p1", WELL: "A01", DOSE: 1.0, CONTROL: wells[COMPOUND] == "DMSO", "Cells_x": 0.5})
    workspace.write(wells, "cp.parquet")


def _cluster(workspace: Workspace) -> None:
    with workspace.step("map"):
        workspace.write(map_points(), "tables/map.csv")
        workspace.write(clustering.nearest_test_compounds(embeddings(), n_nearest=5), "tables/map_nearest.csv")


def _weigh(workspace: Workspace) -> None:
    claims = pd.DataFrame(
        {"screen": EVIL, "claim": [1, 2, 2], "endpoint": EVIL, "method": EVIL, "reference": ["raw_cp", "", ""],
         "effect": [0.12345678, None, None], "ci_low": 0.1, "ci_high": 0.2,
         "verdict": ["supported", "explained without TX", ""], "reason": ["for " + EVIL, "", ""]}
    )  # fmt: skip
    workspace.write(claims, "tables/claims.csv")


def _notebook(path: Path, stage: str) -> None:
    wide = pd.DataFrame([["a value that takes some room"] * 12], columns=[f"column {i}" for i in range(12)])
    outputs = [
        nbformat.v4.new_output("display_data", data={"text/html": wide.to_html(), "text/plain": "a table"}),
        nbformat.v4.new_output("stream", name="stdout", text="printed " * 60),
    ]
    cells = [
        nbformat.v4.new_markdown_cell(f"# {stage[:2]} {STAGES[stage]}\n\n{PROSE}"),
        nbformat.v4.new_markdown_cell("## Question\n\nWhy?"),
        nbformat.v4.new_code_cell(CODE, outputs=outputs, id="the-table"),
        nbformat.v4.new_code_cell(f'workspace.figure(figure, "{stage[:2]}_map", table, caption)', id="the-figure"),
    ]
    path.parent.mkdir(exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
