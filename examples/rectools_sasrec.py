"""SASRec of RecTools, trained on hard tokens drawn from a distilled dataset.

farzi export runs/ml-100k --to csv --samples 4 --out distilled.csv
python examples/rectools_sasrec.py distilled.csv [EPOCHS]
"""

import sys

import pandas as pd
from pytorch_lightning import Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel


def read(path):
    table = pd.read_csv(path)
    start = pd.Timestamp("2020-01-01")  # positions become times: RecTools orders by them
    return pd.DataFrame(
        {
            Columns.User: table["sequence_id"],
            Columns.Item: table["item_id"],
            Columns.Weight: 1.0,
            Columns.Datetime: start + pd.to_timedelta(table["position"], unit="s"),
        }
    )


def train(interactions, epochs=100):
    def trainer():
        return Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    model = SASRecModel(
        n_blocks=1, n_heads=1, n_factors=64, lr=0.01, session_max_len=50, get_trainer_func=trainer
    )
    return model.fit(Dataset.construct(interactions))


if __name__ == "__main__":
    seed_everything(0)
    interactions = read(sys.argv[1])
    model = train(interactions, *map(int, sys.argv[2:]))
    history = interactions[interactions[Columns.User] == 0].head(5)
    history = history.assign(**{Columns.User: -1})  # a user whom the model has not seen
    everything = pd.concat([interactions, history])
    best = model.recommend([-1], Dataset.construct(everything), k=5, filter_viewed=True)
    print(list(history[Columns.Item]), "->", list(best[Columns.Item]))
