"""What lies in Redis, and how it is reached. Imports no other room."""
