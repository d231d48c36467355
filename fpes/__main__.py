"""The command line, as `python -m fpes`."""

from fpes.cli import main

if __name__ == "__main__":
    main()
