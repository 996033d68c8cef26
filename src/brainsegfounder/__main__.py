"""`python -m brainsegfounder` is the command line."""

from brainsegfounder.cli import main

if __name__ == "__main__":
    main()
