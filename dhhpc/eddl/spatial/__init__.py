"""Images too large for one rank: a network whose activations are cut along one axis over ranks.

Knows no MPI: what it needs of the ranks is the protocol `Ranks`, which `dhhpc.mpi.World` fulfils.
"""

from dhhpc.eddl.spatial.decomposition import SlabModel, check, decompose
from dhhpc.eddl.spatial.exchange import Ranks
from dhhpc.eddl.spatial.rows import cuts

__all__ = ["Ranks", "SlabModel", "check", "cuts", "decompose"]
