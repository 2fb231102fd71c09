"""Count what each door leaves out without a word, and the mistakes that get one clear line; record both.

    python benchmarks/doors.py [--targets]

It runs the tests in tests/laws, which hold one list of kinds of input and one of deliberate mistakes, and counts their outcomes.
``--targets`` records the figures in docs/results/targets.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from results import origin

from facesieve.report.targets import Target, keep_targets

ROOT = Path(__file__).parent.parent
TARGETS = ROOT / "docs" / "results" / "targets.json"


class Counts:
    """What the tests found, whether they pass or not."""

    def __init__(self) -> None:
        self.doors: dict[str, tuple[int, int]] = {}  # inputs, and those left out
        self.mistakes: list[bool] = []  # whether each has its line

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One test is over."""
        if report.when != "call":
            return
        for name, value in report.user_properties:
            if name == "door":
                self.doors[value[0]] = (value[1], value[2])
        if "test_a_mistake_is_one_line" in report.nodeid:
            self.mistakes.append(report.passed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", action="store_true", help="record the figures")
    args = parser.parse_args()
    counts = Counts()
    pytest.main(["-q", str(ROOT / "tests" / "laws")], plugins=[counts])
    inputs, left_out = (sum(door[place] for door in counts.doors.values()) for place in (0, 1))
    figures = {
        f"inputs left out without a word, {len(counts.doors)} doors": ("<= 0", left_out, inputs),
        "deliberate mistakes without one clear line": ("<= 0", counts.mistakes.count(False), len(counts.mistakes)),
    }
    for name, (wanted, value, n) in figures.items():
        print(f"{name}: {value} of {n} (wanted {wanted})")
    if args.targets:
        about = {"area": "doors", **origin("doors.py", {})}
        keep_targets(TARGETS, [Target(target=t, wanted=w, value=value, n=n, **about) for t, (w, value, n) in figures.items()])


if __name__ == "__main__":
    main()
