# Nothing beyond itself: its image, its own files, its own processes and memory.
