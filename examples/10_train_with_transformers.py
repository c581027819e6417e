"""Train with the `Trainer` of transformers: all modules of SIM, each with its own loss, then a classifier.

    python examples/10_train_with_transformers.py --output_dir runs/trainer
    torchrun --nproc_per_node 2 examples/10_train_with_transformers.py --output_dir runs/trainer

`modeling-sim pretrain` and `finetune` do more, such as exact resuming and training one module at a time; this is for
your own code with `Trainer`. Any data set whose rows hold a waveform can replace the syllables.
"""

import argparse
from pathlib import Path

from transformers import Trainer, TrainingArguments

from modeling_sim import SimConfig, SimFeatureExtractor, SimForPreTraining, SimForSequenceClassification
from modeling_sim.data.collator import SimDataCollator
from modeling_sim.data.corpora import load_corpus


def main(output_dir: str, steps: int, num_train: int) -> None:
    """Pretrains on synthetic syllables, then trains a classifier, and prints the held-out losses."""
    config = SimConfig.preset("sim-small")
    extractor = SimFeatureExtractor(sampling_rate=config.sampling_rate, min_samples=config.receptive_field())
    splits = {
        split: load_corpus("synthetic_syllables", split, num_train=num_train, num_test=8, num_syllables=1)
        for split in ("train", "test")
    }
    settings = {
        "max_steps": steps,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 8,
        "use_cpu": True,
        "remove_unused_columns": False,
        "save_strategy": "no",
        "report_to": "none",
    }

    trainer = Trainer(
        SimForPreTraining(config),
        TrainingArguments(output_dir, **settings),
        data_collator=SimDataCollator(extractor, crop_samples=10_240),
        train_dataset=splits["train"],
        eval_dataset=splits["test"],
        processing_class=extractor,
    )
    trainer.train()
    print(f"sum of the modules' losses on held-out syllables: {trainer.evaluate()['eval_loss']:.2f}")
    trainer.save_model()
    trainer.accelerator.wait_for_everyone()  # with several processes, the first one writes the model that all load

    labeled = {split: dataset.rename_column("vowel", "labels") for split, dataset in splits.items()}
    vowels = splits["train"].features["vowel"].num_classes
    classifier = Trainer(
        SimForSequenceClassification.from_pretrained(output_dir, num_labels=vowels, freeze_encoder=True),
        TrainingArguments(str(Path(output_dir) / "vowels"), **settings),
        data_collator=SimDataCollator(extractor),
        train_dataset=labeled["train"],
        eval_dataset=labeled["test"],
        processing_class=extractor,
    )
    classifier.train()
    print(f"cross-entropy of the vowels of held-out syllables: {classifier.evaluate()['eval_loss']:.2f}")
    classifier.save_model()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", default="runs/trainer", help="Folder for the models.")
    parser.add_argument("--steps", type=int, default=100, help="Optimizer steps of each training.")
    parser.add_argument("--num_train", type=int, default=128, help="Utterances to train on.")
    arguments = parser.parse_args()
    main(arguments.output_dir, arguments.steps, arguments.num_train)
