"""The cells of a grid: what each runs, and a name by which equal cells of all grids are the same run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mllm_srec.files.hashing import text_hash
from mllm_srec.pipeline.grid.settings import GridDataSet, GridRow, GridSettings, check_grid, file_name, flat_settings
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.pipeline.runs.names import belongs_to
from mllm_srec.types import ConfigError

FOR_LOGS = {"trainer.enable_progress_bar": False}
"""Settings of every cell unless the grid says otherwise."""

WITHOUT_INFLUENCE = ("name", "tracking", "trainer.default_root_dir", "trainer.enable_progress_bar")
"""Settings that change no result, and so no name of a cell."""

HASH_DIGITS = 12
"""Of the settings' hash in the name of a cell."""


@dataclass(frozen=True)
class Cell:
    """One row on one data set with one seed.

    Attributes:
        row: Label of the row.
        data_set: Name of the data set in the table.
        seed: `seed_everything`.
        name: Name of the run: readable, and with the hash of the settings.
        folder: Where the run's folder, its log and its record are: `<trainer.default_root_dir>/<data.name>`.
        arguments: Of `run`, its name included.
        settings: All that the files and settings say, merged, and which cell's training is tested.
        needs: The cell whose training is tested; None: the cell trains itself, where there is something to train.
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
        """The checkpoint that is tested; None where this cell trains itself, or the one it needs trains nothing."""
        if self.needs is None:
            return None
        trained = self.needs.run.read_metrics()
        if "fit/steps" not in trained:
            return None
        return self.needs.run.checkpoints / ("best.ckpt" if "fit/best_step" in trained else "last.ckpt")

    @property
    def command(self) -> tuple[str, ...]:
        """Arguments of `run`, with the checkpoint that is tested."""
        return self.arguments if self.tested is None else (*self.arguments, "--ckpt_path", str(self.tested))

    def check_need(self) -> None:
        """Look whether the checkpoint is there, and the results here, if there are any, are its own.

        Raises:
            ConfigError: Naming the folder to delete.
        """
        if self.needs is None or self.tested is None:
            return
        if not self.tested.exists():
            raise ConfigError(
                f"{self.tested} is gone, which {self.name} tests; delete {self.needs.run.path} and {self.needs.record} "
                "to train it anew"
            )
        if self.run.config.exists() and not belongs_to(self.run, self.tested):
            raise ConfigError(
                f"{self.run.path} holds a test of other weights than {self.tested}, which was trained anew; delete it"
            )

    @property
    def run(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(self.folder / self.name)

    @property
    def log(self) -> Path:
        """All that the run printed; locked as long as one of its processes lives."""
        return self.folder / f"{self.name}.log"

    @property
    def record(self) -> Path:
        """What the run cost, see `grid_record`."""
        return self.folder / f"{self.name}.json"

    @property
    def settings_hash(self) -> str:
        """Hash of the settings that have an influence."""
        return settings_hash(self.settings)

    @property
    def row_hash(self) -> str:
        """The same but for the seed: equal for all cells that may be averaged as seeds of one row."""
        own = {key: value for key, value in self.settings.items() if key not in ("seed_everything", "trained_on")}
        return settings_hash(own if self.needs is None else {**own, "trained_on": self.needs.row_hash})


def plan_cells(grid: GridSettings, default_root: str, default_data: str) -> list[Cell]:
    """All cells, a whole table of one seed after the other; cells that test what others trained come last.

    Args:
        grid: The grid.
        default_root: `trainer.default_root_dir` where no file names it.
        default_data: `data.name` where no file names it.

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
                flags = {**FOR_LOGS, **flat_settings(grid.set), **own, "seed_everything": seed}
                settings = merged_settings(files, flags)
                needs = None if data_set.trained_on is None else trained[data_set.trained_on, row.label, seed]
                if needs is not None:
                    settings["trained_on"] = needs.settings_hash
                data_name = str(_value(settings, "data.name", default_data))
                folder = Path(str(_value(settings, "trainer.default_root_dir", default_root))) / data_name
                key = settings_hash(settings)[:HASH_DIGITS]
                name = names.get((folder, key)) or _name(folder, file_name(row.label), seed, key)
                names[folder, key] = name
                arguments = (*(part for file in files for part in ("--config", file)), *_flags(flags), "--name", name)
                shown = data_set.name or data_name
                cells.append(Cell(row.label, shown, seed, name, folder, arguments, settings, needs))
                trained[data_set.name, row.label, seed] = cells[-1]
    return cells


def _files(grid: GridSettings, data_set: GridDataSet, row: GridRow) -> list[str]:
    """Configuration files of a cell; later ones win."""
    files = [*grid.base, *data_set.configs, *row.configs]
    if data_set.row_configs is not None:
        own = Path(data_set.row_configs) / f"{row.label}.yaml"
        files += [str(own)] if own.is_file() else []
    if not files:
        raise ConfigError(f"row {row.label!r} of data set {data_set.name!r} has no configuration file; set base")
    return files


def _name(folder: Path, label: str, seed: int, key: str) -> str:
    """The name under which the same settings were run before, whatever the label was then, or a new one."""
    before = sorted(path.stem for path in folder.glob(f"*-{key}.json"))
    return before[0] if before else f"{label}-{seed}-{key}"


def _flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as the command line takes them; texts as they are, all else as JSON, which is YAML."""
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()]


def merged_settings(files: Sequence[str], flags: Mapping[str, Any]) -> dict[str, Any]:
    """What configuration files and flags say together, as the commands' parser takes them: later ones win.

    Args:
        files: Configuration files in YAML.
        flags: Dotted settings.

    Raises:
        ConfigError: A file is no YAML mapping.
    """
    merged: dict[str, Any] = {}
    for file in files:
        try:
            content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file} is not valid YAML ({error})") from error
        if not isinstance(content, dict | None):
            raise ConfigError(f"{file} holds {type(content).__name__}; sections such as `data:` are expected")
        _merge(merged, content or {})
    for key, value in flags.items():
        _merge(merged, {key: value})
    return merged


def _merge(into: dict[str, Any], content: Mapping[Any, Any]) -> None:
    """Merge nested or dotted settings in place.

    Arguments of a class stay where another class is chosen, of which some may be dropped later: rather a run too many
    than two different ones under one name.
    """
    for dotted, value in content.items():
        *sections, key = str(dotted).split(".")
        at = into
        for section in sections:
            at = _section(at, section)
        if isinstance(value, Mapping):
            _merge(_section(at, key), value)
        else:
            at[key] = value


def _section(settings: dict[str, Any], key: str) -> dict[str, Any]:
    """A section, made where there is none."""
    if not isinstance(settings.get(key), dict):
        settings[key] = {}
    section: dict[str, Any] = settings[key]
    return section


def _value(settings: Mapping[str, Any], dotted: str, default: Any) -> Any:
    """A setting, or its default where nothing says it."""
    at: Any = settings
    for key in dotted.split("."):
        if not isinstance(at, Mapping) or key not in at:
            return default
        at = at[key]
    return at


def settings_hash(settings: Mapping[str, Any]) -> str:
    """SHA-256 of merged settings without those that have no influence; the order of keys has none either."""
    kept: dict[str, Any] = {}
    _merge(kept, settings)
    for dotted in WITHOUT_INFLUENCE:
        *sections, key = dotted.split(".")
        at: Any = kept
        for section in sections:
            at = at.get(section) if isinstance(at, dict) else None
        if isinstance(at, dict):
            at.pop(key, None)
    return text_hash(json.dumps(kept, sort_keys=True, default=str))
