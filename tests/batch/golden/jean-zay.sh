#!/bin/bash
#SBATCH --job-name=lungs
#SBATCH --partition=cpu_p1
#SBATCH --account=project1
#SBATCH --nodes=2
#SBATCH --ntasks=4
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=20
#SBATCH --time=00:20:00
#SBATCH --array=0-4%2
#SBATCH --output=/home/me/.local/state/dhhpc/jobs/1/job-%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --hint=nomultithread
# 120 seconds before the limit the ranks hear of it, and the run ends with a checkpoint.
#SBATCH --signal=USR1@120
# Written by `dhhpc submit` for the site jean-zay.
set -euo pipefail

# Environment modules are shell functions that login shells define; they do not stand strict mode.
set +eu
type module > /dev/null 2>&1 || source /etc/profile
set -e
module load openmpi
set -u

mkdir -p "${SCRATCH:?is not set on this node}"/dhhpc
export TMPDIR="${SCRATCH:?is not set on this node}"/dhhpc

# As many threads a rank as the allocation has cores for it. srun does not take the number over from sbatch.
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-20}
export SRUN_CPUS_PER_TASK=$OMP_NUM_THREADS
# A rank that dies ends the job, seconds later: the others would wait for it until the time limit.
export SLURM_WAIT=${SLURM_WAIT:-60}
# The ranks compare their world with this number: an MPI that does not fit the launcher makes worlds of one.
export DHHPC_EXPECTED_RANKS=4
# What the job finds, but for what may be secret.
compgen -e | grep -Eiv 'token|secret|passw|key|credential|auth|cookie' | sort | while read -r name; do
    [[ ${!name} == *://*@* ]] || printf '%s=%q\n' "$name" "${!name}"
done > /home/me/.local/state/dhhpc/jobs/1/environment.txt"-$SLURM_ARRAY_TASK_ID" || true

cd -- '/home/me/my data'
# Once, on this node: all ranks find the kernels compiled.
/home/me/venv/bin/python -m dhhpc kernels build
code=0
# SLURM signals the ranks by itself; this script outlives them, to see how they ended.
trap : TERM
srun /home/me/venv/bin/python -m dhhpc train '/home/me/my data/lungs.yml' --fold "$SLURM_ARRAY_TASK_ID" ${SLURM_RESTART_COUNT:+--resume} || code=$?
# 75: stopped by a signal, or without one of its ranks, with a checkpoint. 137: srun's for a killed rank.
restarts=${SLURM_RESTART_COUNT:-0}
# One task of an array has the number of the array itself.
job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
# What a user has cancelled is not running any more, and stays so.
read -r state preempted < <(squeue --noheader --jobs="$job" --Format=State:20,PreemptTime:30) || true
if [[ ${preempted:-N/A} != N/A ]]; then echo "job: a job of higher priority takes its nodes" >&2; fi
if [[ ($code == 75 || $code == 137) && ${state:-} == RUNNING && $restarts -lt 3 ]]; then
    echo "job: the ranks ended with exit code $code, queued again: $((restarts + 1)) of 3" >&2
    # SLURM ends this script while it sleeps.
    scontrol requeue "$job" && sleep 60
fi
exit "$code"
