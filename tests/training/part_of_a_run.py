"""Part of a run on some ranks: `mpiexec -n N python part_of_a_run.py EXPERIMENT LOG STOP`.

Every rank writes into LOG which samples it takes of which epoch. After batch STOP of its part a run is told
to stop, unless STOP is 0.
"""

import json
import os
import signal
import sys
from pathlib import Path

from dhhpc import zoo
from dhhpc.data.loader import Loader
from dhhpc.mpi import connect
from dhhpc.training import Stopped, read_experiment, train


def recording(epoch_of):
    def epoch(self, epoch, start=0):
        for batch in epoch_of(self, epoch, start):
            if self.split == "training":
                taken.extend((epoch, int(index)) for index in batch.indices)
            yield batch

    return epoch


def stop(event, values):
    global done
    done += event == "batch"
    if event == "batch" and done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    Loader.epoch = recording(Loader.epoch)
    world, done, taken = connect(), 0, []
    try:
        train(read_experiment(sys.argv[1]), world, zoo.create, resume=True, listen=stop)
    except Stopped:
        print("stopped")
    Path(f"{sys.argv[2]}-{world.rank}.json").write_text(json.dumps(taken))
