"""Configure the senders: coreapp, cloud."""
