"""Trains a model: python train.py [GROUP=OPTION …] [KEY=VALUE …] (m3/commands/train.py)."""

from m3.commands.entry import train as main

if __name__ == "__main__":
    main()
else:  # as a module; the command itself checks its configuration before it imports torch
    from m3.commands.train import Assembled, TrainingRun, assemble, fit, run

    __all__ = ["Assembled", "TrainingRun", "assemble", "fit", "main", "run"]
