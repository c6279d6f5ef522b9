"""Keep every notification, feed it back."""
