"""The image that every component runs in; the tag changes with the code, since KFP's cache looks at nothing else."""

import os

IMAGE = os.environ.get("SLOWFAST_IMAGE", "slowfast-python:dev")
