"""Runs stages as jobs of a running Ray cluster (Jobs API) or of a new cluster per stage (RayJob)."""
