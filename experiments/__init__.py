"""What was tried and measured: experiments as TOML, and benchmarks that can be run."""
