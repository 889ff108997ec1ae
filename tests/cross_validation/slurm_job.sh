#!/bin/bash
#SBATCH --job-name=job
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=/out/job/slurm-%j.log
#SBATCH --partition=gpu

# Trains one model on all machines. Before the time limit it saves, stops and is requeued, then resumes.
set -u
status=/out/job/run/status.json
started=$(mktemp)
training=
signalled=
cancelled=

forward() {
    caught=1
    # srun forwards USR1 to torchrun on every machine; on TERM it would kill them
    [ -z "$training" ] || kill -USR1 "$training"
}
trap 'signalled=1; forward' USR1
trap 'cancelled=1; forward' TERM

# since SLURM 22.05 srun does not inherit this from sbatch
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
# otherwise restarted processes try to connect to the old ones (github.com/pytorch/pytorch/issues/135712)
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=0 --wait=900 \
    env -u SLURM_JOB_ID python -m torch.distributed.run \
    --nnodes=2 \
    --nproc_per_node=4 \
    "--rdzv_id=$SLURM_JOB_ID" \
    --rdzv_backend=c10d \
    "--rdzv_endpoint=$first:29500" \
    --max-restarts=3 \
    --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 -m monai.bundle run training \
    --config_file '["/repo/bundle/configs/train.json", "/it'"'"'s/task.json", "/repo/bundle/configs/multi_gpu_train.json"]' \
    --bundle_root /repo/bundle \
    --dataset_dir '/my data' \
    --ckpt_dir /out/job/models \
    --output_dir /out/job/run \
    --epochs 7 &
training=$!

# a signal interrupts the wait, not the training
while :; do
    caught=
    wait "$training"
    code=$?
    [ -n "$caught" ] || break
done

# torchrun exits with 1 if its processes exit with 75
if [ "$code" -ne 0 ]; then
    if [ "$status" -nt "$started" ] && grep -q '"state": "stopped"' "$status"; then code=75; fi
    if [ -n "$signalled" ]; then code=75; fi
fi
rm -f "$started"
# a cancelled job is not requeued here; SLURM requeues a preempted one itself
if [ "$code" -eq 75 ] && [ -z "$cancelled" ]; then
    trap '' USR1 TERM
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
