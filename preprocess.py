"""Makes shards from clips: python preprocess.py [GROUP=OPTION …] [KEY=VALUE …] (m3/commands/preprocess.py)."""

from m3.commands.entry import preprocess as main

if __name__ == "__main__":
    main()
else:  # as a module; the command itself checks its configuration before it imports torch
    from m3.commands.preprocess import run, verify

    __all__ = ["main", "run", "verify"]
