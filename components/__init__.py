"""The stages as Kubeflow Pipelines components: one folder each, with the component and a README."""
