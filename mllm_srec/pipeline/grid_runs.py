"""The run folders behind a grid's results: seeds of a row together, ready to be analysed or compared."""

from __future__ import annotations

from pathlib import Path

from mllm_srec.pipeline.analysis.run_groups import RunGroup
from mllm_srec.pipeline.grid_results import read_records
from mllm_srec.types import ConfigError


def grid_run_groups(folder: Path, data_set: str | None = None) -> tuple[list[RunGroup], list[str]]:
    """Rows of a grid on one data set as groups of run folders.

    Args:
        folder: Results of a grid, such as `experiments/results/table3`.
        data_set: Which of its data sets; None: the only one.

    Returns:
        A group per row with the seeds whose run folder is there, and a line for each one that is not: results travel
        with the repository, run folders do not.

    Raises:
        ConfigError: The folder holds no results, or not those of such a data set.
    """
    records = read_records(folder)
    names = sorted({str(record["data_set"]) for record in records})
    if (data_set is None and len(names) > 1) or (data_set is not None and data_set not in names):
        raise ConfigError(f"data_set: got {data_set!r}; {str(folder)!r} holds results of {', '.join(names)}; name one")
    rows: dict[str, list[Path]] = {}
    missing = []
    for record in sorted(records, key=lambda record: (str(record["row"]), int(record["seed"]))):
        if record["data_set"] != (data_set or names[0]):
            continue
        run = Path(record["run"])
        if run.is_dir():
            rows.setdefault(str(record["row"]), []).append(run)
        else:
            missing.append(f"{record['row']}, seed {record['seed']}: its run folder {record['run']} is not here")
    return [RunGroup(row, tuple(runs)) for row, runs in rows.items()], missing
