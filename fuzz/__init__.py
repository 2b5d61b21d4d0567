"""Coverage-guided fuzzing of everything that reads bytes from elsewhere, with atheris: `python -m fuzz --help`."""
