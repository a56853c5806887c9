"""`python -m wnn`: the command `wnn`."""

from .cli import main

if __name__ == "__main__":
    main()
