#!/bin/sh
# Train the weights that are inside this package, from nothing, on synthetic rooms alone.
#
#     examples/train_default_weights.sh
#     NETWORK=good FURNITURE= examples/train_default_weights.sh
#
# Takes many hours on 2 CPU cores. Stopped in any way, the same command goes on where it was. With
# the same machine, versions and number of threads, the weights are the same to the bit. To see that
# it works, STEPS=2 takes a few minutes.
set -eu

# ---- What is trained. Whatever is set in the environment takes precedence. ----

NETWORK=${NETWORK:-small}  # small, good or wide
FURNITURE=${FURNITURE-/usr/share/sweethome3d/furniture}  # Debian: sweethome3d-furniture; or nothing
SEED=${SEED:-0}

# As the weights in the package were trained in the end (docs/model_card.md).
HOW="--recipe scans --without smoothing --with balance"
SHAPE="--width 32 -k 8 --fusion-channels 256 --knn-until 4 --block-size 2 --num-points 4096"
FIRST="$HOW --batch-size 4 --epochs 200 --lr 1.5e-3"  # from nothing
SECOND="$HOW --batch-size 4 --epochs 20 --lr 2e-4"  # from the best weights of the first
case $NETWORK in
small)
    NAME=${NAME:-indoor}  # of the weights, and of the runs
    SHAPE="--depth 14 $SHAPE"
    ;;
good)
    NAME=${NAME:-indoor-large}
    SHAPE="--depth 28 --no-rgb $SHAPE"
    ;;
wide)
    NAME=${NAME:-indoor-wide}
    SHAPE="--depth 14 --spatial 4,4,8,8,16,16,32,32,48,48 $SHAPE"
    ;;
*)
    echo "NETWORK: found '$NETWORK', expected small, good or wide." >&2
    exit 2
    ;;
esac

# ---- Where, and how to try it. ----

RUNS=${RUNS:-runs}
OUT=${OUT:-pipelines/weights/embedded}
STEPS=${STEPS:-}  # of each of the two trainings at most; for trying
OPTIONS=${OPTIONS:-}  # more options of both trainings, such as --threads 1
DEEPGCN=${DEEPGCN:-.venv/bin/deepgcn}

# Train a run of a name, or go on with it; one that is finished stays as it is.
part() {
    run=$1
    shift
    if [ -f "$RUNS/$run/config.json" ]; then
        "$DEEPGCN" train --resume "$run" --runs "$RUNS"
    else
        # shellcheck disable=SC2086  # options are words
        "$DEEPGCN" train --synth ${FURNITURE:+--furniture "$FURNITURE"} --seed "$SEED" \
            --runs "$RUNS" --name "$run" ${STEPS:+--max-steps "$STEPS"} "$@" $OPTIONS
    fi
}

# shellcheck disable=SC2086
part "$NAME-first" $SHAPE $FIRST
# shellcheck disable=SC2086
part "$NAME" --weights "$RUNS/$NAME-first" $SECOND --seed "$((SEED + 1))"
mkdir -p "$OUT"
"$DEEPGCN" weights export "$RUNS/$NAME" --half --note license=MIT --out "$OUT/$NAME.safetensors"
