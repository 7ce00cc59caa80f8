"""What the daemons of a virtual cluster read: slurm.conf and slurmdbd.conf."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import time
from pathlib import Path

# SLURM's numbers of jobs end at 0x03ff0000 (slurm.conf(5), MaxJobId).
LARGEST_FIRST_JOB = 50_000_000

CLUSTER = """\
ClusterName=virtual
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# Credentials live for seconds, as a job that is requeued waits for them to run out.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
TmpFS={folder}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
# linuxproc follows children that leave their process group; nothing outlives its job.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU={memory_per_core}
# Without control groups, a job's memory is looked at once a second, and one that takes more is killed.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=UsePss,OverMemoryKill
# Nodes may declare more cores and memory than the machine has.
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
ReturnToService=2
# Jobs of the partition urgent take nodes from others, which are told, have time to end, and are queued again.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# A node that does not answer is down soon, and its jobs have failed or are queued again.
SlurmdTimeout=10
KillWait=2
CompleteWait=0
FirstJobId={first_job}
"""
NODE = """\
NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cores} RealMemory={memory}
"""
PARTITIONS = """\
PartitionName=main Nodes=ALL Default=YES MaxTime=60 GraceTime=60 State=UP
PartitionName=short Nodes=ALL MaxTime=1 GraceTime=60 State=UP
PartitionName=urgent Nodes=ALL MaxTime=60 PriorityTier=10 PreemptMode=OFF State=UP
"""
WITHOUT_ACCOUNTING = """\
AccountingStorageType=accounting_storage/none
"""
WITH_ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge.socket
"""
ACCOUNTING = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={user}
StorageLoc=slurm
"""


def write_configuration(folder: Path, nodes: list[str], cores: int, accounting: bool) -> None:
    """Write `slurm.conf`, with accounting `slurmdbd.conf` too, and make the nodes' spool folders.

    Args:
        folder: the cluster's.
        nodes: their names.
        cores: how many each declares. Each declares the machine's whole memory, too.
    """
    controller_port, accounting_port, *node_ports = free_ports(2 + len(nodes))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    values = {
        "folder": folder,
        "host": socket.gethostname().split(".")[0],
        "user": getpass.getuser(),
        "controller_port": controller_port,
        "port": accounting_port,
        "memory_per_core": memory // cores,
        # MPI libraries name what they leave on a node by the job: no two clusters number alike.
        "first_job": 1 + int(time.time()) % LARGEST_FIRST_JOB,
    }
    parts = [CLUSTER, WITH_ACCOUNTING if accounting else WITHOUT_ACCOUNTING]
    text = "".join(part.format(**values) for part in parts)
    for name, port in zip(nodes, node_ports, strict=True):
        (folder / f"spool-{name}").mkdir(exist_ok=True)
        text += NODE.format(name=name, host=values["host"], port=port, cores=cores, memory=memory)
    (folder / "slurm.conf").write_text(text + PARTITIONS)
    if accounting:
        path = folder / "slurmdbd.conf"
        path.touch(mode=0o600)  # slurmdbd refuses one that others may read
        path.write_text(ACCOUNTING.format(**values))


def free_ports(count: int) -> list[int]:
    """TCP ports of this machine that nothing listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
