"""`python -m fpes` is the command line."""

from fpes.cli import main

if __name__ == "__main__":
    main()
