"""What stages do: models and engines made, calls timed, pictures and components compared, tests run."""
