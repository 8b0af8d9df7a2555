"""Where every number comes from: file hashes, atomic writes, the record of a stage, the manifest of a run.

A stage (one notebook) opens a `Workspace`, reads and writes through it and calls `finish()` at its end. That
leaves `stages/<stage>.json` in the run's folder: what was read and written, each with its SHA-256, the
figures with their captions, seconds and memory of the steps, and what was learned. The runner
(`cpx_utils.pipeline`) compares these records with the files to tell what must run again; a reader trusts a
table only if it is, byte for byte, what its writer recorded.
"""

import contextlib
import functools
import hashlib
import html
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections import UserDict
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from cpx_utils.profiles import ScreenError

FIGURE_PREFIX = "figures:"  # of recorded names that lie in the folder of figures, not in the run's
UNFINISHED = ".writing-"  # how names of what isn't written to its end begin
FIGURE_DPI = 150


# --- files --------------------------------------------------------------------------------------------------


def sha256_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; rename it to `path` on success, remove it on error.

    A reader therefore sees the old file or the whole new one, never half of it, even when the process is killed or
    the power fails. The temporary name keeps the suffix, since writers choose a format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{UNFINISHED}{os.getpid()}-{path.name}")
    try:
        yield temporary
        with open(temporary, "rb+") as written:  # else a power cut may keep the new name and lose what is in it
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented UTF-8 JSON, atomically, keys in the order given; numpy and paths become plain."""
    plain = lambda value: value.tolist() if hasattr(value, "tolist") else os.fspath(value)  # noqa: E731
    with atomic_path(path) as temporary:
        text = json.dumps(content, indent=1, ensure_ascii=False, default=plain)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; one that was damaged or edited, so that it isn't JSON any more, is a ScreenError."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ScreenError(f"{path} isn't valid JSON ({error})") from None


def project_root() -> Path:
    """Return the folder of the checkout, which holds `notebooks/`, `pyproject.toml` and this package."""
    return Path(__file__).resolve().parents[1]


def peak_memory_mb() -> float:
    """Return the highest resident memory of this process so far, in MB; NaN on Windows, which can't tell."""
    try:
        import resource
    except ImportError:
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


# --- the record of a stage ----------------------------------------------------------------------------------


def record_path(run_dir: str | Path, stage: str) -> Path:
    """Return where the record of a stage of a run lies."""
    return Path(run_dir) / "stages" / f"{stage}.json"


def read_record(run_dir: str | Path, stage: str) -> dict:
    """Return the record of a finished stage of a run; ``{}`` where there is none or it is damaged.

    One that names a file outside of its folder is a ScreenError: whoever wrote it wants other files read or removed.
    """
    try:
        record = json.loads(record_path(run_dir, stage).read_text(encoding="utf-8"))
        names = [*record["reads"], *record["writes"]]
        names += [FIGURE_PREFIX + figure["name"] for figure in record["figures"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    for name in names:
        locate(name, run_dir, run_dir)
    return record


def stage_records(run_dir: str | Path) -> dict[str, dict]:
    """Return the records of all finished stages of a run, by stage name in order."""
    stages = sorted(path.stem for path in record_path(run_dir, "*").parent.glob("*.json"))
    records = {stage: read_record(run_dir, stage) for stage in stages}
    return {stage: record for stage, record in records.items() if record}


def locate(name: str, run_dir: str | Path, figures_dir: str | Path) -> Path:
    """Return the file that a name in a stage's record means.

    It is relative to `run_dir`, "figures:NAME", or absolute for a file from outside. A relative one that leads out of
    its folder is a ScreenError.
    """
    inner = name.removeprefix(FIGURE_PREFIX)
    folder = run_dir if inner == name else figures_dir
    if ".." in re.split(r"[/\\]", inner) or (inner != name and os.path.isabs(inner)):
        raise ScreenError(f"a stage's record names {name!r}, which lies outside of {folder}; delete that record")
    return Path(folder, inner)  # an absolute name stays as it is


def save_figure(fig: Any, stem: Path, table: pd.DataFrame, svg: Path | None = None) -> list[Path]:
    """Write a matplotlib figure as `stem`.png and .svg (or `svg`), and the table behind it as `stem`.csv.

    The same figure gives the same bytes. The files written are returned.
    """
    import matplotlib

    png, csv, beside = (stem.with_name(stem.name + suffix) for suffix in (".png", ".csv", ".svg"))
    # Without these, matplotlib writes the date, its own version and random identifiers into the files.
    metadata_of = {png: {"Software": None}, svg or beside: {"Date": None, "Creator": None}}
    with matplotlib.rc_context({"svg.hashsalt": "cpx"}):
        for path, told in metadata_of.items():
            with atomic_path(path) as temporary:
                fig.savefig(temporary, bbox_inches="tight", dpi=FIGURE_DPI, metadata=told)
    with atomic_path(csv) as temporary:
        table.to_csv(temporary, index=False, float_format="%.5g", lineterminator="\n")
    return [png, csv, svg or beside]


class Workspace:
    """What a stage reads and writes. Every read and write is recorded with its SHA-256.

    Names of tables and files are paths relative to `run_dir`.

    Parameters
    ----------
    stage
        The notebook's file name without suffix, such as "05_cluster_replicates_and_moa".
    run_dir, figures_dir
        Where tables and pictures go, made if need be; empty: `results/<data set>/default` and `figures/<data set>` of
        the project, so a notebook opened in JupyterLab works on the files of `python run_all.py`.
    dataset
        Name in the registry, or the path of a screen's TOML file.
    """

    def __init__(self, stage: str, run_dir: str = "", figures_dir: str = "", dataset: str = "simulated"):
        self.stage = stage
        if not (run_dir and figures_dir):
            # Not through `datasets`: all notebooks import this module, and each would depend on every loader.
            if dataset.endswith(".toml"):
                dataset = tomllib.loads(Path(dataset).read_text(encoding="utf-8-sig"))["name"]
            run_dir = run_dir or project_root() / "results" / dataset / "default"
            figures_dir = figures_dir or project_root() / "figures" / dataset
        self.run_dir, self.figures_dir = Path(run_dir).resolve(), Path(figures_dir).resolve()
        self._reads: dict[str, str] = {}  # name to SHA-256, as the next
        self._writes: dict[str, str] = {}
        self._outputs: list[Path] = []  # files and folders to be hashed in the end
        self._figures: dict[str, dict] = {}
        self._steps: list[dict] = []
        self._learned: list[str] = []
        self._started = time.perf_counter()

    # reading

    def read(self, name: str, filters: list[tuple] | None = None) -> pd.DataFrame:
        """Read a table (.parquet or .csv) of this run, checked as by `input_file`.

        `filters` are conditions on the rows of a parquet table, such as ``[("split", "==", "random")]``; the other rows
        never come into memory.
        """
        path = self.input_file(name)
        if path.suffix == ".parquet":
            return pd.read_parquet(path, filters=filters)
        return pd.read_csv(path, float_precision="round_trip")

    def tables(
        self, pattern: str, names: Iterable[str], filters: list[tuple] | None = None
    ) -> Mapping[str, pd.DataFrame]:
        """Several tables of this run by name, each read anew when it is asked for: a large screen's never fit together.

        `names` stand in the place of the star of `pattern`, such as ``embeddings/*_consensus.parquet``; see `read`.
        """
        return _Tables({name: functools.partial(self.read, pattern.replace("*", name), filters) for name in names})

    def input_file(self, name: str) -> Path:
        """Return a file of this run, checked to be what its writer recorded, or a folder with all in it; record both.

        Raises
        ------
        ScreenError
            A file is missing, its writer didn't finish, or its bytes aren't what the writer recorded.
        """
        written = {}
        for stage, record in stage_records(self.run_dir).items():
            if stage != self.stage:
                written |= {file: (stage, digest) for file, digest in record["writes"].items()}
        for file in [file for file in written if file.startswith(f"{name}/")] or [name]:
            stage, digest = written.get(file, ("an earlier notebook", ""))
            path = self.run_dir / file
            if not digest or not path.is_file():
                raise ScreenError(f"{self.stage} needs {file}, which {stage} makes: run that to its end first")
            self._reads[file] = sha256_file(path)
            if self._reads[file] != digest:
                raise ScreenError(
                    f"{file} isn't what {stage} wrote (changed or damaged since): run {stage} again, "
                    f"for instance with run_all.py --only {stage[:2]} --force"
                )
        return self.run_dir / name

    input_folder = input_file  # one that an earlier stage filled through `output_folder`

    def record_input(self, path: str | Path) -> Path:
        """Record a file from outside the run (a user's screen, a download) as read; return it, absolute."""
        path = Path(path).resolve()
        self._reads[str(path)] = sha256_file(path)
        return path

    # writing

    def write(self, table: pd.DataFrame, name: str) -> Path:
        """Write a table of this run, its index apart, and return the file; the same numbers give the same bytes.

        The name ends in .parquet (types are kept) or .csv (for reading; 10 significant digits).
        """
        path = self.run_dir / name
        with atomic_path(path) as temporary:
            if path.suffix == ".parquet":
                table.to_parquet(temporary, index=False)
            else:
                table.to_csv(temporary, index=False, float_format="%.10g", lineterminator="\n")
        self._writes[Path(name).as_posix()] = sha256_file(path)
        return path

    def output_file(self, name: str) -> Path:
        """Return where to write a file of this run that is no table; `finish` records it."""
        path = self.run_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._outputs.append(path)
        return path

    def output_folder(self, name: str) -> Path:
        """Return a folder to fill, emptied of what an earlier run left; `finish` records every file in it."""
        folder = self.output_file(name)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def figure(self, fig: Any, name: str, table: pd.DataFrame, caption: str) -> None:
        """Save a figure, `figures_dir/NAME.png`, with the table behind it; in a notebook show it with its caption.

        Parameters
        ----------
        fig
            A matplotlib figure, such as those of `plots`; one of pyplot's would be shown a second time.
        name
            File name without suffix, such as "05_moa_map". The SVG is a file of the run, `figures/NAME.svg`.
        table
            The numbers that the picture shows; 5 significant digits are kept.
        caption
            One or two sentences that say what is shown; the figure's own title says what was found.
        """
        svg = f"figures/{name}.svg"
        png, csv, vector = save_figure(fig, self.figures_dir / name, table, self.run_dir / svg)
        self._writes |= {FIGURE_PREFIX + path.name: sha256_file(path) for path in (png, csv)}
        self._writes[svg] = sha256_file(vector)
        title, caption = (" ".join(words.split()) for words in (fig.get_suptitle(), caption))
        self._figures[name] = {"name": name, "title": title, "caption": caption}
        _show(f"`{name}`: ", caption, png, title)

    # telling

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Record the seconds of the block, and the process's highest memory up to its end, under `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = round(time.perf_counter() - start, 3)
            self._steps.append({"step": name, "seconds": seconds, "peak_mb": peak_memory_mb()})

    def say(self, text: str) -> None:
        """Show a sentence of "What we learn", in which Markdown emphasis counts and HTML doesn't; record it."""
        self._learned.append(" ".join(text.split()))
        if not _show("", text):
            print(text)

    def finish(self) -> pd.DataFrame:
        """Write the stage's record, `stages/<stage>.json`, in the notebook's last cell; return files and their kB."""
        for file in [file for path in self._outputs for file in [path, *path.rglob("*")] if file.is_file()]:
            self._writes[file.relative_to(self.run_dir).as_posix()] = sha256_file(file)
        torch = sys.modules.get("torch")  # not imported for stages that never did
        has_gpu = torch is not None and torch.cuda.is_available()
        record = {
            "stage": self.stage,
            "reads": dict(sorted(self._reads.items())),
            "writes": dict(sorted(self._writes.items())),
            "figures": list(self._figures.values()),
            "steps": self._steps,
            "learned": self._learned,
            "modules": sorted(f"{name.replace('.', '/')}.py" for name in sys.modules if name.startswith("cpx_utils.")),
            "device": f"cuda ({torch.cuda.get_device_name()})" if has_gpu else "cpu",
            "seconds": round(time.perf_counter() - self._started, 3),
            "peak_mb": peak_memory_mb(),
        }
        write_json(record_path(self.run_dir, self.stage), record)
        files = [locate(name, self.run_dir, self.figures_dir) for name in record["writes"]]
        return pd.DataFrame({"file": [*record["writes"]], "kB": [file.stat().st_size / 1000 for file in files]})


class _Tables(UserDict):
    """`Workspace.tables`: names to functions that read."""

    def __getitem__(self, name: str) -> pd.DataFrame:
        return self.data[name]()


def _show(head: str, text: str, picture: Path | None = None, alt: str = "") -> bool:
    """Show a picture, and words in which names from data make no elements or links; say whether a kernel runs this."""
    if "IPython" not in sys.modules or sys.modules["IPython"].get_ipython() is None:
        return False
    from IPython.display import Image, Markdown, display

    if picture is not None:
        display(Image(filename=str(picture), alt=alt or text))  # what was found, if the title says it
    display(Markdown(head + html.escape(text, quote=False).replace("[", "&#91;").replace("]", "&#93;")))
    return True


# --- the manifest of a run ----------------------------------------------------------------------------------


@functools.cache
def package_versions() -> dict[str, str]:
    """Return the versions of the packages that pyproject.toml pins, extras apart; "" for one not installed."""
    project = tomllib.loads((project_root() / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = reversed([*metadata.distributions()])  # where one is found twice, the first is imported
    installed = {str(one.name).lower().replace("_", "-"): one.version for one in found}
    pinned = [line.partition("==")[0] for line in project["dependencies"]]
    return {name: installed.get(name, "") for name in sorted(pinned)}


def run_manifest(
    run_dir: str | Path, *, dataset: str, profile: str, seed: int | None, threads: int, unverified: bool
) -> dict:
    """Gather what someone needs to repeat a run or to doubt it: how it was called, and what its stages recorded.

    `threads` are those of one stage.
    """
    run_dir = Path(run_dir)
    records = stage_records(run_dir)
    screen = read_json(run_dir / "screen.json") if (run_dir / "screen.json").is_file() else {}
    sources = screen.get("sources", [])
    call = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--abbrev=40", "--dirty"]
    commit = ""
    with contextlib.suppress(OSError):  # no git; where there is no checkout, it answers nothing
        commit = subprocess.run([*call, "--exclude", "*"], capture_output=True, text=True).stdout.strip()
    return {
        "dataset": dataset,
        "profile": profile,
        "seed": seed,
        "unverified": unverified or any(not source.get("verified", True) for source in sources),
        "threads_per_stage": threads,
        "device": ", ".join(sorted({record["device"] for record in records.values()})),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": package_versions(),
        "git": {"commit": commit.removesuffix("-dirty"), "dirty": commit.endswith("-dirty")} if commit else {},
        "inputs": sources,
        "stages": {
            stage: {
                "parameters": record["run"]["fingerprint"]["parameters"] if "run" in record else {},
                "seconds": record.get("run", record)["seconds"],
                "peak_mb": record["peak_mb"],
                "inputs": {name: digest for name, digest in record["reads"].items() if os.path.isabs(name)},
            }
            for stage, record in records.items()
        },
    }
