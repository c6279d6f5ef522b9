"""Other ways to put notifications into Redis and take them out again, each as its documentation recommends."""
