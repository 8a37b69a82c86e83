#!/bin/sh
# Of the head's container: Ray as KubeRay wants it, and beside it `nestvec up`, again and again, which
# makes what runs equal to cluster.yaml. Its workers and encoders outlive it and this container.
set -u
ulimit -n 65536 || true
reconcile() {
    while true; do
        sleep "$RECONCILE_S"
        nestvec up -f /etc/nestvec/cluster.yaml || echo "nestvec up: again in $RECONCILE_S s" >&2
    done
}
reconcile &
eval "exec $KUBERAY_GEN_RAY_START_CMD"
