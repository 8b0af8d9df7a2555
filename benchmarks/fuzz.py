"""Do the readers stand whatever comes? Sound files, spoilt at random, thousands of times.

python benchmarks/fuzz.py                     # 15 s a reader, about 4 minutes; the table goes to benchmarks/results
python benchmarks/fuzz.py --seconds 5 csv     # one of them, for 5 s
python benchmarks/fuzz.py --inputs 20         # a few inputs each, all in one process

Seconds are those of a processor, which a busy machine takes longer to give.

Each spoilt file must be read, or refused by a ScreenError of one line. Anything else is counted: another exception, a
warning on standard error, a crash of the process, more than LONGEST_SECONDS of a processor. Readers run in a process of
their own whose address space is limited, so that a file that claims to be huge shows as what it does to memory. The
same seed spoils the same way.
"""

import argparse
import contextlib
import gzip
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

from cpx_utils.profiles import ScreenError
from cpx_utils.provenance import peak_memory_mb

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "benchmarks" / "results" / "fuzz.csv"
ADDRESS_SPACE = 12 << 30  # bytes a process may reserve; importing torch alone reserves several GB
LONGEST_SECONDS = 20
SILENT_SECONDS = 300  # by the clock, after which a process counts as crashed
LONGEST_LINE = 1500  # characters of a refusal
# What parsers are known to stumble over.
TOKENS = [b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"'", b",", b"\n", b"\r", b"=", b"[", b"{", b"}", b"]", b"nan",
          b"inf", b"-1", b"1e999", b"99999999999999999999", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"../", b"%s{0}",
          b"true", b"null", b"[[", b"\xf0\x9f\x92\xa9", b"\xed\xa0\x80"]  # fmt: skip


# --- spoiling -----------------------------------------------------------------------------------------------


def spoil(content: bytes, rng: np.random.Generator) -> bytes:
    """Change a file's bytes in one to four places.

    Parameters
    ----------
    content
        A sound file.
    rng
        Decides where and how: a bit turned, bytes replaced, cut out, doubled, moved or put in, the rest cut off, a
        piece repeated many times.
    """
    for _ in range(rng.integers(1, 5)):
        size = len(content)
        start = int(rng.integers(0, size + 1))
        stop = min(size, start + int(rng.geometric(0.05)))
        piece = content[start:stop]
        token = TOKENS[rng.integers(len(TOKENS))]
        kind = rng.integers(9)
        if kind == 0 and start < size:
            content = content[:start] + bytes([content[start] ^ (1 << int(rng.integers(8)))]) + content[start + 1 :]
        elif kind == 1:
            content = content[:start] + rng.bytes(len(piece)) + content[stop:]
        elif kind == 2:
            content = content[:start] + content[stop:]
        elif kind == 3:
            content = content[:stop] + piece + content[stop:]
        elif kind == 4:
            content = content[:start] + token + content[start:]
        elif kind == 5:
            content = content[:start] + token + content[start + len(token) :]
        elif kind == 6:
            content = content[:start]
        elif kind == 7:
            content = content[:stop] + (piece or token) * int(rng.integers(2, 3000)) + content[stop:]
        else:
            other = int(rng.integers(0, size + 1))
            content = content[:start] + content[other : other + len(piece)] + content[stop:]
    return content


def spoil_within(content: bytes, rng: np.random.Generator) -> bytes:
    """Change a gzip file, half of the time inside, so that the parser behind it is reached."""
    if rng.random() < 0.5:
        return spoil(content, rng)
    return gzip.compress(spoil(gzip.decompress(content), rng), 1)


# --- sound files and their readers --------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """What is read, and how.

    Attributes
    ----------
    write : callable
        ``write(folder)`` writes sound files and returns the path of the one to spoil.
    read : callable
        ``read(path)`` reads it as the study would; what it returns says whether it was refused.
    change : callable
        `spoil` or `spoil_within`.
    """

    write: Callable[[Path], Path]
    read: Callable[[Path], list[str]]
    change: Callable[[bytes, np.random.Generator], bytes] = spoil


def _wells(columns: list[str], n_compounds: int = 12) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    wells = pd.DataFrame(rng.normal(size=(2 * n_compounds + 4, len(columns))).round(3), columns=columns)
    names = [f"drug {n}" for n in range(n_compounds)] * 2 + ["DMSO"] * 4
    return wells.assign(Metadata_Compound=names, Metadata_Dose=1.5, Metadata_Plate=["p1", "p2"] * (len(wells) // 2),
                        Metadata_Well=[f"A{n:02d}" for n in range(len(wells))],
                        Metadata_Control=[name == "DMSO" for name in names])  # fmt: skip


CP_COLUMNS = ["Cells_A", "Cells_B", "Nuclei_A", "Nuclei_B"]


def _screen(folder: Path, name: str) -> Path:
    """Write a screen whose CP table has this name; return the table's path."""
    import h5py

    cp = _wells(CP_COLUMNS)
    path = folder / name
    if name.endswith(".parquet"):
        cp.to_parquet(path)
    elif name.endswith(".h5ad"):
        with h5py.File(path, "w") as file:
            metadata = [column for column in cp if column.startswith("Metadata_")]
            file["X"] = cp[CP_COLUMNS].to_numpy(np.float32)
            for group, index in (("obs", cp.index.astype(str)), ("var", CP_COLUMNS)):
                file.create_group(group).attrs.update({"_index": "_index", "column-order": []})
                file[group]["_index"] = list(index)
            file["obs"].attrs["column-order"] = metadata
            for column in metadata:
                is_number = pd.api.types.is_numeric_dtype(cp[column])
                file["obs"][column] = cp[column].to_numpy() if is_number else cp[column].tolist()
    else:
        text = cp.to_csv(index=False).encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    _wells(["TP53", "EGFR", "MYC"]).to_csv(folder / "tx.csv", index=False)
    compounds = "compound,smiles,moa\n" + "".join(f"drug {n},CC{'C' * n}O,kinase|p38\n" for n in range(12))
    (folder / "compounds.csv").write_text(compounds, encoding="utf-8")
    text = f'name = "mine"\n[cp]\npath = "{name}"\n[tx]\npath = "tx.csv"\n[compounds]\npath = "compounds.csv"\n'
    (folder / "screen.toml").write_text(text, encoding="utf-8")
    return path


def _check(path: Path) -> list[str]:
    """What `run_all.py --check` does with the screen beside a file."""
    from cpx_utils import tables
    from cpx_utils.profiles import testability
    from cpx_utils.user_screens import examine_user_screen, review_screen

    tables.WALK_SECONDS = 5  # small as these files are, no sound one takes longer
    toml = path if path.suffix == ".toml" else path.parent / "screen.toml"
    screen, problems = examine_user_screen(toml)
    if screen is not None:
        testability(screen)
        review_screen(screen)
    return problems


def _toml(folder: Path) -> Path:
    _screen(folder, "cp.csv")
    return folder / "screen.toml"


def _compounds(folder: Path) -> Path:
    _screen(folder, "cp.csv")
    return folder / "compounds.csv"


def _sweep(folder: Path) -> Path:
    path = folder / "sweep.toml"
    path.write_text('name = "s"\nprofile = "smoke"\nseeds = [0, 1]\ndatasets = ["simulated"]\n[grid]\n'
                    'temperature = [0.1, 1.0]\n03.n_dimensions = [16]\n[fixed]\nmax_epochs = 3\n')  # fmt: skip
    return path


def _read_sweep(path: Path) -> list[str]:
    from cpx_utils.sweep import read_sweep

    for point in read_sweep(path).points:
        if Path(point.folder).name != point.folder or point.folder in ("", ".", ".."):
            raise AssertionError(f"a sweep's point would lie in {point.folder!r}")
    return []


def _r_data(folder: Path) -> Path:
    import rdata

    path = folder / "profiles.rda"
    rdata.write_rda(path, {"profiles": _wells(CP_COLUMNS)[CP_COLUMNS]})
    return path


def _read_r_data(path: Path) -> list[str]:
    from cpx_utils.datasets import read_r_profiles

    read_r_profiles(path)
    return []


def _model(method: str, name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        from cpx_utils.encoders import METHODS
        from cpx_utils.preprocessing import FeaturePreparation

        wells = _wells(CP_COLUMNS)
        quick = {"n_members": 2, "max_epochs": 0, "n_dimensions": 3} if method == "contrastive" else {}
        groups = wells["Metadata_Compound"].to_numpy()
        tx = np.random.default_rng(1).normal(size=(len(wells), 6))
        METHODS[method](**quick).fit(wells[CP_COLUMNS].to_numpy(), tx, groups=groups).save(folder)
        FeaturePreparation(max_correlation=1).fit(wells[CP_COLUMNS]).save(folder / "preparation.json")
        return folder / name

    return write


def _read_model(path: Path) -> list[str]:
    """Read a model, and embed with what was read: a model that is accepted must also work."""
    from cpx_utils.encoders import load_encoder
    from cpx_utils.preprocessing import FeaturePreparation

    encoder = load_encoder(path.parent)
    preparation = FeaturePreparation.load(path.parent / "preparation.json")
    encoder.transform(preparation.transform(_wells(CP_COLUMNS)))
    return []


def _record(folder: Path) -> Path:
    from cpx_utils.provenance import Workspace, stage_record_path

    workspace = Workspace("01_x", str(folder / "run"), str(folder / "figures"))
    workspace.write(_wells(CP_COLUMNS), "tables/x.csv")
    workspace.finish()
    return stage_record_path(folder / "run", "01_x")


def _read_record(path: Path) -> list[str]:
    from cpx_utils.provenance import read_record, run_manifest

    read_record(path)
    run_manifest(path.parent.parent, dataset="s", profile="p", seed=0, threads=1, unverified=False)
    return []


def _excel(folder: Path) -> Path:
    path = folder / "idmap.xlsx"
    pd.DataFrame({"probe_id": ["a_at", "b_at"], "symbol": ["TP53", "EGFR"]}).to_excel(path, index=False)
    return path


def _read_excel(path: Path) -> list[str]:
    from cpx_utils.datasets import _gene_symbols

    _gene_symbols(["a_at", "b_at"], path, [])
    return []


READERS = {
    "csv": Reader(lambda folder: _screen(folder, "cp.csv"), _check),
    "csv.gz": Reader(lambda folder: _screen(folder, "cp.csv.gz"), _check, spoil_within),
    "parquet": Reader(lambda folder: _screen(folder, "cp.parquet"), _check),
    "h5ad": Reader(lambda folder: _screen(folder, "cp.h5ad"), _check),
    "compounds": Reader(_compounds, _check),
    "TOML of a screen": Reader(_toml, _check),
    "TOML of a sweep": Reader(_sweep, _read_sweep),
    "rda": Reader(_r_data, _read_r_data, spoil_within),
    "encoder.json": Reader(_model("contrastive", "encoder.json"), _read_model),
    "encoder.safetensors": Reader(_model("contrastive", "encoder.safetensors"), _read_model),
    "preparation.json": Reader(_model("lda_identity", "preparation.json"), _read_model),
    "stage record": Reader(_record, _read_record),
    "xlsx": Reader(_excel, _read_excel),
}


# --- one process --------------------------------------------------------------------------------------------


def outcome_of(reader: Reader, path: Path) -> tuple[str, str]:
    """Read a file: ``read``, ``refused``, ``warned`` or ``traceback``, and what was said."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            lines = reader.read(path)
        except ScreenError as error:
            lines = [str(error)]
        except Exception as error:  # what this is about
            return "traceback", f"{type(error).__name__}: {error}"
    if any("\n" in line or not line or len(line) > LONGEST_LINE for line in lines):
        return "traceback", f"not one line: {lines}"
    noise = [one for one in warned if not issubclass(one.category, DeprecationWarning | PendingDeprecationWarning)]
    if noise:
        return "warned", f"{noise[0].category.__name__}: {noise[0].message}"
    return ("refused", lines[0]) if lines else ("read", "")


def _processor_seconds() -> float:
    """Of this process and of those it waited for: a busy machine makes nothing slow."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def fuzz_here(name: str, first: int, seconds: float, most: int, say: Callable[[dict], None]) -> None:
    """Spoil and read for some seconds, or `most` times; say before and after each input what it is."""
    reader = READERS[name]
    with tempfile.TemporaryDirectory(prefix="cpx-fuzz-") as place:
        path = reader.write(Path(place))
        sound = path.read_bytes()
        outcome, said = outcome_of(reader, path)
        if outcome != "read":
            raise SystemExit(f"the sound file of {name} was not read: {said}")
        before, started = peak_memory_mb(), _processor_seconds()
        for number in range(first, first + most):
            if _processor_seconds() - started > seconds:
                break
            path.write_bytes(reader.change(sound, np.random.default_rng([number, sorted(READERS).index(name)])))
            say({"number": number})
            start = _processor_seconds()
            outcome, said = outcome_of(reader, path)
            took = _processor_seconds() - start
            say({"number": number, "outcome": outcome, "said": said[:400], "seconds": took,
                 "peak_mb": max(peak_memory_mb() - before, 0.0)})  # fmt: skip


def _limit_memory() -> None:
    with contextlib.suppress(ImportError):  # Windows knows no such limit
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))


def _child(name: str, first: int, seconds: float, most: int) -> None:
    _limit_memory()
    out = io.TextIOWrapper(sys.stdout.buffer, encoding="ascii", write_through=True)
    fuzz_here(name, first, seconds, most, lambda event: out.write(json.dumps(event) + "\n"))


# --- all of them --------------------------------------------------------------------------------------------


def fuzz(name: str, seconds: float, most: int = 10**9) -> list[dict]:
    """Fuzz a reader in processes of its own; a new one takes over behind an input that ended the last one."""
    outcomes, first = [], 0
    while (left := seconds - sum(one["seconds"] for one in outcomes)) > 0 and first < most:
        call = [sys.executable, __file__, "--child", name, str(first), str(left), str(most - first)]
        events, code, errors = _events_of(call)
        done = [event for event in events if "outcome" in event]
        outcomes += done
        if not events or (code and len(events) == 2 * len(done)):
            raise SystemExit(f"{name}: {errors.strip()[-500:] or 'nothing was read'}")
        if len(events) == 2 * len(done):
            break
        outcomes.append({"number": events[-1]["number"], "outcome": "crash", "said": errors[-400:],
                         "seconds": 0.0, "peak_mb": np.nan})  # fmt: skip
        first = events[-1]["number"] + 1
    return outcomes


def _is_whole(line: str) -> bool:
    return line.endswith("}\n")


def _events_of(call: list[str]) -> tuple[list[dict], int, str]:
    """What a process says, its exit status and its complaints; it is ended when it says nothing for long."""
    with tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=complaints, text=True)
        events: list[dict] = []
        listener = threading.Thread(
            target=lambda: events.extend(map(json.loads, filter(_is_whole, process.stdout))), daemon=True
        )
        listener.start()
        known, since = 0, time.monotonic()
        while process.poll() is None:
            if len(events) > known:
                known, since = len(events), time.monotonic()
            if time.monotonic() - since > SILENT_SECONDS:
                process.kill()
            time.sleep(0.1)
        listener.join()
        complaints.seek(0)
        return events, process.returncode, complaints.read()


def summary(name: str, outcomes: list[dict]) -> dict:
    """A row of the table."""
    table = pd.DataFrame(outcomes)
    counts = table["outcome"].value_counts()
    slow = int((table["seconds"] > LONGEST_SECONDS).sum())
    return {
        "reader": name,
        "inputs": len(table),
        "refused in one line": int(counts.get("refused", 0)),
        "read": int(counts.get("read", 0)),
        "tracebacks": int(counts.get("traceback", 0)),
        "warnings": int(counts.get("warned", 0)),
        "crashes": int(counts.get("crash", 0)),
        f"over {LONGEST_SECONDS} s": slow,
        "slowest s": round(table["seconds"].max(), 2),
        "more memory MB": round(table["peak_mb"].max(), 1),
        "date": date.today().isoformat(),
    }


def main() -> int:
    """Fuzz, print and write; exit status 1 where a reader failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of {', '.join(READERS)}; all if none is named")
    parser.add_argument("--seconds", type=float, default=15, help="of a processor, for each reader")
    parser.add_argument("--inputs", type=int, help="most for each reader, all in this process")
    parser.add_argument(
        "--table", type=Path, help="where the table goes; by default it is kept after a whole run alone"
    )
    parser.add_argument("--child", nargs=4, metavar=("READER", "FIRST", "SECONDS", "MOST"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, first, seconds, most = options.child
        _child(name, int(first), float(seconds), int(most))
        return 0
    unknown = [name for name in options.readers if name not in READERS]
    if unknown:
        parser.error(f"there is no reader {unknown[0]!r}; there are {', '.join(READERS)}")
    rows = []
    if options.inputs:
        _limit_memory()
    for name in options.readers or READERS:
        if options.inputs:
            events: list[dict] = []
            fuzz_here(name, 0, options.seconds, options.inputs, events.append)
            outcomes = [event for event in events if "outcome" in event]
        else:
            outcomes = fuzz(name, options.seconds)
        rows.append(summary(name, outcomes))
        print(", ".join(f"{key}: {value}" for key, value in rows[-1].items()), flush=True)
        bad = pd.DataFrame([one for one in outcomes if one["outcome"] not in ("read", "refused")])
        for said, group in bad.groupby("said") if len(bad) else ():
            print(f"  {len(group)} times, first input {group['number'].iloc[0]}: {said}", flush=True)
    table = pd.DataFrame(rows)
    place = options.table or (None if options.readers or options.inputs else TABLE)
    if place:
        table.to_csv(place, index=False)
    return int(table[["tracebacks", "warnings", "crashes", f"over {LONGEST_SECONDS} s"]].to_numpy().sum() > 0)


if __name__ == "__main__":
    sys.exit(main())
