"""The images that components run in; a tag changes with the code, since KFP's cache looks at nothing else."""

import os

IMAGE = os.environ.get("SLOWFAST_IMAGE", "slowfast-python:dev")
GPU_IMAGE = os.environ.get("SLOWFAST_GPU_IMAGE", IMAGE)  # of the stages that may use GPUs; without one, as the others
