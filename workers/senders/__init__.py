"""What stands on the other side: the systems that send notifications."""
