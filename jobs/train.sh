#!/bin/bash
#SBATCH --job-name=dhhpc-train
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=USR1@120
# Trains an experiment without `dhhpc submit`. What sbatch takes goes before the script, the rest is in variables:
#
#     EXPERIMENT=experiment.yml sbatch --nodes=2 --ntasks-per-node=1 --cpus-per-task=8 --time=60 jobs/train.sh
#
# EXPERIMENT  the experiment file
# DHHPC       the program, if it is not `dhhpc` on PATH
# LAUNCHER    what starts the ranks: `srun --mpi=pmi2` (MPICH) unless given; for Open MPI `srun --mpi=pmix`
# STAGE       a folder on a disk of each node's own, to which the shards are copied first: its path, or the name of a
#             variable of the job that holds it (TMPDIR on many machines); without it they are read where they lie
# REQUEUES    how often a job that was stopped with work left is queued again: 3 times unless given
#
# Two minutes before the limit (or when SLURM takes the nodes away) the ranks write a checkpoint and exit with 75.
set -euo pipefail
: "${EXPERIMENT:?set it to the experiment file}"
dhhpc=${DHHPC:-dhhpc}
read -ra launcher <<< "${LAUNCHER:-srun --mpi=pmi2}"

if [[ ${STAGE:-/} != /* ]]; then
    STAGE=${!STAGE:?$STAGE is not set in this job}
fi

# As many threads a rank as the allocation has cores for it. srun does not take the number over from sbatch.
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
export SRUN_CPUS_PER_TASK=$OMP_NUM_THREADS
# A rank that dies ends the job, seconds later: the others would wait for it until the time limit.
export SLURM_WAIT=${SLURM_WAIT:-60}
# The ranks compare their world with this number: an MPI that does not fit the launcher makes worlds of one.
export DHHPC_EXPECTED_RANKS=${SLURM_NTASKS:-1}

# Once, on this node: all ranks find the kernels compiled.
"$dhhpc" kernels build
code=0
# SLURM signals the ranks by itself; this script outlives them, to see how they ended.
trap : TERM
"${launcher[@]}" "$dhhpc" train "$EXPERIMENT" ${STAGE:+--stage "$STAGE"} ${SLURM_RESTART_COUNT:+--resume} || code=$?
# 75: stopped by a signal, or without one of its ranks, with a checkpoint. 137: srun's for a killed rank.
restarts=${SLURM_RESTART_COUNT:-0}
# What a user has cancelled is not running any more, and stays so.
state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T || true)
if [[ ($code == 75 || $code == 137) && $state == RUNNING && $restarts -lt ${REQUEUES:-3} ]]; then
    echo "job: the ranks ended with exit code $code, queued again: $((restarts + 1)) of ${REQUEUES:-3}" >&2
    # SLURM ends this script while it sleeps.
    scontrol requeue "$SLURM_JOB_ID" && sleep 60
fi
exit "$code"
