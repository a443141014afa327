"""The parts of `model_step.py` and `gpu_model_step.py`: cases, both orders, measuring."""
