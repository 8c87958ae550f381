"""A prepared data set with another table, as if `prepare` had written it."""

import polars as pl

from mllm_srec.data.manifest import MANIFEST, candidates_hash, read_manifest
from mllm_srec.files.atomic import write_json
from mllm_srec.files.hashing import table_hash


def replace_table(folder, name, table):
    """Write a table in place of the prepared one, and its hashes into the manifest."""
    manifest = read_manifest(folder)
    table.write_parquet(folder / f"{name}.parquet")
    manifest["tables"][name] = {"rows": table.height, "sha256": table_hash(table)}
    groups, candidates = (pl.read_parquet(folder / f"{part}.parquet") for part in ("groups", "candidates"))
    manifest["candidates_hash"] = candidates_hash(groups, candidates)
    write_json(manifest, folder / MANIFEST)
