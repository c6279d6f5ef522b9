"""The peers with handlers that wait, each started by its own command line as its documentation recommends."""
