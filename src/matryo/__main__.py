"""`python -m matryo` opens the same front door as the `matryo` command."""

from matryo.cli import main

if __name__ == "__main__":
    main()
