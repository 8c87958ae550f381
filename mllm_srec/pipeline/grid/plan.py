"""The cells of a grid: the command of each, and a name that makes equal cells of all grids the same run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllm_srec.files.hashing import text_hash
from mllm_srec.pipeline.grid.settings import GridDataSet, GridRow, GridSettings, check_grid, file_name, flat_settings
from mllm_srec.pipeline.runs.config_files import read_with_included, with_home
from mllm_srec.pipeline.runs.effects import stated_value, without_effect
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.pipeline.runs.names import belongs_to
from mllm_srec.pipeline.runs.settings import current_settings
from mllm_srec.types import EVAL_TOP_K, ConfigError, did_you_mean

FOR_LOGS = {"trainer.enable_progress_bar": False}
"""Settings of every cell, unless the grid sets them."""

NO_INFLUENCE = ("name", "tracking", "trainer.default_root_dir", "trainer.enable_progress_bar")
"""Settings that change no result, and so not the name of a cell."""

HASH_DIGITS = 12
"""Length of the settings' hash in the name of a cell."""


@dataclass(frozen=True)
class Cell:
    """One row on one data set with one seed.

    Attributes:
        row: Label of the row.
        data_set: Name of the data set in the table.
        seed: `seed_everything`.
        name: Name of the run: readable, with the hash of the settings.
        folder: Parent of the run's folder, log and record: `<trainer.default_root_dir>/<data.name>`.
        arguments: Arguments of `run`, with the name.
        settings: Merged settings of all files and flags; `trained_on` is the hash of the needed cell.
        needs: Cell that trains the model that is tested here; None if the cell trains its own.
    """

    row: str
    data_set: str
    seed: int
    name: str
    folder: Path
    arguments: tuple[str, ...]
    settings: Mapping[str, Any]
    needs: Cell | None = None

    @property
    def tested(self) -> Path | None:
        """Checkpoint of the needed cell that is tested; None if there is no such cell, or it trains nothing."""
        if self.needs is None:
            return None
        trained = self.needs.run.read_metrics()
        if "fit/steps" not in trained:
            return None
        return self.needs.run.checkpoints / ("best.ckpt" if "fit/best_step" in trained else "last.ckpt")

    @property
    def command(self) -> tuple[str, ...]:
        """Arguments of `run`, with the checkpoint if one is given."""
        return self.arguments if self.tested is None else (*self.arguments, "--ckpt_path", str(self.tested))

    def check_need(self) -> None:
        """Check that the needed checkpoint exists, and that results of this cell are results of it.

        Raises:
            ConfigError: One is not so; the error names the folder to delete.
        """
        if self.needs is None or self.tested is None:
            return
        if not self.tested.exists():
            raise ConfigError(
                f"{self.tested}: missing, and {self.name} tests it; delete {self.needs.run.path} and "
                f"{self.needs.record} to train it again"
            )
        if self.run.config.exists() and not belongs_to(self.run, self.tested):
            raise ConfigError(
                f"{self.run.path}: holds a test of other weights than {self.tested}, which was trained again; delete it"
            )

    @property
    def run(self) -> RunFolder:
        """Folder of the run."""
        return RunFolder(self.folder / self.name)

    @property
    def log(self) -> Path:
        """Output of the run; locked as long as one of its processes lives."""
        return self.folder / f"{self.name}.log"

    @property
    def record(self) -> Path:
        """Attempts to run the cell and their cost, see `record.py`."""
        return self.folder / f"{self.name}.json"

    @property
    def settings_hash(self) -> str:
        """Hash of all settings that influence results."""
        return settings_hash(self.settings)

    @property
    def row_hash(self) -> str:
        """Hash of the same without the seed: equal for all cells that may be averaged as seeds of one row."""
        own = {key: value for key, value in self.settings.items() if key not in ("seed_everything", "trained_on")}
        return settings_hash(own if self.needs is None else {**own, "trained_on": self.needs.row_hash})


def plan_cells(
    grid: GridSettings,
    default_root: str,
    default_data: str,
    on_top: Mapping[str, Any] | None = None,
    reads_features: Callable[[str], bool] = lambda class_path: True,
) -> list[Cell]:
    """Return all cells: the whole table of one seed, then of the next; cells that test what others train come last.

    Args:
        grid: The grid.
        default_root: Value of `trainer.default_root_dir` unless a file sets it.
        default_data: Value of `data.name` unless a file sets it.
        on_top: Dotted settings of every cell on top of all others, such as those of `--quick`.
        reads_features: Function that tells of a baseline's class whether it reads features of items.

    Raises:
        ConfigError: The grid cannot be run as it is.
    """
    check_grid(grid)
    names: dict[tuple[Path, str], str] = {}
    cells: list[Cell] = []
    trained: dict[tuple[str, str, int], Cell] = {}
    for data_set in sorted(grid.data_sets or [GridDataSet("")], key=lambda data_set: data_set.trained_on is not None):
        for seed in grid.seeds:
            for row in grid.rows:
                files = _files(grid, data_set, row)
                own = {**flat_settings(data_set.set), **flat_settings(row.set)}
                flags = {**FOR_LOGS, **flat_settings(grid.set), **own}
                flags = {**flags, **flat_settings(on_top or {}), "seed_everything": seed}
                settings = merged_settings(files, flags)
                _check_cut_offs(grid, settings)
                needs = None if data_set.trained_on is None else trained[data_set.trained_on, row.label, seed]
                if needs is not None:
                    settings["trained_on"] = needs.settings_hash
                data_name = str(stated_value(settings, "data.name", default_data))
                folder = Path(str(stated_value(settings, "trainer.default_root_dir", default_root))) / data_name
                key = settings_hash(settings)[:HASH_DIGITS]
                name = names.get((folder, key)) or _name(folder, file_name(row.label), seed, key)
                names[folder, key] = name
                typed = _flags(_with_effect(flags, settings, row, reads_features))
                arguments = (*(part for file in files for part in ("--config", file)), *typed, "--name", name)
                shown = data_set.name or data_name
                cells.append(Cell(row.label, shown, seed, name, folder, arguments, settings, needs))
                trained[data_set.name, row.label, seed] = cells[-1]
    return cells


def _with_effect(
    flags: Mapping[str, Any], settings: Mapping[str, Any], row: GridRow, reads_features: Callable[[str], bool]
) -> dict[str, Any]:
    """Return the flags of a cell without those of all rows that are meant for others than its own."""
    baseline = settings.get("baseline")
    read = isinstance(baseline, Mapping) and reads_features(str(baseline.get("class_path")))
    unread = without_effect(flags.keys() - flat_settings(row.set).keys(), settings, read)
    return {key: value for key, value in flags.items() if key not in unread}


def _check_cut_offs(grid: GridSettings, settings: Mapping[str, Any]) -> None:
    """Refuse columns at a K that a cell will not measure.

    Raises:
        ConfigError: There is one.
    """
    given = stated_value(settings, "data.cut_offs", ())
    measured = {1, *EVAL_TOP_K} if not isinstance(given, list | tuple) or not given else {*given, *EVAL_TOP_K}
    asked = (
        ("metrics", grid.metrics),
        ("report.metrics", grid.report.metrics),
        ("significance.metrics", grid.significance.metrics),
    )
    for setting, names in asked:
        for name in names:
            k = name.partition("@")[2]
            if k and int(k) not in measured:
                near = did_you_mean(name, [f"{name.partition('@')[0]}@{there}" for there in sorted(measured)])
                raise ConfigError(
                    f"{setting}={name!r}: no cell measures K = {k}{near}; add it to data.cut_offs, as in set: "
                    f"{{data.cut_offs: {sorted({*measured, int(k)})}}}"
                )


def _files(grid: GridSettings, data_set: GridDataSet, row: GridRow) -> list[str]:
    """Return the configuration files of a cell; later ones win."""
    files = [*grid.base, *data_set.configs, *row.configs]
    if data_set.row_configs is not None:
        own = Path(data_set.row_configs) / f"{row.label}.yaml"
        files += [str(own)] if own.is_file() else []
    if not files:
        raise ConfigError(f"base: row {row.label!r} of data set {data_set.name!r} has no configuration file; give one")
    return files


def _name(folder: Path, label: str, seed: int, key: str) -> str:
    """Return the name under which the same settings were run before, under any label, or a new one."""
    before = sorted(path.stem for path in folder.glob(f"*-{key}.json"))
    return before[0] if before else f"{label}-{seed}-{key}"


def _flags(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as flags: texts as they are, other values as JSON, which is YAML."""
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()]


def merged_settings(files: Sequence[str], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Merge configuration files and flags as the commands' parser does: later ones win.

    Args:
        files: Configuration files in YAML.
        flags: Dotted settings.

    Raises:
        ConfigError: A file is not a YAML mapping.
    """
    merged: dict[str, Any] = {}
    for file in files:
        for path, content in read_with_included(Path(file)):
            _merge(merged, current_settings(content, str(path)))
    for key, value in flags.items():
        _merge(merged, {key: value})
    home: dict[str, Any] = with_home(merged)
    return home


def _merge(into: dict[str, Any], content: Mapping[Any, Any]) -> None:
    """Merge nested or dotted settings in place.

    Arguments of a class stay when another class is chosen, though some may be dropped later: better one run too many
    than two different runs under one name.
    """
    for dotted, value in content.items():
        *sections, key = str(dotted).split(".")
        at = into
        for section in sections:
            at = _section(at, section)
        if isinstance(value, Mapping):
            _merge(_section(at, key), value)
        elif value is not None or not isinstance(at.get(key), dict):  # an empty section states nothing
            at[key] = value


def _section(settings: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a section, which is made if it does not exist."""
    if not isinstance(settings.get(key), dict):
        settings[key] = {}
    section: dict[str, Any] = settings[key]
    return section


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Return the SHA-256 of merged settings without `NO_INFLUENCE`; the order of keys does not matter."""
    kept: dict[str, Any] = {}
    _merge(kept, settings)
    for dotted in NO_INFLUENCE:
        *sections, key = dotted.split(".")
        at: Any = kept
        for section in sections:
            at = at.get(section) if isinstance(at, dict) else None
        if isinstance(at, dict):
            at.pop(key, None)
    return text_hash(json.dumps(kept, sort_keys=True, default=str))
