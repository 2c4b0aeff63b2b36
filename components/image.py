"""Images of the components. The tag must change with the code, because Kubeflow's cache compares only image names."""

import os

IMAGE = os.environ.get("SLOWFAST_IMAGE", "slowfast-python:dev")
GPU_IMAGE = os.environ.get("SLOWFAST_GPU_IMAGE", IMAGE)  # of the stages that can use GPUs
