"""Trains a model: python train.py [GROUP=OPTION …] [KEY=VALUE …] (m3/commands/train.py)."""

from m3.commands.train import Assembled, TrainingRun, assemble, fit, main, run

__all__ = ["Assembled", "TrainingRun", "assemble", "fit", "main", "run"]

if __name__ == "__main__":
    main()
