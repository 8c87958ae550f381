"""`grid`: run every row of a table on every data set with every seed, then write the table."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse.typing import PositiveInt

from mllm_srec.cli.parser import Parser
from mllm_srec.cli.schema import PROGRAM, RUNS, DataLocation, add_config_file
from mllm_srec.cli.words import typed_names
from mllm_srec.files.signals import Stopped
from mllm_srec.pipeline.grid.settings import (
    QUICK_SUFFIX,
    GridSettings,
    described,
    flat_settings,
    only_rows,
    quickened,
)
from mllm_srec.types import ConfigError, MllmSrecError

if TYPE_CHECKING:
    from mllm_srec.pipeline.grid.plan import Cell

DESCRIPTION = (
    "Run every row of a grid file on every data set with every seed, each as `run` in a process of its own, and write "
    "one table: means and deviations over seeds, differences with p-values, costs. Cells that any grid has finished "
    "are not run again; a killed grid continues when its command is given again. A failed cell is reported with its "
    "log, and the others go on. --verify runs cells anew and compares them with the stored table, for "
    "instance --verify --only popularity --seeds 0."
)

OUTPUT = Path("experiments/results")
"""Parent of the results, which are in a folder of the grid's name."""


CHOICES = {"rows", "data_sets", "seeds"}
"""Settings that choose the cells of a table."""


class GridParser(Parser):
    """Parser that takes seeds as numbers, too: `--seeds 0 1`."""

    def parse_args(self, args: Any = None, *rest: Any, **settings: Any) -> Any:
        """Parse arguments; those of the command line if none are given."""
        return super().parse_args(_plain_lists(list(sys.argv[1:] if args is None else args)), *rest, **settings)


def main(command: str, arguments: list[str]) -> None:
    """Run a grid and write its results, or run cells again and compare them with stored ones."""
    parser = _parser(command)
    config = parser.parse_args(arguments)
    built = getattr(parser, "instantiate", parser.instantiate_classes)(config)  # older versions have the second name
    grid = GridSettings(**{field.name: built[field.name] for field in fields(GridSettings)})
    name = _name(config)
    if config.quick:
        grid, name = quickened(grid), f"{name}{QUICK_SUFFIX}"
    grid = only_rows(grid, config.only)
    output = Path(config.output) if config.output is not None else OUTPUT / name
    on_top = flat_settings(grid.quick_grid.set) if config.quick else {}
    if config.dry_run:
        _print_commands(_plan(grid, on_top))
    elif config.verify:
        _verify(grid, on_top, name, output, config.jobs)
    else:
        cells = _plan(grid, on_top)
        config.part = _is_part(config, arguments, cells, name, output)
        _run(cells, grid, name, config, output)


def _plan(grid: GridSettings, on_top: Mapping[str, Any]) -> list[Cell]:
    """Plan the cells of a grid."""
    from mllm_srec.cli.signatures import class_constant
    from mllm_srec.pipeline.grid.plan import plan_cells

    def reads_features(class_path: str) -> bool:
        module, _, name = class_path.rpartition(".")
        return class_constant(module, name, "needs_features") is not False  # unknown: of another package

    return plan_cells(grid, RUNS, DataLocation().name, on_top, reads_features)


def _is_part(config: Any, arguments: Sequence[str], cells: Sequence[Cell], name: str, output: Path) -> bool:
    """Return True if rows, data sets or seeds were chosen of a table that has more of them, which would be lost."""
    from mllm_srec.pipeline.grid.results import CELLS, place, read_records

    if config.output is not None:
        return False
    if config.only:
        return True
    if not CHOICES & set(typed_names(arguments)) or not (output / CELLS).is_dir():
        return False
    planned = {(cell.data_set, cell.row, cell.seed) for cell in cells}
    return any(record["table"] == name and place(record) not in planned for record in read_records(output))


def _print_commands(cells: Sequence[Cell]) -> None:
    """Print the command of every cell."""
    for cell in cells:
        note = f"  # and --ckpt_path, once {cell.needs.name} is trained" if cell.needs else ""
        print(f"{PROGRAM} run {shlex.join(cell.command)}{'' if cell.tested else note}")


def _run(cells: Sequence[Cell], grid: GridSettings, name: str, config: Any, output: Path) -> None:
    """Run every cell that is not finished, and write the table."""
    from mllm_srec.pipeline.grid.merge import check_merge, merge_records
    from mllm_srec.pipeline.grid.results import cell_record, check_output, read_records, write_results
    from mllm_srec.pipeline.grid.run import outcome_line, run_grid
    from mllm_srec.pipeline.grid.summary import means_text, write_summary

    if not config.part:
        check_output(output, name)
    others = [record for folder in config.merge for record in read_records(Path(folder))]
    check_merge(name, cells, others, bool(grid.significance.metrics))
    outcomes = {outcome.cell.run.path: outcome for outcome in run_grid(cells, n_jobs=config.jobs)}
    failed = [outcome_line(outcome) for outcome in outcomes.values() if outcome.state == "failed"]
    own = [cell_record(name, cell) for cell in cells if outcomes[cell.run.path].state in ("finished", "found")]
    if own and config.part:
        print(means_text(own, grid.metrics))
        print(
            f"{output} was left as it is: it may have other rows or seeds; --output FOLDER writes these, --verify "
            "compares"
        )
    elif own:
        records = merge_records(own, others)
        write_results(output, records, described(grid, name, config.quick))
        write_summary(output, name, records, grid.metrics, grid.significance, failed)
        print((output / "summary.md").read_text(encoding="utf-8"))
        print(f"written: {output}")
    if failed:
        raise MllmSrecError(f"{len(failed)} of {len(outcomes)} cells failed:\n  " + "\n  ".join(failed))


def _verify(grid: GridSettings, on_top: Mapping[str, Any], name: str, stored: Path, n_jobs: int) -> None:
    """Run cells anew in a folder of their own, and compare them with the stored ones.

    Raises:
        MllmSrecError: A cell failed, or a result is not the same.
        Stopped: It was told to stop; nothing is left.
    """
    from mllm_srec.pipeline.grid.results import cell_record, read_records
    from mllm_srec.pipeline.grid.run import outcome_line, run_grid
    from mllm_srec.pipeline.grid.verify import check_stored, compare_records

    records = read_records(stored)
    check_stored(_plan(grid, on_top), records)
    folder = tempfile.mkdtemp(prefix=f"verify-{name}-")
    cells = _plan(grid, {**on_top, "trainer.default_root_dir": folder})
    try:
        outcomes = run_grid(cells, n_jobs=n_jobs)
    except Stopped as stop:
        shutil.rmtree(folder, ignore_errors=True)
        raise Stopped(stop.number, "its runs are removed; the same command verifies from the beginning") from None
    failed = [outcome_line(outcome) for outcome in outcomes if outcome.state == "failed"]
    if failed:
        raise MllmSrecError(f"{len(failed)} of {len(outcomes)} cells failed:\n  " + "\n  ".join(failed))
    verdicts = compare_records([cell_record(name, cell) for cell in cells], records)
    for verdict in verdicts:
        print("\n".join(verdict.lines))
    odd = [verdict.name for verdict in verdicts if not verdict.passed]
    if odd:
        raise MllmSrecError(
            f"{len(odd)} of {len(verdicts)} cells are not what {stored} says: {', '.join(odd)}; their runs are in "
            f"{folder}"
        )
    shutil.rmtree(folder)


def _parser(command: str) -> Parser:
    parser = GridParser(prog=f"{PROGRAM} {command}", description=DESCRIPTION)
    add_config_file(parser)
    parser.add_class_arguments(GridSettings)
    parser.add_argument("--name", type=str | None, default=None, help="Name of the table; null: that of the grid file.")
    parser.add_argument("--quick", action="store_true", help="Run the small version of the file's quick_grid.")
    parser.add_argument("--jobs", type=PositiveInt, default=1, help="Number of cells that run at a time.")
    parser.add_argument("--output", type=str | None, default=None, help=f"Folder of results; null: {OUTPUT}/<name>.")
    parser.add_argument(
        "--merge", type=str, nargs="+", default=[], help="Results of other grids whose cells join the table."
    )
    parser.add_argument(
        "--only", type=str, nargs="+", default=[], metavar="ROW", help="Labels of the rows that are run; none: all."
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="Run the cells anew, apart, and compare their results with the stored table; it stays as it is.",
    )
    parser.add_argument("--dry_run", action="store_true", help="Only print the command of every cell.")
    return parser


def _plain_lists(arguments: list[str]) -> list[str]:
    """Return the arguments with `--seeds 0 1` as the list that the parser expects.

    >>> _plain_lists(["--seeds", "0", "1", "--quick"]), _plain_lists(["--seeds=2"]), _plain_lists(["--seeds", "[0]"])
    (['--seeds=[0, 1]', '--quick'], ['--seeds=[2]'], ['--seeds', '[0]'])
    """
    written: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        numbers = re.findall(r"\d+", word) if re.fullmatch(r"--seeds=\d+(,\d+)*", word) else []
        if word == "--seeds":
            while rest and re.fullmatch(r"\d+(,\d+)*,?", rest[0]):
                numbers += re.findall(r"\d+", rest.pop(0))
        written.append(f"--seeds=[{', '.join(numbers)}]" if numbers else word)
    return written


def _name(config: Any) -> str:
    """Return the name of the table: `--name`, or the name of the first grid file."""
    if config.name is not None:
        return str(config.name)
    if not config.config:
        raise ConfigError("config: got none; give a grid file, such as --config experiments/table3.yaml")
    return Path(str(config.config[0])).stem
