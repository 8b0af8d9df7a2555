"""Where every number comes from: file hashes, atomic writes, the record of a stage, the manifest of a run.

A stage (one notebook) opens a `Workspace`, reads and writes through it and calls `finish()` at its end. That
leaves `stages/<stage>.json` in the run's folder: what was read and written, each with its SHA-256, the
figures with their captions, seconds and memory of the steps, and what was learned. The runner
(`cpx_utils.pipeline`) compares these records with the files to tell what must run again; a reader trusts a
table only if it is, byte for byte, what its writer recorded.
"""

import contextlib
import hashlib
import html
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from cpx_utils.profiles import ScreenError

try:
    import resource
except ImportError:  # Windows has no such module; memory is then not recorded
    resource = None

STAGES_FOLDER = "stages"
FIGURE_PREFIX = "figures:"
UNFINISHED = ".writing-"  # how names of what isn't written to its end begin
FIGURE_DPI = 200


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

    Parameters
    ----------
    path
        The file to write; its folder is made if it isn't there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=UNFINISHED, suffix="".join(path.suffixes[-2:]), dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files only their owner can read; results are for the group, as any other new file is
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        _flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Bring a file's bytes to the disk: else a power cut may keep its new name and lose what is in it."""
    with open(path, "rb+") as handle:
        os.fsync(handle.fileno())


def remove_unfinished(folder: str | Path) -> None:
    """Remove what writers that were killed left beneath a folder; nothing else may write there meanwhile."""
    for path in Path(folder).rglob(f"{UNFINISHED}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented UTF-8 JSON, atomically, keys in the order given."""
    with atomic_path(path) as temporary:
        temporary.write_text(_as_json(content) + "\n", encoding="utf-8")


def _as_json(content: Any) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    """Turn numpy scalars, arrays and paths into what JSON knows."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} can't be written as JSON")


def read_json(path: str | Path) -> Any:
    """Read a JSON file written by `write_json`.

    Raises
    ------
    ScreenError
        The file is there but isn't JSON: it was damaged or edited.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ScreenError(f"{path} isn't valid JSON ({error}); delete it and run again") from None


def write_record(path: str | Path, record: dict[str, Any]) -> None:
    """Write a record as JSON, atomically, with the SHA-256 of what it says, so that `read_record` can trust it."""
    said = {name: value for name, value in record.items() if name != "sha256"}
    write_json(path, said | {"sha256": hashlib.sha256(_as_json(said).encode()).hexdigest()})


def read_record(path: str | Path) -> dict[str, Any] | None:
    """Read what `write_record` wrote; None if there is nothing, or it was damaged or edited since.

    Raises
    ------
    ScreenError
        It names a file that lies outside of the run's folder.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        digest = record.pop("sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if hashlib.sha256(_as_json(record).encode()).hexdigest() != digest:
        return None
    drawn = [FIGURE_PREFIX + figure["name"] for figure in record.get("figures", [])]
    for name in [*record.get("reads", []), *record.get("writes", []), *drawn]:
        locate(name, "the run's folder", "the folder of figures")
    return record


class FileHashes:
    """SHA-256 of files, remembered by path, size and times of change, so that unchanged files are hashed once.

    Parameters
    ----------
    store
        JSON file that keeps what is known between runs; an unreadable one is ignored. Without it every byte is read
        again, also of a file whose disk has lost some without anyone writing to it.
    """

    # A file changed twice within one tick of the file system's clock keeps its time, so young files aren't
    # remembered.
    SETTLED_NS = 2_000_000_000

    def __init__(self, store: str | Path):
        self.store = Path(store)
        self._changed = False
        try:
            self._known = json.loads(self.store.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}

    def sha256(self, path: str | Path) -> str:
        """Return the file's SHA-256, or "" if there is no such file."""
        path = Path(path)
        try:
            status = path.stat()
            # Who changes a file may put its time back (rsync, touch), but not the inode's own.
            seen = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
            entry = self._known.get(str(path))
            if entry is not None and entry[:-1] == seen:
                return entry[-1]
            digest = sha256_file(path)
        except OSError:
            return ""
        if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > self.SETTLED_NS:
            self._known[str(path)] = [*seen, digest]
            self._changed = True
        return digest

    def save(self) -> None:
        """Keep what is known for the next run; files that are gone are forgotten. On a full disk it is done without."""
        if self._changed:
            with contextlib.suppress(OSError):
                write_json(self.store, {path: entry for path, entry in self._known.items() if os.path.exists(path)})
            self._changed = False


def project_root() -> Path:
    """Return the folder that holds `notebooks/` and `pyproject.toml`.

    It lies beside the package in a checkout or an editable install; else the working directory or a folder
    above it.

    Raises
    ------
    ScreenError
        There is no such folder.
    """
    for folder in [Path(__file__).resolve().parent.parent, Path.cwd(), *Path.cwd().parents]:
        if (folder / "notebooks").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    raise ScreenError(
        f"no folder with notebooks/ and pyproject.toml at or above {Path.cwd()}; start from a checkout of cpx"
    )


def peak_memory_mb() -> float:
    """Return the highest resident memory of this process so far, in MB.

    The operating system only keeps the highest value of a whole process: a step's peak is "up to its end".
    """
    if resource is None:
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


# --- the record of a stage ----------------------------------------------------------------------------------


def stage_record_path(run_dir: str | Path, stage: str) -> Path:
    """Return where the record of a stage lies in a run's folder."""
    return Path(run_dir) / STAGES_FOLDER / f"{stage}.json"


def stage_records(run_dir: str | Path) -> dict[str, dict]:
    """Return the records of all finished stages of a run, by stage name in order; a damaged one counts as none."""
    paths = sorted((Path(run_dir) / STAGES_FOLDER).glob("*.json"))
    return {path.stem: record for path in paths if (record := read_record(path)) is not None}


def locate(name: str, run_dir: str | Path, figures_dir: str | Path) -> Path:
    """Return the file that a recorded name means.

    Parameters
    ----------
    name
        As in a stage record: relative to `run_dir`, "figures:NAME", or absolute for a file from outside.

    Raises
    ------
    ScreenError
        A relative name leads out of its folder: whoever wrote the record wants other files read or removed.
    """
    inner = name.removeprefix(FIGURE_PREFIX)
    folder = run_dir if inner == name else figures_dir
    if ".." in Path(inner).parts or (inner != name and os.path.isabs(inner)):
        raise ScreenError(f"a stage's record names {name!r}, which lies outside of {folder}; delete that record")
    return Path(folder) / inner  # an absolute name stays as it is


def save_figure(fig: Any, stem: Path, table: pd.DataFrame) -> tuple[str, ...]:
    """Write a figure as PNG and SVG and the table behind it as CSV; the same figure gives the same bytes.

    Parameters
    ----------
    fig
        A matplotlib figure.
    stem
        Path without suffix.
    table
        The numbers that the picture shows.

    Returns
    -------
    tuple of str
        The suffixes written.
    """
    import matplotlib

    # Without these, matplotlib writes the date, its own version and random identifiers into the files.
    formats = {
        ".png": {"dpi": FIGURE_DPI, "metadata": {"Software": None}},
        ".svg": {"metadata": {"Date": None, "Creator": None}},
    }
    with matplotlib.rc_context({"svg.hashsalt": "cpx"}):
        for suffix, options in formats.items():
            with atomic_path(stem.with_name(stem.name + suffix)) as temporary:
                fig.savefig(temporary, bbox_inches="tight", **options)
    with atomic_path(stem.with_name(f"{stem.name}.csv")) as temporary:
        _write_csv(table, temporary, digits=5)  # more than a picture shows, small enough to be kept with it
    return (*formats, ".csv")


class Workspace:
    """What a stage reads and writes. Every read and write is recorded with its SHA-256.

    Parameters
    ----------
    stage
        The notebook's file name without suffix, such as "05_cluster_replicates_and_moa".
    run_dir, figures_dir
        Where tables and pictures go; empty: `results/<data set>/default` and `figures/<data set>` of the
        project, so a notebook opened in JupyterLab works on the files of `python run_all.py`.
    dataset
        Name in the registry, or the path of a screen's TOML file.

    Attributes
    ----------
    run_dir, figures_dir : pathlib.Path
        Absolute folders, made if they weren't there.
    """

    def __init__(self, stage: str, run_dir: str = "", figures_dir: str = "", dataset: str = "simulated"):
        self.stage = stage
        if not (run_dir and figures_dir):
            name = _dataset_name(dataset)
            run_dir = run_dir or project_root() / "results" / name / "default"
            figures_dir = figures_dir or project_root() / "figures" / name
        self.run_dir = Path(run_dir).resolve()
        self.figures_dir = Path(figures_dir).resolve()
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.figures_dir.mkdir(parents=True, exist_ok=True)
        self._reads: dict[str, str] = {}
        self._writes: dict[str, str] = {}
        self._outputs: list[Path] = []
        self._folders: dict[Path, Path] = {}
        self._figures: dict[str, dict] = {}
        self._steps: list[dict] = []
        self._learned: list[str] = []
        self._started = time.perf_counter()

    # reading

    def read(self, name: str, filters: list[tuple] | None = None) -> pd.DataFrame:
        """Read a table of this run, checking that it is what its writer recorded.

        Parameters
        ----------
        name
            Path relative to `run_dir`, ending in .parquet or .csv.
        filters
            Of a parquet table: conditions on rows, such as ``[("split", "==", "random")]``; the others never come into
            memory.

        Raises
        ------
        ScreenError
            The table is missing (the line names the stage that makes it), its writer didn't finish, or its
            bytes aren't what the writer recorded.
        """
        path = self.input_file(name)
        if path.suffix == ".parquet":
            return pd.read_parquet(path, filters=filters)
        return pd.read_csv(path, float_precision="round_trip")

    def tables(
        self, pattern: str, names: Iterable[str], filters: list[tuple] | None = None
    ) -> Mapping[str, pd.DataFrame]:
        """Several tables of this run by name, each read anew when it is asked for: a large screen's never fit together.

        Parameters
        ----------
        pattern
            Path relative to `run_dir` with a star in the place of the name, such as
            ``embeddings/*_consensus.parquet``.
        names
            What to put there, in order.
        filters
            Of `read`, as are the errors.
        """
        return _Tables(self, pattern, tuple(names), filters)

    def input_folder(self, name: str) -> Path:
        """Return a folder that an earlier stage filled through `output_folder`, all its files checked.

        Raises
        ------
        ScreenError
            As `read` does.
        """
        prefix = name.rstrip("/") + "/"
        files = [
            file
            for record in stage_records(self.run_dir).values()
            for file in record["writes"]
            if file.startswith(prefix)
        ]
        if not files:
            raise ScreenError(f"{self.stage} needs the folder {name}, which {self._maker(name)} makes: run that first")
        for file in files:
            self.input_file(file)
        return self.run_dir / name

    def record_input(self, path: str | Path) -> Path:
        """Record a file from outside the run (a user's screen, a download) as read; return it, absolute."""
        path = Path(path).resolve()
        if not path.is_file():
            raise ScreenError(f"{path} isn't there")
        self._reads[str(path)] = sha256_file(path)
        return path

    def input_file(self, name: str) -> Path:
        """Return a file of this run, checked to be what its writer recorded; record it as read.

        Raises
        ------
        ScreenError
            As `read` does.
        """
        path = self.run_dir / name
        if name in self._writes:  # written by this very stage
            return path
        records = stage_records(self.run_dir)
        writers = {stage: record["writes"][name] for stage, record in records.items() if name in record["writes"]}
        writers.pop(self.stage, None)
        if not path.is_file():
            raise ScreenError(f"{self.stage} needs {name}, which {self._maker(name)} makes: run that first")
        if not writers:
            raise ScreenError(f"{name} is there, but {self._maker(name)} didn't run to its end: run that again")
        digest = sha256_file(path)
        if digest not in writers.values():
            stage = next(iter(writers))
            raise ScreenError(
                f"{name} isn't what {stage} wrote (changed or damaged since): run {stage} again, "
                f"for instance with run_all.py --only {stage[:2]} --force"
            )
        self._reads[name] = digest
        return path

    def _maker(self, name: str) -> str:
        """Name the stage that makes a file: by the records, else by the notebook that mentions it."""
        for stage, record in stage_records(self.run_dir).items():
            if stage != self.stage and any(file == name or file.startswith(name + "/") for file in record["writes"]):
                return stage
        try:
            notebooks = sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))
        except ScreenError:
            notebooks = []
        for notebook in notebooks:
            if notebook.stem < self.stage and f'\\"{name}\\")' in notebook.read_text(encoding="utf-8"):
                return notebook.stem
        return "an earlier notebook"

    # writing

    def write(self, table: pd.DataFrame, name: str) -> Path:
        """Write a table of this run, atomically; the same numbers give the same bytes.

        Parameters
        ----------
        table
            Its index isn't written.
        name
            Path relative to `run_dir`, ending in .parquet (types kept) or .csv (for reading; 10 significant
            digits).

        Returns
        -------
        pathlib.Path
            The file.
        """
        path = self.run_dir / name
        if path.suffix not in (".parquet", ".csv"):
            raise ValueError(f"{name}: tables end in .parquet or .csv")
        with atomic_path(path) as temporary:
            if path.suffix == ".parquet":
                table.to_parquet(temporary, index=False)
            else:
                _write_csv(table, temporary)
        self._writes[Path(name).as_posix()] = sha256_file(path)
        return path

    def output_file(self, name: str) -> Path:
        """Return where to write a file of this run that is no table; `finish` records it."""
        path = self.run_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._outputs.append(path)
        return path

    def output_folder(self, name: str) -> Path:
        """Return an empty folder to fill; `finish` records every file in it and gives it its name.

        What an earlier run left under that name then goes, so that no file of other parameters stays behind.
        """
        final = self.run_dir / name
        if final in self._folders:
            shutil.rmtree(self._folders[final])
        final.parent.mkdir(parents=True, exist_ok=True)
        self._folders[final] = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=final.parent))
        return self._folders[final]

    def figure(self, fig: Any, name: str, table: pd.DataFrame, caption: str) -> None:
        """Save a figure as PNG and SVG with the table behind it as CSV; in a notebook show it with its caption.

        The same figure gives the same bytes.

        Parameters
        ----------
        fig
            A matplotlib figure. In a notebook it is closed, so that it isn't shown a second time.
        name
            File name without suffix, such as "05_moa_map".
        table
            The numbers that the picture shows.
        caption
            One or two sentences that say what is shown; the figure's own title says what was found.
        """
        for suffix in save_figure(fig, self.figures_dir / name, table):
            self._writes[f"{FIGURE_PREFIX}{name}{suffix}"] = sha256_file(self.figures_dir / (name + suffix))
        title = " ".join(fig.get_suptitle().split())
        self._figures[name] = {"name": name, "title": title, "caption": " ".join(caption.split())}
        if _in_notebook():
            from IPython.display import Markdown, display
            from matplotlib import pyplot

            # Not left to pyplot, which shows no figure once a style's context has put back the setting
            # "interactive" that it found before the notebook's backend was there.
            display(fig)
            display(Markdown(f"`{name}`: {_as_words(caption)}"))
            pyplot.close(fig)

    # telling

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Record the seconds of the block, and the process's highest memory up to its end, under `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._steps.append(
                {"step": name, "seconds": round(time.perf_counter() - start, 3), "peak_mb": peak_memory_mb()}
            )

    def say(self, text: str) -> None:
        """Show a sentence of "What we learn" and record it for the report.

        Parameters
        ----------
        text
            Computed from the run's own numbers; Markdown emphasis is kept, HTML is shown as text.
        """
        self._learned.append(" ".join(text.split()))
        if _in_notebook():
            from IPython.display import Markdown, display

            display(Markdown(_as_words(text)))
        else:
            print(text)

    def finish(self) -> pd.DataFrame:
        """Write the stage's record, `stages/<stage>.json`; call it in the notebook's last cell.

        Returns
        -------
        pandas.DataFrame
            What was saved: columns file (pictures with their folder's name) and kB.
        """
        for final, filled in self._folders.items():
            self._outputs += self._put_in_place(filled, final)
        self._folders = {}
        for path in self._outputs:
            if path.is_file():
                self._writes[path.relative_to(self.run_dir).as_posix()] = sha256_file(path)
        record = {
            "stage": self.stage,
            "reads": dict(sorted(self._reads.items())),
            "writes": dict(sorted(self._writes.items())),
            "figures": list(self._figures.values()),
            "steps": self._steps,
            "learned": self._learned,
            "device": _device(),
            "seconds": round(time.perf_counter() - self._started, 3),
            "peak_mb": peak_memory_mb(),
        }
        write_record(stage_record_path(self.run_dir, self.stage), record)
        sizes = [locate(name, self.run_dir, self.figures_dir).stat().st_size for name in record["writes"]]
        shown = [name.replace(FIGURE_PREFIX, "figures/") for name in record["writes"]]
        return pd.DataFrame({"file": shown, "kB": [round(size / 1000, 1) for size in sizes]})

    def _put_in_place(self, filled: Path, final: Path) -> list[Path]:
        """Give a filled folder its name, in the place of what an earlier run or cell left there; return its files."""
        files = [path for path in filled.rglob("*") if path.is_file()]
        for path in files:
            _flush(path)
        mask = os.umask(0)
        os.umask(mask)
        filled.chmod(0o777 & ~mask)  # mkdtemp makes folders only their owner can enter
        if final.exists():
            shutil.rmtree(final)
        filled.replace(final)
        prefix = final.relative_to(self.run_dir).as_posix() + "/"
        self._writes = {name: digest for name, digest in self._writes.items() if not name.startswith(prefix)}
        return [final / path.relative_to(filled) for path in files]


class _Tables(Mapping):
    """`Workspace.tables`."""

    def __init__(self, workspace: Workspace, pattern: str, names: tuple[str, ...], filters: list[tuple] | None):
        self._workspace, self._pattern, self._names, self._filters = workspace, pattern, names, filters

    def __getitem__(self, name: str) -> pd.DataFrame:
        if name not in self._names:
            raise KeyError(name)
        return self._workspace.read(self._pattern.replace("*", name), self._filters)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _as_words(text: str) -> str:
    """Return Markdown in which names from data make no elements and no links, emphasis apart."""
    return html.escape(text, quote=False).replace("[", "&#91;").replace("]", "&#93;")


def _in_notebook() -> bool:
    """Say whether a kernel runs this, without importing IPython for it."""
    return "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None


def _write_csv(table: pd.DataFrame, path: Path, digits: int = 10) -> None:
    table.to_csv(path, index=False, float_format=f"%.{digits}g", lineterminator="\n")


def _dataset_name(dataset: str) -> str:
    """Return the name of a data set: a registry name is its own, a screen's TOML file holds one.

    Not `datasets.dataset_name`: all notebooks import this module, and through it they would depend on every
    screen's loader, so that a change there made all of them stale.
    """
    if not dataset.endswith(".toml"):
        return dataset
    try:
        return tomllib.loads(Path(dataset).read_text(encoding="utf-8-sig"))["name"]
    except (OSError, KeyError, ValueError, RecursionError) as error:
        raise ScreenError(f"{dataset} isn't the TOML file of a screen: {error}") from None


def _device() -> str:
    """Name the device torch can compute on, without importing torch for stages that never did."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return f"cuda ({torch.cuda.get_device_name()})"
    return "cpu"


# --- the manifest of a run ----------------------------------------------------------------------------------


def package_versions() -> dict[str, str]:
    """Return the versions of cpx and of the packages it depends on directly, by name."""
    try:
        requirements = [line for line in metadata.requires("cpx") if "extra ==" not in line]
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return {name: metadata.version(name) for name in ("numpy", "pandas", "scikit-learn", "scipy", "torch")}
    names = ["cpx", *(re.match(r"[\w.-]+", line)[0] for line in requirements)]
    return {name: metadata.version(name) for name in names}


def git_state(folder: str | Path) -> dict:
    """Return {"commit", "dirty"} of the checkout that holds `folder`; empty without git or a commit."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True, timeout=20
        ).stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return {}


def run_manifest(
    run_dir: str | Path, *, dataset: str, profile: str, seed: int | None, threads: int, unverified: bool
) -> dict:
    """Gather what someone needs to repeat a run or to doubt it.

    Parameters
    ----------
    run_dir
        Folder of the run, with the records of its stages.
    dataset, profile, seed, threads, unverified
        How the run was called; `threads` are those of one stage.

    Returns
    -------
    dict
        Ready for `write_json`.
    """
    run_dir = Path(run_dir)
    records = stage_records(run_dir)
    screen = read_json(run_dir / "screen.json") if (run_dir / "screen.json").is_file() else {}
    sources = screen.get("sources", [])
    runs = {stage: record.get("run", {}) for stage, record in records.items()}
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
        "git": git_state(Path(__file__).resolve().parent),
        "inputs": sources,
        "stages": {
            stage: {
                "parameters": runs[stage].get("fingerprint", {}).get("parameters", {}),
                "seconds": runs[stage].get("seconds", record["seconds"]),
                "peak_mb": record["peak_mb"],
                "git": runs[stage].get("git", {}),
                "inputs": {name: digest for name, digest in record["reads"].items() if os.path.isabs(name)},
            }
            for stage, record in records.items()
        },
    }
