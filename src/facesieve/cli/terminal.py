"""Where commands print: results to standard output, what went wrong to standard error; both as they are."""

from rich.console import Console

out = Console(highlight=False, soft_wrap=True, markup=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
