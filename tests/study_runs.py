"""Whole runs of the study through the command line, and what every complete one must leave."""

import html
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import nbformat
import pandas as pd
from small_report import remote_references

from cpx_utils.provenance import read_json, stage_records

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
# Everything as small as it can be: these runs show that the parts fit together, not what comes out.
QUICK = ("max_epochs=15", "n_members=1", "n_derangements=1", "n_derangements_linear=2", "n_bootstrap=100",
         "temperature=0.3", "input_noise=1", "learning_rate=0.03", "n_null=200",
         "data_shares=0.5")  # fmt: skip
KEYS = ["split", "repeat", "fold", "seed", "method", "control"]
METHODS = (
    "raw_cp sphered_cp pca_cp cell_count lda_identity "
    "ridge_tx rcca rcca_replicates autoencoder contrastive contrastive_soft"
).split()
WITH_TX = METHODS[5:]
NETWORKS = METHODS[8:]
VERDICTS = {"supported", "explained without TX", "not supported", "inconclusive", "not testable"}


class Study:
    """Results and figures of a data set in a folder, and how to run it."""

    def __init__(self, folder: Path, dataset: str | Path, name: str, *parameters: str, options=()):
        self.run_dir = folder / "results" / name / "default"
        self.figures = folder / "figures" / name
        self.arguments = ["--dataset", str(dataset), "--results", str(folder / "results"),
                          "--figures", str(folder / "figures"), "--jobs", "2", *options]  # fmt: skip
        self.parameters = list(parameters)

    def run(self, *extra: str, parameters: tuple[str, ...] = ()):
        """Run it, and return what was printed, with `status` and `ran` (names of stages)."""
        given = [word for value in (*self.parameters, *parameters) for word in ("-p", value)]
        done = subprocess.run([sys.executable, str(ROOT / "run_all.py"), *self.arguments, *given, *extra],
                              capture_output=True, text=True, timeout=900)  # fmt: skip
        done.status = done.returncode
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
        told = {"timings.csv", "manifest.json"}
        return {
            f"{folder.name}/{path.relative_to(folder)}": path.read_bytes()
            for folder in (self.run_dir, self.figures)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
            and path.name not in told
            and path.relative_to(folder).parts[0] not in ("stages", "notebooks", "report")
        }


def assert_report_shows(study: Study, figures: list[dict]) -> None:
    """Check that every figure stands with its caption in its executed notebook and, with its data, in the report."""
    report = study.run_dir / "report"
    assert remote_references(report) == []
    index = html.unescape((report / "index.html").read_text(encoding="utf-8"))
    shown = set()
    for path in (study.run_dir / "notebooks").glob("*.ipynb"):
        outputs = [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]
        for picture, words in pairwise(outputs):
            if "image/png" in picture.get("data", {}) and "text/markdown" in words.get("data", {}):
                shown.add((picture.metadata["image/png"]["alt"], html.unescape(words.data["text/markdown"])))
    for figure in figures:
        assert (figure["title"], f"`{figure['name']}`: {figure['caption']}") in shown
        assert f'<figure id="{figure["name"]}">' in index and figure["caption"] in index and figure["title"] in index
        assert all((report / "figures" / f"{figure['name']}{suffix}").is_file() for suffix in (".png", ".csv"))
    assert len(list((report / "figures").glob("*.png"))) == len(figures)


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
        png, csv = (study.figures / f"{figure['name']}.{suffix}" for suffix in ("png", "csv"))
        svg = study.run_dir / "figures" / f"{figure['name']}.svg"
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
    assert_report_shows(study, [figure for _, figure in figures])
    claims = study.table("tables/claims.csv")
    assert claims.loc[claims["verdict"] != "", "claim"].tolist() == [1, 2, 3, 4]
    assert set(claims["verdict"]) - {""} <= VERDICTS
