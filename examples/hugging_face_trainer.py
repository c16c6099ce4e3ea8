"""A Hugging Face causal language model, trained on a distilled text by a `Trainer`.

python examples/hugging_face_trainer.py runs/ptb models/gpt2-small [STEPS]
"""

import sys

from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, TrainingArguments, set_seed

import farzi
from farzi.artifact import locate_artifact
from farzi.hf import DistilledTrainer


def train(run, out, steps=300, lr=3e-3):
    data = farzi.load(run)
    tokenizer = AutoTokenizer.from_pretrained(str(locate_artifact(run)))
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=data.vocabulary_size,
            n_positions=128,
            n_embd=64,
            n_layer=2,
            n_head=2,
            bos_token_id=tokenizer.eos_token_id,  # farzi's texts begin and end with <eos>
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    arguments = TrainingArguments(
        output_dir=out,
        max_steps=steps,
        learning_rate=lr,
        per_device_train_batch_size=10,
        logging_steps=50,
        save_strategy="no",
        report_to="none",
    )
    trainer = DistilledTrainer(model, arguments, train_dataset=data)
    trainer.train()
    trainer.save_model(out)
    tokenizer.save_pretrained(out)
    return model, tokenizer


if __name__ == "__main__":
    set_seed(0)
    model, tokenizer = train(*sys.argv[1:3], *map(int, sys.argv[3:]))
    start = tokenizer("<eos>", return_tensors="pt").to(model.device)
    written = model.generate(**start, max_new_tokens=20, pad_token_id=tokenizer.eos_token_id)
    print(tokenizer.decode(written[0]))
