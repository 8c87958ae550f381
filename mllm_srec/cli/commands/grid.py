"""`grid`: run every row of a table on every data set with every seed, then write the table."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from jsonargparse.typing import PositiveInt

from mllm_srec.cli.parser import Parser
from mllm_srec.cli.schema import PROGRAM, RUNS, DataLocation, add_config_file
from mllm_srec.pipeline.grid.settings import (
    QUICK_SUFFIX,
    GridSettings,
    described,
    quickened,
)
from mllm_srec.types import ConfigError, MllmSrecError

DESCRIPTION = (
    "Run every row of a grid file on every data set with every seed, each as `run` in a process of its own, and write "
    "one table: means and deviations over seeds, differences with p-values, costs. Cells that any grid has finished "
    "are not run again; a killed grid continues when its command is given again. A failed cell is reported with its "
    "log, and the others go on."
)

OUTPUT = Path("experiments/results")
"""Parent of the results, which are in a folder of the grid's name."""


def main(command: str, arguments: list[str]) -> None:
    """Run a grid and write its results."""
    parser = _parser(command)
    config = parser.parse_args(arguments)
    built = getattr(parser, "instantiate", parser.instantiate_classes)(config)  # older versions have the second name
    grid = GridSettings(**{field.name: built[field.name] for field in fields(GridSettings)})
    name = _name(config)
    if config.quick:
        grid, name = quickened(grid), f"{name}{QUICK_SUFFIX}"
    from mllm_srec.pipeline.grid.plan import plan_cells

    cells = plan_cells(grid, RUNS, DataLocation().name)
    if config.dry_run:
        for cell in cells:
            note = f"  # and --ckpt_path, once {cell.needs.name} is trained" if cell.needs else ""
            print(f"{PROGRAM} run {shlex.join(cell.command)}{'' if cell.tested else note}")
        return
    from mllm_srec.pipeline.grid.merge import check_merge, merge_records
    from mllm_srec.pipeline.grid.results import cell_record, check_output, read_records, write_results
    from mllm_srec.pipeline.grid.run import outcome_line, run_grid
    from mllm_srec.pipeline.grid.summary import write_summary

    output = Path(config.output) if config.output is not None else OUTPUT / name
    check_output(output, name)
    others = [record for folder in config.merge for record in read_records(Path(folder))]
    check_merge(name, cells, others, bool(grid.significance.metrics))
    outcomes = {outcome.cell.run.path: outcome for outcome in run_grid(cells, n_jobs=config.jobs)}
    failed = [outcome_line(outcome) for outcome in outcomes.values() if outcome.state == "failed"]
    own = [cell_record(name, cell) for cell in cells if outcomes[cell.run.path].state in ("finished", "found")]
    if own:
        records = merge_records(own, others)
        write_results(output, records, described(grid, name, config.quick))
        write_summary(output, name, records, grid.metrics, grid.significance, failed)
        print((output / "summary.md").read_text(encoding="utf-8"))
        print(f"written: {output}")
    if failed:
        raise MllmSrecError(f"{len(failed)} of {len(outcomes)} cells failed:\n  " + "\n  ".join(failed))


def _parser(command: str) -> Parser:
    parser = Parser(prog=f"{PROGRAM} {command}", description=DESCRIPTION)
    add_config_file(parser)
    parser.add_class_arguments(GridSettings)
    parser.add_argument("--name", type=str | None, default=None, help="Name of the table; null: that of the grid file.")
    parser.add_argument("--quick", action="store_true", help="Run the small version of the file's quick_grid.")
    parser.add_argument("--jobs", type=PositiveInt, default=1, help="Number of cells that run at a time.")
    parser.add_argument("--output", type=str | None, default=None, help=f"Folder of results; null: {OUTPUT}/<name>.")
    parser.add_argument(
        "--merge", type=str, nargs="+", default=[], help="Results of other grids whose cells join the table."
    )
    parser.add_argument("--dry_run", action="store_true", help="Only print the command of every cell.")
    return parser


def _name(config: Any) -> str:
    """Return the name of the table: `--name`, or the name of the first grid file."""
    if config.name is not None:
        return str(config.name)
    if not config.config:
        raise ConfigError("config: got none; give a grid file, such as --config experiments/table3.yaml")
    return Path(str(config.config[0])).stem
