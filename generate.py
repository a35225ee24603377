"""Generates with a trained model: python generate.py checkpoint=RUN [KEY=VALUE …] (m3/commands/generate.py)."""

from m3.commands.entry import generate as main

if __name__ == "__main__":
    main()
else:  # as a module; the command itself checks its configuration before it imports torch
    from m3.commands.generate import Result, mean_pck, run, run_forecast, run_inpainting

    __all__ = ["Result", "main", "mean_pck", "run", "run_forecast", "run_inpainting"]
