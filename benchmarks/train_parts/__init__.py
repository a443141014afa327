"""The parts of `train.py` and `gpu_train.py`: cases, data, the plain loop, measuring."""
