"""Write the README's tables and gallery from the committed figures and the tables behind them, none typed by hand.

python benchmarks/update_readme.py            # after a run of every screen shown
python benchmarks/update_readme.py --check    # status 1 where the README differs; the tests call this
"""

import argparse
import ast
import html
import json
import re
import sys
from pathlib import Path

import pandas as pd

from cpx_utils.datasets import DATASETS
from cpx_utils.plots import method_label
from cpx_utils.profiles import CLAIM_TEXTS, UNITS

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("ridge_tx", "rcca", "rcca_replicates", "contrastive", "contrastive_soft", "autoencoder")


# JUMP's compounds (Chandrasekaran 2023), and CP wells at five each; no screen has transcriptomics of so many.
JUMP_COMPOUNDS, JUMP_WELLS = 116_000, 580_000
# The gallery: a screen that everyone can run, three pictures a row, and beside the last of each notebook the claims.
GALLERY_SCREEN, GALLERY_ACROSS, GALLERY_ALSO = "simulated", 3, {"07_claims"}


def screens() -> list[str]:
    """Registered screens whose figures are committed, real ones first."""
    there = [name for name in DATASETS if (ROOT / "figures" / name / "07_claims.csv").is_file()]
    return sorted(there, key=lambda name: name == "simulated")


def table(screen: str, name: str) -> pd.DataFrame:
    """The table behind a committed figure."""
    return pd.read_csv(ROOT / "figures" / screen / f"{name}.csv", keep_default_na=False, na_values=["nan", ""])


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def claims_block() -> str:
    """One row a screen and claim: values of the references, of the primary method, the verdict."""
    rows = []
    for screen in screens():
        claims = table(screen, "07_claims")
        claims = claims[~claims["endpoint"].str.contains(":")]
        for claim, text in CLAIM_TEXTS.items():
            mine = claims[claims["claim"] == claim]
            decided = mine[mine["verdict"].notna()].iloc[0]
            mine = mine[mine["method"] == decided["method"]]
            cells = ["–"] * 4
            if decided["verdict"] != "not testable":
                by_reference = mine.set_index("reference")
                best = mine[mine["role"] == "best CP-only"].iloc[0]
                of_deranged = by_reference.loc["deranged"]
                cells = [
                    f"{by_reference.loc['raw_cp', 'value_reference']:.3f}",
                    f"{best['value_reference']:.3f} ({method_label(best['reference'])})",
                    f"{of_deranged['value_reference']:.3f}",
                    f"{of_deranged['value_method']:.3f}",
                ]
            unit = UNITS[decided["endpoint"]]
            verdict = f"**{decided['verdict']}**: {decided['reason']}"
            rows.append([screen, f"{claim}. {text} ({unit})", *cells, verdict])
    header = ["screen", "claim (unit)", "raw CP", "best CP-only", "contrastive, deranged", "contrastive", "verdict"]
    return markdown(header, rows)


def retrieval_block() -> str:
    """One row a screen and method: share of unseen compounds that find their own TX profile in the nearest tenth."""
    rows = []
    for screen in screens():
        found = pd.concat([table(screen, f"{number}_retrieval") for number in ("02", "03", "04")])
        for method in METHODS:
            if method not in set(found["method"]):
                continue
            by_control = found[found["method"] == method].set_index("control")
            cells = [f"{row['mean']:.2f} ({row['ci_low']:.2f} to {row['ci_high']:.2f})" for _, row in (
                by_control.loc[["true_pairs", "deranged"]].iterrows())]  # fmt: skip
            rows.append([screen, method_label(method), *cells, f"{by_control['chance'].iloc[0]:.2f}"])
    return markdown(["screen", "method", "true pairs", "deranged pairs", "chance"], rows)


def screens_block() -> str:
    """One row a registered screen: its size, what is known of its compounds, its files, whether it was run here."""
    rows = []
    for name, dataset in DATASETS.items():
        known = ["–"] * 2
        if name in screens():
            reached = table(name, "01_reach").set_index("source")
            mechanisms = reached.iloc[-1]  # the last row is of mechanisms
            tested = reached.iloc[:-1]
            assays = [
                f"{source}: {row['compounds']:,} compounds, {row['tasks']} tasks, {row['tested']} testable"
                + (f" ({row['families']})" if row["tested"] else "")
                for source, row in tested.iterrows()
            ]
            known = [f"{mechanisms['compounds']:,} compounds, {mechanisms['tested']} MoAs of two", "; ".join(assays)]
        needed = [file for file in dataset.files if file.role != "cp_all"]
        size = f"{sum(file.bytes for file in needed) / 1e6:.0f} MB"
        unknown = sum(file.bytes == 0 for file in needed)
        size += f" and {unknown} files of unstated size" if unknown else ""
        run = {True: "yes", False: "no: a stand-in"}[dataset.on_real_bytes]
        run = "simulated" if not dataset.files else run
        size = size if dataset.files else "none"
        rows.append([f"`{name}`", *dataset.shape, *known, size, dataset.licence, run, dataset.citation])
    header = [
        "name",
        "paired compounds",
        "wells a treatment (CP / TX)",
        "doses",
        "features (CP / TX)",
        "with an MoA",
        "assays",
        "download",
        "licence of the profiles",
        "run here on real bytes",
        "cite",
    ]
    return markdown(header, rows)


def calibration_block() -> str:
    """One row a setting and method: share of simulated screens whose claim is called supported, by claim."""
    table = pd.read_csv(ROOT / "figures" / "benchmarks" / "verdict_calibration.csv")
    rows = []
    for (setting, method), part in table.groupby(["setting", "method"], sort=False):
        by_claim = part.set_index("claim")
        cells = [
            f"{by_claim.loc[claim, 'share']:.1%} ({by_claim.loc[claim, 'ci_low']:.1%} to "
            f"{by_claim.loc[claim, 'ci_high']:.1%})"
            for claim in (1, 2, 3, 4)
        ]
        rows.append([setting, str(part["screens"].iloc[0]), method_label(method), *cells])
    return markdown(["setting", "screens", "method", *(f"claim {number}" for number in (1, 2, 3, 4))], rows)


def null_block() -> str:
    """One row a number of replicates: how often pure noise gets a p below 0.05."""
    table = pd.read_csv(ROOT / "benchmarks" / "results" / "permutation_null.csv")
    rows = [
        [str(row.n_replicates), f"{row.n_treatments:,}", f"{row.below_05:.1%} ({row.ci_low:.1%} to {row.ci_high:.1%})"]
        for row in table.rename(columns={"below_0.05": "below_05"}).itertuples()
    ]
    return markdown(["replicates", "treatments without any effect", "called significant at p < 0.05"], rows)


def ablation_block() -> str:
    """One row a form: retrieval and MoA mAP on true pairs, with the interval of the difference to the full form."""
    table = pd.read_csv(ROOT / "benchmarks" / "results" / "ablation.csv")
    columns = [(name, measure) for name in ("simulated", "cmea-u2os") for measure in ("near", "moa_map")]
    columns = [one for one in columns if ((table["screen"] == one[0]) & (table["measure"] == one[1])).any()]
    by_form = table[table["control"] == "true_pairs"].set_index(["method", "form", "screen", "measure"])
    rows = []
    for method, form in table[["method", "form"]].drop_duplicates().itertuples(index=False):
        cells = []
        for column in columns:
            one = by_form.loc[(method, form, *column)]
            change = "" if form == "full form" else f" ({one['ci_low']:+.2f} to {one['ci_high']:+.2f})"
            cells.append(f"{one['value']:.2f}{change}")
        rows.append([method_label(method), method_label(form), *cells])
    names = {"near": "own TX in the nearest tenth", "moa_map": "MoA mAP"}
    return markdown(["encoder", "form", *(f"{screen}: {names[measure]}" for screen, measure in columns)], rows)


def paired_block() -> str:
    """One row a screen and method: paired differences in retrieval to its own deranged control and to ridge."""
    rows = []
    for screen in screens():
        found = table(screen, "05_retrieval").set_index(["method", "against", "measure"])
        for method in METHODS:
            cells = []
            for against in ("own deranged pairs", "ridge_tx"):
                for measure in ("nearest tenth", "mean rank"):
                    key = (method, against, measure)
                    one = found.loc[key] if key in found.index else None
                    cells.append(
                        "–" if one is None else f"{one['effect']:+.3f} ({one['ci_low']:+.3f} to {one['ci_high']:+.3f})"
                    )
            if any(cell != "–" for cell in cells):
                rows.append([screen, method_label(method), *cells])
    header = ["screen", "method", "share, minus own deranged", "mean rank, minus own deranged"]
    return markdown([*header, "share, minus ridge", "mean rank, minus ridge"], rows)


def full_size_block() -> str:
    """One row a screen: time, memory and what was found again on a stand-in of its full size."""
    values = pd.read_csv(ROOT / "benchmarks" / "results" / "full_size.csv", dtype=str)
    rows = []
    for screen, part in values.groupby("screen", sort=False):
        by = part.set_index(["what", "item"])["value"]
        seconds, peak = (by[what].astype(float) for what in ("seconds", "peak MB"))
        verdicts = "; ".join(f"{claim}: {verdict}" for claim, verdict in by["verdict"].items())
        near = by["own TX in the nearest tenth"].astype(float)
        rows.append(
            [
                f"`{screen}`",
                f"{float(by['wall clock', 'seconds']) / 60:.1f} min",
                f"{seconds.idxmax()} ({seconds.max() / 60:.1f} min)",
                f"{peak.max() / 1000:.1f} GB ({peak.idxmax()})",
                by["tested", "tasks"],
                f"{near['true_pairs']:.2f} / {near['deranged']:.2f}",
                verdicts,
            ]
        )
    header = ["stand-in of", "whole study", "longest notebook", "most memory in one process", "tasks tested"]
    return markdown([*header, "own TX in the nearest tenth: true / deranged", "verdicts on what was planted"], rows)


def quantity(value: float, unit: str) -> str:
    """A measured value with its unit, to three digits."""
    if unit == "exponent":
        return f"{value:.2f}"
    if unit == "MB":
        return f"{value / 1000:.1f} GB"
    if unit == "s" and value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def speed_block() -> str:
    """One row a measurement: ours beside what people would use, and whether their results agree."""
    path = ROOT / "benchmarks" / "results" / "speed.csv"
    if not path.is_file():
        return "Not measured yet: `python benchmarks/run.py`."
    rows = []
    for row in pd.read_csv(
        path, dtype={"met": str, "equal": str}, keep_default_na=False, na_values=["nan"]
    ).itertuples():
        wanted = {"True": ", as wanted", "False": ", **less than wanted**"}
        wanted |= {"False": ", **more than wanted**"} if row.unit in ("exponent", "MB") else {}
        ratio = "exponent" if row.unit == "exponent" else f"{float(row.ratio):.3g}"
        result = "–"
        if row.compared:
            agree = {"True": "within", "False": "**not within**"}[row.equal]
            result = f"{row.compared}: {float(row.difference):.2g}, {agree} {float(row.tolerance):g}"
        values = [quantity(float(one), row.unit) for one in (row.value, row.value_theirs)]
        where = f"{row.machine}, {row.threads} thread{'s' if int(row.threads) > 1 else ''}"
        ratio += wanted.get(row.met, "")
        rows.append(
            [row.what, f"{row.ours}: {values[0]}", f"{row.theirs}: {values[1]}", ratio, result, where, row.date]
        )
    return markdown(["work", "ours", "beside", "ratio", "results compared", "machine", "date"], rows)


def jump_block() -> str:
    """What the study would take at JUMP's size, from the stand-ins' times and memory: one row a notebook."""
    values = pd.read_csv(ROOT / "benchmarks" / "results" / "full_size.csv", dtype=str)
    measured = values.set_index(["screen", "what", "item"])["value"]
    rows, total = [], 0.0
    for notebook in sorted(values.query("what == 'seconds'")["item"].unique()):
        # Predictions are made a compound and task, everything else a well.
        by_compound = notebook.startswith("06")
        screen = "cdrp-u2os" if by_compound else "lincs-pilot1"
        size, unit = (9_515, "compounds") if by_compound else (52_223, "wells")
        factor = (JUMP_COMPOUNDS if by_compound else JUMP_WELLS) / size
        power = 2 if notebook.startswith("05") else 1
        seconds, peak = (float(measured[screen, what, notebook]) for what in ("seconds", "peak MB"))
        hours = seconds * factor**power / 3600
        total += hours
        rows.append(
            [notebook, f"{seconds / 60:.1f} min, {peak / 1000:.1f} GB at {size:,} {unit}", f"{factor:.1f}",
             "square" if power == 2 else "linear", f"{hours:,.1f} h", f"{peak * factor / 1000:,.0f} GB"]
        )  # fmt: skip
    rows.append(["**all, one after the other**", "", "", "", f"**{total:,.0f} h**", ""])
    return markdown(["notebook", "measured on a stand-in", "times as large", "time grows", "time", "memory"], rows)


def device_block() -> str:
    """One row a network: seconds on CPU and GPU, and how many unseen pairs each finds."""
    path = ROOT / "benchmarks" / "results" / "device.csv"
    values = pd.read_csv(path, dtype=str, keep_default_na=False)
    rows = []
    for what, part in values.query("part == 'networks'").groupby("what", sort=False):
        by = part.set_index(["item", "device"])["value"].astype(float)
        if "TFLOP/s" in by.index.get_level_values(0):
            one, other = (by["TFLOP/s", device] for device in ("cpu", "cuda"))
            rows.append([what, f"{one:.3g} TFLOP/s", f"{other:.3g} TFLOP/s", f"{other / one:.3g}", "–"])
            continue
        one, other = (by["seconds", device] for device in ("cpu", "cuda"))
        found = [by["unseen pairs found first", device] for device in ("cpu", "cuda")]
        rows.append([what, quantity(one, "s"), quantity(other, "s"), f"{one / other:.3g}",
                     f"{found[0]:.3f} / {found[1]:.3f}"])  # fmt: skip
    where = " · ".join(f"{machine}, {day}" for machine, day in set(zip(values["machine"], values["date"], strict=True)))
    header = ["network", "CPU", "GPU", "times as fast", "unseen pairs found first: CPU / GPU"]
    return markdown(header, rows) + f"\n\n{where}"


def promises_block() -> str:
    """The figures behind what is promised, one row a measurement; those whose table is there."""
    results = ROOT / "benchmarks" / "results"
    rows = []
    for name, told in PROMISES.items():
        path = results / f"{name}.csv"
        if path.is_file():
            values = pd.read_csv(path)
            day = values["date"].max() if "date" in values else "–"
            rows.append([told[0], f"`python benchmarks/{told[1]}`", told[2](values), day])
    return markdown(["measured", "by", "result", "date"], rows)


def _faults(values: pd.DataFrame) -> str:
    struck, survived, lost = (int(values[name].sum()) for name in ("injected", "survived", "results_lost"))
    return f"{struck} faults of {values['fault'].nunique()} kinds: {survived} survived, {lost} results lost"


def _determinism(values: pd.DataFrame) -> str:
    told = []
    for (size, name), part in values.groupby(["size", "setting"], sort=False):
        by = part.groupby("what")["value"].sum()
        words = f"{name}: {int(by['identical files'])} of {int(by['files'])} files of the {size} study"
        differing = part[(part["what"] == "largest difference") & ~part["item"].str.startswith("tables/map.csv")]
        if len(differing):
            words += f", the others differ by {differing['value'].max():.1g} at most, a map's places apart"
        told.append(words)
    changed = int(values.loc[values["what"] == "verdicts changed", "value"].sum())
    return f"{'; '.join(told)}. Verdicts changed: {changed}"


def _fuzz(values: pd.DataFrame) -> str:
    bad = int(values[["tracebacks", "warnings", "crashes"]].to_numpy().sum())
    return f"{int(values['inputs'].sum()):,} spoilt files for {len(values)} readers: {bad} not refused in one line"


def _mutants(values: pd.DataFrame) -> str:
    return "; ".join(f"{row.module}: {row.share:.0%} of {row.run} noticed" for row in values.itertuples())


def _coverage(values: pd.DataFrame) -> str:
    total = values[values["module"] == "total"].iloc[0]
    return f"{total['percent']:.1f}% of lines, {total['percent_branches']:.1f}% of branches"


# Table in results/, what it tells, the script that makes it, and its result in a few words.
PROMISES = {
    "faults": ("a study survives faults", "faults.py", _faults),
    "determinism": ("a study repeats itself, byte for byte", "determinism.py", _determinism),
    "fuzz": ("readers stand spoilt files", "fuzz.py", _fuzz),
    "mutants": ("the tests notice small errors", "mutants.py", _mutants),
    "coverage": ("the tests run the code", "coverage_table.py", _coverage),
}


def figure_captions() -> dict[str, str]:
    """Caption of every figure that the notebooks make, in their order, as their calls of workspace.figure state it.

    A caption is a constant: in the call, or in a name that the same cell sets before.
    """
    captions = {}
    for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] != "code":
                continue
            nodes = list(ast.walk(ast.parse("".join(cell["source"]))))
            named = {
                ast.unparse(node.targets[0]): node.value
                for node in nodes
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            }
            for node in nodes:
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "workspace.figure":
                    _, name, _, caption = node.args
                    captions[ast.literal_eval(name)] = ast.literal_eval(named.get(ast.unparse(caption), caption))
    return captions


def gallery_block() -> str:
    """Pictures of one screen with their captions, a few a row; each leads to the picture in full."""
    captions = figure_captions()
    notebooks = {path.name[:2]: path.name for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    last = {name[:2]: name for name in captions}
    chosen = [name for name in captions if name in {*last.values(), *GALLERY_ALSO}]
    cells = []
    for name in chosen:
        path, words, number = f"figures/{GALLERY_SCREEN}/{name}.png", captions[name], name[:2]
        cells.append(
            f'<td width="{100 // GALLERY_ACROSS}%" valign="top"><a href="{path}"><img src="{path}" '
            f'alt="{html.escape(words)}"></a><br><a href="notebooks/{notebooks[number]}">{number}</a> '
            f"{html.escape(words, quote=False)}</td>"
        )
    rows = [cells[start : start + GALLERY_ACROSS] for start in range(0, len(cells), GALLERY_ACROSS)]
    return "\n".join(["<table>", *("<tr>\n" + "\n".join(row) + "\n</tr>" for row in rows), "</table>"])


BLOCKS = {
    "speed": speed_block,
    "jump": jump_block,
    "device": device_block,
    "promises": promises_block,
    "gallery": gallery_block,
    "paired": paired_block,
    "full size": full_size_block,
    "ablation": ablation_block,
    "calibration": calibration_block,
    "null": null_block,
    "claims": claims_block,
    "retrieval": retrieval_block,
    "screens": screens_block,
}


def updated(readme: str) -> str:
    """The README with every generated block written anew."""
    for name, make in BLOCKS.items():
        block = rf"(<!-- {name}: generated by benchmarks/update_readme.py -->\n).*?(<!-- end -->)"
        if not re.search(block, readme, flags=re.S):
            raise SystemExit(f"update_readme: README.md has no block {name!r} between its two comments")
        content = make()
        readme = re.sub(block, lambda found, text=content: found[1] + text + "\n" + found[2], readme, flags=re.S)
    return readme


def main() -> int:
    """Update the README, or check it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 where the README differs")
    options = parser.parse_args()
    path = ROOT / "README.md"
    before = path.read_text(encoding="utf-8")
    after = updated(before)
    if options.check:
        return int(before != after)
    path.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
