"""A run in small whose every name from data is an attack, for the tests of the report."""

from pathlib import Path

import matplotlib
import nbformat
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cpx_utils.profiles import COMPOUND
from cpx_utils.provenance import Workspace, read_json, record_path, run_manifest, sha256_file, write_json

EVIL_NAMES = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "<svg/onload=alert(1)>",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "[x](javascript:alert(1)) ![y](https://example.org/y.png)",
    "{{ 7 * 7 }} {% raw %}",
    "]]> --> \u2028 &lt;script&gt;",
)
EVIL = " ".join(EVIL_NAMES)
STAGES = {"01_prepare": "What is there?", "05_cluster": "What lies together?", "07_weigh": "What follows?"}
METHODS = ("raw_cp", "contrastive")
COMPOUNDS = [*(f"SIM-{number:03d}" for number in range(30)), *EVIL_NAMES]
PROSE = "A line inside is $s_{ij} / \\tau$ and one apart is\n\n$$\\mathcal{L} = -\\frac{1}{n} \\sum_i \\log p_{ii}.$$"
DIAGRAM = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'


def write_run(folder: Path) -> tuple[Path, Path, dict]:
    """Write three finished stages with figures, claims, a map and notebooks; return both folders and the manifest."""
    run_dir, figures_dir = folder / "run", folder / "figures"
    for stage in STAGES:
        workspace = Workspace(stage, str(run_dir), str(figures_dir))
        figure = Figure(figsize=(7, 2))
        with matplotlib.rc_context({"text.parse_math": False}):
            figure.suptitle("Found")
            workspace.figure(figure, f"{stage[:2]}_map", pd.DataFrame({"x": [1]}), f"Caption {EVIL}")
        {"01_prepare": _prepare, "05_cluster": _cluster, "07_weigh": _weigh}[stage](workspace)
        workspace.say(f"**Learned** {EVIL}")
        workspace.finish()
        notebook = _notebook(run_dir / "notebooks" / f"{stage}.ipynb", stage)
        record = read_json(record_path(run_dir, stage))
        called = {"notebook": sha256_file(notebook), "seconds": 1.0, "fingerprint": {"parameters": {"name": EVIL}}}
        write_json(record_path(run_dir, stage), record | {"run": called})
    timings = {"stage": "05_cluster", "step": ["total", "map"], "seconds": 1.5, "peak_mb": 99.0}
    pd.DataFrame(timings).to_csv(run_dir / "tables" / "timings.csv", index=False)
    manifest = run_manifest(run_dir, dataset="simulated", profile=EVIL, seed=0, threads=1, unverified=False)
    return run_dir, figures_dir, manifest


def map_points() -> pd.DataFrame:
    """Positions as notebook 05 writes them: far enough from each other to be pointed at."""
    tables = []
    for method, order in zip(METHODS, (np.arange(len(COMPOUNDS)), np.arange(len(COMPOUNDS))[::-1]), strict=True):
        labels = ["kinase inhibitor" if number % 4 == 0 else "other" for number in range(len(COMPOUNDS))]
        places = {"x": 3.0 * (order % 8), "y": 2.0 * (order // 8), "label": labels}
        tables.append(pd.DataFrame({"method": method, "compound": COMPOUNDS, **places}))
    return pd.concat(tables, ignore_index=True)


def _prepare(workspace: Workspace) -> None:
    endpoints = pd.DataFrame({"endpoint": ["replicates", "moa"], "testable": [False, True]})
    workspace.write(endpoints.assign(reason=["no replicates " + EVIL, ""]), "tables/testability.csv")
    source = {"file": EVIL, "address": "https://example.org/a", "verified": False, "bytes": 3}
    write_json(workspace.output_file("screen.json"), {"notes": [EVIL], "sources": [source]})
    known = pd.DataFrame({COMPOUND: COMPOUNDS, "MoA": [["<b>bold</b> agonist"], *[[]] * (len(COMPOUNDS) - 1)]})
    workspace.write(known, "compounds.parquet")


def _cluster(workspace: Workspace) -> None:
    workspace.write(map_points(), "tables/map.csv")
    near = [(method, name, rank, COMPOUNDS[-rank], 1 - rank / 10) for method in METHODS for name in COMPOUNDS
            for rank in (1, 2, 3, 4)]  # fmt: skip
    columns = ["method", "compound", "rank", "neighbour", "cosine"]
    workspace.write(pd.DataFrame(near, columns=columns), "tables/map_nearest.csv")


def _weigh(workspace: Workspace) -> None:
    claims = pd.DataFrame(
        {"screen": EVIL, "claim": [1, 2, 2], "endpoint": EVIL, "method": ["contrastive", "autoencoder", "autoencoder"],
         "reference": ["raw_cp", "raw_cp", "deranged"], "effect": [0.12345678, None, None], "ci_low": -0.1,
         "ci_high": 0.2, "comparison": ["holds", "open", ""], "attribution": ["shown", "open", ""],
         "verdict": ["supported", "open", ""], "reason": ["for " + EVIL, "", ""]}
    )  # fmt: skip
    workspace.write(claims, "tables/claims.csv")


def _notebook(path: Path, stage: str) -> Path:
    wide = pd.DataFrame([[EVIL] * 12], columns=[f"column {i}" for i in range(12)])
    outputs = [
        nbformat.v4.new_output("display_data", data={"text/html": wide._repr_html_(), "text/plain": EVIL}),
        nbformat.v4.new_output("stream", name="stdout", text=EVIL),
    ]
    cells = [
        nbformat.v4.new_markdown_cell(f"# {stage[:2]} {STAGES[stage]}\n\n![Two boxes](diagrams/a.svg)\n\n{PROSE}"),
        nbformat.v4.new_code_cell(f"print({EVIL!r})", outputs=outputs, id="the-table"),
        nbformat.v4.new_code_cell(f'workspace.figure(figure, "{stage[:2]}_map", table, caption)', id="the-figure"),
    ]
    (path.parent / "diagrams").mkdir(parents=True, exist_ok=True)
    (path.parent / "diagrams" / "a.svg").write_text(DIAGRAM)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path
