#!/bin/bash
# Boards as licences of Slurm, on the lab's host; slurm.conf has: Licenses=orin-1:1,nano-1:1
#   sbatch --licenses=orin-1:1 docs/recipes/slurm.sh orin-1
#SBATCH --job-name=plumbline
#SBATCH --output=plumbline-%j.txt
#SBATCH --time=02:00:00
#SBATCH --signal=B:INT@60
set -euo pipefail
cd "$HOME/plumbline"
exec .venv/bin/pytest benchmarks/ --target "ssh:$1" --wait 60 --run-dir "runs/slurm-$SLURM_JOB_ID" "${@:2}"
