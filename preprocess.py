"""Makes shards from clips: python preprocess.py [GROUP=OPTION …] [KEY=VALUE …] (m3/commands/preprocess.py)."""

from m3.commands.preprocess import main, run, verify

__all__ = ["main", "run", "verify"]

if __name__ == "__main__":
    main()
