"""The flow as a Kubeflow pipeline, on this machine or on a cluster."""
