"""The programs, one per command of `beam-gpte`: options, checks and wiring of each."""
