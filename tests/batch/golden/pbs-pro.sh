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
# What the job finds, but for what may be secret.
compgen -e | grep -Eiv 'token|secret|passw|key|credential|auth|cookie' | sort | while read -r name; do
    [[ ${!name} == *://*@* ]] || printf '%s=%q\n' "$name" "${!name}"
done > /home/me/.local/state/dhhpc/jobs/1/environment.txt"-$PBS_ARRAY_INDEX" || true

cd -- '/home/me/my data'
# Once, on this node: all ranks find the kernels compiled.
/home/me/venv/bin/python -m dhhpc kernels build
# exec: signals reach the ranks, and their exit code is the job's.
exec mpiexec -n 4 -ppn 2 /home/me/venv/bin/python -m dhhpc train '/home/me/my data/lungs.yml' --fold "$PBS_ARRAY_INDEX"
