"""One process of the synchronisation tests, run as a script: `gloo_worker.py FOLDER RANK WORLD_SIZE`.

Feeds the batches that `FOLDER/scenarios.pt` holds for this rank (there may be none) and writes what the metrics say.
"""

import datetime
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from mllm_srec.metrics.calibration import CalibrationMetrics
from mllm_srec.metrics.pair_auc import PairAUC
from mllm_srec.metrics.ranking import RankingMetrics

METRICS = {"ranking": RankingMetrics, "pairs": PairAUC, "calibration": CalibrationMetrics}


def values_of(batches, dtype):
    """What the metrics of a module of this dtype say after the batches of this process."""
    module = torch.nn.ModuleDict({name: METRICS[name]() for name in batches}).to(dtype)
    values = {}
    for name, metric in module.items():
        for batch in batches[name]:
            metric.update(*batch)
        values |= metric.compute()
    return {key: value.item() for key, value in values.items()}


def main(folder, rank, world_size):
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), world_size)
    patience = datetime.timedelta(minutes=5)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=patience)
    scenarios = torch.load(folder / "scenarios.pt", weights_only=True)
    results = {
        name: [values_of(shares[rank], dtype) for dtype in (torch.float32, torch.bfloat16)]
        for name, shares in scenarios.items()
    }
    (folder / f"result_{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
