"""A process that starts the same job over and over, each time as a process of its own, for whoever wants to kill them.

Everything slow is imported once, here; a job is forked from it and dies alone. Each line of input
begins a job: JSON of the sources, the folder of results and the seed. The process id is answered, then how it ended.
"""

import json
import os
import sys
from pathlib import Path

import torch

from facesieve.jobs.run import Options, purify_units
from shard_making import quick_shield, shard


def main():
    torch.set_num_threads(1)
    shield = quick_shield()
    for line in sys.stdin:
        sources, out, seed = json.loads(line)
        if not (child := os.fork()):
            code = 1
            try:
                result = purify_units([shard(Path(s), Path(out)) for s in sources], shield, Options(seed=seed))
                code = 0 if [f.key for f in result.failures] == ["bad"] else 1
            finally:
                os._exit(code)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
