"""SlowFast networks for video recognition, from raw video to a registered model. Importing has no side effects."""
