"""One process of the synchronisation tests, run as a script: `gloo_worker.py FOLDER RANK WORLD_SIZE`.

Feeds the batches that `FOLDER/batches.pt` holds for this rank (there may be none) and writes what the metrics then say.
"""

import datetime
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from mllm_srec.metrics.ranking import PairAUC, RankingMetrics


def main(folder, rank, world_size):
    store = dist.FileStore(str(folder / "store"), world_size)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=world_size, timeout=datetime.timedelta(seconds=60)
    )
    batches = torch.load(folder / "batches.pt", weights_only=True)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        module = torch.nn.ModuleDict({"ranking": RankingMetrics(), "pairs": PairAUC()}).to(dtype)
        for batch in batches["ranking"][rank]:
            module["ranking"].update(*batch)
        for batch in batches["pairs"][rank]:
            module["pairs"].update(*batch)
        values = module["ranking"].compute() | module["pairs"].compute()
        results.append({key: value.item() for key, value in values.items()})
    (folder / f"result_{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
