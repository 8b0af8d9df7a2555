"""A study in small for the tests of the runner: notebooks 01, 02, 03 and 05 that compute next to nothing."""

from pathlib import Path

import nbformat

COMMON = """dataset: str = "simulated"  # which screen
run_dir: str = ""  # where tables go
figures_dir: str = ""  # where pictures go
seed: int = 0  # of everything random
"""
OPEN = """from cpx_utils.provenance import Workspace
workspace = Workspace({stage!r}, run_dir, figures_dir, dataset)
"""
PREPARE = """import numpy as np
import pandas as pd
table = pd.DataFrame({"Metadata_Compound": list("abc")[:size], "x": np.arange(size) * float(round(factor))})
workspace.write(table, "cp.parquet")
"""
ENCODE = """import time
from cpx_utils.profiles import ScreenError
table = workspace.read("cp.parquet")
if problem == "crash":
    raise KeyError("no such gene")
if problem == "screen":
    raise ScreenError("column Metadata_Dose is negative in row 3; doses are micromolar, from 0")
if problem == "sleep":
    time.sleep(600)
"""
BASELINE = """with workspace.step("scale"):
    workspace.write(table.assign(x=table["x"] * temperature), "embeddings/baseline.parquet")
"""
CONTRASTIVE = """import os
import sys
import tempfile
folder = workspace.output_folder("models/contrastive")
(folder / "kernel.txt").write_text("\\n".join([
    sys.executable, os.environ["OMP_NUM_THREADS"], os.environ["PYTHONHASHSEED"], 
    str(os.environ["IPYTHONDIR"].startswith(tempfile.gettempdir()))]))
"""
CLUSTER = """import sys
import pandas as pd
from matplotlib.figure import Figure
baseline = workspace.read("embeddings/baseline.parquet")
(workspace.input_folder("models/contrastive") / "kernel.txt").read_text()
print("shown:  50%|##   | 1/2 [00:00<?, ?it/s]", file=sys.stderr)
fig = Figure(figsize=(2, 2))
fig.subplots().plot(baseline["x"])
workspace.figure(fig, "05_baseline", baseline, "The baseline <b>grows</b>.")
"""
CLAIM = """claims = pd.DataFrame({"screen": "s", "claim": ["clusters <script>alert(1)</script>", "clusters"],
    "endpoint": "moa_map", "method": ["contrastive", "autoencoder"], "reference": "pca_cp",
    "effect": [0.1, None], "ci_low": [0.05, None], "ci_high": [0.15, None], "p_adjusted": [0.01, None],
    "verdict": ["supported", ""], "reason": ["<i>clear</i>", ""]})
workspace.write(claims, "tables/claims.csv")
workspace.say(f"The largest value is {baseline['x'].max():.2f} & <i>that</i> is it.")
claims
"""
CHOICES = "one of: none, crash, screen, sleep"
PARAMETERS = {
    "01_prepare": "size: int = 3  # compounds\nfactor: float = 1.0  # scale\n",
    "02_baselines": f'temperature: float = 0.1  # scale\nproblem: str = "none"  # {CHOICES}\n',
    "03_contrastive": f'problem: str = "none"  # {CHOICES}\n',
    "05_cluster": "methods: list[str] = ['a', 'b']  # shown\nfast: bool = True  # skip the slow part\n",
}
CODE = {
    "01_prepare": [PREPARE],
    "02_baselines": [ENCODE, BASELINE],
    "03_contrastive": [ENCODE, CONTRASTIVE],
    "05_cluster": [CLUSTER, CLAIM],
}


def write_study(folder: Path) -> Path:
    """Write the notebooks into `folder`; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for stage, parameters in PARAMETERS.items():
        write_notebook(folder, stage, parameters, CODE[stage])
    return folder


def write_notebook(folder: Path, stage: str, parameters: str, code: list[str]) -> Path:
    """Write one notebook of the study."""
    cells = [
        nbformat.v4.new_markdown_cell(f"# Does {stage} work?"),
        nbformat.v4.new_code_cell(COMMON + parameters, metadata={"tags": ["parameters"]}),
        *(nbformat.v4.new_code_cell(source) for source in [OPEN.format(stage=stage), *code]),
        nbformat.v4.new_code_cell("workspace.finish()"),
    ]
    path = folder / f"{stage}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path
