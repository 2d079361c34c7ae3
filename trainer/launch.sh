#!/bin/sh
# Start this pod's launcher from what PyTorchJob v1 (MASTER_ADDR, MASTER_PORT, WORLD_SIZE, RANK) or
# Trainer v2 (PET_*) injected:  launch.sh [SCRIPT.py|MODULE [ARGS]]   (default: trainer.train)
# RENDEZVOUS_TIMEOUT_S and SHUTDOWN_TIMEOUT_S set how long it waits for other pods (300), and for its
# own processes to save and exit after SIGTERM (60).
exec python -m trainer.launch "$@"
