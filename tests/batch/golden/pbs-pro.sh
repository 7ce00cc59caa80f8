#!/bin/bash
#PBS -S /bin/bash
#PBS -N lungs
#PBS -l select=2:ncpus=8:mpiprocs=2:ompthreads=4
#PBS -l walltime=00:20:00
#PBS -J 0-4%2
#PBS -j oe
#PBS -o /home/me/.local/state/dhhpc/jobs/1/job-^array_index^.log
# Written by `dhhpc submit` for the site pbs-pro.
set -euo pipefail

export OMP_NUM_THREADS=4
# The ranks compare their world with this number: an MPI that does not fit the launcher makes worlds of one.
export DHHPC_EXPECTED_RANKS=4

cd -- '/home/me/my data'
# exec: signals reach the ranks, and their exit code is the job's.
exec mpiexec -n 4 -ppn 2 /home/me/venv/bin/python -m dhhpc train '/home/me/my data/lungs.yml' --fold "$PBS_ARRAY_INDEX"
