"""The edge of the pipeline: takes notifications in, makes them durable in Redis, answers 200."""
