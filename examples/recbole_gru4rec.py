"""GRU4Rec of RecBole, trained on hard tokens drawn from a distilled dataset.

farzi export runs/ml-100k --to recbole --samples 4 --out recbole/distilled
python examples/recbole_gru4rec.py recbole/distilled [EPOCHS]

RecBole holds out the last two items of each sequence here. For scores that count, lay your own
held-out users beside it as further .inter files, and name them all in `benchmark_filename`.
"""

import sys
from pathlib import Path

from recbole.quick_start import run_recbole

if __name__ == "__main__":
    folder = Path(sys.argv[1]).resolve()
    settings = {
        "data_path": str(folder.parent),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "epochs": int(sys.argv[2]) if len(sys.argv) > 2 else 100,
        "learning_rate": 0.01,
        "train_neg_sample_args": None,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
        "metrics": ["Hit", "NDCG"],
        "topk": [5],
        "valid_metric": "Hit@5",
        "use_gpu": False,
        "show_progress": False,
    }
    result = run_recbole("GRU4Rec", folder.name, config_dict=settings, saved=False)
    print(dict(result["test_result"]))
