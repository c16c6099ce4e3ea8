"""SasRec of RePlay, trained on hard tokens drawn from a distilled dataset.

farzi export runs/ml-100k --to csv --samples 4 --out distilled.csv
python examples/replay_sasrec.py distilled.csv [EPOCHS]
"""

import sys

import lightning
import pandas as pd
from replay.data import Dataset, FeatureHint, FeatureInfo, FeatureSchema, FeatureSource, FeatureType
from replay.data.nn import SequenceTokenizer, TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.models.nn.sequential import SasRec
from replay.models.nn.sequential.sasrec import SasRecPredictionDataset, SasRecTrainingDataset
from torch.utils.data import DataLoader

LENGTH = 50
ITEM = TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")
SCHEMA = TensorSchema(
    TensorFeatureInfo(
        "item_id_seq", FeatureType.CATEGORICAL, True, FeatureHint.ITEM_ID, [ITEM], embedding_dim=64
    )
)


def dataset(table):
    features = [
        FeatureInfo("sequence_id", FeatureType.CATEGORICAL, FeatureHint.QUERY_ID),
        FeatureInfo("item_id", FeatureType.CATEGORICAL, FeatureHint.ITEM_ID),
        FeatureInfo("position", FeatureType.NUMERICAL, FeatureHint.TIMESTAMP),
    ]
    return Dataset(FeatureSchema(features), table)


if __name__ == "__main__":
    lightning.seed_everything(0)
    table = pd.read_csv(sys.argv[1])
    epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    tokenizer = SequenceTokenizer(SCHEMA)
    sequences = tokenizer.fit_transform(dataset(table))
    model = SasRec(SCHEMA, block_count=1, hidden_size=64, max_seq_len=LENGTH)
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_epochs=epochs, accelerator="cpu", **silent)
    trainer.fit(model, DataLoader(SasRecTrainingDataset(sequences, LENGTH), 64, shuffle=True))

    history = table[table["sequence_id"] == 0].head(5)
    known = SasRecPredictionDataset(tokenizer.transform(dataset(history)), LENGTH)
    scores = trainer.predict(model, DataLoader(known, 1))[0][0]
    best = tokenizer.item_id_encoder.inverse_mapping["item_id"]
    print(list(history["item_id"]), "->", [best[int(token)] for token in scores.topk(5).indices])
