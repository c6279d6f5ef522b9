"""The other side: what sets the senders up."""
