"""The command line of the study; `run_all.py` is its thin face.

What is asked for is checked whole before anything runs, and made into a `running.Plan`. A mistake in the call
or in a screen is told in one line, with exit status 2.
"""

import argparse
import difflib
import os
import shlex
import shutil
import signal
import stat
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from cpx_utils.kernels import Places, skip_slow_imports
from cpx_utils.profiles import Screen, ScreenError, user_path
from cpx_utils.provenance import project_root, stage_records
from cpx_utils.running import (
    Console,
    Plan,
    Run,
    execute,
    finish_run,
    forecast,
    require_upstream,
    run_lock,
    short_path,
    with_remedy,
)
from cpx_utils.stages import FILES, PLUMBING, PROFILES, Stage, find_stage, read_stages, resolve_parameters
from cpx_utils.sweep import Sweep, read_sweep, run_sweep

# --- the call -----------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Mistakes in the call are told in one line."""

    def error(self, message: str) -> None:
        raise ScreenError(message + "; --help lists the options")


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = _Parser(
        prog="run_all.py",
        allow_abbrev=False,
        description="Run the numbered notebooks in order, each only if something it depends on changed.",
        epilog="Exit status: 0 done, 1 a notebook failed, 2 the call was wrong.",
    )
    add = parser.add_argument_group("the screen").add_argument
    add("--dataset", metavar="NAME|FILE.toml",
        help="a screen of the registry, or your own (default: simulated, which needs no download)")  # fmt: skip
    add("--mirror", default="", metavar="DIR_OR_URL", help="download https://HOST/PATH from MIRROR/HOST/PATH instead")
    add("--data-dir", default="", metavar="DIR", help="where downloads are kept (default: a folder of your user)")
    add("--unverified", action="store_true", help="accept files whose hash isn't the registry's; the results say so")
    add("--check", action="store_true", help="examine the screen, list what is wrong or not testable, run nothing")
    add = parser.add_argument_group("the study").add_argument
    add("--profile", choices=list(PROFILES),
        help="smoke: small, to see that everything works; full: more repeats (default: default)")  # fmt: skip
    add("--seed", type=int, help="seed of every notebook")
    add("-p", "--parameter", action="extend", nargs="+", default=[], metavar="NAME=VALUE",
        help="set a parameter in every notebook that has it; 03.NAME=VALUE in one; --list shows them")  # fmt: skip
    add("--sweep", metavar="FILE.toml", help="run every combination of the parameters, seeds and screens in a file")
    add("--results", metavar="DIR", help="runs go to DIR/DATASET/PROFILE (default: results/ of the project)")
    add("--figures", metavar="DIR", help="pictures go to DIR/DATASET (default: figures/ of the project)")
    group = parser.add_argument_group("the notebooks")
    add = group.add_argument
    which = group.add_mutually_exclusive_group()
    which.add_argument("--only", nargs="+", metavar="NN", help="consider these notebooks alone")
    which.add_argument("--from", dest="first", metavar="NN", help="consider this notebook and those after it")
    add("--force", action="store_true", help="run the notebooks considered even if nothing changed")
    add("--dry-run", action="store_true", help="say what would run, and why, and what would be downloaded; run nothing")
    add("--list", action="store_true", help="list the notebooks, their parameters and what is stale; run nothing")
    add("--jobs", type=int, metavar="N",
        help="notebooks side by side (default: up to 3, or a cluster's threads); results are the same")  # fmt: skip
    add("--scheduler", metavar="ADDRESS", help="run on the Dask cluster of this scheduler, such as tcp://host:8786")
    return parser


def parse_call(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line.

    Raises
    ------
    ScreenError
        An option is unknown (the line names the nearest) or has a wrong value.
    """
    parser = build_parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = [name for action in parser._actions for name in action.option_strings]
        nearest = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else "--help lists the options"
        raise ScreenError(f"there is no option {unknown[0]!r}; {hint}")
    if options.sweep:
        for name in ("check", "list"):
            if getattr(options, name):
                raise ScreenError(f"--sweep doesn't go with --{name}; see what it would do with --dry-run")
    else:  # a sweep's file may say them
        options.dataset, options.profile = options.dataset or "simulated", options.profile or "default"
    for name, lowest in (("jobs", 1), ("seed", 0)):
        value = getattr(options, name)
        if value is not None and value < lowest:
            raise ScreenError(f"--{name} wants a whole number from {lowest}; {value} isn't one")
    return options


def make_plan(options: argparse.Namespace, notebooks: Path, stages: list[Stage] | None = None, name: str = "") -> Plan:
    """Check everything that can be checked before anything runs.

    Parameters
    ----------
    options
        From `parse_call`.
    notebooks
        Their folder.
    stages
        `read_stages` of it, where they were read already.
    name
        Of a sweep's point.

    Raises
    ------
    ScreenError
        One line: what is wrong with the call, and what would be right.
    """
    from cpx_utils.datasets import DATASETS, dataset_name

    stages = stages or read_stages(notebooks)
    dataset, profile = dataset_name(options.dataset), options.profile
    registered = DATASETS.get(options.dataset)
    mirror = options.mirror
    if mirror and "://" not in mirror:
        if not user_path(mirror).is_dir():
            raise ScreenError(f"--mirror wants a folder or a URL; {mirror} is neither")
        mirror = str(user_path(mirror).resolve())
    results = _folder("results", options.results) or project_root() / "results"
    figures = _folder("figures", options.figures) or project_root() / "figures"
    data_dir = _folder("data-dir", options.data_dir)
    run_dir = results / dataset / profile
    figures_dir = figures / (f"{dataset}-smoke" if profile == "smoke" else dataset)
    plumbing = {
        "dataset": options.dataset if registered else str(user_path(options.dataset).resolve()),
        "run_dir": str(run_dir),
        "figures_dir": str(figures_dir),
        "mirror": mirror,
        "data_dir": str(data_dir) if data_dir else "",
        "unverified": options.unverified,
    }
    preferred = registered.parameters if registered else {}
    seed = {} if options.seed is None else {"seed": options.seed}
    layers = [preferred, PROFILES[profile], seed, plumbing]
    selected = stages
    if options.only:
        chosen = {find_stage(stages, number).name for number in options.only}
        selected = [stage for stage in stages if stage.name in chosen]
    elif options.first:
        selected = stages[stages.index(find_stage(stages, options.first)) :]
    parameters = resolve_parameters(stages, layers, options.parameter)
    for values in parameters.values():  # a kernel works in the notebooks' folder, not in the caller's
        values.update({name: str(_file(name, values[name])) for name in FILES & values.keys() if values[name]})
    return Plan(
        stages=stages,
        selected=selected,
        parameters=parameters,
        dataset=dataset,
        profile=profile,
        run_dir=run_dir,
        figures_dir=figures_dir,
        force=options.force,
        unverified=options.unverified,
        name=name,
    )


def _folder(option: str, given: str | None) -> Path | None:
    """Return a folder that an option names, absolute, whether it is there yet or not; None where none is given."""
    if not given:
        return None
    folder = user_path(given).resolve()
    for part in (folder, *folder.parents):
        try:
            if stat.S_ISDIR(part.stat().st_mode):
                return folder
            raise ScreenError(f"--{option} wants a folder; {part} is none")
        except (FileNotFoundError, NotADirectoryError):  # to be made, or what is above it tells more
            continue
        except OSError as error:
            raise ScreenError(f"--{option} wants a folder; {given} can't be one ({error.strerror})") from None
    return folder


def _file(name: str, given: str) -> Path:
    """Return a file that a parameter names, absolute."""
    file = user_path(given).resolve()
    try:
        if file.is_file():
            return file
    except OSError as error:
        raise ScreenError(f"{name} wants a file; {given} can't be one ({error.strerror})") from None
    raise ScreenError(f"{name} wants a file; {given} {'is a folder' if file.is_dir() else 'is not there'}")


def make_sweep(options: argparse.Namespace, notebooks: Path) -> tuple[Sweep, list[Plan], Path]:
    """Read a sweep's file and check every point before anything runs.

    Returns
    -------
    sweep, plans, folder
        The sweep, a plan for each of its points, and its folder: `sweeps/NAME` of the results.

    Raises
    ------
    ScreenError
        One line: what is wrong with the call or the file, and what would be right.
    """
    sweep = read_sweep(options.sweep)
    in_both = {
        "--dataset": options.dataset and "dataset" in sweep.swept,
        "--seed": options.seed is not None and "seed" in sweep.swept,
        "--profile": options.profile and sweep.profile,
    }
    named = {name.partition("=")[0].strip() for name in options.parameter}
    in_both |= {f"-p {name}": True for name in (*sweep.swept, *sweep.fixed) if name in named}
    for option, wrong in in_both.items():
        if wrong:
            raise ScreenError(f"{option} and {options.sweep} both set that; leave one of them out")
    results = _folder("results", options.results) or project_root() / "results"
    folder = results / "sweeps" / sweep.name
    figures = Path(options.figures, sweep.name) if options.figures else None
    stages = read_stages(notebooks)
    plans = []
    for point in sweep.points:
        own = {
            "results": folder / point.folder,
            "figures": figures / point.folder if figures else folder / point.folder / "figures",
            "profile": sweep.profile or options.profile or "default",
            "dataset": point.dataset or options.dataset or "simulated",
            "seed": options.seed if point.seed is None else point.seed,
            "parameter": [*options.parameter, *point.given],
        }
        try:
            plans.append(make_plan(argparse.Namespace(**vars(options) | own), notebooks, stages, point.name))
        except ScreenError as error:
            raise ScreenError(f"{options.sweep}: {error}") from None
    return sweep, plans, folder


@contextmanager
def open_places(
    options: argparse.Namespace, plans: Sequence[Plan], folders: Sequence[Path], console: Console
) -> Iterator[Places]:
    """Give the places where stages run: on this machine, or on a cluster whose workers must see `folders`.

    Raises
    ------
    ScreenError
        The cluster can't be used; the line says why.
    """
    if not options.scheduler:
        yield Places(options.jobs or min(os.cpu_count() or 1, 3))
        return
    from cpx_utils.cluster import DaskPlaces

    needed = [next(iter(plan.parameters.values())) for plan in plans]
    data = {Path(values["data_dir"]) for values in needed if values.get("data_dir")}
    own = {Path(values["dataset"]) for values in needed if values["dataset"].endswith(".toml")}
    with DaskPlaces(options.scheduler, options.jobs, sorted({*folders, *data}), sorted(own)) as places:
        count = f"{places.n_workers} worker{'' if places.n_workers == 1 else 's'}"
        console.say(f"cluster: {count} at {options.scheduler}, {places.n_places} notebooks side by side")
        yield places


LIST_INDENT = 48  # columns before the explanations of --list


# --- what it does -------------------------------------------------------------------------------------------


def print_list(plan: Plan, console: Console) -> None:
    """Print each stage's question and outlook, and its parameters as they may be typed, with type and explanation."""
    outlook = forecast(plan)
    width = shutil.get_terminal_size((120, 24)).columns
    console.say("-p NAME=VALUE sets a parameter in every notebook that has it, -p 03.NAME=VALUE in notebook 03 alone.")
    console.say("Shown are the values of this call; a default is named where they differ from it.")
    for stage in plan.selected:
        console.say(f"\n{stage.name}  ({outlook[stage.name]})")
        console.say(f"  {stage.question.removeprefix(stage.number).strip()}")
        values = plan.parameters[stage.name]
        for name in [name for name in stage.parameters if name not in PLUMBING]:
            known = stage.parameters[name]
            told = known.comment
            if values[name] != known.default:
                told += f" (default: {as_typed(known.default) or 'empty'})"
            head = f"  {shlex.quote(f'{name}={as_typed(values[name])}'):<{LIST_INDENT - 16}} {known.kind:<12} "
            # A long value pushes its own explanation to the next line, not that of all others to the right.
            indent = " " * LIST_INDENT
            words = textwrap.wrap(told, max(width - LIST_INDENT, 30))
            lines = [head + words[0], *words[1:]] if len(head) <= LIST_INDENT else [head.rstrip(), *words]
            console.say(f"\n{indent}".join(lines))


def as_typed(value: int | float | str | bool | list) -> str:
    """Return a parameter's value as one would type it after `-p NAME=`."""
    if isinstance(value, list):
        return ",".join(map(as_typed, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def print_downloads(plan: Plan, console: Console) -> None:
    """Print what a screen of the registry still has to download, one line a file, and how much that is.

    Names and sizes decide, no hashes. The tables of Cell Painting features that the plan doesn't read are left out.
    """
    from cpx_utils.datasets import download_lines

    first = plan.parameters[plan.stages[0].name]
    options = {name: first[name] for name in ("mirror", "data_dir", "cp_table") if name in first}
    for line in download_lines(plan.dataset, **options):
        console.say(line)


def check(options: argparse.Namespace, notebooks: Path, console: Console) -> int:
    """Examine a screen; print what is wrong with it, or else what it can't answer and what should be known of it.

    Tables of one's own come before the rest of the call, so that a name that is wrong doesn't hide what else is.

    Returns
    -------
    int
        Exit status: 0 where nothing is wrong, 2 elsewhere.
    """
    from cpx_utils.datasets import examine_screen, is_user_screen

    own = is_user_screen(options.dataset)
    screen, problems = examine_screen(options.dataset) if own else (None, [])
    if not problems:
        first = next(iter(make_plan(options, notebooks).parameters.values()))
        if not own:
            names = {"screen_size": "size"} | {
                name: name
                for name in ("seed", "preset", "shared_strength", "cp_table", "mirror", "data_dir", "unverified")
            }
            given = {option: first[name] for name, option in names.items() if name in first}
            screen, problems = examine_screen(options.dataset, **given)
    for problem in problems:
        console.complain(problem)
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        console.say(f"{options.dataset}: {count}; what is testable can be told once nothing is wrong")
        return 2
    _print_outlook(screen, first.get("min_active", 25), console)
    return 0


def _print_outlook(screen: Screen, least: int, console: Console) -> None:
    from cpx_utils.own_screens import review_screen
    from cpx_utils.profiles import testability

    console.say(
        f"{screen.name}: CP {len(screen.cp)} wells, TX {len(screen.tx)} wells, "
        f"{len(screen.compounds)} compounds, {len(screen.tasks)} tasks; nothing is wrong"
    )
    for row in testability(screen, least, least).itertuples():
        reason = f" ({row.reason})" if row.reason else ""
        console.say(f"  {row.endpoint}: {'testable' if row.testable else 'not testable'}{reason}")
    for note in (*screen.notes, *review_screen(screen)):
        console.say(f"  note: {note}")


def print_claims(run_dir: Path, console: Console) -> None:
    """Print the primary rows of the claims table, one line a claim."""
    path = run_dir / "tables" / "claims.csv"
    if not path.is_file():
        return
    claims = pd.read_csv(path)
    console.say("claims:")
    for row in claims[claims["verdict"].notna()].itertuples():
        numbers = "" if pd.isna(row.effect) else f", {row.effect:+.3f} [{row.ci_low:+.3f}, {row.ci_high:+.3f}]"
        against = "" if pd.isna(row.reference) else f" vs {row.reference}"
        console.say(f"  {row.claim}: {row.verdict} ({row.endpoint}: {row.method}{against}{numbers})")


def run_plan(plan: Plan, options: argparse.Namespace, console: Console) -> int:
    """Run a plan and write timings, manifest and report; return the exit status."""
    started = time.time()
    require_upstream(plan)
    with open_places(options, [plan], [plan.run_dir, plan.figures_dir], console) as places:
        run = Run(plan, console, places)
        execute([run], console, _finish)
    states = list(run.state.values())
    if run.failed:
        blocked = [name for name, state in run.state.items() if state == "blocked"]
        if blocked:
            console.complain(f"not run, since they need it: {', '.join(blocked)}")
        return 1
    count = sum(len(record["figures"]) for record in stage_records(plan.run_dir).values())
    console.say(
        f"notebooks: {states.count('ran')} ran, {states.count('unchanged')} unchanged, {time.time() - started:.1f} s"
    )
    console.say(f"{count} figure{'' if count == 1 else 's'} in {short_path(plan.figures_dir)}")
    print_claims(plan.run_dir, console)
    console.say(f"report: {short_path(plan.run_dir / 'report' / 'index.html')}")
    if plan.dataset == "simulated":
        console.say("The simulated screen shows that the study works; it says nothing about biology.")
    return 0


def _finish(run: Run) -> None:
    finish_run(run)
    if not run.failed:
        skip_slow_imports("rfc3987_syntax")  # for the addresses in notebooks, which nobody checks
        from cpx_utils.report import write_report

        write_report(run.plan.run_dir, run.plan.figures_dir)


def carry_out_sweep(options: argparse.Namespace, notebooks: Path, console: Console) -> int:
    """Run a sweep, or say what would run; return the exit status."""
    what, plans, folder = make_sweep(options, notebooks)
    if options.dry_run:
        for plan in plans:
            stale = [name[:2] for name, outlook in forecast(plan).items() if outlook != "fresh"]
            console.say(f"{plan.name}: {'to be done or checked: ' + ', '.join(stale) if stale else 'fresh'}")
        for dataset in dict.fromkeys(plan.dataset for plan in plans):
            print_downloads(next(plan for plan in plans if plan.dataset == dataset), console)
        return 0
    for plan in plans:
        require_upstream(plan)
    folders = [folder, Path(options.figures).resolve()] if options.figures else [folder]
    with run_lock(folder), open_places(options, plans, folders, console) as places:
        return run_sweep(what, plans, folder, places, console)


def main(arguments: Sequence[str] | None = None, notebooks: str | Path | None = None) -> int:
    """Run the study from the command line.

    Parameters
    ----------
    arguments
        Command line without the program's name; None takes `sys.argv`.
    notebooks
        Folder of the notebooks; None takes the project's.

    Returns
    -------
    int
        0 done; 1 a notebook failed; 2 the call or the screen was wrong; 130 or 143 interrupted.
    """
    console = Console()
    # Turned into an exception, a signal lets the run end its stages and release its folder.
    previous = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        options = parse_call(arguments)
        folder = Path(notebooks) if notebooks else project_root() / "notebooks"
        if options.check:
            return check(options, folder, console)
        if options.sweep:
            return carry_out_sweep(options, folder, console)
        plan = make_plan(options, folder)
        if options.list:
            print_list(plan, console)
            return 0
        if options.dry_run:
            for name, outlook in forecast(plan).items():
                console.say(f"{name}: {outlook}")
            print_downloads(plan, console)
            return 0
        return run_plan(plan, options, console)
    except ScreenError as error:
        console.complain(" ".join(str(error).split()))
        return 2
    except KeyboardInterrupt as interruption:
        console.complain("interrupted; finished notebooks are kept, and the same command goes on from there")
        return 128 + interruption.args[0]
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, MemoryError) as error:  # a disk that is full or gone, too little memory: nobody's mistake
        text = " ".join(str(error).split()) or "no memory left"
        console.complain(f"{with_remedy(text)}; finished notebooks are kept, and the same command goes on from there")
        return 1
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt(number)
