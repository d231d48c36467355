#!/bin/bash
# A run on several nodes, with one rank for four processors. It continues where an earlier job stopped.
#
#     sbatch examples/machines/slurm.sh mnist-es /shared/runs/es
#
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@60
set -euo pipefail
preset=$1 output=$2
# Jobs may have different numbers of ranks. The bits stay the same.
resume=()
if compgen -G "$output/seed-*/checkpoint.npz" > /dev/null; then resume=(--resume); fi
# The launcher of the ranks: srun with the kind of MPI that mpi4py was built for, or mpiexec.
${LAUNCH:-srun --mpi=pmi2 --cpu-bind=cores} fpes train --preset "$preset" --output "$output" --quiet "${resume[@]}" ${TRAIN_OPTIONS:-}
