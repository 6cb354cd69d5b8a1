#!/bin/bash
# One run on nodes that Slurm gives. From the repository's root, in an environment that all nodes see:
#
#     sbatch conf/cluster/slurm.sh conf/loc.yaml --set archive=/shared/archives/loc
#
# What follows the script's name goes to `tintype run`. Killed at the time limit, the same command goes on.
#SBATCH --job-name=tintype
#SBATCH --nodes=2
#SBATCH --exclusive
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail

source .venv/bin/activate

address=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):6379

# Others on the cluster's network must not be able to run code here.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c "import secrets; print(secrets.token_hex(32))")
export RAY_AUTH_TOKEN
# Nodes that read Ray from a shared disk for the first time take longer than the 30 seconds that it waits by itself.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

exec srun --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" --num-cpus "$SLURM_CPUS_PER_TASK" \
    -- env RAY_ADDRESS="$address" tintype run "$@"
