"""The flow's stages as Kubeflow components: thin, and all alike."""
