"""`prepare`: raw reviews and pictures -> prepared data set."""

from __future__ import annotations

import sys

from mllm_srec.cli.schema import dataset_settings, full_parser, light_parser

DESCRIPTION = (
    "Read raw files, drop duplicates, apply the k-core, split, and write tables, pictures and a report of everything "
    "that was dropped. The whole configuration file is read and checked; the sections used are shown here."
)


def main(command: str, arguments: list[str]) -> None:
    """Prepare the data set of a configuration; does nothing where that was done already."""
    if {"-h", "--help"} & set(arguments):
        light_parser(command, DESCRIPTION).parse_args(["--help"])
    config = full_parser(command, DESCRIPTION).parse_args(arguments)
    from mllm_srec.cli.checks import check_typed
    from mllm_srec.data.manifest import check_manifest
    from mllm_srec.data.prepare import NOBODY_RANKED, prepare_dataset
    from mllm_srec.reports.terminal.preparation import print_prepared

    check_typed(arguments, config)
    folder, prepare, candidates = dataset_settings(config)
    done = check_manifest(folder, prepare, candidates)
    report = prepare_dataset(folder, prepare, candidates)
    print_prepared(folder, report.lines(), done)
    for sentence in report.counts.get(NOBODY_RANKED, ()):
        print(f"warning: {sentence}", file=sys.stderr)
