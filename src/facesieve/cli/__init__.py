"""The command line: `facesieve.cli:main`."""

from facesieve.cli.app import main as main
