"""Stages as jobs of a Ray cluster: a standing one by its Jobs API, or one of their own by a RayJob."""
