"""The other side: what sets the senders up, and what plays them."""
