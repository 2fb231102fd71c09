"""`python -m facesieve.cli`."""

from facesieve.cli import main

if __name__ == "__main__":
    main()
