"""Table 2 of the article: statistics of prepared data sets.

python experiments/table2.py --config configs/demo.yaml configs/gift_cards.yaml

A data set that is not prepared is named below the table and left out of it, but the demo shop is made on the spot.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mllm_srec.cli.schema import dataset_settings, full_parser
from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.manifest import check_manifest
from mllm_srec.data.prepare import prepare_dataset
from mllm_srec.data.tables.statistics import dataset_statistics
from mllm_srec.files.quiet import silence_libraries
from mllm_srec.reports.tables.data_statistics import write_table2
from mllm_srec.types import ConfigError

OUTPUT = Path(__file__).resolve().parent / "results/table2"


def prepared(config_file: str, flags: Sequence[str] = ()) -> tuple[str, PreparedDataset | None]:
    """Name of a configuration's data set, and the data set; None where it is not prepared.

    Args:
        config_file: Of a data set.
        flags: Further settings, such as `--data.root elsewhere`.

    Raises:
        ConfigError: It was prepared with other settings than the file's.
    """
    config = full_parser("prepare", "").parse_args(["--config", config_file, *flags])
    folder, prepare, candidates = dataset_settings(config)
    if prepare.source == "demo":
        prepare_dataset(folder, prepare, candidates)
    there = check_manifest(folder, prepare, candidates)
    return str(config.data.name), PreparedDataset.open(folder) if there else None


def make_table(config_files: Sequence[str], output: Path, flags: Sequence[str] = ()) -> list[Path]:
    """Write the table of these data sets.

    Args:
        config_files: One per row.
        output: Folder of the results.
        flags: Settings for all of them.

    Raises:
        ConfigError: None of them is prepared.
    """
    rows, notes = [], []
    for file in config_files:
        name, data = prepared(file, flags)
        if data is None:
            notes.append(f"{name}: not prepared here (python -m mllm_srec prepare --config {file})")
        else:
            statistics = dataset_statistics(data.items, data.interactions, data.samples)
            rows.append({"data_set": name, **statistics.as_row})
            if data.manifest["prepare"]["source"] == "demo":
                notes.append(f"{name}: a generated shop, whose people and items are invented")
    if not rows:
        raise ConfigError("no data set is prepared:\n  " + "\n  ".join(notes))
    return write_table2(rows, notes, output)


def main() -> None:
    """Read the command line, write the table and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="+", required=True, help="Configuration files, one per data set.")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="Folder of the results.")
    arguments, flags = parser.parse_known_args()
    silence_libraries()
    try:
        paths = make_table(arguments.config, arguments.output, flags)
    except ConfigError as error:
        parser.error(str(error))
    print(next(path for path in paths if path.suffix == ".md").read_text(encoding="utf-8"))
    print("written:", *paths)


if __name__ == "__main__":
    main()
