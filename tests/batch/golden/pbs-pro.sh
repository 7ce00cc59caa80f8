#!/bin/bash
#PBS -S /bin/bash
#PBS -N lungs
#PBS -l select=2:ncpus=8:mpiprocs=2:ompthreads=4
#PBS -l walltime=00:20:00
#PBS -J 0-4%2
#PBS -r y
#PBS -j oe
#PBS -o /home/me/.local/state/dhhpc/jobs/1/job-^array_index^.pbs
# Written by `dhhpc submit` for the site pbs-pro.
set -euo pipefail
# PBS hands output over when the job is over; this is there while it runs, and goes on when it is queued again.
exec >> /home/me/.local/state/dhhpc/jobs/1/job-"$PBS_ARRAY_INDEX".log 2>&1

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
# PBS does not tell a script that it was queued again: each attempt leaves a line.
echo "$PBS_JOBID" >> /home/me/.local/state/dhhpc/jobs/1/attempts-"$PBS_ARRAY_INDEX"
attempt=$(wc -l < /home/me/.local/state/dhhpc/jobs/1/attempts-"$PBS_ARRAY_INDEX")
again=$([[ $attempt == 1 ]] || echo yes)
# PBS tells nobody of the time limit: 120 seconds before it the ranks hear of it, and end with a checkpoint.
left=$((1080 - SECONDS))
timeout --foreground --preserve-status --signal=USR1 $((left > 0 ? left : 1)) \
    mpiexec -n 4 -ppn 2 /home/me/venv/bin/python -m dhhpc train '/home/me/my data/lungs.yml' --fold "$PBS_ARRAY_INDEX" ${again:+--resume} &
ranks=$!
# Who deletes the job, or takes its nodes, does not want it to be queued again by this script.
told=
trap 'signalled=yes told=yes; kill -TERM "$ranks" 2> /dev/null || true' TERM
trap 'signalled=yes; kill -USR1 "$ranks" 2> /dev/null || true' USR1
signalled=yes
while [[ $signalled ]]; do # a signal ends the wait, not the ranks
    code=0 signalled=
    wait "$ranks" || code=$?
done
# 75: stopped by a signal, or without one of its ranks, with a checkpoint. 137: a rank was killed.
if [[ ($code == 75 || $code == 137) && -z $told && $attempt -le 3 ]]; then
    echo "job: the ranks ended with exit code $code, to be queued again: $attempt of 3" >&2
    # Not every site lets users do so. Where it does, PBS ends this script, and qrerun with it.
    if qrerun "$PBS_JOBID"; then
        sleep 60
    elif [[ -z $told ]]; then
        echo "job: PBS does not queue it again" >&2
    fi
fi
exit "$code"
