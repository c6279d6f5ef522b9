"""The receiver: takes notifications in, makes them durable in Redis, answers 200."""
